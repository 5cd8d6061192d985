"""A drawing becomes what the network sees, step by step, each to be looked at.

A step is a plain function image -> image; a pipeline is a tuple of steps, from a
canvas, uint8 (H, W), ink 255 on paper 0, to float32 (28, 28), normalised.
"""

import warnings
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, as a share of 255
INK = 32  # a pixel this bright belongs to the drawing; below is noise or fringe
MAX_SIDE = 4096  # pixels
BILINEAR = Image.Resampling.BILINEAR  # smooth: Pillow's antialiases when it shrinks

Step = Callable[[np.ndarray], np.ndarray]
Pipeline = tuple[Step, ...]


def crop_to_ink(image: np.ndarray) -> np.ndarray:
    """Cut uint8 (H, W) to the smallest box that holds all ink; blank: ValueError."""
    ink = image >= INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        peak = image.max(initial=0)
        raise ValueError(f"the brightest pixel is {peak}; ink begins at {INK}.")
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit_20x20(image: np.ndarray) -> np.ndarray:
    """Scale uint8 (H, W) so that its longer side is 20, smoothly, in proportion."""
    scale = 20 / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), BILINEAR))


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Place uint8 (h, w), at most 20x20, in 28x28, its centre of mass on pixel 14, 14.

    To the nearest pixel, as in MNIST (LeCun et al. 1998), but no ink falls off the
    edge. Raises ValueError where there is none.
    """
    height, width = image.shape
    if not (mass := image.sum()):
        raise ValueError("no ink is left once it is shrunk. Draw with a thicker pen.")
    y = image.sum(1) @ np.arange(height) / mass
    x = image.sum(0) @ np.arange(width) / mass
    top = min(max(round(14 - y), 0), 28 - height)
    left = min(max(round(14 - x), 0), 28 - width)
    framed = np.zeros((28, 28), np.uint8)
    framed[top : top + height, left : left + width] = image
    return framed


def resize_28x28(image: np.ndarray) -> np.ndarray:
    """Shrink the whole canvas, uint8 (H, W), to 28x28: what everybody does first."""
    return np.asarray(Image.fromarray(image).resize((28, 28), BILINEAR))


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 (..., 28, 28) in 0..255 to float32 of mean 0, deviation 1 on MNIST."""
    if images.dtype != np.uint8 or images.shape[-2:] != (28, 28):
        found = f"{images.dtype} {images.shape}; expected uint8 (..., 28, 28)"
        raise ValueError(f"{found} to normalise. Has it been normalised already?")
    return (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def denormalize(inputs: np.ndarray) -> np.ndarray:
    """Undo `normalize`, to 0..1, ink 1 on paper 0; any shape."""
    return inputs * np.float32(STD) + np.float32(MEAN)


MNIST_PIPELINE: Pipeline = (crop_to_ink, fit_20x20, center_of_mass, normalize)
NAIVE_PIPELINE: Pipeline = (resize_28x28, normalize)


def as_grey(image: np.ndarray) -> np.ndarray:
    """uint8 as it is; float32 with the normalisation undone, clipped to uint8."""
    if image.dtype == np.uint8:
        return image
    return np.rint(denormalize(image).clip(0, 1) * 255).astype(np.uint8)


def as_uri(image: np.ndarray | Image.Image, side_px: int = 140) -> str:
    """A small picture for a web page, as a data URI; of an array `as_grey`."""
    is_array = isinstance(image, np.ndarray)
    picture = Image.fromarray(as_grey(image)) if is_array else image.copy()
    picture.thumbnail((side_px, side_px))
    picture.save(file := BytesIO(), "PNG", compress_level=1)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def ring(images: np.ndarray) -> np.ndarray:
    """The outermost pixels of (..., H, W), each once, as (..., n)."""
    sides = [images[..., 1:-1, 0], images[..., 1:-1, -1]]
    return np.concatenate([images[..., 0, :], images[..., -1, :], *sides], axis=-1)


@dataclass(frozen=True)
class Stage:
    """A picture on its way: uint8 0..255 before normalising, float32 after."""

    name: str
    image: np.ndarray

    @property
    def numbers(self) -> dict[str, object]:
        """What to look at; ink is the share of pixels above half of white."""
        image = self.image
        return {
            "shape": image.shape,
            "dtype": str(image.dtype),
            "low": image.min().item(),
            "high": image.max().item(),
            "mean": image.mean().item(),
            "border": ring(image).mean().item(),
            "ink": (as_grey(image) > 127).mean().item(),
        }


def trace(canvas: np.ndarray, pipeline: Pipeline = MNIST_PIPELINE) -> tuple[Stage, ...]:
    """The canvas, as stage "original", and what each step made; ValueError if none."""
    is_grey = getattr(canvas, "dtype", None) == np.uint8 and canvas.ndim == 2
    if not is_grey or not 8 <= min(canvas.shape) <= max(canvas.shape) <= MAX_SIDE:
        raise ValueError(
            f"the drawing is {getattr(canvas, 'dtype', '')} {np.shape(canvas)}; "
            f"expected uint8 (H, W), 8 to {MAX_SIDE} a side, as load_picture gives."
        )
    stages = [Stage("original", canvas)]
    for step in pipeline:
        stages.append(Stage(step.__name__, step(stages[-1].image)))
    return tuple(stages)


def to_input(canvas: np.ndarray, pipeline: Pipeline = MNIST_PIPELINE) -> np.ndarray:
    """What the network is given for this canvas: float32 (28, 28)."""
    return trace(canvas, pipeline)[-1].image


def save_trace(stages: tuple[Stage, ...], folder: Path) -> list[Path]:
    """Write debug_original.png … debug_final.png, `as_grey`, and debug_stages.csv."""
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        name = "final" if stage is stages[-1] else stage.name
        path = folder / f"debug_{name}.png"
        if path in paths:  # a pipeline may have a step twice
            path = folder / f"debug_{name}_{len(paths) + 1}.png"
        Image.fromarray(as_grey(stage.image)).save(path)
        paths.append(path)
    paths.append(folder / "debug_stages.csv")
    table = pd.DataFrame({"stage": stage.name, **stage.numbers} for stage in stages)
    table.to_csv(paths[-1], index=False)
    return paths


def load_picture(source, *, ink: str = "light", paper: int | None = None) -> np.ndarray:
    """A picture as a canvas: uint8 (H, W), ink 255 on paper 0.

    source: a path, a PIL image, or an array: uint8 (H, W[, 3 or 4]) or bool (H, W).
    Colour becomes Rec. 601 luma, EXIF turns it, and where it is transparent, `paper`
    (grey; None: 0 for light ink, 255 for dark) is seen. ink: "light" on dark paper, or
    "dark", which is inverted: declared, for a guess would be wrong in silence. What has
    a longer side than MAX_SIDE, as photos have, is reduced to it. Raises ValueError,
    before Pillow clips deeper pixels or decodes too many of them.
    """
    if ink not in ("light", "dark") or paper not in (None, *range(256)):
        raise ValueError(f"{ink=}, {paper=}; expected light or dark; None or 0..255.")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):  # damage
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see sides
            picture = source
            if isinstance(source, np.ndarray):
                picture = Image.fromarray(source)
            elif not isinstance(source, Image.Image):
                picture = Image.open(BytesIO(Path(source).read_bytes()))
            sides = picture.size
            if picture.mode[0] in "IF" or min(sides) < 8:
                raise ValueError(f"mode {picture.mode}, {sides[0]} x {sides[1]}")
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
    except Exception as error:  # on a broken file Pillow's readers raise all sorts
        name = source if isinstance(source, str | Path) else "the picture"
        raise ValueError(
            f"{name} cannot be read: {error}; expected 8 bits, at least 8 a side."
        ) from error
    if paper is None:
        paper = 0 if ink == "light" else 255
    below = Image.new("L", picture.size, paper).convert("RGBA")
    grey = np.asarray(Image.alpha_composite(below, picture).convert("L"))
    return grey if ink == "light" else 255 - grey
