"""Somebody else's network, input code and pictures: what it wants, gets, and needs.

    report = examine(network, to_input, pictures, labels)

1. MNIST's own images go through every convention: what does the network want?
2. MNIST's digits, drawn as your pictures are (your canvas, place, paper and ink),
   go through `to_input`. What comes out is compared, pixel by pixel, with what the
   known ways to spoil a digit make of it: the one that fits has a name.
3. Repairs are tried, alone and together, on these probes, whose answers are known,
   and on your pictures. The page keeps the two apart.
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
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import product
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
from mnistlab.synthetic import hand_images

N_SCREEN, N_WANTED, N_PROBES, N_COMPARED = 50, 400, 200, 32
SECONDS = 10.0  # that to_input may take for the probes; then it gets fewer
CERTAIN, LOSS = 0.01, 0.02  # a finding costs 2 points, by chance once in a hundred
NOISY = 0.05  # deviation of the paper's pixels, as a share of ink - paper
MISTAKES = "normalised twice", "not divided by 255", "sign flipped"
FITS = 0.75  # mean correlation from which on two sets of pictures are the same
EMNIST = {36: "digits and letters", 47: "balanced classes", 62: "classes"}
CAUSES = CAUSES | {
    "orientation": "The digit is turned or mirrored, or its axes are in another order "
    "than the training images have them."
}

# --- 1. what a network may want -----------------------------------------------------

SCALES = {  # pixels 0..1, float (N, 28, 28) -> values; and the same as code for one
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
MNISTS, PER_IMAGE = list(SCALES)[1], list(SCALES)[4]
TURNS = {  # images (..., H, W); and as code for one
    "upright": (lambda x: x, ""),
    "transposed": (lambda x: x.swapaxes(-1, -2), "x = x.T"),
    "mirrored": (lambda x: x[..., ::-1], "x = x[:, ::-1]"),
    "upside down": (lambda x: x[..., ::-1, ::-1], "x = x[::-1, ::-1]"),
    "flipped top to bottom": (lambda x: x[..., ::-1, :], "x = x[::-1]"),
    "turned left": (partial(np.rot90, axes=(-2, -1)), "x = np.rot90(x)"),
    "turned right": (partial(np.rot90, k=3, axes=(-2, -1)), "x = np.rot90(x, -1)"),
    "turned and mirrored": (
        lambda x: x[..., ::-1, ::-1].swapaxes(-1, -2),
        "x = x[::-1, ::-1].T",
    ),
}
SHAPES = {  # values (N, 28, 28) -> what the network takes; and as code for one
    "(N, 1, 28, 28)": (lambda x: x[:, None], "x[None, None]"),
    "(N, 784)": (lambda x: x.reshape(len(x), -1), "x.reshape(1, 784)"),
    "(N, 28, 28)": (lambda x: x, "x[None]"),
    "(N, 3, 28, 28)": (lambda x: np.stack(3 * [x], 1), "np.stack(3 * [x])[None]"),
    "(N, 1, 32, 32)": (
        lambda x: np.pad(x, ((0, 0), (2, 2), (2, 2)), "edge")[:, None],
        "np.pad(x, 2, 'edge')[None, None]",
    ),
    "(N, 3, 32, 32)": (
        lambda x: np.stack(3 * [np.pad(x, ((0, 0), (2, 2), (2, 2)), "edge")], 1),
        "np.stack(3 * [np.pad(x, 2, 'edge')])[None]",
    ),
    "(N, 28, 28, 1)": (lambda x: x[..., None], "x[None, ..., None]"),
}


def turn_between(start: str, end: str) -> str:
    """The name of the turn that leads from one way of lying to another."""
    start, end = (TURNS[turn][0](np.arange(4).reshape(2, 2)) for turn in (start, end))
    return next(name for name, (turn, _) in TURNS.items() if (turn(start) == end).all())


@dataclass(frozen=True)
class Convention:
    """How a network wants its digits."""

    ink: str = "light"  # or "dark"
    scale: str = MNISTS
    turn: str = "upright"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Pixels (N, 28, 28), uint8 or float 0..1, ink high: the values, float32."""
        x = images / np.float32(255) if images.dtype == np.uint8 else images
        x = 1 - x if self.ink == "dark" else x
        return TURNS[self.turn][0](SCALES[self.scale][0](x)).astype(np.float32)

    def values(self, paper: float = 0.0, ink: float = 1.0, share=1.0) -> np.ndarray:
        """Those of paper and ink; standardised per image: those of a usual image."""
        scale = SCALES[MNISTS if self.scale == PER_IMAGE else self.scale][0]
        pair = np.array([paper, ink])
        return scale(share * (1 - pair if self.ink == "dark" else pair))

    def undo(self, x: np.ndarray) -> np.ndarray:
        """Values (N, 28, 28) back to pixels, float32, ink 1 on paper 0."""
        x = TURNS[turn_between(self.turn, "upright")][0](x)
        paper, ink = self.values()
        if self.scale == PER_IMAGE:
            ends = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
            paper, ink = ends if self.ink == "light" else ends[::-1]
        span = np.where(ink == paper, 1, ink - paper)
        return ((x - paper) / span).round(5).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.ink} ink, {self.scale}, {self.turn}"


class Unusable(ValueError):
    """A network that cannot be examined; the message says why."""


class Scores:
    """A network, or any callable, that was given a common face.

    Raises Unusable for one that takes no known shape or gives no ten scores.
    """

    def __init__(self, network, images: np.ndarray):
        self.network, self.is_module = network, isinstance(network, torch.nn.Module)
        tensors = [*network.parameters(), *network.buffers()] if self.is_module else []
        floats = [t for t in tensors if t.is_floating_point()] or [torch.zeros(1)]
        self.device, self.dtype = floats[0].device, floats[0].dtype
        values, problems = Convention()(images), {}
        for shape, (form, _) in SHAPES.items():
            for as_numpy in (False,) if self.is_module else (False, True):
                self.shape, self.as_numpy = shape, as_numpy
                try:
                    out = self.raw(form(values))
                except Exception as error:  # any: it is somebody else's code
                    problems[f"{type(error).__name__}: {error}".split("\n")[0]] = 1
                    continue
                if out.ndim == 2 and len(out) == len(images) and out.shape[1] >= 10:
                    return self._look_at(out)
                problems[f"gave {out.shape} for {len(images)} pictures"] = 1
        raise Unusable(
            f"the network takes none of {', '.join(SHAPES)} and gives ten scores or "
            f"more for each picture. It said: {'; '.join(list(problems)[:3])}"
        )

    def _look_at(self, out: np.ndarray) -> None:
        if not np.isfinite(out).all():
            raise Unusable(
                f"{np.mean(~np.isfinite(out)):.0%} of the network's scores are not "
                "numbers: its weights are broken, or its training diverged."
            )
        self.classes = out.shape[1]
        if self.classes in (26, 27):
            raise Unusable(
                f"the network has {self.classes} outputs, those of EMNIST's letters: "
                "it knows no digits."
            )
        powers = np.exp(out.clip(-99, 9))
        one = [np.allclose(p.sum(1), 1, atol=1e-3) for p in (out, powers)]
        positive = (out >= 0).all()
        self.gives = "probabilities" if one[0] and positive else (
            "log probabilities" if one[1] else "logits")  # fmt: skip

    def raw(self, inputs: np.ndarray) -> np.ndarray:
        inputs = np.ascontiguousarray(inputs)
        if not self.as_numpy:
            inputs = torch.from_numpy(inputs).to(self.device, self.dtype)
        out = self.network(inputs)
        out = out[0] if isinstance(out, tuple | list) and len(out) else out
        if isinstance(out, torch.Tensor):
            out = out.detach().float().cpu().numpy()
        return np.asarray(out, float)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float (N, 28, 28) in the network's values: log probabilities (N, 10)."""
        inputs = SHAPES[self.shape][0](values.astype(np.float32))
        out = [self.raw(inputs[i : i + 100]) for i in range(0, len(inputs), 100)]
        out = np.nan_to_num(np.concatenate(out), nan=0, posinf=1e30, neginf=-1e30)
        if self.gives == "probabilities":
            out = np.log(np.maximum(out, 1e-12))
        out = out - out.max(1, keepdims=True)
        return (out - np.log(np.exp(out).sum(1, keepdims=True)))[:, :10]

    def answers(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """The digits that it reads; -1 where there is no image."""
        full = [np.zeros((28, 28)) if image is None else image for image in images]
        there = np.array([image is not None for image in images])
        return np.where(there, self(np.stack(full)).argmax(1), -1)


def sign_test(before: np.ndarray, after: np.ndarray) -> float:
    """How likely chance mends so many and breaks so few: McNemar, exact, one-sided.

    before, after: bool (N,), whether the same pictures are read right.
    """
    mended, broken = int((after & ~before).sum()), int((before & ~after).sum())
    n = mended + broken
    return sum(comb(n, k) for k in range(mended, n + 1)) / 2**n


def wanted(scores: Scores, digits: data.Digits) -> tuple[list[Convention], np.ndarray]:
    """The conventions that a paired test cannot tell from the best, likeliest first.

    Also the accuracy with each. A few images go through all, the rest through those
    that are left. The plain best would shut out the true one in one case of six.
    """
    few, rows = digits.take(np.arange(N_SCREEN)), np.arange(len(digits))
    inks = "light", "dark"
    left = [Convention(*all_three) for all_three in product(inks, SCALES, TURNS)]
    right = [scores.answers(c(few.images)) == few.labels for c in left]
    best = max(right, key=np.mean)
    left = [c for c, r in zip(left, right, strict=True) if sign_test(r, best) > 0.001]
    logs = [scores(convention(digits.images)) for convention in left]
    likely = [-log[rows, digits.labels].mean() for log in logs]
    right = [log.argmax(1) == digits.labels for log in logs]
    best = max(right, key=np.mean)
    keep = [i for i in np.argsort(likely, kind="stable")
            if sign_test(right[i], best) > CERTAIN]  # fmt: skip
    return [left[i] for i in keep], np.array([right[i].mean() for i in keep])


# --- the pictures, and probes drawn like them ---------------------------------------


@dataclass(frozen=True)
class Picture:
    """One picture of yours, and how the doctor reads it."""

    name: str
    source: object = field(repr=False)  # as it was given, and as to_input gets it
    label: int | None = None
    problem: str = ""  # why it is left out
    canvas: np.ndarray | None = field(repr=False, default=None)  # uint8, ink 255
    ink: np.ndarray | None = field(repr=False, default=None)  # uint8, in the picture
    code: str = ""  # the line that reads it


def as_bytes(source):
    """An array as uint8 or bool (H, W) or (H, W, 3 or 4); all else as it is."""
    if not isinstance(source, np.ndarray) or source.ndim not in (2, 3):
        return source
    if source.ndim == 3 and 1 in source.shape[::2]:
        source = source[0] if source.shape[0] == 1 else source[..., 0]
    if source.dtype in (np.uint8, bool):
        return source
    high = float(source.max(initial=0))
    top = next((top for top in (1, 255, 65535) if high <= top), 0)
    if not (top and source.min(initial=0) >= 0):  # refuses NaN, too
        raise ValueError(f"floats up to {high:g}; expected 0..1 or 0..255")
    return np.rint(source / top * 255).astype(np.uint8)


def read(source, name: str = "the picture", label: int | None = None) -> Picture:
    """A picture as a canvas, whatever its ink and paper; its problem, if it has one."""
    picture = partial(Picture, name, source, label)
    try:  # where it is transparent: the paper on which there is something to see
        plain = as_bytes(source)
        grey = max((load_picture(plain, paper=p) for p in (255, 0)), key=np.std)
    except (ValueError, OSError) as error:
        return picture(str(error))
    ink = "dark" if np.median(ring(grey)) > 127 else "light"
    canvas = grey if ink == "light" else 255 - grey
    edge = ring(canvas)
    if ink == "dark" and (np.median(edge) > 16 or np.quantile(edge, 0.95) > 32):
        sheet = read_photo(plain)
        if sheet.alarm or len(sheet.canvases) != 1:
            return picture(sheet.alarm or f"there are {len(sheet.boxes)} digits on it")
        x, y, width, height = sheet.boxes[0]
        own = np.zeros_like(sheet.flat)
        own[y : y + height, x : x + width] = sheet.flat[y : y + height, x : x + width]
        own = cv2.resize(own, grey.shape[::-1])
        code = "canvas = read_photo(picture).canvases[0]"
        return picture("", sheet.canvases[0], own, code)
    if canvas.max() < INK:
        return picture("there is no ink on it")
    code = f"canvas = load_picture(picture, ink={ink!r})"
    code = code if plain is source else "canvas = read(picture).canvas"
    return picture("", canvas, canvas, code)


def gather(pictures, labels) -> list[Picture]:
    """A folder, or a sequence of paths, PIL images and arrays; labels may be missing.

    In a folder, names such as 7_2.png or sub-folders such as 7/ are the labels.
    Raises ValueError where there are none, or labels that do not fit.
    """
    if isinstance(pictures, str | Path) and Path(pictures).is_dir():
        folder, known = Path(pictures), set(Image.registered_extensions())
        pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known)
        if labels is None:
            names = [p.stem if p.parent == folder else p.parent.name for p in pictures]
            hits = [re.match(r"(\d{1,2})(?![^\W_])", name) for name in names]
            labels = [int(hit[1]) if hit else None for hit in hits]
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
    labels = [None if label is None else int(label) for label in labels]
    if wrong := sorted({n for n in labels if n is not None and not 0 <= n <= 61}):
        raise ValueError(f"labels {wrong[:5]}; expected 0 to 9, or EMNIST's 0 to 61.")
    found = []
    for number, (source, label) in enumerate(zip(pictures, labels, strict=True), 1):
        path = isinstance(source, str | Path)
        name = Path(source).name if path else f"picture {number}"
        if label is not None and label > 9:
            why = f"its label is {label}, a letter of EMNIST's; digits are examined"
            found.append(Picture(name, source, label, why))
        else:
            found.append(read(source, name, label))
    return found


class Style:
    """How somebody draws, from one picture: canvas, place, paper, ink and kind."""

    LARGEST = 640  # pixels a side; larger pictures are imitated smaller

    def __init__(self, like: Picture):
        self.source = source = like.source
        if isinstance(source, np.ndarray):
            source = Image.fromarray(as_bytes(source))
        elif not isinstance(source, Image.Image):
            source = Image.open(source)
        self.mode, self.picture = source.mode, source.convert("RGBA")
        self.picture.thumbnail((self.LARGEST, self.LARGEST))
        rgba, ink = np.array(self.picture), cv2.resize(like.ink, self.picture.size)
        self.transparent = np.median(rgba[..., 3][ink < INK]) < 128
        self.pen = np.median(rgba[ink >= 0.8 * ink.max()], axis=0)[:3]
        hidden, rgb = cv2.dilate(ink, np.ones((5, 5))) >= INK / 2, rgba[..., :3].copy()
        paper = np.full(rgb.shape, np.median(rgb[~hidden], axis=0))
        if rgb[~hidden].std(0).max() > 2:  # light and shadow are kept, lines blur
            small, gone = (cv2.resize(i, None, fx=0.25, fy=0.25, interpolation=3)
                           for i in (rgb, hidden.astype(np.uint8)))  # fmt: skip
            small = cv2.inpaint(small, gone, 3, cv2.INPAINT_TELEA)
            paper = cv2.resize(small, self.picture.size)
        self.paper = paper.astype(np.float32)
        rows, columns = (np.flatnonzero((ink >= INK).any(a)) for a in (1, 0))
        self.side = max(np.ptp(rows), np.ptp(columns)) + 1
        self.middle = np.array([columns[[0, -1]].mean(), rows[[0, -1]].mean()])

    def canvas(self, digit: np.ndarray) -> np.ndarray:
        """MNIST's digit, uint8 (28, 28), as large and where theirs are: (H, W)."""
        cut = crop_to_ink(digit)
        scale = self.side / max(cut.shape)
        half, room = np.array(cut.shape[::-1]) * scale / 2, self.paper.shape[1::-1]
        middle = np.clip(self.middle, half, np.maximum(half, room - half))
        move = np.array([[scale, 0, 0], [0, scale, 0]])
        move[:, 2] = middle - half + scale / 2 - 0.5
        large = cv2.warpAffine(cut, move, room, flags=cv2.INTER_CUBIC).astype(float)
        steep = min(max(scale / 2, 1), 6)  # a pen's edge is sharp at any size
        return (127 + (large - 127) * steep).clip(0, 255).astype(np.uint8)

    def draw(self, canvas: np.ndarray, path: Path):
        """A canvas in their ink on their paper: a file, image or array as theirs."""
        cover = canvas[..., None] / np.float32(255)
        rgb = self.paper + cover * (self.pen - self.paper)
        alpha = cover * 255 if self.transparent else np.full_like(cover, 255)
        picture = np.concatenate([rgb, alpha], 2).round().astype(np.uint8)
        picture, source = Image.fromarray(picture), self.source
        if not isinstance(source, np.ndarray):
            known = ("L", "RGB", "RGBA", "LA", "1", "P", "CMYK")
            picture = picture.convert(self.mode if self.mode in known else "L")
            if isinstance(source, Image.Image):
                return picture
            path = path.with_suffix(Path(source).suffix)
            picture.save(path)
            return str(path) if isinstance(source, str) else path
        colour = source.ndim == 3 and source.shape[-1] in (3, 4)
        array = np.asarray(picture.convert(("RGB", "RGBA")[source.shape[-1] - 3]
                                           if colour else "L"))  # fmt: skip
        if source.ndim == 3 and not colour:
            array = array[None] if source.shape[0] == 1 else array[..., None]
        top = 255 if source.dtype == np.uint8 or 1 < source.max() <= 255 else 1
        top = 65535 if source.max() > 255 else top
        return np.rint(array / 255 * top).astype(source.dtype) if top > 1 else (
            array / np.float32(255)).astype(source.dtype)  # fmt: skip


# --- 2. what to_input makes of a picture --------------------------------------------

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
FRAME, WHOLE = "MNIST's frame", "the whole canvas resized"


def _framed(canvas, side=20, how=BILINEAR, by_mass=True):
    cut = crop_to_ink(canvas)
    size = [max(1, round(n * side / max(cut.shape))) for n in cut.shape[::-1]]
    cut = np.asarray(Image.fromarray(cut).resize(size, how))
    if by_mass:
        return center_of_mass(cut)
    before = [(28 - n) // 2 for n in cut.shape]
    after = [28 - n - b for n, b in zip(cut.shape, before, strict=True)]
    return np.pad(cut, list(zip(before, after, strict=True)))


def _shrunk(image):
    return np.asarray(Image.fromarray(image).resize((14, 14), BILINEAR))


def _nearest(canvas):
    return np.asarray(Image.fromarray(canvas).resize((28, 28), NEAREST))


def _scrambled(canvas):  # (28, 28, 3) taken for (3, 28, 28)
    return np.repeat(_framed(canvas).reshape(-1), 3).reshape(3, 784).mean(0)


LAYOUTS = {  # canvas, uint8 (H, W), ink 255 -> uint8 (28, 28); the alarm that it is
    FRAME: (_framed, ""),
    WHOLE: (resize_28x28, "placement"),
    "stretched to the box": (lambda c: resize_28x28(crop_to_ink(c)), "placement"),
    "centred by its box": (partial(_framed, by_mass=False), "placement"),
    "as large as the frame": (partial(_framed, side=28, by_mass=False), "placement"),
    "half size": (lambda c: np.pad(_shrunk(_framed(c)), 7), "placement"),
    "smaller than MNIST's": (partial(_framed, side=14), "placement"),
    "inverted before the crop": (lambda c: _framed(255 - c), "polarity"),
    "inverted after the crop": (
        lambda c: center_of_mass(255 - fit_20x20(crop_to_ink(c))),
        "polarity",
    ),
    "shrunk without smoothing": (partial(_framed, how=NEAREST), "ink"),
    "the whole canvas, without smoothing": (_nearest, "placement"),
    "axes in the wrong order": (lambda c: _scrambled(c).reshape(28, 28), "orientation"),
}


def _filtered(kind, size):
    return lambda image: np.asarray(Image.fromarray(image).filter(kind(size)))


TEXTURES = {  # of the 28x28, uint8
    "": lambda image: image,
    "blurred": _filtered(ImageFilter.GaussianBlur, 2),
    "a little blurred": _filtered(ImageFilter.GaussianBlur, 1),
    "thick pen": _filtered(ImageFilter.MaxFilter, 5),
    "a little thick": _filtered(ImageFilter.MaxFilter, 3),
    "thin pen": _filtered(ImageFilter.MinFilter, 3),
}


@dataclass(frozen=True)
class Fit:
    """What was done to a digit: the known way that comes nearest to what came out."""

    layout: str
    texture: str
    turn: str
    shift: tuple[int, int]  # rows, columns
    paper: float  # its value, and that of ink
    ink: float
    r: float  # mean correlation of what came out with what this way gives
    noise: float  # on the paper, as a share of ink - paper
    standardised: bool  # every image has mean 0 and deviation 1


def explain(x: np.ndarray, canvases: Sequence[np.ndarray]) -> Fit:
    """The layout, turn, shift, pen and the two values that give x, (N, 28, 28)."""

    def spectrum(images):
        flat = images - images.mean((1, 2), keepdims=True)
        norm = np.sqrt((flat**2).sum((1, 2), keepdims=True))
        return np.fft.rfft2(flat / np.maximum(norm, 1e-9))

    target, best, near = spectrum(x), (-1.0,), np.r_[0:9, -8:0]
    for layout, (make, _) in LAYOUTS.items():
        made = [make(canvas) for canvas in canvases]
        for texture in TEXTURES if layout in (FRAME, WHOLE) else [""]:
            images = np.stack([TEXTURES[texture](image) for image in made]) / 255
            for turn, (move, _) in TURNS.items():
                energy = (target * np.conj(spectrum(move(images)))).mean(0)
                r = np.fft.irfft2(energy, (28, 28))[np.ix_(near, near)]
                at = np.unravel_index(np.abs(r).argmax(), r.shape)
                at = (0, 0) if abs(r[0, 0]) > abs(r[at]) - 0.02 else at
                simple = (layout == FRAME) + (texture == "") + (turn == "upright")
                if abs(r[at]) + 0.01 * simple > best[0]:
                    shift = int(near[at[0]]), int(near[at[1]])
                    way = Fit(layout, texture, turn, shift, 0, 0, abs(r[at]), 0, False)
                    best = abs(r[at]) + 0.01 * simple, way, np.roll(
                        move(images), shift, (1, 2))  # fmt: skip
    _, way, z = best
    paper = np.stack([cv2.dilate(image, np.ones((5, 5))) for image in z]) < 0.02
    z, flat = z.reshape(len(z), -1), x.reshape(len(x), -1)
    centred = z - z.mean(1, keepdims=True)
    slopes = (centred * flat).sum(1) / np.maximum((centred**2).sum(1), 1e-9)
    levels = flat.mean(1) - slopes * z.mean(1)
    rest = (flat - slopes[:, None] * z - levels[:, None])[paper.reshape(z.shape)]
    slope, level = float(np.median(slopes)), float(np.median(levels))
    noise = float(rest.std() / max(abs(slope), 1e-9)) if rest.size else 0.0
    even = abs(flat.mean(1)).max() < 0.02 and abs(flat.std(1) - 1).max() < 0.05
    return Fit(way.layout, way.texture, way.turn, way.shift, level, level + slope,
               float(way.r), noise, bool(even))  # fmt: skip


def name_values(fit: Fit, want: Convention, contrast=1.0) -> tuple[str, str]:
    """What is wrong with the values of paper and ink, and the alarm that it is.

    contrast: how far your ink is from your paper, 0..1; blue on white is not black.
    """
    if fit.standardised and want.scale == PER_IMAGE:
        fine = (fit.ink > fit.paper) == (want.ink == "light")
        return ("", "") if fine else ("inverted", "polarity")
    if fit.standardised:
        return f"scaled to {PER_IMAGE}, the network wants {want.scale}", "range"
    right = want.values()
    other = "dark" if want.ink == "light" else "light"
    names = {} if want.scale == PER_IMAGE else {("", ""): right}
    names |= {
        ("inverted", "polarity"): want.values(1, 0),
        ("sign flipped", "range"): -right,
        ("inverted, half contrast", "polarity"): want.values(0.5, 0),
        ("not divided by 255", "range"): want.values(share=255),
        ("divided by 255 twice", "blank"): want.values(share=1 / 255),
        ("normalised twice", "range"): (right - MEAN) / STD,
    }
    for scale in set(SCALES) - {want.scale, PER_IMAGE}:
        name = f"scaled to {scale}, the network wants {want.scale}"
        names[name, "range"] = Convention(want.ink, scale).values()
        names[f"inverted, and {name}", "range"] = Convention(other, scale).values()
    found = np.array([fit.paper, fit.ink])
    off = {}
    for share in {1.0, contrast}:
        for name, (low, high) in names.items():
            pair = np.array([low, low + share * (high - low)])
            error = abs(found - pair).max() / abs(np.ptp(pair))
            off[name] = min(error, off.get(name, 9))
    best = min(off, key=off.get)
    if off[best] < 0.08:
        return best
    paper, ink = (found - right[0]) / (right[1] - right[0])
    if paper > ink:
        return "inverted, and with other contrast", "polarity"
    if not 0.02 < ink - paper < 1.5 or paper < -0.2:
        return f"values from {fit.paper:.3g} to {fit.ink:.3g}", "range"
    return ("grey paper", "background") if paper > 0.08 else ("faint ink", "ink")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, the alarm that would ring, and in words."""

    name: str
    alarm: str  # a key of checks.CAUSES, or "orientation", "function", "network"
    words: str
    part: str  # what would have to be mended: values, turn, layout, function, network


def departures(fit: Fit, want: Convention, contrast=1.0) -> list[Finding]:
    """Where a fit differs from what the network wants."""
    ways, (name, alarm) = [], name_values(fit, want, contrast)
    if fit.noise > NOISY:
        seen = f"The paper varies, by {fit.noise:.0%} of the ink's strength"
        ways.append(("noise", "background", seen, "layout"))
    if name and not (ways and alarm in ("background", "ink")):  # cut-off noise is grey
        seen = "Paper is {:.3g} and ink {:.3g}, the network wants {:.3g} and {:.3g}"
        seen = seen.format(fit.paper, fit.ink, *want.values())
        ways.append((name, alarm, seen, "values"))
    if fit.turn != want.turn:
        seen = f"Digits come out {fit.turn}, the network wants them {want.turn}"
        ways.append((turn_between(want.turn, fit.turn), "orientation", seen, "turn"))
    if fit.layout != FRAME:
        seen = f"Digits come out {fit.layout}"
        ways.append((fit.layout, LAYOUTS[fit.layout][1], seen, "layout"))
    if max(map(abs, fit.shift)) > 1:
        seen = "Digits lie {:+d} rows and {:+d} columns from MNIST's place"
        ways.append(("shifted", "placement", seen.format(*fit.shift), "layout"))
    if fit.texture:
        seen = f"Digits come out with lines as of this: {fit.texture}"
        ways.append((fit.texture, "ink", seen, "layout"))
    return [Finding(name, alarm, f"{seen}. {CAUSES[alarm]}", part)
            for name, alarm, seen, part in ways]  # fmt: skip


def as_image(out) -> np.ndarray:
    """What to_input returned as float (28, 28); ValueError if it is no picture."""
    out = out.detach().cpu().numpy() if isinstance(out, torch.Tensor) else out
    array = np.squeeze(np.asarray(out, dtype=float))
    if array.ndim == 1 and array.size in (784, 1024):
        array = array.reshape(2 * [int(array.size**0.5)])
    if array.ndim == 3 and 3 in array.shape[::2]:
        array = array.mean(0 if array.shape[0] == 3 else 2)
    if array.ndim != 2:
        raise ValueError(f"it gave {np.shape(out)}, which is not one picture")
    if not np.isfinite(array).all():
        raise ValueError("it gave NaN or infinite numbers")
    if array.shape == (32, 32):
        return array[2:-2, 2:-2]
    return array if array.shape == (28, 28) else cv2.resize(array, (28, 28))


class Input:
    """Somebody's to_input, called with care: what it gave, raised and changed."""

    def __init__(self, function: Callable | None):
        self.function, self.raised, self.notes, self.seconds = function, [], [], 0.0
        self.out = None  # the last that it gave

    def __call__(self, source) -> np.ndarray | None:
        """float (28, 28), or None where it raised or gave no picture."""
        if self.function is None:
            return None
        given, started = copy.deepcopy(source), time.perf_counter()
        try:
            out = self.function(given)
            image, self.out = as_image(out), out
        except Exception as error:  # any: it is somebody else's code
            self.raised.append(f"{type(error).__name__}: {error}".split("\n")[0])
            return None
        finally:
            self.seconds += time.perf_counter() - started
        if isinstance(source, np.ndarray) and not np.array_equal(given, source):
            self.note("to_input changes the array that it is given; let it take a copy")
        return image

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def contract(self, scores: Scores, probes: list, x: list) -> list[Finding]:
        """What is wrong with it as a function, whatever the picture."""
        found, failed = [], sum(image is None for image in x)
        if failed:
            words = f"to_input failed for {failed} of {len(x)}: {self.raised[0]}"
            self.note(words)
            if failed > len(x) / 2:
                found.append(Finding("raises", "function", words, "function"))
        worked = [i for i, image in enumerate(x) if image is not None]
        if any(not np.array_equal(self(probes[i]), x[i]) for i in worked[:3]):
            words = "to_input gives other numbers when it is called again"
            found.append(Finding("random", "function", words, "function"))
        if worked and not scores.as_numpy:
            out = self.out if torch.is_tensor(self.out) else np.array(self.out)
            out = torch.as_tensor(out)
            ranks = SHAPES[scores.shape][0](np.zeros((1, 28, 28))).ndim
            out = out[None] if out.ndim < ranks else out
            try:
                scores.network(out.to(scores.device))
            except Exception as error:  # any: it is somebody else's code
                words = (
                    f"to_input gives {out.dtype} {tuple(out.shape)}, which the network "
                    f"refuses ({str(error).splitlines()[0]}); it takes {scores.dtype} "
                    f"{scores.shape}"
                ).replace("torch.", "")
                name = "dtype" if out.dtype != scores.dtype else "shape"
                found.append(Finding(name, "function", words, "function"))
        return found


# --- 3. and 4. repairs --------------------------------------------------------------


def write(want: Convention, scores: Scores, read_by="", fit=None, parts=()) -> str:
    """The repair as code: a new to_input, or, without read_by, lines behind theirs."""
    lines, imports = [], ["import numpy as np"]
    imports += [] if scores.as_numpy else ["import torch"]
    if read_by:
        imports.append("from mnistlab.preprocess import MNIST_PIPELINE, load_picture")
        imports.append("from mnistlab.preprocess import to_input as framed")
        imports += ["from mnistlab.photo import read_photo"] * ("photo" in read_by)
        imports += ["from mnistlab.doctor import read"] * ("read(" in read_by)
        lines = [f"{read_by}  # ink 255 on paper 0",
                 "x = framed(canvas, MNIST_PIPELINE[:-1]) / 255"]  # fmt: skip
        turn, parts = want.turn, ("values", "turn")
    else:
        imports.append("from mnistlab.doctor import as_image")
        lines = ["x = as_image(to_input(picture))  # as before, 28 x 28"]
        turn = turn_between(fit.turn, want.turn) if "turn" in parts else "upright"
        if "values" in parts:
            paper, span = round(fit.paper, 4), round(fit.ink - fit.paper, 6)
            lines.append(f"x = (x - {paper}) / {span}  # paper 0, ink 1")
    if "values" in parts:
        lines += ["x = 1 - x  # the network wants dark ink"] * (want.ink == "dark")
        lines += [SCALES[want.scale][1]] * (want.scale != "0..1")
    lines += [TURNS[turn][1]] * (turn != "upright")
    lines.append(f"x = np.ascontiguousarray({SHAPES[scores.shape][1]}, np.float32)")
    lines.append("return x" if scores.as_numpy else "return torch.from_numpy(x)")
    head, body = "\n".join(imports), "\n".join(f"    {line}" for line in lines)
    return f"{head}\n\n\ndef mended(picture):\n{body.replace('(x - -', '(x + ')}\n"


def run_code(code: str, to_input: Callable | None = None) -> Callable:
    """The printed repair as a function; `to_input` is what it may call."""
    names = {"to_input": to_input}
    exec(code, names)  # our own lines, not somebody's
    return names["mended"]


def repairs(ways, fit: Fit, want: Convention, x, mine, canvases, pictures) -> dict:
    """Each single repair: its name, and what the network gets of probes and pictures.

    First those of the departures that were found, then whatever might help.
    """
    slope = fit.ink - fit.paper

    def behind(change):
        return [[None if image is None else change(image[None])[0] for image in images]
                for images in (x, mine)]  # fmt: skip

    def framed(texture=""):
        change, move = TEXTURES[texture], TURNS[fit.turn][0]
        own = [picture.canvas for picture in pictures]
        return [[fit.paper + slope * move(change(_framed(c)) / 255) for c in part]
                for part in (canvases, own)]  # fmt: skip

    def rescaled():
        right = Convention(want.ink, want.scale)
        return behind(lambda image: right((image - fit.paper) / slope))

    found = {}
    for way in ways:
        mend = {"values": rescaled, "layout": framed}.get(way.part) or partial(
            behind, TURNS[turn_between(fit.turn, want.turn)][0])  # fmt: skip
        found[f"mend: {way.name}"] = mend()
    found["invert"] = behind(lambda image: fit.paper + fit.ink - image)
    found["rescale"] = rescaled()
    for name, (turn, _) in list(TURNS.items())[1:]:
        found[f"turn: {name}"] = behind(turn)
    found["MNIST's frame"] = framed()
    found["MNIST's frame, thicker"] = framed("a little thick")
    found["MNIST's frame, thinner"] = framed("thin pen")
    return found


def table_of(trials: dict, labels: np.ndarray, truth: np.ndarray, tells: dict):
    """What each repair reads, mends and breaks, on probes and on your pictures."""
    rows, known, (first, *_, last) = [], truth >= 0, trials.values()
    for name, (probes, yours) in trials.items():
        row = {"repair": name, "probes": (probes == labels).mean()}
        if known.any():
            was, now = (a[known] == truth[known] for a in (first[1], yours))
            row |= {"yours": now.mean(), "mends": int((now & ~was).sum())}
            row["breaks"] = int((was & ~now).sum())
            row["by chance"] = min(1.0, (len(trials) - 1) * sign_test(was, now))
        else:  # nobody knows: do they agree with the best, and vary with the picture?
            row["agrees"] = (yours == last[1]).mean()
            row["tells, bits"] = tells[name]
        rows.append(row)
    return pd.DataFrame(rows)


def all_alike(images: Sequence[np.ndarray]) -> bool:
    """Whether nothing in them hangs on the picture."""
    x = np.stack(images)
    return bool(len(x) > 4 and x.std(0).mean() < 0.2 * max(x.std(), 1e-9))


def information(logs: np.ndarray) -> float:
    """Bits that the answers (N, 10), log probabilities, tell about the pictures.

    The entropy of their mean minus their mean entropy: high where each is sure, and
    not all are the same. Confidence alone is high on nonsense, too.
    """
    p = np.exp(logs)
    mean = np.maximum(p.mean(0), 1e-12)
    return float(((p * logs).sum(1).mean() - (mean * np.log(mean)).sum()) / np.log(2))


# --- the examination ----------------------------------------------------------------


@dataclass(repr=False)
class Report:
    """What was found, and on what it rests. In a notebook it is a page."""

    pictures: tuple[Picture, ...] = ()
    verdict: str = ""  # one or two sentences
    findings: tuple[Finding, ...] = ()  # the first is the one to mend first
    wants: tuple[Convention, ...] = ()  # that the network reads equally well
    accuracies: np.ndarray = field(default_factory=lambda: np.zeros(0))  # with each
    network: str = ""  # what it takes and gives
    source: str = ""  # of the digits that it was examined on
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)  # of repairs
    code: str = ""  # def mended(picture): ...; it may call your to_input
    mended: Callable | None = field(repr=False, default=None)  # that code, run
    seen: np.ndarray | None = field(repr=False, default=None)  # pixels (N, 28, 28)
    shown: np.ndarray | None = field(repr=False, default=None)  # with the repair
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)  # for each picture
    notes: list[str] = field(default_factory=list)

    @property
    def finding(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    def __str__(self) -> str:
        said = [self.verdict, *(f"- {f.name}: {f.words}" for f in self.findings)]
        return "\n".join([*said, *(f"note: {n}" for n in self.notes), "", self.code])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return page(self)


@contextmanager
def untouched(network):
    """Evaluation mode, no gradients; then modes, weights and dice as they were."""
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    modes = [module.training for module in modules]
    weights = network.state_dict() if modules else {}
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    dice = random.getstate(), np.random.get_state()
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=list(cuda)), torch.no_grad():
            if modules:
                network.eval()
            yield list(zip(modules, modes, strict=True))
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for name, tensor in weights.items():
                if not torch.equal(tensor, kept[name]):
                    tensor.copy_(kept[name])
        random.setstate(dice[0])
        np.random.set_state(dice[1])


def examine(network, to_input=None, pictures=(), labels=None, progress=True) -> Report:
    """Which step between a picture and a network breaks it, and what mends it.

    network: a torch.nn.Module, or any callable from a batch to scores (N, 10 or
    more). to_input: from one picture, as given, to the network's input; None asks how
    to write it. pictures: a folder, or paths, PIL images or arrays; labels: one each,
    None where unknown. Takes seconds; leaves the network as it was. Raises ValueError
    for no pictures and impossible labels; all else is said in the report.
    """
    everything = gather(pictures, labels)
    report = Report(tuple(p for p in everything if not p.problem))
    if left_out := [p for p in everything if p.problem]:
        report.notes.append(
            f"{len(left_out)} of {len(everything)} pictures are left out: "
            + "; ".join(f"{p.name}: {p.problem}" for p in left_out[:5])
        )
    with untouched(network) as modes, tqdm(total=3, disable=not progress) as bar:
        bar.set_description("what the network wants")
        try:
            scores, *known, reference = look_at_network(report, network, modes)
        except Unusable as error:
            report.verdict = str(error)
            report.findings = (Finding("network", "network", str(error), "network"),)
            return report
        if not report.pictures:
            report.verdict = "No picture could be read, so none was examined."
            return report
        bar.update()
        bar.set_description("what to_input makes of it")
        with tempfile.TemporaryDirectory() as folder:
            given = look_at_input(report, scores, to_input, known[1], Path(folder))
            bar.update()
            bar.set_description("repairs")
            mend(report, scores, reference, known[0], *given)
        bar.update()
    return report


def look_at_network(report: Report, network, modes):
    """Step 1. Returns its Scores, digits for probes, and what images look like."""
    digits = data.load().test
    report.source = digits.source
    digits = digits.balanced(min(N_WANTED + N_PROBES, len(digits)))
    digits, rest = (digits.take(np.arange(*ends)) for ends in (
        (len(digits) - N_PROBES,), (len(digits) - N_PROBES, len(digits))))  # fmt: skip
    rest = data.join(rest, hand_images(N_PROBES // 2, seed=0))
    rest = rest.take(np.random.default_rng(0).permutation(len(rest)))
    scores = Scores(network, digits.images[:7])
    wants, shares = wanted(scores, digits)
    x, n_tried = wants[0](digits.images), 2 * len(SCALES) * len(TURNS)
    if shares.max() < 0.3:
        answers = set(scores.answers(x).tolist())
        same = f": its answer is always {min(answers)}" if len(answers) == 1 else ""
        raise Unusable(
            f"this network has not learnt MNIST: in the best of {n_tried} conventions "
            f"it reads {shares.max():.0%} of {len(digits)} images{same}."
        )
    report.wants, report.accuracies = tuple(wants), shares
    report.network = f"takes {scores.shape} and gives {scores.classes} {scores.gives}"
    if scores.classes > 10:
        known = EMNIST.get(scores.classes)
        known = f", as many as EMNIST's {known}" if known else ""
        report.notes.append(f"the network has {scores.classes} outputs{known}: the "
                            "first ten are taken for the digits")  # fmt: skip
    if shares.max() < 0.9:
        report.notes.append(f"the network reads only {shares.max():.0%} of MNIST")
    if modes:
        ask_singly(report, scores, modes, x[:60], digits.labels[:60])
    inputs, logits = normalize(digits.images), np.zeros((len(digits), 10))
    reference = Reference.measured_on(inputs, logits, digits.source)
    return scores, digits, rest, reference


def ask_singly(report: Report, scores: Scores, modes, x, labels) -> None:
    """Is it in training mode? One image at a time, in the mode in which it came."""
    together, alone = scores(x), np.zeros((len(x), 10))
    for module, mode in modes:
        module.training = mode
    try:
        alone = np.concatenate([scores(x[i : i + 1]) for i in range(len(x))])
        seen = f"reads {(alone.argmax(1) == labels).mean():.0%} of single images"
    except Exception as error:  # batch norm in training mode, of a single image
        seen = f"raises {error}"
    finally:
        modes[0][0].eval()
    if abs(together.clip(-20) - alone.clip(-20)).max() > 0.1:
        right = together.argmax(1) == labels
        words = f"as it is, the network {seen}, in evaluation mode {right.mean():.0%}: "
        if any(mode for _, mode in modes):
            words += "it is in training mode; call network.eval()"
        else:
            words += "its answer hangs on the other images of the batch, eval() or not"
        if sign_test(alone.argmax(1) == labels, right) < CERTAIN:
            finding = Finding("training mode", "network", words, "network")
            report.findings = (finding,)
        else:
            report.notes.append(words)


def look_at_input(report: Report, scores, to_input, digits, folder: Path):
    """Step 2: probes drawn like the pictures, and what to_input makes of all."""
    n, known = len(report.pictures), {p.label for p in report.pictures}
    if n < 5:
        report.notes.append(f"{n} readable pictures are too few to show anything: the "
                            "evidence is that of the probes")  # fmt: skip
    if n > 1 and len(known) == 1 and known != {None}:
        report.notes.append(f"all pictures are of the digit {known.pop()}")
    theirs, styles = Input(to_input), [Style(p) for p in report.pictures[:20]]
    canvases, probes, x, black = [], [], [], []
    for i, digit in enumerate(digits.images):
        if i >= N_COMPARED and theirs.seconds > SECONDS:
            break
        style = styles[i % len(styles)]
        canvases.append(style.canvas(digit))
        probes.append(style.draw(canvases[-1], folder / f"probe{i}"))
        x.append(theirs(probes[-1]))
        if i < N_COMPARED and np.ptp(style.pen) > 60:  # their ink has a colour
            bright = style.pen.mean() > style.paper.mean()
            style.pen, pen = np.full(3, 255.0 * bright), style.pen
            black.append(theirs(style.draw(canvases[-1], folder / f"black{i}")))
            style.pen = pen
    if to_input:
        report.findings += tuple(theirs.contract(scores, probes, x))
        theirs.raised.clear()
    mine = [theirs(picture.source) for picture in report.pictures]
    if theirs.raised:
        theirs.note(f"to_input failed for {len(theirs.raised)} of your {n} pictures: "
                    f"{theirs.raised[0]}")  # fmt: skip
    report.notes += theirs.notes
    return theirs, probes, canvases, digits.labels[: len(probes)], x, mine, black


def mend(
    report, scores, reference, digits, theirs, probes, canvases, labels, x, mine, black
) -> None:
    """Steps 3 and 4: name what is wrong, try repairs, keep the one that helps."""
    pictures = report.pictures
    truth = np.array([-1 if p.label is None else p.label for p in pictures])
    best = [want for want, share in zip(report.wants, report.accuracies, strict=True)
            if share > report.accuracies.max() - 0.005]  # fmt: skip
    want, fit, ways = best[0], None, []
    contrast = float(np.median([np.quantile(p.canvas, 0.999) for p in pictures])) / 255
    worked = [i for i, image in enumerate(x) if image is not None]
    empty = [i for i in worked if np.ptp(x[i]) < 1e-6 * max(1, abs(x[i]).max())]
    if len(empty) > len(worked) / 2 or worked and all_alike([x[i] for i in worked]):
        words = f"What comes out is empty, or always the same. {CAUSES['blank']}"
        ways = [Finding("blank", "blank", words, "layout")]
    elif worked:
        some = [i for i in worked if i not in empty][:N_COMPARED]
        fit = explain(np.stack([x[i] for i in some]), [canvases[i] for i in some])
        want = min(best, key=lambda want: len(departures(fit, want, contrast)))
        noisy = fit.noise > NOISY and fit.r > 0.6  # noise alone lowers a correlation
        ways = departures(fit, want, contrast) if fit.r > FITS or noisy else []
    if any("photo" in p.code for p in pictures):  # the probes are on that paper, too
        ways = [replace(way, name="uneven paper") if way.name == "noise" else way
                for way in ways]  # fmt: skip
    suspect = ways or fit and fit.r <= FITS
    if suspect and len(black) > 4 and all(image is not None for image in black):
        there = [i for i in range(len(x)) if i < N_COMPARED][: len(black)]
        other = None if all_alike(black) else explain(
            np.stack(black), [canvases[i] for i in there])  # fmt: skip
        if other and other.r > FITS and not departures(other, want):
            words = f"It would be right if your ink were black. {CAUSES['ink']}"
            ways = [Finding("the ink's colour", "ink", words, "layout")]

    def trial(code):
        function = run_code(code, theirs.function)
        images = [[_quietly(function, source) for source in part]
                  for part in (probes, [p.source for p in pictures])]  # fmt: skip
        return code, function, images[1], *map(scores.answers, images)

    reads = [picture.code for picture in pictures]
    mixed, usual = len(set(reads)) > 1, max(set(reads), key=reads.count)
    usual = "canvas = read(picture).canvas" if mixed else usual
    chosen = trial(write(want, scores, usual))
    behind = [way for way in ways if way.part in ("values", "turn")]
    if fit and (behind or (report.findings and not ways)):  # may theirs stay?
        short = trial(write(want, scores, "", fit, [way.part for way in behind]))
        if (short[3] == labels).mean() > (chosen[3] == labels).mean() - 0.01:
            chosen, ways = short, behind
    code, mended, shown, probes_then, yours_then = chosen
    trials = {"nothing": (scores.answers(x), scores.answers(mine))}
    tried = repairs(ways, fit, want, x, mine, canvases, pictures) if fit else {}
    trials |= {name: tuple(map(scores.answers, both)) for name, both in tried.items()}
    lines = "the lines below" if theirs.function else "these lines"
    trials[lines] = chosen[3:]
    tried = {"nothing": (x, mine), **tried, lines: (None, shown)}
    tells = {}
    for name, (_, own) in tried.items() if -1 in truth else ():
        there = [image for image in own if image is not None]
        tells[name] = information(scores(np.stack(there))) if there else 0.0
    report.trials = table_of(trials, labels, truth, tells)
    gains = {name: (probes == labels).mean() for name, (probes, _) in trials.items()}
    ways = sorted(ways, key=lambda way: -gains.get(f"mend: {way.name}", 0))

    probes_now, yours_now = trials["nothing"]
    before, after, known = probes_now == labels, probes_then == labels, truth >= 0
    yours = yours_now[known] == truth[known]
    chance = sign_test(yours, yours_then[known] == truth[known]) * (len(trials) - 1)
    on = []
    if sign_test(before, after) < CERTAIN and after.mean() - before.mean() > LOSS:
        on.append("on the probes")
    if known.sum() >= 5 and chance < 0.05:
        on.append("on your pictures")
    if not on and fit and ways and ways[0].part in ("values", "turn"):
        z = TURNS[fit.turn][0](digits.images / 255) * (fit.ink - fit.paper) + fit.paper
        right, wrong = (scores.answers(i) == digits.labels
                        for i in (want(digits.images), z))  # fmt: skip
        if sign_test(wrong, right) < CERTAIN and right.mean() - wrong.mean() > LOSS / 2:
            on.append("on MNIST's own images")
    if not on and ways and ways[0].name in MISTAKES:  # nobody does these on purpose
        on.append("by the numbers that come out, though it costs little")
    if on and theirs.function:
        harmless = on[0] == "on your pictures"  # on the probes
        odd = [image for image in (mine if harmless else x) if image is not None]
        ways = [] if harmless else ways
        if not ways and odd and not report.findings:
            ways = [by_alarms(want.undo(np.stack(odd)), reference)]
        report.findings += tuple(ways)
    else:
        report.notes += [f"harmless for this network: {way.words}" for way in ways]
    reads = f"{before.mean():.0%} of {len(labels)} probes are read"
    if theirs.function is None:
        report.verdict = f"With these lines it reads {after.mean():.0%} of the probes."
    elif report.findings:
        report.verdict = (
            f"{report.finding.name}: {reads}, with the repair {after.mean():.0%}."
            + f" Shown {' and '.join(on)}." * bool(on)
        )
    else:
        report.verdict = f"No fault found: {reads}, without it {after.mean():.0%}."
        if known.any() and yours.mean() < 0.8:
            report.verdict += (
                f" But {(~yours).sum()} of your {known.sum()} pictures are misread; "
                "why I cannot tell with these: a dozen more would do."
            )
        shown, yours_then = mine, yours_now
    if report.findings or theirs.function is None:
        report.code, report.mended = code, mended
    blank = np.zeros((28, 28))
    report.seen, report.shown = (
        want.undo(np.stack([blank if image is None else image for image in images]))
        for images in (mine, shown)
    )
    columns = {"picture": [p.name for p in pictures], "label": truth}
    for name, answers, pixels in (("now", yours_now, report.seen),
                                  ("mended", yours_then, report.shown)):  # fmt: skip
        rings = reference.outside(as_normalized(pixels))
        columns[name] = answers
        columns[f"alarms {name}"] = [", ".join(a for a in rings if rings[a][i])
                                     for i in range(len(truth))]  # fmt: skip
    report.answers = pd.DataFrame(columns).replace(-1, "")


def as_normalized(pixels: np.ndarray) -> np.ndarray:
    return (pixels - np.float32(MEAN)) / np.float32(STD)


def by_alarms(pixels: np.ndarray, reference: Reference) -> Finding:
    """What nothing known explains, called by the alarm that rings most."""
    rings = reference.outside(as_normalized(pixels))
    alarm = max(rings, key=lambda name: rings[name].mean())
    if rings[alarm].mean() < 0.1:
        words = "No step that I know explains it; the lines below replace them all"
        return Finding("unknown", "", words, "layout")
    share = rings[alarm].mean()
    words = f"The alarm {alarm} rings for {share:.0%} of them. {CAUSES[alarm]}"
    return Finding(alarm, alarm, words, "layout")


def _quietly(function, source):
    try:
        return as_image(function(copy.deepcopy(source)))
    except Exception:  # any: it is somebody else's code, and was reported before
        return None


# --- the page, and the command ------------------------------------------------------


def _img(image: np.ndarray | Image.Image) -> str:
    """A picture inside the page; black is paper and white is ink, never autoscaled."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8))
    image, file = image.copy(), BytesIO()
    image.thumbnail((168, 84))
    image.save(file, "PNG")
    return f"<img src='data:image/png;base64,{b64encode(file.getvalue()).decode()}'>"


def page(report: Report, n_shown: int = 9) -> str:
    """The report as HTML that needs no other file: finding, repair, evidence."""
    text, style = html.escape, Path(__file__).with_suffix(".css").read_text()
    parts = [f"<style>{style}</style><p class='verdict'>{text(report.verdict)}</p>"]
    for finding in report.findings:
        parts.append(f"<p><b>{text(finding.name)}</b>: {text(finding.words)}</p>")
    if report.code:
        parts.append(f"<h2>The repair</h2><pre>{text(report.code)}</pre>")
    if report.seen is not None:
        parts.append("<h2>Given, what the network gets, with the repair</h2>")
        rows = report.answers.to_dict("records")[:n_shown]
        for i, row in enumerate(rows):
            picture = report.pictures[i]
            images = [_img(Style(picture).picture), _img(report.seen[i])]
            images += [_img(report.shown[i])] * bool(report.code)
            said = f"read as {row['now']}"
            said += f", then {row['mended']}" if report.code else ""
            said += f"; it is {row['label']}" if row["label"] != "" else ""
            parts.append(f"<figure>{''.join(images)}<br>{text(picture.name)}: {said}"
                         "</figure>")  # fmt: skip
        table = report.trials.to_html(index=False, border=0, float_format="%.3g")
        parts.append(
            "<h2>The evidence: what each repair reads</h2><p><b>probes</b>: digits of "
            f"{text(report.source)}, drawn like your pictures, so that the answers are "
            "known; <b>yours</b>: your labelled pictures, how many of them a repair "
            "mends and breaks, and how likely chance does as well, so many being tried."
            f"</p>{table}<h2>Picture by picture</h2>"
            + report.answers.to_html(index=False, border=0)
        )
    if report.wants:
        pairs = zip(report.wants, report.accuracies, strict=True)
        best = "".join(f"<li>{text(str(w))}: {share:.1%}</li>" for w, share in pairs)
        parts.append(f"<h2>What the network wants</h2><p>It {text(report.network)}. On "
                     f"images of {text(report.source)} a paired test cannot tell these "
                     f"apart:</p><ul>{best}</ul>")  # fmt: skip
    parts += [f"<p>Note: {text(note)}.</p>" for note in report.notes]
    return f"<div class='doctor'>{''.join(parts)}</div>"


def load_name(place: str):
    """What my_app.py:model names. It imports, and so runs, my_app.py."""
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise SystemExit(f"{place}: expected a file and a name in it, my_app.py:model")
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise SystemExit(f"{file} has no {name!r} at its top level.")
    return getattr(module, name)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) not in (3, 4):
        raise SystemExit(
            "python -m mnistlab.doctor my_app.py:model my_app.py:preprocess pictures/ "
            "[doctor.html]\nWrites a page: which step breaks it, and the repair. It "
            "imports, and so runs, your file. With 'none' for preprocess it writes one."
        )
    network = load_name(arguments[0])
    to_input = None if arguments[1] == "none" else load_name(arguments[1])
    try:
        report = examine(network, to_input, arguments[2])
    except ValueError as error:
        raise SystemExit(f"{arguments[2]}: {error}") from error
    path = Path(arguments[3] if len(arguments) == 4 else "doctor.html")
    head = "<!doctype html><meta charset='utf-8'><title>The doctor</title>"
    data.write_atomically(path, (head + page(report)).encode())
    print(f"{report}\nThe page is {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
