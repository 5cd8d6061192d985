"""Somebody's pictures, whatever their kind, and other digits drawn like them."""

import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from mnistlab.photo import read_photo
from mnistlab.preprocess import INK, crop_to_ink, load_picture, ring


def top(array: np.ndarray) -> int:
    """White in an array: 255, or 1 in one of 0..1."""
    return 255 if array.dtype == np.uint8 or array.max() > 1 else 1


def opened(source) -> Image.Image:
    """A path, an array or a PIL image as a PIL image; ValueError for odd numbers."""
    if isinstance(source, np.ndarray):
        if not 0 <= source.min() <= source.max() <= 255:  # refuses NaN, too
            raise ValueError(f"values up to {source.max()}; expected 0..1 or 0..255")
        source = Image.fromarray(np.rint(source * (255 / top(source))).astype("uint8"))
    return source if isinstance(source, Image.Image) else Image.open(source)


class Picture:
    """One picture of yours: how the doctor reads it, and draws other digits like it.

    label: 0..9 or None. canvas: uint8 (H, W), ink 255 on paper 0. code: the expression
    that reads it. Raises ValueError or OSError for what cannot be read.
    """

    def __init__(self, source, name="the picture", label=None):
        self.source, self.name, self.label = source, name, label
        if label is not None and label > 9:
            raise ValueError(f"label {label} is a letter's in EMNIST; expected a digit")
        plain = opened(source) if isinstance(source, np.ndarray) else source
        # where it is transparent: the paper on which there is something to see
        grey = max((load_picture(plain, paper=p) for p in (255, 0)), key=np.std)
        tone = "dark" if np.median(ring(grey)) > 127 else "light"
        self.canvas = ink = grey if tone == "light" else 255 - grey
        self.code, border = f"load_picture(picture, ink={tone!r})", ring(ink)
        self.is_photo = tone == "dark" and (
            np.median(border) > 16 or np.quantile(border, 0.95) > 32
        )
        if self.is_photo:
            sheet, self.code = read_photo(plain), "read_photo(picture).canvases[0]"
            if sheet.alarm or len(sheet.canvases) != 1:
                raise ValueError(sheet.alarm or f"{len(sheet.boxes)} digits are on it")
            x, y, width, height = sheet.boxes[0]
            ink, box = np.zeros_like(sheet.flat), np.s_[y : y + height, x : x + width]
            ink[box] = sheet.flat[box]
            self.canvas = sheet.canvases[0]
        if getattr(source, "dtype", np.uint8) != np.uint8:
            self.code = "Picture(picture).canvas"
        if self.canvas.max() < INK:
            raise ValueError("there is no ink on it")
        self._learn_style(opened(source), ink)

    def _learn_style(self, picture: Image.Image, ink: np.ndarray) -> None:
        """Size, place, kind, and the paper and ink: RGBA, (H, W, 4) and (4,)."""
        self.mode, self.format = picture.mode, picture.format
        self.small = ImageOps.exif_transpose(picture).convert("RGBA")
        self.small.thumbnail((640, 640))  # larger pictures are imitated smaller
        rgba, ink = np.array(self.small), cv2.resize(ink, self.small.size)
        hidden = cv2.dilate(ink, np.ones((5, 5))) >= INK / 2
        if hidden.all():
            raise ValueError("there is no paper between the ink")
        self.pen = np.float32(np.median(rgba[ink >= 0.8 * ink.max()], axis=0))
        self.paper = np.full(rgba.shape, np.median(rgba[~hidden], axis=0), np.float32)
        if rgba[~hidden].std(0).max() > 2:  # light and shadow are kept, lines blur
            size, area = (self.small.width // 4, self.small.height // 4), cv2.INTER_AREA
            gone = cv2.resize(hidden.astype(np.uint8), size, interpolation=area)
            rgb = cv2.resize(rgba[..., :3], size, interpolation=area)
            rgb = cv2.inpaint(rgb, gone, 3, cv2.INPAINT_TELEA)
            self.paper[..., :3] = cv2.resize(rgb, self.small.size)
        rows, columns = (np.flatnonzero((ink >= INK).any(a)) for a in (1, 0))
        self.side = max(np.ptp(rows), np.ptp(columns)) + 1
        self.middle = np.array([columns[[0, -1]].mean(), rows[[0, -1]].mean()])

    def place(self, digit: np.ndarray) -> np.ndarray:
        """MNIST's digit, uint8 (28, 28), as large and where theirs are: (H, W)."""
        cut, room = crop_to_ink(digit), np.array(self.small.size)
        scale = self.side / max(cut.shape)
        half = np.array(cut.shape[::-1]) * scale / 2
        middle = np.clip(self.middle, half, np.maximum(half, room - half))
        move = np.c_[scale * np.eye(2), middle - half + scale / 2 - 0.5]
        large = cv2.warpAffine(cut, move, room.tolist(), flags=cv2.INTER_CUBIC)
        steep = min(max(scale / 2, 1), 6)  # a pen's edge is sharp at any size
        return (127 + (large - np.float32(127)) * steep).clip(0, 255).astype(np.uint8)

    def draw(self, canvas: np.ndarray, path: Path, pen=None):
        """A canvas in their ink on their paper: a file, image or array as theirs."""
        source, pen = self.source, self.pen if pen is None else pen
        rgba = self.paper + canvas[..., None] / np.float32(255) * (pen - self.paper)
        known = self.mode in ("L", "RGBA", "LA", "1", "P", "CMYK")
        picture = Image.fromarray(rgba.round().astype(np.uint8))
        picture = picture.convert(self.mode if known else "RGB")
        if isinstance(source, Image.Image):
            return picture
        if isinstance(source, np.ndarray):
            return (np.asarray(picture) * (top(source) / 255)).astype(source.dtype)
        path = path.with_suffix(Path(source).suffix)
        picture.save(path, self.format if self.format in Image.SAVE else "PNG")
        return type(source)(path)


def gather(pictures, labels=None) -> tuple[list[Picture], list[str]]:
    """A folder, or a sequence of paths, PIL images and arrays; and what is left out.

    In a folder, names such as 7_2.png or sub-folders such as 7/ are the labels; bare
    numbers such as 7.png are, too, unless they go beyond 9, for then they only count.
    Raises ValueError where there are none, or labels that do not fit.
    """
    if isinstance(pictures, str | Path) and Path(pictures).is_dir():
        folder, known = Path(pictures), {*Image.registered_extensions(), ".heic"}
        pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known)
        names = [
            p.stem if p.parent == folder else p.parent.name + "_" for p in pictures
        ]
        counted = any(name.isdecimal() and int(name) > 9 for name in names)
        names = ["" if counted and name.isdecimal() else name for name in names]
        hits = [re.match(r"(\d{1,2})(?![^\W_])", name) for name in names]
        labels = [hit and int(hit[1]) for hit in hits] if labels is None else labels
    one = isinstance(pictures, str | Path | Image.Image)
    pictures = [pictures] if one else list(pictures)
    labels = [None] * len(pictures) if labels is None else list(labels)
    wrong = [label for label in labels if label not in (None, *range(62))]
    if not labels or len(labels) != len(pictures) or wrong:
        raise ValueError(
            f"{len(pictures)} pictures, {len(labels)} labels, of which {wrong[:5]} "
            "are none; expected a picture or more, and 0 to 9 or None for each."
        )
    good, left_out = [], []
    for number, (source, label) in enumerate(zip(pictures, labels, strict=True), 1):
        path = isinstance(source, str | Path)
        name = Path(source).name if path else f"picture {number}"
        try:
            good.append(Picture(source, name, label))
        except (ValueError, OSError) as error:
            left_out.append(f"{name}: {error}")
    return good, left_out
