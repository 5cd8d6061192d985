"""Digits that a script writes, warps, writes in other forms, and draws as images.

What training and tests can make without a download. Every drawing is a list of
strokes, float (n, 2), y down; every image uint8 (28, 28), ink 255 on paper 0.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from mnistlab.data import Digits
from mnistlab.preprocess import MNIST_PIPELINE, Pipeline, to_input
from mnistlab.strokes import (
    BRUSH_PX,
    CANVAS_PX,
    Drawing,
    check_number,
    place,
    random_place,
    rasterize,
)

FORMS = json.loads(Path(__file__).with_name("forms.json").read_text("utf-8"))
FORMS = {int(digit): FORMS[digit] for digit in "0123456789"}  # not the text about it


def forms(digit: int) -> tuple[str, ...]:
    """Name the ways in which the hand writes a digit; ValueError outside 0..9."""
    if digit not in FORMS:
        raise ValueError(f"there is no digit {digit!r}; the hand writes 0 to 9")
    return tuple(FORMS[digit])


def handwrite(
    digit: int,
    form: str | None = None,
    seed: int | np.random.Generator = 0,
    size_px: float = 190,
    canvas_px: int = CANVAS_PX,
    center: tuple[float, float] | None = None,
    jitter: float = 1.0,
) -> Drawing:
    """Write a digit as a person might; the same seed gives the same strokes.

    form is one of forms(digit); None lets the seed choose. jitter, 0 to 3, scales what
    varies between two drawings: slant, rotation, proportions, every point; 0 is the
    model itself. The longer side is size_px and the box lies around center, by default
    the middle of the canvas. Raises ValueError for an unknown digit or form, or where
    the digit with a brush of BRUSH_PX would not fit the canvas.
    """
    names = forms(digit)
    rng = np.random.default_rng(seed)
    choice = names[rng.integers(len(names))]  # drawn in any case: one stream per seed
    form = choice if form is None else form
    if form not in names:
        raise ValueError(
            f"the digit {digit} has no form {form!r}; there are: {', '.join(names)}"
        )
    check_number("jitter", jitter, 0, 3)
    check_number("size_px", size_px, 1, canvas_px - BRUSH_PX)
    turn, shear = rng.uniform((-0.15, -0.15), (0.15, 0.3)) * jitter
    stretch = np.exp(rng.uniform(-0.2, 0.2) * jitter)
    slant = [[stretch, turn], [-turn - shear, 1 / stretch]]
    phase = rng.uniform(0, 2 * np.pi, 2)
    drawing = []
    for curves in FORMS[digit][form]:
        ends = [0, *np.cumsum([len(curve) for curve in curves]) - 1]
        points = np.concatenate(curves).astype(float)
        points += rng.normal(0, 1.8 * jitter, points.shape)
        pieces = [_smooth(points[a : b + 1]) for a, b in pairwise(ends)]
        x, y = np.concatenate(pieces).T
        # A slow wave bends what a ruler would draw straight.
        x = x + 2 * jitter * np.sin(y / 20 + phase[0])
        y = y + 2 * jitter * np.sin(x / 20 + phase[1])
        drawing.append(np.stack([x, y], axis=1) @ slant)
    return place(drawing, size_px, center, canvas_px)


def _smooth(points: np.ndarray, per_interval: int = 5) -> np.ndarray:
    """Lay a centripetal Catmull-Rom curve through points (n, 2), as cubic Hermites."""
    gaps = np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1))
    tangents = np.gradient(points, np.concatenate([[0], np.cumsum(gaps)]), axis=0)
    u = np.linspace(0, 1, per_interval, endpoint=False)[:, None]
    first, last, gaps = points[:-1, None], points[1:, None], gaps[:, None, None]
    curve = (
        (1 + 2 * u) * (1 - u) ** 2 * first
        + u**2 * (3 - 2 * u) * last
        + u * (1 - u) ** 2 * gaps * tangents[:-1, None]
        - u**2 * (1 - u) * gaps * tangents[1:, None]
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def warp(strokes: Drawing, rng: np.random.Generator, strength: float = 1.0) -> Drawing:
    """A drawing as another hand might write it: turned, slanted, stretched, bent.

    At strength 1 up to 14 degrees, a shear of 0.3, proportions of 0.67 to 1.5, and a
    slow wave of up to 4 % of its size. Any units; the size stays about the same.
    """
    turn, slant, stretch = rng.uniform(-1, 1, 3) * (0.25, 0.3, 0.2) * strength
    rotate = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    matrix = rotate @ np.array([[np.exp(stretch), 0], [slant, np.exp(-stretch)]])
    size = max(np.ptp(np.concatenate(strokes), axis=0).max(), 1)
    phase, pace = rng.uniform(0, 2 * np.pi, 2), rng.uniform(3, 7, 2) / size
    depth = rng.uniform(0, 0.04, 2) * size * strength
    return [
        (stroke + depth * np.sin(stroke[:, ::-1] * pace + phase)) @ matrix
        for stroke in strokes
    ]


# What a form adds to a plain digit, as points in shares of the digit's own box (0
# and 7), or of its height, counted from the foot of a 1 and the end of a 9.
ADDED = {
    0: [[0.95, 0.05], [0.05, 0.95]],
    1: [[-1, 0], [1, 0]],
    7: [[0.25, 0.52], [0.95, 0.48]],
    9: [[-0.12, 0.1], [-0.28, 0.1], [-0.4, 0.02]],
}


def add_form(strokes: Drawing, digit: int, rng: np.random.Generator) -> Drawing:
    """Write a digit in a form that MNIST's writers did not use, or hardly.

    0 gets a slash, 1 a base, 7 a bar, 9 a hook at the end of its last stroke.
    Raises ValueError for a digit that has no such form here.
    """
    if digit not in ADDED:
        raise ValueError(
            f"no other form is known for {digit!r}; there are 0, 1, 7 and 9."
        )
    points, added = np.concatenate(strokes), np.array(ADDED[digit])
    low, size = points.min(0), np.maximum(np.ptp(points, axis=0), 1)
    if digit == 1:
        foot, reach = points[points[:, 1].argmax()], rng.uniform(0.2, 0.35) * size[1]
        return [*strokes, foot + added * reach]
    if digit == 9:
        hook = strokes[-1][-1] + added * size[1] * rng.uniform(0.7, 1.2)
        return [*strokes[:-1], np.concatenate([strokes[-1], hook])]
    return [*strokes, low + size * (added + rng.normal(0, 0.04, added.shape))]


def draw(
    strokes: Drawing, rng: np.random.Generator, pipeline: Pipeline = MNIST_PIPELINE
) -> np.ndarray:
    """One drawing as the pad would show it and the pipeline would frame it.

    Any place, 100 to 240 px, brush 8 to 32 px, on a canvas of 280. Returns uint8
    (28, 28): what the pipeline has before it normalises.
    """
    brush = rng.uniform(8, 32)
    canvas = rasterize(random_place(strokes, rng, brush_px=brush), brush)
    return to_input(canvas, pipeline[:-1])


def pen_images(
    pens,
    seed: int,
    copies: int = 1,
    strength: float = 0.0,
    other_forms: float = 0.0,
    pipeline: Pipeline = MNIST_PIPELINE,
) -> Digits:
    """Every drawing of pens, `copies` times, each time warped, placed and inked anew.

    pens: pendigits.PenDigits. strength: of the warp, 0 for none. other_forms: the
    share of 0, 1, 7 and 9 that get another form. The order is that of pens, again for
    each copy.
    """
    rng, images = np.random.default_rng(seed), []
    for _ in range(copies):
        for strokes, digit in zip(pens.strokes, pens.labels.tolist(), strict=True):
            if digit in ADDED and rng.random() < other_forms:
                strokes = add_form(strokes, digit, rng)
            if strength:
                strokes = warp(strokes, rng, strength)
            images.append(draw(strokes, rng, pipeline))
    return Digits(np.stack(images), np.tile(pens.labels, copies), pens.source)


def hand_images(n: int, seed: int, pipeline: Pipeline = MNIST_PIPELINE) -> Digits:
    """n digits of the scripted hand in all its forms, warped: 0, 1, ... 9, 0, ..."""
    rng, labels, images = np.random.default_rng(seed), np.arange(n) % 10, []
    for digit in labels.tolist():
        strokes = handwrite(digit, seed=rng, jitter=rng.uniform(0.5, 1.6))
        images.append(draw(warp(strokes, rng, 0.7), rng, pipeline))
    return Digits(np.stack(images), labels, "the scripted hand")
