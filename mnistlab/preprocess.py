"""A drawing becomes what the network sees, step by step, each to be looked at.

A step is a plain function image -> image, and its name is the function's. A
pipeline is a tuple of steps. It takes a canvas, uint8 (H, W), ink 255 on paper
0, and ends on float32 (28, 28), normalised. There is no class to register
with: to try another step, write a function and put it into the tuple.
"""

import csv
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, as a share of 255
INK = 32  # a pixel this bright belongs to the drawing; below is noise or fringe
MAX_SIDE = 4096  # pixels; larger pictures are refused before they are decoded

Step = Callable[[np.ndarray], np.ndarray]
Pipeline = tuple[Step, ...]


def crop_to_ink(image: np.ndarray) -> np.ndarray:
    """Cut uint8 (H, W) to the smallest box that holds all ink; blank: ValueError."""
    ink = image >= INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        raise ValueError(
            f"the brightest pixel is {image.max(initial=0)}; ink begins at {INK}. "
            "There is no drawing to crop to."
        )
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit_20x20(image: np.ndarray) -> np.ndarray:
    """Scale uint8 (H, W) so that its longer side is 20, smoothly, in proportion."""
    height, width = image.shape
    scale = 20 / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Place uint8 (h, w), at most 20x20, in 28x28 so that its ink balances.

    The centre of mass comes to lie on row 14, column 14 (counted from 0), to the
    nearest whole pixel: where MNIST's own images have it (LeCun et al. 1998). Ink
    never falls off the edge. Raises ValueError where there is none.
    """
    height, width = image.shape
    mass = image.astype(np.float64)
    if not image.any():
        raise ValueError(
            f"no ink is left in {width} x {height} pixels: a pen this thin vanishes "
            "when the drawing is shrunk. Draw with a thicker one."
        )
    y = (mass.sum(1) @ np.arange(height)) / mass.sum()
    x = (mass.sum(0) @ np.arange(width)) / mass.sum()
    top = min(max(round(14 - y), 0), 28 - height)
    left = min(max(round(14 - x), 0), 28 - width)
    frame = np.zeros((28, 28), np.uint8)
    frame[top : top + height, left : left + width] = image
    return frame


def resize_28x28(image: np.ndarray) -> np.ndarray:
    """Shrink the whole canvas, uint8 (H, W), to 28x28: what everybody does first."""
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((28, 28), Image.Resampling.BILINEAR))


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 (..., 28, 28) in 0..255 to float32 of mean 0, deviation 1 on MNIST.

    The one function that training, evaluation and drawing share.
    """
    if images.dtype != np.uint8 or images.shape[-2:] != (28, 28):
        raise ValueError(
            f"{images.dtype} {images.shape} cannot be normalised; expected uint8 "
            "(..., 28, 28). Has it been normalised already?"
        )
    return (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def denormalize(inputs: np.ndarray) -> np.ndarray:
    """What `normalize` made of pixels back to 0..1, ink 1 on paper 0; any shape."""
    return inputs * np.float32(STD) + np.float32(MEAN)


MNIST_PIPELINE: Pipeline = (crop_to_ink, fit_20x20, center_of_mass, normalize)
NAIVE_PIPELINE: Pipeline = (resize_28x28, normalize)


@dataclass(frozen=True)
class Stage:
    """A picture on its way: uint8 0..255 before normalising, float32 after."""

    name: str
    image: np.ndarray

    @property
    def numbers(self) -> dict[str, object]:
        """What to look at: shape, dtype, range, mean, border, share of ink.

        The border is the outermost ring of pixels; ink is what lies above the
        middle of the range.
        """
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


def ring(images: np.ndarray) -> np.ndarray:
    """The outermost pixels of (..., H, W), as (..., n)."""
    top, bottom = images[..., 0, :], images[..., -1, :]
    left, right = images[..., 1:-1, 0], images[..., 1:-1, -1]
    return np.concatenate([top, bottom, left, right], axis=-1)


def trace(canvas: np.ndarray, pipeline: Pipeline = MNIST_PIPELINE) -> tuple[Stage, ...]:
    """The canvas, as stage "original", and what each step made of it.

    Raises ValueError for anything but uint8 (H, W) of at least 8x8 pixels.
    """
    if (
        not isinstance(canvas, np.ndarray)
        or canvas.dtype != np.uint8
        or canvas.ndim != 2
        or not 8 <= min(canvas.shape) <= max(canvas.shape) <= MAX_SIDE
    ):
        found = getattr(canvas, "dtype", type(canvas).__name__)
        raise ValueError(
            f"the drawing is {found} {getattr(canvas, 'shape', '')}; expected uint8 "
            f"(H, W), 8 to {MAX_SIDE} pixels a side, ink 255 on paper 0. "
            "load_picture makes one of most pictures."
        )
    stages = [Stage("original", canvas)]
    for step in pipeline:
        stages.append(Stage(step.__name__, step(stages[-1].image)))
    return tuple(stages)


def run(canvas: np.ndarray, pipeline: Pipeline = MNIST_PIPELINE) -> np.ndarray:
    """What the network is given for this canvas: float32 (28, 28)."""
    return trace(canvas, pipeline)[-1].image


def save_trace(stages: tuple[Stage, ...], folder: Path) -> list[Path]:
    """Write debug_original.png … debug_final.png and debug_stages.csv.

    uint8 stages are saved as they are; the normalised one is mapped back from
    its own 0..1, clipped, so that grey means the same in every file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [stage.name for stage in stages[:-1]] + ["final"]
    again = [names[:place].count(name) for place, name in enumerate(names)]
    paths = [
        folder / (f"debug_{name}_{n + 1}.png" if n else f"debug_{name}.png")
        for name, n in zip(names, again, strict=True)
    ]
    for path, stage in zip(paths, stages, strict=True):
        Image.fromarray(as_grey(stage.image)).save(path)
    table = folder / "debug_stages.csv"
    with open(table, "w", newline="") as file:
        rows = [{"stage": stage.name, **stage.numbers} for stage in stages]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [*paths, table]


def as_grey(image: np.ndarray) -> np.ndarray:
    """uint8 as it is; float32 with the normalisation undone, clipped to uint8."""
    if image.dtype == np.uint8:
        return image
    return np.rint(denormalize(image).clip(0, 1) * 255).astype(np.uint8)


def load_picture(source, *, ink: str = "light", paper: int | None = None) -> np.ndarray:
    """Any picture as a canvas: uint8 (H, W), ink 255 on paper 0.

    source: a path, a PIL image, or an array (H, W), (H, W, 1), (1, H, W),
    (H, W, 3) or (H, W, 4); bool, uint8, uint16 or float in 0..1 or 0..255 (0..1
    if nothing exceeds 1; a largest value between 1 and 16 is refused as neither).
    Colour becomes grey by Rec. 601 luma. EXIF rotation is applied. Where the
    picture is transparent, `paper` (grey 0..255, default: 0 for light ink, 255
    for dark) shows through.
    ink: "light" for light ink on dark paper, "dark" for the opposite, which is
    then inverted. It is declared because a guess would be wrong in silence.
    Raises ValueError for a picture that cannot be read as this, before decoding it
    if it is too large, and FileNotFoundError.
    """
    if ink not in ("light", "dark"):
        raise ValueError(f"ink={ink!r}; expected 'light' (on dark paper) or 'dark'.")
    if paper is None:
        paper = 0 if ink == "light" else 255
    if not isinstance(paper, int | np.integer) or not 0 <= paper <= 255:
        raise ValueError(f"paper={paper!r}; expected a whole number, 0 to 255.")
    if isinstance(source, np.ndarray):
        picture = _from_array(source)
    else:
        picture = _decode(source)
    grey = _grey(picture, paper)
    return grey if ink == "light" else 255 - grey


def _decode(source) -> Image.Image:
    """The picture of a path, or one that may not be decoded yet, turned upright."""
    is_open = isinstance(source, Image.Image)
    name = "the picture" if is_open else Path(source).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # damage that Pillow skips
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with nullcontext(source) if is_open else Image.open(source) as picture:
                _refuse_size(*picture.size)
                return ImageOps.exif_transpose(picture)
    except (FileNotFoundError, ValueError):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no picture that Pillow knows.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except Exception as error:  # on a broken file Pillow's readers raise all sorts
        raise ValueError(f"{name} is cut or damaged: {error}") from error


def _refuse_size(width: int, height: int) -> None:
    if not 8 <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ValueError(
            f"the picture is {width} x {height}; expected 8 to {MAX_SIDE} pixels "
            "a side. Scale it first."
        )


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise ValueError(
            f"an array of shape {array.shape}; expected (H, W), or (H, W, 3) or "
            "(H, W, 4) with the channels last."
        )
    _refuse_size(array.shape[1], array.shape[0])
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        if 0 < array.max() < 256:
            raise ValueError(
                f"16-bit pixels that end at {array.max()}; expected 0..65535. If they "
                "are 8-bit values, say so: .astype(np.uint8)."
            )
        array = np.rint(array / 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and (high <= 1 or 16 <= high <= 255)):  # refuses NaN too
            raise ValueError(
                f"floats from {low:g} to {high:g}; expected 0..1 or 0..255, finite. "
                "Has the picture been normalised already?"
            )
        array = np.rint(array * (255 if high <= 1 else 1)).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"an array of {array.dtype}; expected bool, uint8, uint16 or float."
        )
    return Image.fromarray(array)


def _grey(picture: Image.Image, paper: int) -> np.ndarray:
    if picture.mode.startswith("I") or picture.mode == "F":
        deep = _deep(picture)
        grey = np.asarray(_from_array(deep))
        return np.where(
            deep == picture.info.get("transparency", -1), np.uint8(paper), grey
        )
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in (
        picture.info
    ):
        picture = picture.convert("RGBA")
        below = Image.new("RGBA", picture.size, (paper, paper, paper, 255))
        picture = Image.alpha_composite(below, picture)
    return np.asarray(picture.convert("L"))


def _deep(picture: Image.Image) -> np.ndarray:
    """Modes I and F, which Pillow's own conversion to L would clip."""
    array = np.asarray(picture)
    if picture.mode == "F":
        return array
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(
            f"integers from {array.min()} to {array.max()}; expected 16 bits, 0..65535."
        )
    return array.astype(np.uint16)
