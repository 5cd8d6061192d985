"""Photographs of pen on paper that never were: pens, paper, light, lens and JPEG.

What mnistlab.photo is measured on. Strokes are drawn in ink on a sheet that may be
ruled or squared; the sheet is tilted, lit from one side, half in the shadow of a
hand, and photographed: blur, noise, JPEG.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mnistlab.strokes import Drawing, place, rasterize

INKS = {
    "black": (38, 36, 40),
    "blue": (42, 58, 150),
    "red": (176, 44, 52),
    "pencil": (104, 102, 106),
}
PAPERS = ("plain", "ruled", "squared")
CELL_PX = 360  # a digit's share of the sheet, before the camera


def photograph(
    drawings: Sequence[Drawing],
    seed: int | np.random.Generator = 0,
    columns: int = 5,
    paper: str | None = None,
    ink: str | None = None,
) -> Image.Image:
    """An RGB photo of the drawings, in rows of `columns`; the seed chooses the rest.

    Digits are 40 to 70 % of their cell, the pen 5 to 13 % of the digit.
    """
    rng = np.random.default_rng(seed)
    paper = paper or str(rng.choice(PAPERS))
    ink = ink or str(rng.choice(list(INKS)))
    columns = min(columns, len(drawings))
    rows = -(-len(drawings) // columns)
    margin = CELL_PX // 2  # of sheet that the camera may or may not see
    size = columns * CELL_PX + 2 * margin, rows * CELL_PX + 2 * margin
    sheet = _sheet(size, paper, rng)
    large, pen = rng.uniform(0.45, 0.65), rng.uniform(0.05, 0.13)
    color = np.array(INKS[ink]) + rng.integers(-12, 13)
    for number, strokes in enumerate(drawings):
        digit_px = CELL_PX * large * rng.uniform(0.9, 1.1)
        middle = CELL_PX / 2 + rng.uniform(-0.08, 0.08, 2) * CELL_PX
        drawing = place(strokes, digit_px, tuple(middle), CELL_PX)
        cover = rasterize(drawing, pen * digit_px, CELL_PX) / 255
        cover *= rng.uniform(0.82, 0.95) - 0.05 * rng.random(cover.shape)
        x = margin + number % columns * CELL_PX
        y = margin + number // columns * CELL_PX
        cell = sheet[y : y + CELL_PX, x : x + CELL_PX]
        cell += cover[..., None] * (color - cell)
    photo = _tilt(Image.fromarray(sheet.clip(0, 255).astype(np.uint8)), margin, rng)
    lit = np.asarray(photo) * _light(photo.size, rng)[..., None]
    lit *= rng.uniform(0.9, 1.0, 3)  # the colour of the lamp
    lit += rng.normal(0, rng.uniform(2, 7), lit.shape)
    photo = Image.fromarray(lit.clip(0, 255).astype(np.uint8))
    photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.4)))
    file = BytesIO()
    photo.save(file, "JPEG", quality=int(rng.integers(60, 92)))
    return Image.open(file).convert("RGB")


def _sheet(size: tuple[int, int], paper: str, rng: np.random.Generator) -> np.ndarray:
    """float (H, W, 3) in 0..255: paper with its fibres and, if any, its lines."""
    image = Image.new("RGB", size, tuple((238 + rng.integers(-14, 12, 3)).tolist()))
    pen = ImageDraw.Draw(image)
    pitch = CELL_PX * rng.uniform(*((0.28, 0.5) if paper == "ruled" else (0.14, 0.24)))
    color = tuple(rng.integers((130, 150, 180), (175, 190, 225)).tolist())
    width, offset = int(rng.integers(1, 4)), rng.uniform(0, pitch)
    if paper != "plain":
        for y in np.arange(offset, size[1], pitch):
            pen.line([(0, y), (size[0], y)], color, width)
    if paper == "squared":
        for x in np.arange(offset, size[0], pitch):
            pen.line([(x, 0), (x, size[1])], color, width)
    fibres = rng.normal(0, 1.5, (size[1], size[0], 1))
    return np.asarray(image, float) + fibres


def _tilt(sheet: Image.Image, margin: int, rng: np.random.Generator) -> Image.Image:
    """The part of the sheet without its margins, turned and seen aslant."""
    width, height = sheet.size[0] - 2 * margin, sheet.size[1] - 2 * margin
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], float)
    turn, middle = rng.uniform(-0.07, 0.07), np.array([width, height]) / 2
    rotate = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    seen = (corners - middle) @ np.array(rotate) * 1.06 + middle
    seen += rng.uniform(-0.03, 0.03, (4, 2)) * min(width, height)
    quad = (seen + margin).ravel().tolist()
    return sheet.transform(
        (width, height), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC
    )


def _light(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """float (H, W) up to 1: a lamp on one side, and a soft shadow half of the time."""
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    light = 1 - rng.uniform(0.1, 0.5) * (along + 0.7) / 1.4
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        across = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
        edge = 1 / (1 + np.exp(-across / rng.uniform(0.01, 0.06)))
        light *= 1 - rng.uniform(0.2, 0.45) * edge
    return light
