"""Somebody else's network, input code and pictures: what it wants, gets, and needs.

1. MNIST's own images go through every convention: what does the network want?
2. MNIST's digits, drawn as your pictures are, go through `to_input`; what comes out
   is compared with what known ways to spoil a digit make of it.
3. Repairs are tried on these probes, whose answers are known, and on your pictures.
   The one that is printed is run as it is printed.

From a shell: python -m mnistlab.doctor my_app.py:model my_app.py:preprocess pictures/
It imports, and so runs, your file, and unpickles nothing by itself.
"""

import copy
import random
import re
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from io import BytesIO
from itertools import product
from math import comb
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from mnistlab import data, preprocess
from mnistlab.checks import CAUSES, Reference
from mnistlab.evaluation import eval_mode
from mnistlab.faults import blur, halve_size, invert, thicken, thin
from mnistlab.photo import read_photo
from mnistlab.preprocess import INK, MEAN, MNIST_PIPELINE, STD, load_picture, ring
from mnistlab.synthetic import hand_images

N_SCREEN, N_WANTED, N_PROBES, N_COMPARED = 50, 400, 200, 32
SECONDS = 10.0  # that to_input may take for the probes; then it gets fewer
CERTAIN, LOSS = 0.01, 0.02  # a finding costs 2 points, by chance once in a hundred
NOISY = 0.05  # deviation of the paper's pixels, as a share of ink - paper
FITS = 0.75  # mean correlation from which on two sets of pictures are the same
MISTAKES = "normalised twice", "not divided by 255", "sign flipped"
EMNIST = {36: "digits and letters", 47: "balanced classes", 62: "classes"}
CAUSES = CAUSES | {"turn": "The digit is turned or mirrored, or its axes are in "
                   "another order than in the training images."}  # fmt: skip

# What a network may want. These expressions are run as they are printed.
MNISTS, PER_IMAGE = "MNIST's mean and deviation", "standardised per image"
SCALES = {  # pixels x (N, 28, 28), 0..1 -> values
    "0..1": "x",
    MNISTS: f"(x - {MEAN}) / {STD}",
    "-1..1": "2 * x - 1",
    "0..255": "255 * x",
    PER_IMAGE: "(x - x.mean((1, 2), keepdims=True)) / "
    "(x.std((1, 2), keepdims=True) + 1e-6)",
}
TURNS = {
    "upright": "x",
    "transposed": "x.swapaxes(1, 2)",
    "mirrored": "x[:, :, ::-1]",
    "upside down": "x[:, ::-1, ::-1]",
    "flipped top to bottom": "x[:, ::-1]",
    "turned left": "np.rot90(x, 1, (1, 2))",
    "turned right": "np.rot90(x, 3, (1, 2))",
    "turned and mirrored": "x[:, ::-1, ::-1].swapaxes(1, 2)",
}
SHAPES = {
    "(N, 1, 28, 28)": "x[:, None]",
    "(N, 784)": "x.reshape(-1, 784)",
    "(N, 28, 28)": "x",
    "(N, 3, 28, 28)": "np.stack([x, x, x], 1)",
    "(N, 1, 32, 32)": "np.pad(x[:, None], 2, 'edge')[2:-2, 2:-2]",
    "(N, 3, 32, 32)": "np.pad(np.stack([x, x, x], 1), 2, 'edge')[2:-2, 2:-2]",
    "(N, 28, 28, 1)": "x[..., None]",
}


def calculate(expression: str, x: np.ndarray) -> np.ndarray:
    return eval(expression, {"np": np, "x": x})  # ours, never somebody's


def turn_of(*turns: str) -> str:
    """The one turn that several make, one after the other."""
    found = corners = np.arange(4).reshape(1, 2, 2)
    for turn in turns:
        found = calculate(TURNS[turn], found)
    return next(t for t in TURNS if (calculate(TURNS[t], corners) == found).all())


def back(turn: str) -> str:
    return next(t for t in TURNS if turn_of(turn, t) == "upright")


@dataclass(frozen=True)
class Convention:
    """How a network wants its digits."""

    ink: str = "light"  # or "dark"
    scale: str = MNISTS
    turn: str = "upright"

    @property
    def lines(self) -> list[str]:
        """From pixels 0..1, ink 1, to values."""
        return ["1 - x"] * (self.ink == "dark") + [SCALES[self.scale], TURNS[self.turn]]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Pixels (N, 28, 28), 0..1, ink 1, as values, float32."""
        for line in self.lines:
            x = calculate(line, x)
        return x.astype(np.float32)

    def values(self, paper=0.0, ink=1.0, share=1.0) -> np.ndarray:
        """Those of paper and ink; standardised per image: those of a usual image."""
        pair = 1 - np.array([paper, ink]) if self.ink == "dark" else [paper, ink]
        scale = SCALES[MNISTS if self.scale == PER_IMAGE else self.scale]
        return calculate(scale, share * np.array(pair))

    def undo(self, x: np.ndarray) -> np.ndarray:
        """Values (N, 28, 28) back to pixels, float32, ink 1 on paper 0."""
        paper, ink = self.values()
        if self.scale == PER_IMAGE:
            ends = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
            paper, ink = ends if self.ink == "light" else ends[::-1]
        x = (x - paper) / np.where(ink == paper, 1, ink - paper)
        return calculate(TURNS[back(self.turn)], x).astype("float32")

    def __str__(self) -> str:
        return f"{self.ink} ink, {self.scale}, {self.turn}"


class Scores:
    """A network, or any callable, that was given a common face.

    Raises Unusable for one that takes no known shape or gives no ten scores.
    """

    def __init__(self, network, pixels: np.ndarray):
        self.network, said = network, {}
        module = network if isinstance(network, torch.nn.Module) else torch.nn.Module()
        floats = [t for t in module.state_dict().values() if t.is_floating_point()]
        self.like = (floats or [torch.zeros(1)])[0]  # its dtype and device
        for self.shape in SHAPES:
            try:
                out = self.raw(calculate(SHAPES[self.shape], Convention()(pixels)))
                if out.ndim == 2 and len(out) == len(pixels) and out.shape[1] >= 10:
                    break
                said[f"gave {out.shape} for {len(pixels)} pictures"] = 1
            except Exception as error:  # any: it is somebody else's code
                said[f"{error!r:.200}"] = 1
        else:
            raise Unusable(
                f"the network takes none of {', '.join(SHAPES)} and gives ten or more "
                f"scores for each picture. It said: {'; '.join(list(said)[:3])}"
            )
        self.classes, broken = out.shape[1], (~np.isfinite(out)).mean()
        if broken:
            raise Unusable(f"{broken:.0%} of the network's scores are not numbers: its "
                           "weights are broken, or its training diverged.")  # fmt: skip
        if self.classes in (26, 27):
            raise Unusable(f"the network has {self.classes} outputs, those of EMNIST's "
                           "letters: it knows no digits.")  # fmt: skip
        self.rank = calculate(SHAPES[self.shape], pixels).ndim

    def raw(self, inputs: np.ndarray) -> np.ndarray:
        out = self.network(torch.tensor(inputs).to(self.like))
        out = out[0] if isinstance(out, tuple | list) else out
        return np.asarray(out.detach().float().cpu() if torch.is_tensor(out) else out)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The digits, int (N,), that it reads in float (N, 28, 28); -1: it raises."""
        inputs = calculate(SHAPES[self.shape], values.astype(np.float32))
        try:
            out = [self.raw(inputs[i : i + 100]) for i in range(0, len(inputs), 100)]
            return np.concatenate(out)[:, :10].argmax(1)
        except Exception:  # any: it is somebody else's code, and dislikes the values
            return np.full(len(values), -1)


class Unusable(ValueError):
    """A network that cannot be examined; the message says why."""


def sign_test(before: np.ndarray, after: np.ndarray) -> float:
    """How likely chance mends so many and breaks so few: McNemar, exact, one-sided.

    before, after: bool (N,), whether the same pictures are read right.
    """
    mended, broken = int((after & ~before).sum()), int((before & ~after).sum())
    n = mended + broken
    return sum(comb(n, k) for k in range(mended, n + 1)) / 2**n


def wanted(scores: Scores, pixels, labels) -> tuple[list[Convention], np.ndarray]:
    """The conventions that a paired test cannot tell from the best, the best first.

    Also the accuracy with each. A few images go through all, the rest through those
    that are left. The plain best would shut out the true one in one case of six.
    """
    left = [Convention(*way) for way in product(("light", "dark"), SCALES, TURNS)]
    for n, chance in ((N_SCREEN, 0.001), (len(pixels), CERTAIN)):
        right = [scores(way(pixels[:n])) == labels[:n] for way in left]
        order = np.argsort([-each.mean() for each in right], kind="stable")
        keep = [i for i in order if sign_test(right[i], right[order[0]]) > chance]
        left = [left[i] for i in keep]
    return left, np.array([right[i].mean() for i in keep])


# --- the pictures, and probes drawn like them ---------------------------------------


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
        self.source, self.name, self.label, plain = source, name, label, source
        if label is not None and label > 9:
            raise ValueError(f"label {label} is a letter's in EMNIST; expected a digit")
        if isinstance(source, np.ndarray) and source.dtype != np.uint8:
            plain = opened(source)
        # where it is transparent: the paper on which there is something to see
        grey = max((load_picture(plain, paper=p) for p in (255, 0)), key=np.std)
        tone = "dark" if np.median(ring(grey)) > 127 else "light"
        self.canvas = ink = grey if tone == "light" else 255 - grey
        self.code = f"load_picture(picture, ink={tone!r})"
        if plain is not source:
            self.code = "Picture(picture).canvas"
        if tone == "dark" and (np.quantile(ring(ink), (0.5, 0.95)) > (16, 32)).any():
            sheet, self.code = read_photo(plain), "read_photo(picture).canvases[0]"
            if sheet.alarm or len(sheet.canvases) != 1:
                raise ValueError(sheet.alarm or f"{len(sheet.boxes)} digits are on it")
            x, y, width, height = sheet.boxes[0]
            ink, box = np.zeros_like(sheet.flat), np.s_[y : y + height, x : x + width]
            ink[box] = sheet.flat[box]
            self.canvas = sheet.canvases[0]
        if self.canvas.max() < INK:
            raise ValueError("there is no ink on it")
        self._learn_style(ink)

    def _learn_style(self, ink: np.ndarray) -> None:
        """Size, place, paper, ink and kind."""
        picture = opened(self.source)
        self.mode, self.format = picture.mode, picture.format
        self.small = picture.convert("RGBA")
        self.small.thumbnail((640, 640))  # larger pictures are imitated smaller
        rgba, ink = np.array(self.small), cv2.resize(ink, self.small.size)
        hidden, rgb = cv2.dilate(ink, np.ones((5, 5))) >= INK / 2, rgba[..., :3].copy()
        if hidden.all():
            raise ValueError("there is no paper between the ink")
        self.opaque = np.median(rgba[..., 3][~hidden]) > 127
        self.pen = np.median(rgb[ink >= 0.8 * ink.max()], axis=0)
        self.paper = np.full(rgb.shape, np.median(rgb[~hidden], axis=0), np.float32)
        if rgb[~hidden].std(0).max() > 2:  # light and shadow are kept, lines blur
            size = self.small.width // 4, self.small.height // 4
            gone = cv2.resize(hidden.astype(np.uint8), size, interpolation=3)
            paper = cv2.inpaint(cv2.resize(rgb, size, interpolation=3), gone, 3, 1)
            self.paper = cv2.resize(paper, self.small.size).astype(np.float32)
        rows, columns = (np.flatnonzero((ink >= INK).any(a)) for a in (1, 0))
        self.side = max(np.ptp(rows), np.ptp(columns)) + 1
        self.middle = np.array([columns[[0, -1]].mean(), rows[[0, -1]].mean()])

    def place(self, digit: np.ndarray) -> np.ndarray:
        """MNIST's digit, uint8 (28, 28), as large and where theirs are: (H, W)."""
        cut, room = preprocess.crop_to_ink(digit), np.array(self.small.size)
        scale = self.side / max(cut.shape)
        half = np.array(cut.shape[::-1]) * scale / 2
        middle = np.clip(self.middle, half, np.maximum(half, room - half))
        move = np.c_[scale * np.eye(2), middle - half + scale / 2 - 0.5]
        large = cv2.warpAffine(cut, move, room.tolist(), flags=cv2.INTER_CUBIC)
        steep = min(max(scale / 2, 1), 6)  # a pen's edge is sharp at any size
        return (127 + (large - 127.0) * steep).clip(0, 255).astype(np.uint8)

    def draw(self, canvas: np.ndarray, path: Path, pen=None):
        """A canvas in their ink on their paper: a file, image or array as theirs."""
        cover, source = canvas[..., None] / 255, self.source
        rgb = self.paper + cover * ((self.pen if pen is None else pen) - self.paper)
        rgba = np.concatenate([rgb, 255 * np.maximum(cover, self.opaque)], 2)
        picture = Image.fromarray(rgba.round().astype(np.uint8))
        if isinstance(source, np.ndarray):
            mode = {3: "RGB", 4: "RGBA"}.get(source.shape[-1] * (source.ndim == 3), "L")
            array = np.asarray(picture.convert(mode)) * (top(source) / 255)
            array = array if source.dtype.kind == "f" else array.round()
            return array.astype(source.dtype)
        known = self.mode in ("L", "RGBA", "LA", "1", "P", "CMYK")
        picture = picture.convert(self.mode if known else "RGB")
        if not isinstance(source, Image.Image):
            path = path.with_suffix(Path(source).suffix)
            picture.save(path, self.format if self.format in Image.SAVE else "PNG")
        return picture if isinstance(source, Image.Image) else type(source)(path)


def gather(pictures, labels=None) -> tuple[list[Picture], list[str]]:
    """A folder, or a sequence of paths, PIL images and arrays; and what is left out.

    In a folder, names such as 7_2.png or sub-folders such as 7/ are the labels.
    Raises ValueError where there are none, or labels that do not fit.
    """
    if isinstance(pictures, str | Path) and Path(pictures).is_dir():
        folder, known = Path(pictures), Image.registered_extensions()
        pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known)
        names = [p.stem if p.parent == folder else p.parent.name for p in pictures]
        hits = [re.match(r"(\d{1,2})(?![^\W_])", name) for name in names]
        labels = [hit and int(hit[1]) for hit in hits] if labels is None else labels
    one = isinstance(pictures, str | Path | Image.Image)
    pictures = [pictures] if one else list(pictures)
    labels = [None] * len(pictures) if labels is None else list(labels)
    wrong = {label for label in labels if label not in (None, *range(62))}
    if not labels or len(labels) != len(pictures) or wrong:
        raise ValueError(
            f"{len(pictures)} pictures, {len(labels)} labels, of which {[*wrong][:5]} "
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


# --- what to_input makes of a picture, and the way to spoil a digit that fits it ----

FRAME = CROP, FIT, CENTER = MNIST_PIPELINE[:-1]


def nearest_20x20(image):
    size = FIT(image).shape[::-1]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))


def center_of_box(image):
    return np.pad(image, [((28 - n) // 2, (29 - n) // 2) for n in image.shape])


def scramble(image):  # (28, 28, 3) taken for (3, 28, 28)
    return np.repeat(image, 3).reshape(3, 28, 28).mean(0).astype(np.uint8)


WAYS = {  # from a canvas to uint8 (28, 28), and the alarm that it is; "" is right
    "": (FRAME, ""),
    "the whole canvas resized": ([preprocess.resize_28x28], "placement"),
    "stretched to the box": ([CROP, preprocess.resize_28x28], "placement"),
    "centred by its box": ([CROP, FIT, center_of_box], "placement"),
    "half size": ([*FRAME, halve_size], "placement"),
    "inverted before the crop": ([invert, *FRAME], "polarity"),
    "inverted after the crop": ([CROP, FIT, invert, CENTER], "polarity"),
    "shrunk without smoothing": ([CROP, nearest_20x20, CENTER], "ink"),
    "axes in the wrong order": ([*FRAME, scramble], "turn"),
    "blurred": ([*FRAME, blur], "ink"),
    "thick pen": ([*FRAME, thicken], "ink"),
    "thin pen": ([*FRAME, thin], "ink"),
}


@dataclass(frozen=True)
class Fit:
    """What was done to a digit: the known way that comes nearest to what came out."""

    way: str  # a key of WAYS
    turn: str
    shift: tuple[int, int]  # rows, columns
    r: float  # mean correlation of what came out with what this way gives
    paper: float  # its value, and that of ink
    ink: float
    noise: float  # on the paper, as a share of ink - paper


def explain(x: np.ndarray, canvases: Sequence[np.ndarray]) -> Fit:
    """The way, turn, shift and the two values that give x, (N, 28, 28)."""

    def spectrum(images):
        flat = images - images.mean((1, 2), keepdims=True)
        norm = np.sqrt((flat**2).sum((1, 2), keepdims=True))
        return np.fft.rfft2(flat / np.maximum(norm, 1e-9))

    target, best, near = spectrum(x), -1.0, np.r_[0:9, -8:0]
    for way, (steps, _) in WAYS.items():
        made = [preprocess.to_input(canvas, steps) for canvas in canvases]
        made = np.stack(made) / 255
        for turn in TURNS:
            turned = calculate(TURNS[turn], made)
            energy = (target * np.conj(spectrum(turned))).mean(0)
            r = np.fft.irfft2(energy, (28, 28))[np.ix_(near, near)]
            at = np.unravel_index(np.abs(r).argmax(), r.shape)
            at = (0, 0) if abs(r[0, 0]) > abs(r[at]) - 0.02 else at
            simple = 0.02 * (way == "") + 0.01 * (turn == "upright")
            if abs(r[at]) + simple > best:
                best, shift = abs(r[at]) + simple, tuple(near[list(at)].tolist())
                z = np.roll(turned, shift, (1, 2))
                known = way, turn, shift, float(abs(r[at]))
    empty = np.stack([cv2.dilate(image, np.ones((5, 5))) for image in z]) < 0.02
    centred = z - z.mean((1, 2), keepdims=True)
    slopes = (centred * x).sum((1, 2)) / np.maximum((centred**2).sum((1, 2)), 1e-9)
    levels = x.mean((1, 2)) - slopes * z.mean((1, 2))
    slope, level = np.median(slopes), np.median(levels)
    rest = (x - slopes[:, None, None] * z - levels[:, None, None])[empty]
    noise = rest.std() / max(abs(slope), 1e-9) if rest.size else 0.0
    return Fit(*known, float(level), float(level + slope), float(noise))


def name_values(fit: Fit, want: Convention, contrast=1.0) -> tuple[str, str]:
    """What is wrong with the values of paper and ink, and the alarm that it is.

    contrast: how far your ink is from your paper, 0..1; blue on white is not black.
    """
    right, off = want.values(), {}
    known = {
        "": right,
        "inverted": -right if want.scale == PER_IMAGE else want.values(1, 0),
        "sign flipped": -right,
        "inverted, half contrast": want.values(0.5, 0),
        "not divided by 255": want.values(share=255),
        "divided by 255 twice": want.values(share=1 / 255),
        "normalised twice": (right - MEAN) / STD,
    }
    for scale, ink in product(SCALES, ("light", "dark")):
        name = f"scaled to {scale}, the network wants {want.scale}"
        name = name if ink == want.ink else f"inverted, and {name}"
        known.setdefault(name, Convention(ink, scale).values())
    found = np.array([fit.paper, fit.ink])
    for (name, (low, high)), share in product(known.items(), (1.0, contrast)):
        error = abs(found - [low, low + share * (high - low)]).max()
        off[name] = min(error / abs(share * (high - low)), off.get(name, 9))
    best = min(off, key=off.get)  # the first of several
    if off[best] < 0.08:
        return best, "polarity" if best.startswith("inverted") else "range"
    paper, ink = (found - right[0]) / (right[1] - right[0])
    if paper > ink:
        return "inverted, and with other contrast", "polarity"
    if not 0.02 < ink - paper < 1.5 or paper < -0.2:
        return f"values from {fit.paper:.3g} to {fit.ink:.3g}", "range"
    return ("grey paper", "background") if paper > 0.08 else ("faint ink", "ink")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, and in words."""

    name: str
    words: str
    part: str  # what would have to be mended: values, turn, layout, function, network


def departures(fit: Fit, want: Convention, contrast=1.0) -> list[Finding]:
    """Where a fit differs from what the network wants."""
    found, (name, alarm) = [], name_values(fit, want, contrast)

    def add(true, name, seen, alarm, part="layout"):
        if true:
            found.append(Finding(name, f"{seen}. {CAUSES[alarm]}", part))

    noisy = fit.noise > NOISY
    seen = f"The paper varies, by {fit.noise:.0%} of the ink's strength"
    add(noisy, "noise", seen, "background")
    seen = "Paper is {:.3g} and ink {:.3g}, the network wants {:.3g} and {:.3g}"
    seen = seen.format(fit.paper, fit.ink, *want.values())
    cut_off = noisy and alarm in ("background", "ink")  # the noise below black
    add(name and not cut_off, name, seen, alarm or "range", "values")
    seen = f"Digits come out {fit.turn}, the network wants them {want.turn}"
    add(fit.turn != want.turn, turn_of(fit.turn, back(want.turn)), seen, "turn", "turn")
    add(
        fit.way,
        fit.way,
        f"Digits come out like this: {fit.way}",
        WAYS[fit.way][1] or "ink",
    )
    seen = "Digits lie {:+d} rows and {:+d} columns from MNIST's place"
    add(max(map(abs, fit.shift)) > 1, "shifted", seen.format(*fit.shift), "placement")
    return found


def as_image(out) -> np.ndarray:
    """What to_input returned as float (28, 28); ValueError if it is no picture."""
    out = np.asarray(out.detach().cpu() if torch.is_tensor(out) else out)
    image = np.squeeze(out)
    if image.ndim == 3 and 3 in image.shape[::2]:
        image = image.mean(0 if image.shape[0] == 3 else 2)
    if image.ndim == 1:
        image = image.reshape(round(image.size**0.5), -1)  # raises unless a square's
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError(f"it gave {out.shape}, which is not one picture, or NaN")
    image = image[2:-2, 2:-2] if image.shape == (32, 32) else image
    return cv2.resize(image.astype(float), (28, 28))


def write(lines: Sequence[str], scores: Scores) -> str:
    """The repair as code, a new to_input; `lines` make x, (1, 28, 28)."""
    last = f"torch.tensor({SHAPES[scores.shape]}.copy(), dtype={scores.like.dtype})"
    lines = [line for line in lines if line != "x = x"]
    body = "".join(f"    {line}\n" for line in [*lines, f"return {last}"])
    needed = [line for name, line in IMPORTS.items() if name in body]
    needed = "\n".join(["import numpy as np\nimport torch", *needed])
    return f"{needed}\n\n\ndef mended(picture):\n{body}"


def run_code(code: str, to_input: Callable | None = None) -> Callable:
    """The printed repair as a function; `to_input` is what it may call."""
    names = {"to_input": to_input}
    exec(code, names)  # our own lines, not somebody's
    return names["mended"]


IMPORTS = {  # what the printed lines may need
    "as_image": "from mnistlab.doctor import as_image",
    "Picture(": "from mnistlab.doctor import Picture",
    "read_photo": "from mnistlab.photo import read_photo",
    "load_picture": "from mnistlab.preprocess import load_picture",
    "framed": "from mnistlab.preprocess import MNIST_PIPELINE\n"
    "from mnistlab.preprocess import to_input as framed",
}
COLOUR = f"It would be right if your ink had no colour. {CAUSES['ink']}"


# --- the examination ----------------------------------------------------------------


@contextmanager
def untouched(network: torch.nn.Module):
    """Evaluation mode, no gradients; then modes, weights and dice as they were."""
    weights = copy.deepcopy(network.state_dict())
    dice = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), eval_mode(network):
            yield
    finally:
        network.load_state_dict(weights)
        random.setstate(dice[0])
        np.random.set_state(dice[1])


def examine(network, to_input=None, pictures=(), labels=None, progress=True):
    """Which step between a picture and a network breaks it, and what mends it.

    network: a torch.nn.Module, or any callable from a batch to scores (N, 10 or
    more). to_input: from one picture, as given, to the network's input; None asks how
    to write it. pictures: a folder, or paths, PIL images or arrays; labels: one each,
    None where unknown. Returns a Report; leaves the network as it was. Raises
    ValueError for no pictures and impossible labels; all else is said in the report.
    """
    report = Report(*gather(pictures, labels))
    plain = not isinstance(network, torch.nn.Module)
    module = torch.nn.Module().eval() if plain else network
    training = [part for part in module.modules() if part.training]
    bar = tqdm(total=3, desc="the doctor", disable=not progress)
    with untouched(module), TemporaryDirectory() as folder, bar:
        try:
            report.look_at_network(network, training)
            bar.update()
            if report.pictures:
                report.look_at_input(to_input, Path(folder))
                bar.update()
                report.mend(*report.compare(Path(folder)))
        except Unusable as error:
            report.verdict = str(error)
            report.findings = (Finding("network", str(error), "network"),)
        bar.update()
    return report


def through(function, sources, least: int | None = None) -> tuple:
    """Somebody's to_input, called with care: float (n, 28, 28), bool (n,), complaints.

    The images are zero and the bool is False where it raised or gave no picture. Once
    SECONDS are over it stops, but not before the source number `least`.
    """
    x, there, said = np.zeros((len(sources), 28, 28)), np.zeros(len(sources), bool), []
    stop = time.perf_counter() + SECONDS
    for i, source in enumerate(sources if function else ()):
        if least and i >= least and time.perf_counter() > stop:
            return x[:i], there[:i], Counter(said)
        given = copy.deepcopy(source)
        try:
            x[i], there[i] = as_image(function(given)), True
        except Exception as error:  # any: it is somebody else's code
            said.append(f"{error!r:.200}")
        if isinstance(source, np.ndarray) and not np.array_equal(given, source):
            said.append("it changes the array that it is given; let it take a copy")
    return x, there, Counter(said)


def empty(x: np.ndarray) -> bool:
    """Whether images (N, 28, 28) are blank, or nothing in them hangs on the picture."""
    flat = np.ptp(x, (1, 2)) < 1e-6 * np.maximum(1, abs(x).max((1, 2)))
    alike = x.std(0).mean() < 0.2 * max(x.std(), 1e-9)
    return flat.mean() > 0.5 or (len(x) > 4 and alike)


class Report:
    """What was found, and on what it rests. In a notebook it is a page."""

    def __init__(self, pictures: list[Picture], left_out: list[str]):
        self.pictures = pictures
        self.verdict = "No picture could be read, so none was examined."
        self.findings: tuple[Finding, ...] = ()  # the first is the one to mend first
        self.wants: list[Convention] = []  # that the network reads equally well
        self.accuracies = np.zeros(0)  # with each of them
        self.network, self.source = "takes nothing that I know", ""  # whose digits
        self.trials = self.answers = pd.DataFrame()  # of repairs; for each picture
        self.code, self.mended = "", None  # def mended(picture): ...; and it, run
        self.notes: list[str] = []
        n = len(left_out)
        self.note(left_out, f"{n} of {n + len(pictures)} pictures are left out: "
                  + "; ".join(left_out[:5]))  # fmt: skip

    def note(self, true, text: str) -> None:
        self.notes += [text] * bool(true)

    @property
    def finding(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    def __repr__(self) -> str:
        said = [self.verdict, *(f"- {f.name}: {f.words}" for f in self.findings)]
        return "\n".join([*said, *(f"note: {n}" for n in self.notes), "", self.code])

    def _repr_html_(self) -> str:
        return page(self)

    def look_at_network(self, network, training) -> None:
        """Step 1: what it takes, gives and wants; whether it is in training mode."""
        digits = data.load().test
        self.source = digits.source
        digits = digits.balanced(min(N_WANTED + N_PROBES, len(digits)))
        n = len(digits) - N_PROBES
        self.probes = data.join(digits.take(np.arange(n, len(digits))),
                                hand_images(N_PROBES // 2, seed=0))  # fmt: skip
        self.pixels, labels = digits.images[:n] / np.float32(255), digits.labels[:n]
        self.scores = scores = Scores(network, self.pixels[:7])
        self.wants, self.accuracies = wanted(scores, self.pixels, labels)
        best, x = self.accuracies.max(), self.wants[0](self.pixels)
        answers = scores(x)
        self.network = f"takes {scores.shape} and gives {scores.classes} scores"
        if best < 0.3:
            same = f": its answer is always {answers[0]}" * (len(set(answers)) == 1)
            raise Unusable(f"this network has not learnt MNIST: in its best convention "
                           f"it reads {best:.0%} of {n} images{same}.")  # fmt: skip
        known = EMNIST.get(scores.classes, "classes")
        self.note(scores.classes > 10, f"the network has {scores.classes} outputs, as "
                  f"many as EMNIST's {known}; the first ten are digits")  # fmt: skip
        self.note(best < 0.9, f"the network reads only {best:.0%} of MNIST")
        for module in training:
            module.training = True
        alone = np.concatenate([scores(image[None]) for image in x])  # as it came
        for module in training:
            module.training = False
        alone, right = alone == labels, answers == labels
        words = (
            f"as it is, the network reads {alone.mean():.0%} of single images, in "
            f"evaluation mode {right.mean():.0%}: it is in training mode; call eval()"
        )
        harm = sign_test(alone, right) < CERTAIN
        self.findings += (Finding("training mode", words, "network"),) * bool(harm)
        self.note(training and not harm, words)

    def look_at_input(self, function, folder: Path) -> None:
        """Step 2: what to_input makes of the pictures, and of probes drawn like them.

        What is kept of them comes in one order: the k pictures, then the probes.
        """
        self.function, self.k = function, (k := len(self.pictures))
        order = np.random.default_rng(0).permutation(len(self.probes))
        digits, own = self.probes.take(order), self.pictures
        self.styles = own + [own[i % min(k, 20)] for i in range(len(digits))]
        self.sources = [picture.source for picture in own]
        self.canvases = [picture.canvas for picture in own]
        for style, image in zip(self.styles[k:], digits.images, strict=True):
            self.canvases.append(style.place(image))
            path = folder / f"{len(self.sources)}"
            self.sources.append(style.draw(self.canvases[-1], path))
        self.x, self.there, said = through(function, self.sources, k + N_COMPARED)
        labels = [-1 if p.label is None else p.label for p in self.pictures]
        self.truth = np.array([*labels, *digits.labels])[: len(self.x)]  # -1: unknown
        self.note(k < 5, f"{k} readable pictures are too few to show anything: the "
                  "evidence is that of the probes")  # fmt: skip
        self.note(k > 1 and {labels[0]} == {*labels} != {-1},
                  f"all pictures are of the digit {labels[0]}")  # fmt: skip
        if function:
            self.check_contract(said)

    def check_contract(self, said: Counter) -> None:
        """What is wrong with to_input as a function, whatever the picture."""
        n, found, like = len(self.x), {}, self.scores.like
        said = [f"to_input: {text} ({said[text]} of {n} times)" for text in said]
        self.notes += said
        if self.there.mean() < 0.5:
            found["raises"] = "; ".join(said)
        again, there, _ = through(self.function, self.sources[n - 3 : n])
        if not np.array_equal(again[there], self.x[-3:][there]):
            found["random"] = "to_input gives other numbers when it is called again"
        if there.any():
            source = self.sources[n - 3 + there.argmax()]
            out = torch.as_tensor(self.function(copy.deepcopy(source))).to(like.device)
            try:
                self.scores.network(out[None] if out.ndim < self.scores.rank else out)
            except Exception as error:  # any: it is somebody else's code
                found["dtype" if out.dtype != like.dtype else "shape"] = (
                    f"to_input gives {out.dtype} {tuple(out.shape)}, which the network "
                    f"refuses ({error!r:.200}); it takes {like.dtype} "
                    f"{self.scores.shape}"
                ).replace("torch.", "")
        self.findings += tuple(Finding(*item, "function") for item in found.items())

    def compare(self, folder: Path) -> tuple:
        """What the network wants, what was done to the probes, and how these differ."""
        best = [want for want, share in zip(self.wants, self.accuracies, strict=True)
                if share > self.accuracies.max() - 0.005]  # fmt: skip
        ink = [np.quantile(picture.canvas, 0.999) for picture in self.pictures]
        contrast = float(np.median(ink)) / 255
        some = self.k + np.flatnonzero(self.there[self.k :])[:N_COMPARED]
        canvases, fit, ways, want = [self.canvases[i] for i in some], None, [], best[0]
        if len(some) and empty(self.x[some]):
            words = f"What comes out is empty, or always the same. {CAUSES['blank']}"
            ways = [Finding("blank", words, "layout")]
        elif len(some):
            fit = explain(self.x[some], canvases)
            want = min(best, key=lambda want: len(departures(fit, want, contrast)))
            noisy = fit.noise > NOISY and fit.r > 0.6  # noise lowers a correlation
            ways = departures(fit, want, contrast) if fit.r > FITS or noisy else []
        styles = [self.styles[i] for i in some if np.ptp(self.styles[i].pen) > 60]
        if (ways or fit and fit.r <= FITS) and len(styles) == len(some):
            drawn = []
            for i, style in zip(some, styles, strict=True):
                pen = 255 * (style.pen.mean() > style.paper.mean())
                drawn.append(style.draw(self.canvases[i], folder / f"grey{i}", pen))
            x, there, _ = through(self.function, drawn)
            other = explain(x, canvases) if there.all() and not empty(x) else None
            if other and other.r > FITS and not departures(other, want):
                ways = [Finding("the ink's colour", COLOUR, "layout")]
        if any("photo" in p.code for p in self.pictures):  # the probes are, too
            ways = [replace(way, name="uneven paper") if way.name == "noise" else way
                    for way in ways]  # fmt: skip
        return want, fit, ways

    def mend(self, want: Convention, fit: Fit | None, ways: list[Finding]) -> None:
        """Steps 3 and 4: try repairs, print one and run it, say what it rests on."""
        k, n, truth, answers = self.k, len(self.x), self.truth, {}
        known, table = np.flatnonzero(truth[:k] >= 0), {}

        def trial(name, x, lines=(), there=True):
            """Whether each is read right, bool (n,)."""
            for line in lines:
                x = calculate(line, x)
            answers[name] = np.where(there, self.scores(x), -1)
            right, was = answers[name] == truth, answers["nothing"] == truth
            table[name] = {"probes": right[k:].mean()}
            if len(known):
                chance = (len(ways) + 1) * sign_test(was[known], right[known])
                table[name] |= {"yours": right[known].mean(),
                                "mends": (right & ~was)[known].sum(),
                                "breaks": (was & ~right)[known].sum(),
                                "by chance": min(1, chance)}  # fmt: skip
            return right

        before = trial("nothing", self.x, (), self.there)
        if fit:
            frames = [preprocess.to_input(c, FRAME) for c in self.canvases[:n]]
            span, turn = fit.ink - fit.paper, TURNS[turn_of(back(fit.turn), want.turn)]
            rescale = f"(x - {fit.paper:.5g}) / {span:.6g}".replace("- -", "+ ")
            values = [rescale, *want.lines[:-1]]
            as_theirs = [f"{fit.paper} + {span} * x", TURNS[fit.turn]]
            mends = {"values": (self.x, values), "turn": (self.x, [turn]),
                     "layout": (np.stack(frames) / 255, as_theirs)}  # fmt: skip
            gain = {way: trial(f"mend: {way.name}", *mends[way.part])[k:].mean()
                    for way in ways}  # fmt: skip
            ways = sorted(ways, key=gain.get, reverse=True)
        parts = {way.part for way in ways}
        if fit and fit.r > FITS and "layout" not in parts:  # theirs may stay
            lines = ["x = as_image(to_input(picture))[None]  # as before, 28 x 28"]
            lines += [f"x = {line}" for part in ("values", "turn") if part in parts
                      for line in mends[part][1]]  # fmt: skip
        else:
            codes = {picture.code for picture in self.pictures}
            code = codes.pop() if len(codes) == 1 else "Picture(picture).canvas"
            lines = [f"canvas = {code}  # ink 255 on paper 0",
                     "x = framed(canvas, MNIST_PIPELINE[:-1])[None] / 255",
                     *(f"x = {line}" for line in want.lines)]  # fmt: skip
        code = write(lines, self.scores)
        mended = run_code(code, self.function)
        shown, there, _ = through(mended, self.sources[:n])
        name = "the lines below" if self.function else "these lines"
        after = trial(name, shown, (), there)
        table = pd.DataFrame.from_dict(table, orient="index")
        self.trials = table.rename_axis("repair").reset_index()

        was, now, on = before[k:].mean(), after[k:].mean(), []
        if sign_test(before[k:], after[k:]) < CERTAIN and now - was > LOSS:
            on.append("on the probes")
        if len(known) >= 5 and table.loc[name, "by chance"] < 0.05:
            on.append("on your pictures")
        if not on and ways and ways[0].name in MISTAKES:  # nobody does these on purpose
            on.append("by the numbers that come out, though it costs little")
        reads, wrong = f"{was:.0%} of {n - k} probes are read", (~before)[known].sum()
        if not self.function:
            self.verdict = f"With these lines it reads {now:.0%} of the probes."
        elif on or self.findings:
            unknown = Finding("unknown", "No step that I know explains it", "layout")
            self.findings += (
                tuple(ways or [unknown] * (not self.findings)) if on else ()
            )
            self.verdict = f"{self.finding.name}: {reads}, with the repair {now:.0%}."
            self.verdict += f" Shown {' and '.join(on)}." * bool(on)
        else:
            self.notes += [f"harmless for this network: {way.words}" for way in ways]
            self.verdict = f"No fault found: {reads}, without it {now:.0%}."
            if wrong > 0.2 * len(known):
                self.verdict += (
                    f" But {wrong} of your {len(known)} pictures are misread; why I "
                    "cannot tell: a dozen more would do."
                )
            shown, name = self.x, "nothing"
        if name != "nothing":
            self.code, self.mended = code, mended
        self.seen, self.shown = want.undo(self.x[:k]), want.undo(shown[:k])
        columns = {"picture": [p.name for p in self.pictures], "label": truth[:k]}
        as_usual = Convention()  # pixels as `checks` measures them
        usual = Reference.measured_on(as_usual(self.pixels), np.zeros((1, 10)), "")
        for when, repair, pixels in (("now", "nothing", self.seen),
                                     ("mended", name, self.shown)):  # fmt: skip
            rings = pd.DataFrame(usual.outside(as_usual(pixels)))
            columns[when] = answers[repair][:k]
            columns[f"alarms {when}"] = rings.dot(rings.columns + " ").str.strip()
        self.answers = pd.DataFrame(columns).replace(-1, "")


# --- the page, and the command ------------------------------------------------------


def picture_tag(image: np.ndarray | Image.Image) -> str:
    """A picture inside the page; black is paper and white is ink, never autoscaled."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8))
    image, file = image.copy(), BytesIO()
    image.thumbnail((168, 84))
    image.save(file, "PNG")
    return f"<img src='data:image/png;base64,{b64encode(file.getvalue()).decode()}'>"


PAGE = """<div class='doctor'><style>{style}</style><p class='verdict'>{verdict}</p>
{findings}<h2>The repair</h2><pre>{code}</pre>
<h2>Given, what the network gets, with the repair</h2>{figures}
<h2>The evidence: what each repair reads</h2><p><b>probes</b>: digits of {source}, drawn
like your pictures, so that the answers are known; <b>yours</b>: your labelled pictures,
how many of them a repair mends and breaks, and how likely chance does as well, so many
being tried.</p>{trials}<h2>Picture by picture</h2>{answers}
<h2>What the network wants</h2><p>It {network}. On MNIST's images a paired test cannot
tell these apart:</p><ul>{wants}</ul>{notes}</div>"""


def page(report: Report, n_shown: int = 9) -> str:
    """The report as HTML that needs no other file: finding, repair, evidence."""
    figures, table = "", partial(pd.DataFrame.to_html, index=False, border=0)
    for i, row in enumerate(report.answers.to_dict("records")[:n_shown]):
        images = [report.pictures[i].small, report.seen[i], report.shown[i]]
        tags = "".join(map(picture_tag, images if report.code else images[:2]))
        said = f"{row['picture']}: read as {row['now']}, then {row['mended']}"
        said += f"; it is {row['label']}" * (row["label"] != "")
        figures += f"<figure>{tags}<br>{escape(said)}</figure>"
    pairs = zip(report.wants, report.accuracies, strict=True)
    return PAGE.format(
        style=Path(__file__).with_suffix(".css").read_text(),
        verdict=escape(report.verdict), code=escape(report.code) or "There is none.",
        figures=figures, source=escape(report.source), network=report.network,
        findings="".join(f"<p><b>{escape(f.name)}</b>: {escape(f.words)}</p>"
                         for f in report.findings),
        trials=table(report.trials, float_format="%.3g"), answers=table(report.answers),
        wants="".join(f"<li>{escape(str(w))}: {share:.1%}</li>" for w, share in pairs),
        notes="".join(f"<p>Note: {escape(note)}.</p>" for note in report.notes),
    )  # fmt: skip


def load_name(place: str):
    """What my_app.py:model names. It imports, and so runs, my_app.py."""
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise SystemExit(f"{place}: expected a file and a name in it, my_app.py:model")
    sys.path.insert(0, str(Path(file).resolve().parent))
    names = run_path(file)
    if name not in names:
        raise SystemExit(f"{file} has no {name!r} at its top level.")
    return names[name]


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 3:
        raise SystemExit(
            "python -m mnistlab.doctor my_app.py:model my_app.py:preprocess pictures/\n"
            "Writes doctor.html: which step breaks it, and the repair. It imports, and "
            "so runs, your file. With 'none' for preprocess it writes one."
        )
    network = load_name(arguments[0])
    function = None if arguments[1] == "none" else load_name(arguments[1])
    try:
        report = examine(network, function, arguments[2])
    except ValueError as error:
        raise SystemExit(f"{arguments[2]}: {error}") from error
    head = "<!doctype html><meta charset='utf-8'><title>The doctor</title>"
    data.write_atomically(Path("doctor.html"), (head + page(report)).encode())
    print(f"{report}\nThe page is doctor.html")


if __name__ == "__main__":
    main(sys.argv[1:])
