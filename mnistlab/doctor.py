"""Somebody else's network, input code and pictures: what it wants, gets, and needs.

    report = examine(network, to_input, pictures, labels)

1. MNIST's own images go through every convention: what does the network want?
2. MNIST's digits, drawn as your pictures are (your canvas, place, paper and ink),
   go through `to_input`. What comes out is compared, pixel by pixel, with what the
   known ways of spoiling a digit would have made of it: the one that fits has a name.
3. Repairs are tried, one at a time and then together, on these probes, whose answers
   are known, and on your pictures. The page keeps the two apart.
4. The repair is a few lines of Python, and it is those lines that were measured.

From a shell: python -m mnistlab.doctor my_app.py:model my_app.py:preprocess pictures/
The command imports your file, and so runs it. It unpickles nothing by itself.
"""

import copy
import html
import importlib.util
import random
import re
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from math import comb
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from mnistlab import data
from mnistlab.checks import CAUSES, Reference
from mnistlab.photo import read_photo
from mnistlab.preprocess import (
    INK,
    MEAN,
    STD,
    center_of_mass,
    crop_to_ink,
    fit_20x20,
    load_picture,
    normalize,
    resize_28x28,
    ring,
)

N_SCREEN, N_WANTED, N_PROBES, N_COMPARED = 50, 400, 200, 32
SECONDS = 5.0  # that to_input may take for the probes; then fewer do
CERTAIN, LOSS = 0.01, 0.02  # a finding costs 2 points, by chance once in a hundred
FITS = 0.85  # mean correlation of pictures from which on they count as the same
EMNIST = {26: "letters", 27: "letters", 36: "digits and letters", 47: "balanced"}
EMNIST[62] = "by class"

# --- what a network may want --------------------------------------------------------

# pixels float32 (N, 28, 28) in 0..1 -> the network's values; and the lines of code
SCALES = {
    "0..1": (lambda x: x, ""),
    "MNIST's mean and deviation": (
        lambda x: (x - MEAN) / STD,
        f"x = (x - {MEAN}) / {STD}",
    ),
    "-1..1": (lambda x: 2 * x - 1, "x = 2 * x - 1"),
    "0..255": (lambda x: 255 * x, "x = 255 * x"),
    "standardised per image": (
        lambda x: (
            (x - x.mean((1, 2), keepdims=True))
            / np.maximum(x.std((1, 2), keepdims=True), 1e-6)
        ),
        "x = (x - x.mean()) / x.std()",
    ),
}
TURNS = {  # images (..., H, W)
    "upright": (lambda x: x, ""),
    "transposed": (lambda x: x.swapaxes(-1, -2), "x = x.T"),
    "mirrored": (lambda x: x[..., ::-1], "x = x[:, ::-1]"),
    "upside down": (lambda x: x[..., ::-1, ::-1], "x = x[::-1, ::-1]"),
    "flipped top to bottom": (lambda x: x[..., ::-1, :], "x = x[::-1]"),
    "turned left": (lambda x: np.rot90(x, 1, (-2, -1)), "x = np.rot90(x)"),
    "turned right": (lambda x: np.rot90(x, -1, (-2, -1)), "x = np.rot90(x, -1)"),
    "transposed and turned": (
        lambda x: x[..., ::-1, ::-1].swapaxes(-1, -2),
        "x = x[::-1, ::-1].T",
    ),
}


def _padded(x):
    return np.pad(x, ((0, 0), (2, 2), (2, 2)), "edge")


SHAPES = {  # values (N, 28, 28) -> what the network takes; and the code for one
    "(N, 1, 28, 28)": (lambda x: x[:, None], "x[None, None]"),
    "(N, 784)": (lambda x: x.reshape(len(x), -1), "x.reshape(1, 784)"),
    "(N, 28, 28)": (lambda x: x, "x[None]"),
    "(N, 3, 28, 28)": (
        lambda x: np.repeat(x[:, None], 3, 1),
        "np.stack([x, x, x])[None]",
    ),
    "(N, 1, 32, 32)": (
        lambda x: _padded(x)[:, None],
        "np.pad(x, 2, 'edge')[None, None]",
    ),
    "(N, 3, 32, 32)": (
        lambda x: np.repeat(_padded(x)[:, None], 3, 1),
        "np.stack(3 * [np.pad(x, 2, 'edge')])[None]",
    ),
    "(N, 28, 28, 1)": (lambda x: x[..., None], "x[None, ..., None]"),
}


@dataclass(frozen=True)
class Convention:
    """How a network wants its digits."""

    ink: str = "light"  # or "dark"
    scale: str = "MNIST's mean and deviation"
    turn: str = "upright"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Pixels (N, 28, 28), uint8 or float 0..1, ink high: the values, float32."""
        x = images / np.float32(255) if images.dtype == np.uint8 else images
        x = 1 - x if self.ink == "dark" else x
        return TURNS[self.turn][0](SCALES[self.scale][0](x)).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.ink} ink, {self.scale}, {self.turn}"


class Unusable(ValueError):
    """A network that cannot be examined; the message says why."""


class Scores:
    """A network, or any callable, as a function: float32 inputs -> log p (N, C)."""

    def __init__(self, network, device, dtype):
        self.network, self.device, self.dtype = network, device, dtype
        self.shape, self.kind, self.as_numpy = None, "", False

    def raw(self, inputs: np.ndarray) -> np.ndarray:
        inputs = np.ascontiguousarray(inputs)
        if not self.as_numpy:
            inputs = torch.from_numpy(inputs).to(self.device, self.dtype)
        with torch.no_grad():
            out = self.network(inputs)
        out = out[0] if isinstance(out, tuple | list) and len(out) else out
        out = getattr(out, "logits", out)
        if isinstance(out, torch.Tensor):
            out = out.detach().float().cpu().numpy()
        return np.asarray(out, float)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float (N, 28, 28) in the network's scale -> log probabilities (N, 10)."""
        inputs = SHAPES[self.shape][0](values.astype(np.float32))
        out = [self.raw(inputs[i : i + 100]) for i in range(0, len(inputs), 100)]
        out = np.nan_to_num(np.concatenate(out), nan=0, posinf=1e30, neginf=-1e30)
        if self.kind == "probabilities":
            out = np.log(np.maximum(out, 1e-12))
        out = out - out.max(1, keepdims=True)
        return (out - np.log(np.exp(out).sum(1, keepdims=True)))[:, :10]

    def answers(self, values: np.ndarray) -> np.ndarray:
        return self(values).argmax(1)

    def settle(self, images: np.ndarray) -> None:
        """Find the shape it takes and what it gives; Unusable if there is none."""
        values, problems = Convention()(images), {}
        for name, (form, _) in SHAPES.items():
            for self.as_numpy in (False, True):
                if self.as_numpy and isinstance(self.network, torch.nn.Module):
                    continue
                try:
                    out = self.raw(form(values))
                except Exception as error:  # any: it is somebody else's code
                    problems[name] = f"{type(error).__name__}: {error}".split("\n")[0]
                    continue
                if out.ndim == 2 and len(out) == len(images) and out.shape[1] >= 10:
                    return self._accept(name, out)
                problems[name] = f"gave {out.shape} for {len(images)} pictures"
        said = list(dict.fromkeys(problems.values()))
        raise Unusable(
            f"the network takes none of {', '.join(SHAPES)} and gives ten scores or "
            f"more, one row for each picture. It said: {'; '.join(said[:3])}"
        )

    def _accept(self, shape: str, out: np.ndarray) -> None:
        if not np.isfinite(out).all():
            raise Unusable(
                f"{np.mean(~np.isfinite(out)):.0%} of the network's scores are not "
                "numbers: its weights are broken, or its training diverged."
            )
        if out.shape[1] in (26, 27):
            raise Unusable(
                f"the network has {out.shape[1]} outputs, those of EMNIST's letters: "
                "it knows no digits."
            )
        self.shape, self.classes = shape, out.shape[1]
        sums = out.sum(1)
        if (out >= 0).all() and np.allclose(sums, 1, atol=1e-3):
            self.kind = "probabilities"
        else:
            logs = np.allclose(np.exp(out.clip(max=50)).sum(1), 1, atol=1e-3)
            self.kind = "log probabilities" if logs else "logits"


def sign_test(before: np.ndarray, after: np.ndarray) -> float:
    """How likely chance mends so many and breaks so few: McNemar, exact, one-sided.

    before, after: bool (N,), the same pictures read right.
    """
    mended, broken = int((after & ~before).sum()), int((before & ~after).sum())
    n = mended + broken
    return sum(comb(n, k) for k in range(mended, n + 1)) / 2**n if n else 1.0


def wanted(scores: Scores, digits: data.Digits) -> tuple[list[Convention], np.ndarray]:
    """The conventions that a paired test cannot tell from the best, likeliest first.

    Also their accuracies. A few images go through all; the rest through the best.
    """
    lattice = [Convention(i, s, t) for i in ("light", "dark") for s in SCALES
               for t in TURNS]  # fmt: skip
    few = digits.take(np.arange(N_SCREEN))
    right = [scores.answers(c(few.images)) == few.labels for c in lattice]
    best = right[int(np.argmax([r.mean() for r in right]))]
    left = [c for c, r in zip(lattice, right, strict=True)
            if sign_test(r, best) > CERTAIN / 10]  # fmt: skip
    logs = [scores(convention(digits.images)) for convention in left]
    rows = np.arange(len(digits))
    likely = np.array([log[rows, digits.labels].mean() for log in logs])
    right = [log.argmax(1) == digits.labels for log in logs]
    best = right[int(np.argmax([r.mean() for r in right]))]
    keep = [i for i in np.argsort(-likely, kind="stable")
            if sign_test(right[i], best) > CERTAIN]  # fmt: skip
    return [left[i] for i in keep], np.array([right[i].mean() for i in keep])


# --- the pictures, and probes drawn like them ---------------------------------------


@dataclass(frozen=True)
class Picture:
    """One picture of yours, and how the doctor reads it."""

    name: str
    source: object = field(repr=False)  # as it was given, and as to_input gets it
    label: int | None
    canvas: np.ndarray | None = field(repr=False, default=None)  # uint8, ink 255
    ink: np.ndarray | None = field(repr=False, default=None)  # uint8, in the picture
    code: str = ""  # the line that reads it
    problem: str = ""  # why it is left out


def read(name: str, source, label: int | None) -> Picture:
    """A picture as a canvas, whatever its ink and paper; its problem, if it has one."""
    try:  # where it is transparent, the paper on which there is something to see
        both = (load_picture(source, paper=paper) for paper in (255, 0))
        grey = max(both, key=np.std)
    except (ValueError, OSError) as error:
        return Picture(name, source, label, problem=str(error))
    edge = ring(grey)
    ink = "dark" if np.median(edge) > 127 else "light"
    canvas = grey if ink == "light" else 255 - grey
    edge = edge if ink == "light" else 255 - edge
    if ink == "dark" and (np.median(edge) > 16 or np.quantile(edge, 0.95) > 32):
        sheet = read_photo(source)
        if len(sheet.canvases) != 1 or sheet.alarm:
            why = sheet.alarm or f"there are {len(sheet.canvases)} digits on it"
            return Picture(name, source, label, problem=why)
        x, y, width, height = sheet.boxes[0]
        own = np.zeros_like(sheet.flat)
        own[y : y + height, x : x + width] = sheet.flat[y : y + height, x : x + width]
        own = cv2.resize(own, grey.shape[::-1])
        code = "canvas = read_photo(picture).canvases[0]"
        return Picture(name, source, label, sheet.canvases[0], own, code)
    if canvas.max() < INK:
        return Picture(name, source, label, problem="there is no ink on it")
    code = f"canvas = load_picture(picture, ink={ink!r})"
    return Picture(name, source, label, canvas, canvas, code)


def gather(pictures, labels) -> list[Picture]:
    """A folder, or a sequence of paths, PIL images and arrays; labels may be missing.

    In a folder, names such as 7_2.png or sub-folders such as 7/ are the labels.
    Raises ValueError where there are none, or labels that do not fit.
    """
    if isinstance(pictures, str | Path) and Path(pictures).is_dir():
        folder, known = Path(pictures), set(Image.registered_extensions())
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known)
        if labels is None:
            labels = []
            for path in found:
                names = path.stem, *(p.name for p in path.relative_to(folder).parents)
                hits = [re.match(r"(\d+)(?!\w*\d*[a-zA-Z])", name) for name in names]
                labels.append(next((int(hit[1]) for hit in hits if hit), None))
        pictures = found
    elif isinstance(pictures, str | Path | Image.Image):
        pictures = [pictures]
    pictures = list(pictures)
    labels = [None] * len(pictures) if labels is None else list(labels)
    if not pictures:
        raise ValueError("there are no pictures; expected some, five or more.")
    if len(labels) != len(pictures):
        raise ValueError(
            f"{len(labels)} labels for {len(pictures)} pictures; expected one each."
        )
    whole = [None if label is None else int(label) for label in labels]
    if wrong := sorted({n for n in whole if n is not None and not 0 <= n <= 61}):
        raise ValueError(f"labels {wrong[:5]}; expected 0 to 9, or EMNIST's 0 to 61.")
    read_all = []
    for number, (source, label) in enumerate(zip(pictures, whole, strict=True)):
        path = isinstance(source, str | Path)
        name = Path(source).name if path else f"picture {number + 1}"
        if label is not None and label > 9:
            why = f"its label is {label}, one of EMNIST's letters: digits are examined"
            read_all.append(Picture(name, source, label, problem=why))
        else:
            read_all.append(read(name, source, label))
    return read_all


class Style:
    """How somebody draws: canvas, place, paper, ink and kind; it draws probes."""

    LARGEST = 640  # pixels a side; larger pictures are imitated smaller

    def __init__(self, like: Picture):
        self.source = like.source
        picture = like.source
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(load_picture(picture)) if (
                picture.ndim < 3 or picture.shape[-1] < 3 or picture.dtype != np.uint8
            ) else Image.fromarray(picture)  # fmt: skip
        elif not isinstance(picture, Image.Image):
            picture = Image.open(picture)
        self.mode = picture.mode
        picture = picture.convert("RGBA")
        picture.thumbnail((self.LARGEST, self.LARGEST))
        self.picture = picture
        rgba, ink = np.asarray(picture), cv2.resize(like.ink, picture.size)
        self.transparent = np.median(rgba[..., 3][ink < INK]) < 128
        self.pen = np.median(rgba[ink >= 0.8 * ink.max()], axis=0)[:3]
        hidden = cv2.dilate(ink, np.ones((5, 5), np.uint8)) >= INK / 2
        rgb = np.ascontiguousarray(rgba[..., :3])
        if rgb[~hidden].std(0).max() > 2:  # light and shadow are kept, lines blur
            small = cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=3)
            gone = cv2.resize(hidden.astype(np.uint8), small.shape[1::-1])
            small = cv2.inpaint(small, gone, 3, cv2.INPAINT_TELEA)
            self.paper = cv2.resize(small, picture.size).astype(np.float32)
        else:
            flat = np.median(rgb[~hidden], axis=0)
            self.paper = np.broadcast_to(flat, rgb.shape).astype(np.float32)
        rows, columns = (np.flatnonzero((ink >= INK).any(a)) for a in (1, 0))
        self.side = max(np.ptp(rows), np.ptp(columns)) + 1
        self.middle = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2

    def canvas(self, digit: np.ndarray) -> np.ndarray:
        """MNIST's digit (28, 28) where theirs are: uint8 (H, W), ink 255."""
        cut = crop_to_ink(digit)
        scale = self.side / max(cut.shape)
        size = [max(1, round(n * scale)) for n in cut.shape[::-1]]
        bicubic = Image.Resampling.BICUBIC
        large = np.asarray(Image.fromarray(np.pad(cut, 2)).resize(
            [round(n + 4 * scale) for n in size], bicubic), float)  # fmt: skip
        steep = min(max(scale / 2, 1), 6)  # a pen's edge is sharp at any size
        large = (127 + (large - 127) * steep).clip(0, 255).astype(np.uint8)
        canvas = np.zeros(self.paper.shape[:2], np.uint8)
        top, left = (
            min(max(round(middle - n / 2), -(n // 8)), max(room - n + n // 8, 0))
            for middle, n, room in zip(
                self.middle, large.shape, canvas.shape, strict=True
            )
        )
        y, x = max(top, 0), max(left, 0)
        part = large[y - top :, x - left :][: canvas.shape[0] - y, : canvas.shape[1] - x]
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        return canvas

    def draw(self, canvas: np.ndarray, pen=None) -> Image.Image:
        cover = canvas[..., None] / np.float32(255)
        pen = self.pen if pen is None else np.asarray(pen)
        rgb = self.paper + cover * (pen - self.paper)
        alpha = cover * 255 if self.transparent else np.full_like(cover, 255)
        rgba = np.concatenate([rgb, alpha], 2).round().astype(np.uint8)
        return Image.fromarray(rgba)

    def as_theirs(self, picture: Image.Image, folder: Path, name: str):
        """As a file, an image or an array, like the one that it imitates."""
        source = self.source
        if isinstance(source, np.ndarray):
            if source.ndim == 3 and source.shape[-1] in (3, 4):
                array = np.asarray(picture.convert("RGB RGBA".split()[source.shape[-1] - 3]))
            else:
                array = np.asarray(picture.convert("L"))
                array = array.reshape(
                    array.shape if source.ndim == 2 else
                    (1, *array.shape) if source.shape[0] == 1 else (*array.shape, 1)
                )  # fmt: skip
            if source.dtype == bool:
                return array > 127
            if source.dtype == np.uint16:
                return array.astype(np.uint16) * 257
            top = 255 if source.dtype != np.uint8 and source.max(initial=0) <= 1 else 1
            return (array / top).astype(source.dtype) if top > 1 else array.astype(
                source.dtype)  # fmt: skip
        mode = self.mode if self.mode in ("L", "RGB", "RGBA", "LA", "1", "P") else "L"
        picture = picture.convert(mode)
        if isinstance(source, Image.Image):
            return picture
        path = folder / f"{name}{Path(source).suffix}"
        picture.save(path)
        return type(source)(path) if isinstance(source, str) else path


# --- what to_input makes of a picture -----------------------------------------------


def _filter(kind, size):
    return lambda image: np.asarray(Image.fromarray(image).filter(kind(size)))


def _framed(canvas, resample=None):
    cut = crop_to_ink(canvas)
    if resample is None:
        return center_of_mass(fit_20x20(cut))
    scale = 20 / max(cut.shape)
    size = [max(1, round(n * scale)) for n in cut.shape[::-1]]
    return center_of_mass(np.asarray(Image.fromarray(cut).resize(size, resample)))


def _within(canvas, side):
    """Cropped, its longer side `side`, the box (not the ink) in the middle."""
    cut = crop_to_ink(canvas)
    scale = side / max(cut.shape)
    size = [max(1, round(n * scale)) for n in cut.shape[::-1]]
    small = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BILINEAR))
    frame = np.zeros((28, 28), np.uint8)
    top, left = ((28 - n) // 2 for n in small.shape)
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def _scrambled(image):
    flat = np.repeat(image.reshape(-1), 3).reshape(3, 28, 28)
    return flat.mean(0).astype(np.uint8)


FRAME, WHOLE = "MNIST's frame", "the whole canvas resized"
NEAREST = Image.Resampling.NEAREST
LAYOUTS = {  # canvas, uint8 (H, W), ink 255 -> uint8 (28, 28); the alarm that it is
    FRAME: (_framed, ""),
    WHOLE: (resize_28x28, "placement"),
    "stretched to the box": (lambda c: resize_28x28(crop_to_ink(c)), "placement"),
    "centred by its box": (partial(_within, side=20), "placement"),
    "as large as the frame": (partial(_within, side=28), "placement"),
    "half size": (partial(_within, side=10), "placement"),
    "inverted before the crop": (lambda c: _framed(255 - c), "polarity"),
    "inverted after the crop": (
        lambda c: center_of_mass(255 - fit_20x20(crop_to_ink(c))),
        "polarity",
    ),
    "shrunk without smoothing": (partial(_framed, resample=NEAREST), "ink"),
    "the whole canvas, without smoothing": (
        lambda c: np.asarray(Image.fromarray(c).resize((28, 28), NEAREST)),
        "ink",
    ),
    "axes in the wrong order": (lambda c: _scrambled(_framed(c)), "orientation"),
}
TEXTURES = {  # of the 28x28
    "": lambda image: image,
    "blurred": _filter(ImageFilter.GaussianBlur, 2),
    "a little blurred": _filter(ImageFilter.GaussianBlur, 1),
    "thick pen": _filter(ImageFilter.MaxFilter, 5),
    "a little thick": _filter(ImageFilter.MaxFilter, 3),
    "thin pen": _filter(ImageFilter.MinFilter, 3),
}


@dataclass(frozen=True)
class Fit:
    """What was done to a digit: the known way that comes nearest to what came out."""

    layout: str
    texture: str
    turn: str
    shift: tuple[int, int]  # rows, columns
    paper: float  # the value of paper, and of ink
    ink: float
    r: float  # mean correlation of what came out with what this way gives
    noise: float  # what is left over, as a share of ink - paper
    standardised: bool


def explain(x: np.ndarray, canvases: Sequence[np.ndarray]) -> Fit:
    """The layout, turn, shift, pen and two values that give x, float (N, 28, 28)."""

    def spectrum(images):
        flat = images - images.mean((1, 2), keepdims=True)
        norm = np.sqrt((flat**2).sum((1, 2), keepdims=True))
        return np.fft.rfft2(flat / np.maximum(norm, 1e-9))

    target, best, score = spectrum(x), None, -1.0
    near = np.r_[0:9, -8:0]
    for layout, (make, _) in LAYOUTS.items():
        made = [make(canvas) for canvas in canvases]
        plain = layout not in (FRAME, WHOLE)
        for texture, change in list(TEXTURES.items())[: 1 if plain else None]:
            images = np.stack([change(image) for image in made]) / 255
            for turn, (move, _) in TURNS.items():
                product = target * np.conj(spectrum(move(images)))
                shifts = np.fft.irfft2(product.mean(0), (28, 28))[np.ix_(near, near)]
                row, column = divmod(int(np.abs(shifts).argmax()), len(near))
                if abs(shifts[0, 0]) > abs(shifts[row, column]) - 0.02:
                    row = column = 0
                r = float(shifts[row, column])
                simple = (layout == FRAME) + (texture == "") + (turn == "upright")
                if abs(r) + 0.01 * simple > score:
                    score = abs(r) + 0.01 * simple
                    shift = int(near[row]), int(near[column])
                    best = layout, texture, turn, shift, r, move(images)
    layout, texture, turn, shift, r, images = best
    z = np.roll(images, shift, (1, 2)).reshape(len(x), -1)
    flat = x.reshape(len(x), -1)
    centred = z - z.mean(1, keepdims=True)
    slope = (centred * flat).sum(1) / np.maximum((centred**2).sum(1), 1e-9)
    level = flat.mean(1) - slope * z.mean(1)
    rest = flat - slope[:, None] * z - level[:, None]
    slope, level = float(np.median(slope)), float(np.median(level))
    standard = abs(flat.mean(1)).max() < 0.02 and abs(flat.std(1) - 1).max() < 0.05
    paper = np.stack([cv2.dilate(i, np.ones((5, 5))) for i in z.reshape(x.shape)])
    paper = paper.reshape(z.shape) < 0.02
    noise = float(rest[paper].std() / max(abs(slope), 1e-9)) if paper.any() else 0.0
    return Fit(layout, texture, turn, shift, level, level + slope, abs(r), noise,
               bool(standard))  # fmt: skip


def _pair(convention: Convention, low=0.0, high=1.0) -> np.ndarray:
    """The values of paper and ink; for one standardised, those of a usual image."""
    scale = convention.scale
    scale = scale if "per image" not in scale else "MNIST's mean and deviation"
    pixels = [1 - low, 1 - high] if convention.ink == "dark" else [low, high]
    return np.array([float(SCALES[scale][0](np.float64(p))) for p in pixels])


def name_values(fit: Fit, want: Convention) -> tuple[str, str]:
    """What is wrong with the values of paper and ink, and the alarm that it is."""
    right = _pair(want)
    other = Convention("dark" if want.ink == "light" else "light", want.scale)
    per_image = want.scale == "standardised per image"
    if fit.standardised and not per_image:
        return f"scaled to standardised per image, the network wants {want.scale}", "range"
    if fit.standardised:
        fine = (fit.ink > fit.paper) == (want.ink == "light")
        return ("", "") if fine else ("inverted", "polarity")
    names = {} if per_image else {"right": (right, "")}
    names |= {
        "inverted": (_pair(other), "polarity"),
        "sign flipped": (-right, "range"),
        "inverted, half contrast": (_pair(want, 127 / 255, 0), "polarity"),
        "not divided by 255": (_pair(want, 0, 255), "range"),
        "divided by 255 twice": (_pair(want, 0, 1 / 255), "blank"),
        "normalised twice": ((right - MEAN) / STD, "range"),
    }
    for scale in SCALES:
        if scale not in (want.scale, "standardised per image"):
            for ink in ("light", "dark"):
                name = f"scaled to {scale}, the network wants {want.scale}"
                name = name if ink == want.ink else f"inverted, and {name}"
                names[name] = (_pair(Convention(ink, scale)), "range")
    found = np.array([fit.paper, fit.ink])
    off = {n: np.abs(found - p).max() / abs(np.ptp(p)) for n, (p, _) in names.items()}
    best = min(off, key=off.get)
    if off[best] < 0.08:
        return ("", "") if best == "right" else (best, names[best][1])
    paper, ink = (found - right[0]) / (right[1] - right[0])
    if paper > ink:
        return "inverted, and with other contrast", "polarity"
    if abs(ink - paper) > 1.5 or abs(ink - paper) < 0.02 or ink < 0 or paper < -0.2:
        return f"values from {fit.paper:.3g} to {fit.ink:.3g}", "range"
    if paper > 0.08:
        return "grey paper", "background"
    return "faint ink", "ink"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, the alarm that would ring, and in words."""

    name: str
    alarm: str
    words: str
    part: str  # of the way that it is in: values, turn, layout, network, function


CAUSES_HERE = CAUSES | {
    "orientation": "turned, mirrored or with its axes in another order than the "
    "training images",
    "network": "the network, not its input",
    "function": "to_input does not give the same numbers for the same picture, or "
    "not numbers of the kind that the network takes",
}
# The checks' name for a digit that is not where, or as large as, MNIST has it
if "placement" not in CAUSES_HERE:
    CAUSES_HERE["placement"] = CAUSES_HERE.pop("frame")


def departures(fit: Fit, want: Convention) -> list[Finding]:
    """Where a fit differs from what the network wants, in the order of repair."""
    found, ways = [], []
    name, alarm = name_values(fit, want)
    if name:
        seen = f"paper is {fit.paper:.3g} and ink {fit.ink:.3g}, the network wants " \
               "{:.3g} and {:.3g}".format(*_pair(want))  # fmt: skip
        ways.append((name, alarm, seen, "values"))
    if fit.turn != want.turn:
        name = _turn(want.turn, fit.turn)
        seen = f"digits come out {fit.turn}, the network wants them {want.turn}"
        ways.append((name, "orientation", seen, "turn"))
    if fit.layout != FRAME:
        seen = f"digits come out {fit.layout}"
        ways.append((fit.layout, LAYOUTS[fit.layout][1], seen, "layout"))
    if max(map(abs, fit.shift)) > 1:
        down, right = fit.shift
        seen = f"digits lie {down:+d} rows and {right:+d} columns from MNIST's place"
        ways.append(("shifted", "placement", seen, "layout"))
    if fit.texture:
        seen = f"the lines come out {fit.texture}"
        ways.append((fit.texture, "ink", seen, "layout"))
    if fit.noise > 0.05:
        seen = f"{fit.noise:.0%} of the ink's strength is noise on the paper"
        ways.append(("noise", "background", seen, "layout"))
    for name, alarm, seen, part in ways:
        words = f"{seen} ({alarm}: {CAUSES_HERE[alarm]})"
        found.append(Finding(name, alarm, words, part))
    return found


def _turn(start: str, end: str) -> str:
    """The name of the turn that leads from one way of lying to another."""
    start, end = (TURNS[turn][0](np.arange(4).reshape(2, 2)) for turn in (start, end))
    return next(name for name, (turn, _) in TURNS.items() if (turn(start) == end).all())


# --- the examination ----------------------------------------------------------------


@contextmanager
def untouched(network):
    """Evaluation mode; then its modes, weights and everybody's dice as before."""
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    modes = [module.training for module in modules]
    weights = network.state_dict() if modules else {}
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    dice = random.getstate(), np.random.get_state()
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=list(cuda)), torch.no_grad():
            for module in modules[:1]:
                module.eval()
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for name, tensor in weights.items():
            if not torch.equal(tensor, kept[name]):
                with torch.no_grad():
                    tensor.copy_(kept[name])
        random.setstate(dice[0])
        np.random.set_state(dice[1])


def as_image(out) -> np.ndarray:
    """What to_input returned as float (28, 28); ValueError if it is no picture."""
    out = out.detach().cpu().numpy() if isinstance(out, torch.Tensor) else out
    array = np.squeeze(np.asarray(out, dtype=float))
    if array.ndim == 1 and array.size in (784, 1024):
        array = array.reshape(2 * [int(array.size**0.5)])
    if array.ndim == 3 and 3 in array.shape[::2]:
        array = array.mean(0 if array.shape[0] == 3 else 2)
    if array.ndim != 2:
        shape = np.shape(out)
        raise ValueError(f"it gave {shape}, which is not one picture")
    if not np.isfinite(array).all():
        raise ValueError("it gave NaN or infinite numbers")
    if array.shape == (32, 32):
        return array[2:-2, 2:-2]
    return array if array.shape == (28, 28) else cv2.resize(array, (28, 28))


class Input:
    """somebody's to_input: called with care, and what was noticed meanwhile."""

    def __init__(self, function):
        self.function, self.raised, self.notes, self.shape = function, [], [], None
        self.seconds = 0.0

    def __call__(self, source):
        """float (28, 28), or None where it raised or gave no picture."""
        given = copy.deepcopy(source)
        started = time.perf_counter()
        try:
            out = self.function(given)
            image = as_image(out)
        except Exception as error:  # any: it is somebody else's code
            self.raised.append(f"{type(error).__name__}: {error}".split("\n")[0])
            return None
        finally:
            self.seconds += time.perf_counter() - started
        self.out = out
        if isinstance(source, np.ndarray) and not np.array_equal(given, source):
            self.note("to_input changes the array that it is given: let it work on a "
                      "copy (image = image.copy())")  # fmt: skip
        return image

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)


def _pixels(x: np.ndarray, want: Convention) -> np.ndarray:
    """Back from the network's values: float32 (N, 28, 28), ink 1 on paper 0."""
    x = TURNS[_turn(want.turn, "upright")][0](x)
    low, high = _pair(want)
    if want.scale == "standardised per image":
        dark = want.ink == "dark"
        low, high = ((f(x, axis=(1, 2), keepdims=True)) for f in (
            (np.max, np.min) if dark else (np.min, np.max)))  # fmt: skip
    return ((x - low) / np.where(high == low, 1, high - low)).astype(np.float32)


@dataclass
class Report:
    """What was found, and on what it rests. In a notebook it is a page."""

    findings: tuple[Finding, ...] = ()  # the first is the one to mend first
    verdict: str = ""  # one sentence
    wants: tuple[Convention, ...] = ()  # that the network reads equally well
    accuracies: np.ndarray = field(default_factory=lambda: np.zeros(0))  # with each
    network: str = ""  # what it takes and gives
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)  # of repairs
    code: str = ""  # def mended(picture): ...; uses your to_input, if it can stay
    mended: Callable | None = None  # that code, run
    pictures: tuple[Picture, ...] = ()
    seen: np.ndarray | None = None  # (N, 28, 28) pixels 0..1 that the network gets now
    shown: np.ndarray | None = None  # and with the repair
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)  # for each picture
    notes: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def finding(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    def _repr_html_(self) -> str:
        return page(self)

    def __str__(self) -> str:
        parts = [self.verdict, *(f"- {f.name}: {f.words}" for f in self.findings)]
        return "\n".join([*parts, *(f"note: {note}" for note in self.notes), self.code])


def examine(network, to_input=None, pictures=(), labels=None, progress=True) -> Report:
    """Which step between a picture and a network breaks it, and what mends it.

    network: a torch.nn.Module, or any callable from a batch to scores (N, 10 or
    more). to_input: from one picture, as given, to the network's input; None asks how
    to write it. pictures: a folder, or paths, PIL images or arrays; labels: one each,
    None where unknown. Takes seconds; leaves the network as it was. Raises ValueError
    for no pictures and impossible labels; all else is said in the report.
    """
    everything = gather(pictures, labels)
    report = Report(pictures=tuple(p for p in everything if p.canvas is not None))
    if left_out := [p for p in everything if p.canvas is None]:
        report.notes.append(
            f"{len(left_out)} of {len(everything)} pictures are left out: "
            + "; ".join(f"{p.name}: {p.problem}" for p in left_out[:5])
        )
    modes = [(m, m.training) for m in getattr(network, "modules", list)()]
    with untouched(network), tqdm(total=4, disable=not progress, leave=False) as bar:
        bar.set_description("what the network wants")
        try:
            found, *known = _network(report, network, modes)
        except Unusable as error:
            report.verdict = str(error)
            report.findings = (Finding("network", "network", str(error), "network"),)
            return report
        bar.update()
        if report.pictures:
            _input(report, to_input, found, *known, bar)
        else:
            report.verdict = "No picture could be read, so none was examined."
            report.findings = tuple(found)
    return report


def _network(report: Report, network, modes):
    """Step 1: what it wants. Also its own faults, and digits that are not used up."""
    digits = data.load().test
    report.source = digits.source
    digits = digits.balanced(min(N_WANTED + N_PROBES, len(digits) // 2))
    rest = digits.take(np.arange(len(digits) - N_PROBES, len(digits)))
    digits = digits.take(np.arange(len(digits) - N_PROBES))
    tensors = [*network.parameters(), *network.buffers()] if modes else []
    floats = [t for t in tensors if t.is_floating_point()] or [torch.zeros(1)]
    scores = Scores(network, floats[0].device, floats[0].dtype)
    scores.settle(digits.images[:7])
    wants, shares = wanted(scores, digits)
    x = wants[0](digits.images)
    if shares.max() < 0.3:
        answers = np.unique(scores.answers(x)).tolist()
        same = f": its answer is always {answers[0]}" if len(answers) == 1 else ""
        raise Unusable(
            "this network has not learnt MNIST: in the best of "
            f"{2 * len(SCALES) * len(TURNS)} conventions it reads {shares.max():.0%} "
            f"of {len(digits)} images{same}."
        )
    report.wants, report.accuracies = tuple(wants), shares
    report.network = f"takes {scores.shape}, gives {scores.classes} {scores.kind}"
    if scores.classes > 10:
        known = EMNIST.get(scores.classes)
        report.notes.append(
            f"the network has {scores.classes} outputs"
            + (f", as EMNIST's {known}" if known else "")
            + ": the first ten are taken for the digits."
        )
    if shares.max() < 0.9:
        report.notes.append(f"the network reads only {shares.max():.0%} of MNIST.")
    found, few, right = [], x[:60], digits.labels[:60]
    if modes:  # asked one picture at a time, in the mode in which it was found
        together = scores(few)
        for module, mode in modes:
            module.training = mode
        try:
            alone = np.concatenate([scores(few[i : i + 1]) for i in range(len(few))])
            seen = f"reads {(alone.argmax(1) == right).mean():.0%} of single images"
        except Exception as error:  # batch norm, of a single picture
            alone, seen = np.zeros((len(few), 10)), f"raises {error}"
        finally:
            network.eval()
        together, alone = together.clip(-20), alone.clip(-20)
        if abs(together - alone).max() > 0.1:
            was = any(mode for _, mode in modes)
            words = (
                f"as it is, it {seen}, in evaluation mode "
                f"{(together.argmax(1) == right).mean():.0%}: "
                + ("call network.eval() before you use it" if was else "its answer "
                   "to one hangs on the others in the batch, eval() or not")
            )  # fmt: skip
            worse = sign_test(alone.argmax(1) == right, together.argmax(1) == right)
            if worse < CERTAIN:
                found.append(Finding("training mode", "network", words, "network"))
            else:
                report.notes.append(f"the network is in training mode: {words}.")
    reference = Reference.measured_on(
        normalize(digits.images), np.zeros((len(digits), 10)), digits.source
    )
    return found, scores, rest, reference


def _contract(theirs: Input, scores: Scores, probes: list, x: list) -> list[Finding]:
    """What is wrong with to_input as a function, whatever the picture."""
    found, n, failed = [], len(x), [i for i, image in enumerate(x) if image is None]
    worked = [i for i in range(n) if i not in failed]
    if failed:
        words = f"to_input failed for {len(failed)} of {n}: {theirs.raised[0]}"
        if len(failed) > n / 2:
            found.append(Finding("raises", "function", words, "function"))
        theirs.notes.append(words)
    for i in worked[:3]:
        if not np.array_equal(theirs(probes[i]), x[i]):
            words = "to_input gives other numbers when it is called again"
            found.append(Finding("random", "function", words, "function"))
            break
    if worked and not scores.as_numpy:
        out = theirs.out
        out = torch.as_tensor(out if isinstance(out, torch.Tensor) else np.array(out))
        ranks = len(SHAPES[scores.shape][0](np.zeros((1, 28, 28))).shape)
        batch = out[None] if out.ndim == ranks - 1 else out
        try:
            with torch.no_grad():
                scores.network(batch.to(scores.device))
        except Exception as error:  # any: it is somebody else's code
            kind = "dtype" if out.dtype != scores.dtype else "shape"
            words = (
                f"to_input gives {out.dtype} {tuple(out.shape)}, which the network "
                f"refuses ({str(error).splitlines()[0]}); it takes {scores.dtype} "
                f"{scores.shape}"
            ).replace("torch.", "")
            found.append(Finding(kind, "function", words, "function"))
    return found


def _input(report, to_input, found, scores, digits, reference, bar) -> None:
    """Steps 2 and 3: what to_input gives the network, and which repair mends it."""
    n, known = len(report.pictures), [p.label for p in report.pictures]
    if n < 5:
        report.notes.append(
            f"{n} readable picture{'s' * (n > 1)}, too few to show anything: the "
            "evidence is that of the probes."
        )
    if n > 1 and len(set(known)) == 1 and known[0] is not None:
        report.notes.append(f"all pictures are of the digit {known[0]}.")
    theirs, styles = Input(to_input), [Style(p) for p in report.pictures[:20]]
    mine, probes, canvases, x = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        bar.set_description("what to_input makes of it")
        for i, digit in enumerate(digits.images):
            if i >= N_COMPARED and theirs.seconds > SECONDS:
                break
            style = styles[i % len(styles)]
            canvases.append(style.canvas(digit))
            drawn = style.draw(canvases[-1])
            probes.append(style.as_theirs(drawn, Path(folder), f"probe{i}"))
            x.append(theirs(probes[-1]) if to_input else None)
        if to_input:
            found = [*found, *_contract(theirs, scores, probes, x)]
            theirs.raised.clear()
            mine = [theirs(p.source) for p in report.pictures]
            if theirs.raised:
                theirs.note(f"to_input failed for {len(theirs.raised)} of your {n} "
                            f"pictures: {theirs.raised[0]}")  # fmt: skip
        report.notes += theirs.notes
        bar.update()
        bar.set_description("repairs")
        labels = digits.labels[: len(probes)]
        _mend(report, scores, theirs, found, probes, canvases, x, labels, mine, reference)
        bar.update()


def _mend(
    report, scores, theirs, found, probes, canvases, x, labels, mine, reference
) -> None:
    wants, worked = report.wants, [i for i, image in enumerate(x) if image is not None]
    best = [w for w, share in zip(wants, report.accuracies, strict=True)
            if share > report.accuracies.max() - 0.005]  # fmt: skip
    want, fit, ways = best[0], None, []
    if worked:
        got = np.stack([x[i] for i in worked])
        flat = np.ptp(got, (1, 2)) < 1e-6 * max(1, abs(got).max())
        if flat.mean() > 0.5:
            words = f"{flat.mean():.0%} of the pictures come out empty"
            ways = [Finding("blank", "blank", f"{words} (blank: {CAUSES['blank']})",
                            "layout")]  # fmt: skip
        else:
            some = [i for i in range(len(got)) if not flat[i]][:N_COMPARED]
            fit = explain(got[some], [canvases[worked[i]] for i in some])
            want = min(best, key=lambda want: len(departures(fit, want)))
            ways = departures(fit, want) if fit.r > FITS else []
    pictures = report.pictures
    truth = np.array([-1 if p.label is None else p.label for p in pictures])
    reads = [p.code for p in pictures]
    read_by = max(set(reads), key=reads.count)
    if len(set(reads)) > 1:
        read_by = 'canvas = read("", picture, None).canvas'

    def answers(images):  # -1 where there is no image
        full = [np.zeros((28, 28)) if image is None else image for image in images]
        there = np.array([image is not None for image in images])
        return np.where(there, scores.answers(np.stack(full)), -1)

    def run(code):
        """The code, run; its images and answers on probes and pictures."""
        function = run_code(code, theirs.function)
        on_probes = [_quietly(function, probe) for probe in probes]
        on_yours = [_quietly(function, picture.source) for picture in pictures]
        return function, on_yours, answers(on_probes), answers(on_yours)

    whole = write(want, scores, read_by)
    code, (mended, shown, best_probes, best_yours) = whole, run(whole)
    now_probes, now_yours = np.full(len(labels), -2), np.full(len(pictures), -2)
    if theirs.function:
        now_probes, now_yours = answers(x), answers(mine)
    # may their to_input stay, with a line behind it?
    behind = [way for way in ways if way.part in ("values", "turn")]
    if behind or (any(f.part == "function" for f in found) and not ways):
        short = write(want, scores, None, fit, {way.part for way in behind})
        tried = run(short)
        lost = (best_probes == labels).mean() - (tried[2] == labels).mean()
        if lost < 0.01:
            code, (mended, shown, best_probes, best_yours) = short, tried
            ways = behind
    trials = {"nothing": (now_probes, now_yours)} if theirs.function else {}
    if fit:
        for name, probe_x, own_x in _trials(ways, fit, want, x, mine, canvases, pictures):
            trials[name] = answers(probe_x), answers(own_x)
    everything = "everything from the picture on" if code is whole else " and ".join(
        way.name for way in ways) + ", mended"  # fmt: skip
    trials[everything] = best_probes, best_yours
    report.trials = _table(trials, labels, truth)
    gain = {name: (a == labels).mean() for name, (a, _) in trials.items()}
    ways = sorted(ways, key=lambda way: -gain.get(f"{way.name}, mended", 0))
    before, after = now_probes == labels, best_probes == labels
    shown_on_probes = (
        sign_test(before, after) < CERTAIN and after.mean() - before.mean() > LOSS
    )
    known = truth >= 0
    chance = min(1, len(trials) * sign_test((now_yours == truth)[known],
                                            (best_yours == truth)[known]))  # fmt: skip
    shown_on_yours = bool(known.sum() >= 5 and chance < 0.05)
    if theirs.function is None:
        report.verdict = "There is no to_input yet; these lines are one."
    elif shown_on_probes or shown_on_yours:
        if not ways:
            odd = [i for i in (x if shown_on_probes else mine) if i is not None]
            ways = [_by_alarms(_pixels(np.stack(odd), want), reference)] if odd else []
        found = [*found, *ways]
    elif ways:
        report.notes += [f"harmless for this network: {way.words}" for way in ways]
    reads_now = f"{before.mean():.0%} of {len(labels)} probes"
    if found:
        sure = [where for where, is_shown in (
            ("on the probes", shown_on_probes), ("on your pictures", shown_on_yours)
        ) if is_shown]  # fmt: skip
        report.verdict = (
            f"{found[0].name}: it reads {reads_now}, with the repair {after.mean():.0%}. "
            + (f"Shown {' and '.join(sure)}." if sure else "Seen directly.")
        )
    elif theirs.function:
        report.verdict = (
            f"No fault found: it reads {reads_now}; read by the doctor, "
            f"{after.mean():.0%} of them."
        )
        if known.sum() and (now_yours == truth)[known].mean() < 0.8:
            report.verdict += (
                " Why your pictures are misread I cannot tell with these; a dozen more "
                "would do. They may be written as MNIST's writers did not."
            )
    if found or theirs.function is None:
        report.code, report.mended = code, mended
    else:
        shown, best_yours = mine, now_yours
    report.findings = tuple(found)
    empty = np.zeros((28, 28))
    report.seen, report.shown = (
        _pixels(np.stack([empty if i is None else i for i in images]), want)
        if images else None for images in (mine, shown)
    )  # fmt: skip
    ringing = [_ringing(images, reference) for images in (report.seen, report.shown)]
    report.answers = pd.DataFrame({
        "picture": [picture.name for picture in pictures],
        "label": ["" if label < 0 else str(label) for label in truth],
        "read as": [str(a) if a >= 0 else "-" for a in now_yours],
        "alarms": ringing[0] or [""] * len(pictures),
        "mended": [str(a) if a >= 0 else "-" for a in best_yours],
        "alarms left": ringing[1] or [""] * len(pictures),
    })  # fmt: skip


def _normalized(pixels: np.ndarray) -> np.ndarray:
    """As the checks want them: float32, normalised, without rounding's -1e-8."""
    return (pixels.round(5) - np.float32(MEAN)) / np.float32(STD)


def _ringing(pixels: np.ndarray | None, reference: Reference) -> list[str]:
    """The alarms of each picture, on pixels 0..1 as MNIST has them."""
    if pixels is None:
        return []
    rings = reference.outside(_normalized(pixels))
    return [", ".join(n for n in rings if rings[n][i]) for i in range(len(pixels))]


def _by_alarms(pixels: np.ndarray, reference: Reference) -> Finding:
    """What nothing known explains, by the alarm that rings most."""
    rings = reference.outside(_normalized(pixels))
    alarm = max(rings, key=lambda name: rings[name].mean())
    share = rings[alarm].mean()
    if share < 0.1:
        words = "no step that I know explains it; the lines below replace all of them"
        return Finding("unknown", "", words, "layout")
    words = f"for {share:.0%} of them the alarm {alarm} rings ({CAUSES_HERE[alarm]})"
    return Finding(alarm, alarm, words, "layout")


def _quietly(function, source):
    try:
        return as_image(function(copy.deepcopy(source)))
    except Exception:  # any: it is somebody else's code, and was reported before
        return None


def run_code(code: str, to_input=None) -> Callable:
    """The printed repair as a function; `to_input` is what it may call."""
    names = {"to_input": to_input}
    exec(code, names)  # our own lines, not somebody's
    return names["mended"]


def write(want, scores, read_by=None, fit=None, parts=frozenset()) -> str:
    """The repair: a new to_input, or lines behind theirs."""
    lines = []
    if read_by:
        imports = ["from mnistlab.preprocess import MNIST_PIPELINE, load_picture",
                   "from mnistlab.preprocess import run as frame"]  # fmt: skip
        if "read_photo" in read_by:
            imports += ["from mnistlab.photo import read_photo"]
        if "read(" in read_by:
            imports += ["from mnistlab.doctor import read"]
        lines += [read_by + "  # ink 255 on paper 0",
                  "x = frame(canvas, MNIST_PIPELINE[:-1]) / 255"]  # fmt: skip
        turn, parts = want.turn, {"values", "turn"}
    else:
        imports = ["from mnistlab.doctor import as_image"]
        lines.append("x = as_image(to_input(picture))  # as before, 28 x 28")
        turn = _turn(fit.turn, want.turn) if fit and "turn" in parts else "upright"
        if "values" in parts:
            low, high = round(fit.paper, 4), round(fit.ink, 4)
            shift = f"x + {-low}" if low < 0 else f"x - {low}" if low else "x"
            lines.append(f"x = ({shift}) / {high - low:.6g}  # paper 0, ink 1")
    if "values" in parts:
        lines += ["x = 1 - x  # the network wants dark ink"] * (want.ink == "dark")
        lines += [SCALES[want.scale][1]] if SCALES[want.scale][1] else []
    lines += [TURNS[turn][1]] if turn != "upright" else []
    form = SHAPES[scores.shape][1]
    lines.append(f"x = np.ascontiguousarray({form}, np.float32)")
    lines.append("return x" if scores.as_numpy else "return torch.from_numpy(x)")
    imports = ["import numpy as np", *["import torch"] * (not scores.as_numpy), *imports]
    body = "\n".join("    " + line for line in lines)
    return "\n".join(imports) + f"\n\n\ndef mended(picture):\n{body}\n"


def _trials(ways, fit, want, x, mine, canvases, pictures):
    """Single repairs: (name, images of the probes, images of your pictures)."""
    slope = fit.ink - fit.paper

    def behind(change):
        return [[None if i is None else change(i[None])[0] for i in images]
                for images in (x, mine)]  # fmt: skip

    def rescale(i):
        return Convention(want.ink, want.scale)((i - fit.paper) / slope)

    def reframed(change=lambda image: image):
        move = TURNS[fit.turn][0]
        own = [picture.canvas for picture in pictures]
        return [[fit.paper + slope * move(change(_framed(c)) / 255) for c in part]
                for part in (canvases, own)]  # fmt: skip

    named = {}
    for way in ways:
        if way.part == "values":
            named[f"{way.name}, mended"] = behind(rescale)
        elif way.part == "turn":
            back = TURNS[_turn(fit.turn, want.turn)][0]
            named[f"{way.name}, mended"] = behind(back)
        elif f"{way.name}, mended" not in named:
            named[f"{way.name}, mended"] = reframed()
    named["inverted"] = behind(lambda i: fit.paper + fit.ink - i)
    for name, (move, _) in list(TURNS.items())[1:]:
        named[name] = behind(move)
    named["rescaled"] = behind(rescale)
    named["MNIST's frame"] = reframed()
    named["thicker"] = reframed(TEXTURES["a little thick"])
    named["thinner"] = reframed(TEXTURES["thin pen"])
    return [(name, *images) for name, images in named.items()]


def _table(trials, labels, truth) -> pd.DataFrame:
    """For each repair: what it reads, mends and breaks, on probes and on yours."""
    rows, known = [], truth >= 0
    first = next(iter(trials.values()))
    for name, (probes, yours) in trials.items():
        row = {"repair": name, "probes": (probes == labels).mean()}
        if known.any():
            was, now = (a[known] == truth[known] for a in (first[1], yours))
            row |= {
                "yours": now.mean(),
                "mends": int((now & ~was).sum()),
                "breaks": int((was & ~now).sum()),
                "by chance": min(1.0, len(trials) * sign_test(was, now)),
            }
        rows.append(row)
    return pd.DataFrame(rows)


# --- the page -----------------------------------------------------------------------

STYLE = """<style>
.doctor { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; color: #1a1a1a }
.doctor h2 { font-size: 1.1em; margin: 1.4em 0 .4em }
.doctor .verdict { font-size: 1.25em; border-left: 5px solid #3b6fb6;
  padding-left: .7em }
.doctor pre { background: #f4f4f4; padding: .8em; overflow-x: auto }
.doctor table { border-collapse: collapse; font-size: .87em }
.doctor td, .doctor th { padding: .15em .6em; text-align: left;
  border-bottom: 1px solid #ddd }
.doctor img { height: 84px; max-width: 150px; border: 1px solid #999;
  image-rendering: pixelated }
.doctor figure { display: inline-block; margin: 0 .8em .8em 0; font-size: .8em }
.doctor figure, .doctor pre, .doctor tr { break-inside: avoid }
</style>"""


def _img(image: np.ndarray | Image.Image) -> str:
    """A picture inside the page; black is paper and white is ink, never autoscaled."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8))
    image.thumbnail((300, 168))
    file = BytesIO()
    image.save(file, "PNG")
    return f"<img src='data:image/png;base64,{b64encode(file.getvalue()).decode()}'>"


def page(report: Report) -> str:
    """The report as HTML that needs no other file: finding, evidence, repair."""
    text = html.escape
    parts = [STYLE, f"<div class='doctor'><p class='verdict'>{text(report.verdict)}</p>"]
    parts += [f"<p><b>{text(f.name)}</b>: {text(f.words)}.</p>" for f in report.findings]
    if report.code:
        parts.append(f"<h2>The repair</h2><pre>{text(report.code)}</pre>")
    if report.pictures and report.seen is not None:
        parts.append("<h2>Your pictures: given, what the network gets, and with the "
                     "repair</h2>")  # fmt: skip
        rows = zip(report.pictures, report.seen, report.shown, strict=True)
        for number, (picture, seen, shown) in enumerate(rows):
            if number == 12:
                break
            row = report.answers.iloc[number]
            images = [_img(Style(picture).picture.copy()), _img(seen)]
            images += [_img(shown)] * bool(report.code)
            said = f"read as {row['read as']}"
            said += f", then {row['mended']}" if report.code else ""
            said += f"; it is {row['label']}" if row["label"] else ""
            caption = f"{text(picture.name)}: {said}"
            parts.append(f"<figure>{''.join(images)}<br>{caption}</figure>")
    if len(report.trials):
        table = report.trials.copy()
        for column in ("probes", "yours"):
            if column in table:
                table[column] = [f"{share:.0%}" for share in table[column]]
        if "by chance" in table:
            table["by chance"] = [f"{chance:.2g}" for chance in table["by chance"]]
        parts.append(
            "<h2>Evidence: what each repair reads</h2><p><b>probes</b>: digits of "
            f"{text(report.source)}, drawn as your pictures are; their answers are "
            "known. <b>yours</b>: your labelled pictures; how many it mends and "
            "breaks, and how likely chance does as well, with so many repairs tried."
            f"</p>{table.to_html(index=False, border=0)}"
        )
    if len(report.answers):
        parts.append(f"<h2>Your pictures, one by one</h2>"
                     f"{report.answers.to_html(index=False, border=0)}")  # fmt: skip
    if report.wants:
        best = "".join(f"<li>{text(str(want))}: {share:.1%}</li>" for want, share in
                       zip(report.wants, report.accuracies, strict=True))  # fmt: skip
        parts.append(f"<h2>What the network wants</h2><p>It {text(report.network)}. "
                     "These work equally well, as far as a paired test on images of "
                     f"{text(report.source)} can tell:</p><ul>{best}</ul>")  # fmt: skip
    parts += [f"<p>Note: {text(note)}</p>" for note in report.notes]
    return "\n".join(parts) + "</div>"


def _named(place: str):
    """What my_app.py:model names. Imports, and so runs, my_app.py."""
    path, _, name = place.rpartition(":")
    if not path or not Path(path).is_file():
        raise SystemExit(f"{place!r}: expected a file and a name in it: my_app.py:model")
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise SystemExit(f"{path} has no {name!r} at its top level.")
    return getattr(module, name)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) not in (3, 4):
        raise SystemExit(
            "python -m mnistlab.doctor my_app.py:model my_app.py:preprocess my_pictures/ "
            "[doctor.html]\n\nWrites one page: which step breaks it, and the repair. It "
            "imports, and so runs, your file. 'none' for preprocess: write it for me."
        )
    to_input = None if arguments[1] == "none" else _named(arguments[1])
    try:
        report = examine(_named(arguments[0]), to_input, arguments[2])
    except ValueError as error:
        raise SystemExit(f"{arguments[2]}: {error}") from error
    path = Path(arguments[3] if len(arguments) == 4 else "doctor.html")
    head = "<!doctype html><meta charset='utf-8'><title>The doctor</title>"
    data.write_atomically(path, f"{head}{page(report)}".encode())
    print(f"{report}\n{path} is the page.")


if __name__ == "__main__":
    main(sys.argv[1:])
