"""Digits that a script writes, warps, writes in other forms, and draws as images.

And what is no digit: letters, marks, scribbles, digits taken apart or two at once.
A drawing is a list of strokes, float (n, 2), y down; an image uint8 (28, 28), ink 255.
An rng is numpy's Generator: whoever calls twice with the same one gets two drawings.
"""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from mnistlab.data import Digits
from mnistlab.preprocess import MNIST_PIPELINE, to_input
from mnistlab.strokes import (
    BRUSH_PX,
    CANVAS_PX,
    Drawing,
    check_number,
    place,
    random_place,
    rasterize,
)

FORMS, OTHERS = (
    json.loads(Path(__file__).with_name(name).read_text("utf-8"))
    for name in ("forms.json", "others.json")
)
FORMS = {int(digit): FORMS[digit] for digit in "0123456789"}  # not the text about it


def forms(digit: int) -> tuple[str, ...]:
    """Name the ways in which the hand writes a digit; ValueError outside 0..9."""
    if digit not in FORMS:
        raise ValueError(f"there is no digit {digit!r}; the hand writes 0 to 9")
    return tuple(FORMS[digit])


def handwrite(
    digit: int, form=None, seed=0, size_px=190.0, canvas_px=CANVAS_PX, jitter=1.0
) -> Drawing:
    """Write a digit as a person might; the same seed gives the same strokes.

    form is one of forms(digit); None lets the seed, a number or an rng, choose. jitter,
    0 to 3, scales what varies between two drawings; 0 is the model itself. The longer
    side is size_px, in the middle of the canvas, which a brush of BRUSH_PX may not
    leave.
    """
    names, rng = forms(digit), np.random.default_rng(seed)
    choice = names[rng.integers(len(names))]  # drawn in any case: one stream per seed
    form = choice if form is None else form
    if form not in names:
        raise ValueError(f"{digit} has no form {form!r}; there are: {', '.join(names)}")
    check_number("size_px", size_px, 1, canvas_px - BRUSH_PX)
    return place(_write(FORMS[digit][form], rng, jitter), size_px, canvas_px=canvas_px)


def _write(form: list, rng, jitter: float) -> Drawing:
    turn, shear = rng.uniform((-0.15, -0.15), (0.15, 0.3)) * jitter
    stretch = np.exp(rng.uniform(-0.2, 0.2) * jitter)
    slant = [[stretch, turn], [-turn - shear, 1 / stretch]]
    phase = rng.uniform(0, 2 * np.pi, 2)
    drawing = []
    for curves in form:
        ends = [0, *np.cumsum([*map(len, curves)]) - 1]
        points = np.concatenate(curves).astype(float)
        points += rng.normal(0, 1.8 * jitter, points.shape)
        pieces = [_smooth(points[a : b + 1]) for a, b in pairwise(ends)]
        x, y = np.concatenate(pieces).T
        # A slow wave bends what a ruler would draw straight.
        x = x + 2 * jitter * np.sin(y / 20 + phase[0])
        y = y + 2 * jitter * np.sin(x / 20 + phase[1])
        drawing.append(np.stack([x, y], axis=1) @ slant)
    return drawing


def _smooth(points: np.ndarray) -> np.ndarray:
    """Lay a centripetal Catmull-Rom curve through points (n, 2), as cubic Hermites."""
    gaps = np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1))
    tangents = np.gradient(points, np.concatenate([[0], np.cumsum(gaps)]), axis=0)
    u = np.linspace(0, 1, 5, endpoint=False)[:, None]
    first, last, gaps = points[:-1, None], points[1:, None], gaps[:, None, None]
    curve = (
        (1 + 2 * u) * (1 - u) ** 2 * first
        + u**2 * (3 - 2 * u) * last
        + u * (1 - u) ** 2 * gaps * tangents[:-1, None]
        - u**2 * (1 - u) * gaps * tangents[1:, None]
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def warp(strokes: Drawing, rng, strength: float = 1.0) -> Drawing:
    """A drawing as another hand might write it: turned, slanted, stretched, bent.

    At strength 1 up to 14 degrees, a shear of 0.3, proportions of 0.67 to 1.5, and a
    slow wave of up to 4 % of its size. Any units; the size stays about the same.
    """
    turn, slant, stretch = rng.uniform(-1, 1, 3) * (0.25, 0.3, 0.2) * strength
    matrix = rotation(turn) @ [[np.exp(stretch), 0], [slant, np.exp(-stretch)]]
    size = max(np.ptp(np.concatenate(strokes), axis=0).max(), 1)
    phase, pace = rng.uniform(0, 2 * np.pi, 2), rng.uniform(3, 7, 2) / size
    depth = rng.uniform(0, 0.04, 2) * size * strength
    return [(s + depth * np.sin(s[:, ::-1] * pace + phase)) @ matrix for s in strokes]


def loosen(strokes: Drawing, rng, by: float = 1.0) -> Drawing:
    """A drawing as a hurried pen might write it, whatever the hand.

    Ends are cut short, overshoot or get a hook; strokes change their size by 5 % and
    their place by 2 %, and two slow waves bend all of it. `by` scales that. Any units.
    """
    size = max(np.ptp(np.concatenate(strokes), axis=0).max(), 1e-6)
    loose = []
    for stroke in strokes:
        for _ in range(2 if len(stroke) > 2 else 0):  # one end, then the other
            stroke, kind = stroke[::-1], rng.random()
            if kind < 0.25:
                stroke = part(stroke, 0, 1 - rng.uniform(0, 0.08) * by)
            elif kind < 0.5:
                bend = rng.normal(0, 0.3) + (kind > 0.42) * rng.uniform(-2.4, 2.4)
                step = stroke[-1] - part(stroke, 0.9, 1)[0]
                step = step / max(np.hypot(*step), 1e-9) @ rotation(bend)
                more = step * size * rng.uniform(0.02, 0.12) * by
                stroke = np.concatenate([stroke, [stroke[-1] + more]])
        middle, grown = stroke.mean(0), np.exp(rng.normal(0, 0.05 * by, 2))
        away = rng.normal(0, 0.02 * by, 2) * size * (len(strokes) > 1)
        loose.append((stroke - middle) * grown + middle + away)
    for _ in range(2):
        phase, pace = rng.uniform(0, 2 * np.pi, 2), rng.uniform(4, 11, 2) / size
        depth = rng.normal(0, 0.018 * by, 2) * size
        loose = [s + depth * np.sin(s[:, ::-1] * pace + phase) for s in loose]
    return loose


def part(stroke: np.ndarray, start: float, stop: float) -> np.ndarray:
    """What lies between two shares, 0 to 1, of a stroke's length: float (n, 2)."""
    along = np.hypot(*np.diff(stroke, axis=0).T).cumsum()
    along = np.concatenate([[0], along]) / max(along[-1], 1e-9)
    inside = stroke[(along > start) & (along < stop)]
    ends = [[np.interp(at, along, axis) for axis in stroke.T] for at in (start, stop)]
    return np.concatenate([ends[:1], inside, ends[1:]])


def rotation(angle: float) -> np.ndarray:
    """The matrix (2, 2) that turns points (n, 2) which stand to its left."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


# What MNIST's writers hardly ever add to a digit, as points in shares of its own box
# (0 and 7), or of its height, counted from the foot of a 1 and the end of a 9.
ADDED = {
    0: [[0.95, 0.05], [0.05, 0.95]],
    1: [[-1, 0], [1, 0]],
    7: [[0.25, 0.52], [0.95, 0.48]],
    9: [[-0.12, 0.1], [-0.28, 0.1], [-0.4, 0.02]],
}


def add_form(strokes: Drawing, digit: int, rng) -> Drawing:
    """A 0 with a slash, a 1 with a base, a 7 with a bar, a 9 with a hook."""
    points, added = np.concatenate(strokes), np.array(ADDED[digit])
    low, size = points.min(0), np.maximum(np.ptp(points, axis=0), 1)
    if digit == 1:
        foot, reach = points[points[:, 1].argmax()], rng.uniform(0.2, 0.35) * size[1]
        return [*strokes, foot + added * reach]
    if digit == 9:
        hook = strokes[-1][-1] + added * size[1] * rng.uniform(0.7, 1.2)
        return [*strokes[:-1], np.concatenate([strokes[-1], hook])]
    return [*strokes, low + size * (added + rng.normal(0, 0.04, added.shape))]


def draw(strokes: Drawing, rng, pipeline=MNIST_PIPELINE, wide=False) -> np.ndarray:
    """One drawing as the pad would show it and the pipeline frame it: uint8 (28, 28).

    Any place, 100 to 240 px, brush 8 to 32 px, on a canvas of 280; or, if `wide`, 80
    to 240 px and a brush of 4 to 40.
    """
    low, high = [rng.uniform(80, 240)] * 2 if wide else (100, 240)
    brush = min(rng.uniform(4, 40), 0.3 * low) if wide else rng.uniform(8, 32)
    canvas = rasterize(random_place(strokes, rng, low, high, brush), brush)
    return to_input(canvas, pipeline[:-1])


def pen_images(
    pens, seed, strength=0.0, other_forms=0.0, pipeline=MNIST_PIPELINE
) -> Digits:
    """Every drawing of pens, in their order, warped, placed and inked.

    pens: PenDigits. seed: as for numpy's default_rng. strength: of loosening and warp,
    0 for none and for ordinary pens. other_forms: the share of 0, 1, 7 and 9 that get
    another form.
    """
    rng, images = np.random.default_rng(seed), []
    for strokes, digit in zip(pens.strokes, pens.labels.tolist(), strict=True):
        if digit in ADDED and rng.random() < other_forms:
            strokes = add_form(strokes, digit, rng)
        if strength:
            strokes = warp(loosen(strokes, rng, strength), rng, strength)
        images.append(draw(strokes, rng, pipeline, wide=strength > 0))
    return Digits(np.stack(images), pens.labels, pens.source)


def hand_images(n: int, seed, wide: bool = False) -> Digits:
    """n digits of the scripted hand in all its forms, warped: 0, 1, ... 9, 0, ...

    `wide` is for training: looser, warped more, with pens of all widths.
    """
    rng, labels, images = np.random.default_rng(seed), np.arange(n) % 10, []
    for digit in labels.tolist():
        jitter = rng.uniform(0.5, 2.0 if wide else 1.6)
        strokes = handwrite(digit, seed=rng, jitter=jitter)
        strokes = loosen(strokes, rng) if wide else strokes
        strokes = warp(strokes, rng, 1.0 if wide else 0.7)
        images.append(draw(strokes, rng, wide=wide))
    return Digits(np.stack(images), labels, "the scripted hand")


# --- what is no digit: functions of a generator and a source of digits ---------------


def _other(book: str, rng, digit_of) -> Drawing:
    forms = OTHERS[book][rng.choice(list(OTHERS[book]))]
    return _write(forms[rng.choice(list(forms))], rng, rng.uniform(0.5, 2.0))


def _scribble(rng, digit_of):
    counts = rng.integers(6, 22, rng.integers(1, 3))
    return [_smooth(rng.uniform(0, 100, (n, 2))) for n in counts]


def _two(rng, digit_of):
    (first, _), (second, _) = digit_of(range(10)), digit_of(range(10))
    beside = int(rng.random() < 0.2)  # or below
    shift = rng.normal(0, 10, 2)
    shift[beside] = np.concatenate(first)[:, beside].max() + rng.uniform(4, 50)
    shift[beside] -= np.concatenate(second)[:, beside].min()
    return [*first, *(stroke + shift for stroke in second)]


def _mirrored(rng, digit_of):
    return [stroke * (-1, 1) for stroke in digit_of((3, 6, 9))[0]]


# tools/make_model.py knows more kinds, and says which of them the network learns.
NO_DIGIT = {book: partial(_other, book) for book in OTHERS if book != "about"} | {
    "scribbles": _scribble,
    "two digits": _two,
    "mirrored digits": _mirrored,
}


def no_digit_images(n: int, seed, kinds, pens=None, known=NO_DIGIT) -> np.ndarray:
    """n drawings that show no digit, uint8 (n, 28, 28), warped, with all pens.

    kinds: {key of known: its share}. pens: PenDigits; half of the digits that are
    spoilt come from them, the rest, or all, from the scripted hand.
    """
    rng, images = np.random.default_rng(seed), []

    def digit_of(wanted):
        digit = int(rng.choice(list(wanted)))
        if pens is not None and rng.random() < 0.5:
            row = rng.choice(np.flatnonzero(pens.labels == digit))
            return place(pens.strokes[row], 100), digit
        return handwrite(digit, seed=rng, size_px=100), digit

    shares = np.array(list(kinds.values())) / sum(kinds.values())
    for kind in rng.choice(list(kinds), n, p=shares):
        strokes = warp(loosen(known[kind](rng, digit_of), rng), rng, 0.7)
        images.append(draw(strokes, rng, wide=True))
    return np.stack(images)
