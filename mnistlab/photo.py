"""A photo of pen on paper becomes canvases: flat paper, ink, one digit each.

The paper is estimated by a morphological closing, which ink and lines are too thin to
survive, and divided out, with its light and shadow. Otsu's threshold (1979) finds what
is left, and an opening takes out the lines, thinner than any pen. OpenCV does both.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageOps

PHOTO_PX = 1200  # longer side that a photo is reduced to before it is looked at
FAINT = 0.2  # ink takes this share of the paper's light; less may be a shadow
CROWDED = 0.25  # share of the photo that is ink: more is no sheet with digits


@dataclass(frozen=True)
class Sheet:
    """The digits of a photo, in reading order: left to right, row by row."""

    canvases: tuple[np.ndarray, ...] = field(repr=False)  # uint8 (H, H), ink 255
    boxes: tuple[tuple[int, int, int, int], ...]  # x, y, width, height in `flat`
    flat: np.ndarray = field(repr=False)  # uint8 (H, W): the photo, ink 255 on 0
    alarm: str  # "" unless it is not sure what is ink


def read_photo(source) -> Sheet:
    """Find the digits on a photo: a path, a PIL image or uint8 (H, W[, 3 or 4]).

    Dark ink on brighter paper; digits must not touch. ValueError: it is no picture.
    """
    darkness = _darkness(open_photo(source))
    ink, pen_px, strength = _ink(darkness)
    flat = (255 * (darkness / max(strength, FAINT)).clip(0, 1)).astype(np.uint8)
    digits, canvases, alarm = _digits(ink, pen_px), [], ""
    for (x, y, width, height), own in digits:
        own = np.where(own, flat[y : y + height, x : x + width], 0)
        spare = [round(1.5 * max(own.shape)) - side for side in own.shape]
        canvases.append(np.pad(own, [(n // 2, n - n // 2) for n in spare]))
    if not digits:
        alarm = "no ink was found: nothing on the paper is dark and thin enough"
    elif strength < FAINT:
        alarm = f"the ink takes {strength:.0%} of the light: it may be a shadow"
    elif ink.mean() > CROWDED:
        alarm = f"{ink.mean():.0%} of the photo would be ink: is the paper dark?"
    return Sheet(tuple(canvases), tuple(box for box, _ in digits), flat, alarm)


def open_photo(source) -> np.ndarray:
    """uint8 (H, W, 3), upright, at most PHOTO_PX a side, transparency on white."""
    try:
        if isinstance(source, np.ndarray):
            source = Image.fromarray(source)
        picture = source if isinstance(source, Image.Image) else Image.open(source)
        picture.draft("RGB", (PHOTO_PX, PHOTO_PX))  # decodes a large JPEG small
        picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except FileNotFoundError:
        raise
    except Exception as error:  # on a broken file Pillow's readers raise all sorts
        raise ValueError(f"this is no photo that can be read: {error}") from error
    picture.thumbnail((PHOTO_PX, PHOTO_PX), Image.Resampling.BOX, reducing_gap=None)
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _darkness(photo: np.ndarray) -> np.ndarray:
    """float32 (H, W): the share of the paper's light that is missing, 0 on paper."""
    reach = max(3, min(photo.shape[:2]) // 7)  # wider than any pen
    calm, calmer = cv2.medianBlur(photo, 3), cv2.medianBlur(photo, 5)
    smaller = max(1, reach // 12)  # paper has no detail, and this is the dear step
    size = [side // smaller for side in photo.shape[1::-1]]
    paper = cv2.resize(calmer, size, interpolation=cv2.INTER_AREA)
    paper = cv2.morphologyEx(paper, cv2.MORPH_CLOSE, _round(reach / smaller))
    paper = cv2.blur(paper, (reach // 2 // smaller,) * 2)
    paper = cv2.resize(paper.astype(np.float32), photo.shape[1::-1])
    lit = cv2.GaussianBlur(calm, (0, 0), 0.8).astype(np.float32)
    light = np.minimum.reduce(cv2.split((lit + 8) / (paper + 8)))  # black is no ink
    return (1 - light).clip(0, 1)


def _round(size: float) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(size), round(size)))


def _ink(darkness: np.ndarray) -> tuple[np.ndarray, float, float]:
    """bool (H, W), the pen's width in pixels, and how dark its ink is, 0..1."""
    levels = (darkness * 255).astype(np.uint8)
    noticed = levels[levels > 255 * FAINT / 2]  # not paper: ink or its lines
    if not len(noticed):
        return levels < 0, 1.0, 0.0
    threshold, _ = cv2.threshold(noticed, 0, 255, cv2.THRESH_OTSU)
    mask = (levels > threshold).astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    pen_px = 2 * float(np.quantile(depth[mask > 0], 0.95))
    brush = _round(max(1, 0.5 * pen_px))  # a ruled line is thinner than any pen
    ink = cv2.morphologyEx(mask, cv2.MORPH_OPEN, brush) > 0
    return ink, pen_px, float(np.quantile(darkness[ink], 0.75)) if ink.any() else 0.0


def _digits(ink: np.ndarray, pen_px: float) -> list[tuple[tuple, np.ndarray]]:
    """The box and the mask of each digit: strokes that lie closer than a pen."""
    near = cv2.dilate(ink.astype(np.uint8), _round(max(3, 1.6 * pen_px)))
    _, names, stats, _ = cv2.connectedComponentsWithStats(near)
    largest = stats[1:, 2:4].max(initial=0)  # row 0 is the paper
    found, rows = [], []
    for name, (x, y, width, height, _) in enumerate(stats.tolist()):
        if name and max(width, height) > 0.4 * largest:
            own = names[y : y + height, x : x + width] == name
            found.append(((x, y, width, height), own))
    room = 0.6 * np.median([box[3] for box, _ in found] or [1])
    for digit in sorted(found, key=lambda digit: digit[0][0]):  # a row may be slanted
        away = [abs(_middle(row[-1]) - _middle(digit)) for row in rows]
        if min(away, default=room) < room:
            rows[np.argmin(away)].append(digit)
        else:
            rows.append([digit])
    rows.sort(key=lambda row: np.mean([_middle(digit) for digit in row]))
    return [digit for row in rows for digit in row]


def _middle(digit) -> float:
    (_, y, _, height), _ = digit
    return y + height / 2
