"""How the shipped network is made: `make model`, or python -m mnistlab.recipe.

It learns from MNIST, from recorded pens that are warped as strokes before they
are drawn (which keeps the ink sharp, unlike warping pixels), and from the
scripted hand, all through the very pipeline that a drawing on the pad takes.
"""

import time
from pathlib import Path

import numpy as np
import torch

from mnistlab import checkpoint, data
from mnistlab.checks import Reference
from mnistlab.classifier import Classifier
from mnistlab.data import Digits
from mnistlab.evaluation import Report, evaluate, predict_logits
from mnistlab.models import DigitCNN
from mnistlab.preprocess import MNIST_PIPELINE, NAIVE_PIPELINE, Pipeline, normalize, run
from mnistlab.strokes import (
    Drawing,
    PenDigits,
    handwrite,
    load_pens,
    random_place,
    rasterize,
)
from mnistlab.training import fit, random_affine

# Whole writers are held out, so that no hand is both learnt and examined: the
# first nine of np.random.default_rng(0).permutation(30) + 1.
TEST_WRITERS = (3, 11, 12, 22, 27)
VALIDATION_WRITERS = (5, 17, 24, 29)
TRAIN_WRITERS = tuple(
    sorted(set(range(1, 31)) - set(TEST_WRITERS) - set(VALIDATION_WRITERS))
)
SETTINGS = {
    "epochs": 14,
    "pen_copies": 8,
    "hand_digits": 12_000,
    "warp": 1.0,
    "other_forms": 0.2,
}


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


def add_form(strokes: Drawing, digit: int, rng: np.random.Generator) -> Drawing:
    """Write a digit in a form that MNIST's writers did not use, or hardly.

    0 gets a slash, 1 a base, 7 a bar, 9 a hook at the end of its last stroke.
    Raises ValueError for a digit that has no such form here.
    """
    points = np.concatenate(strokes)
    low, size = points.min(0), np.maximum(np.ptp(points, axis=0), 1)
    height = size[1]

    def line(*ends):  # in shares of the digit's box, a little off each time
        return low + size * (np.array(ends) + rng.normal(0, 0.04, (len(ends), 2)))

    if digit == 0:
        return [*strokes, line((0.95, 0.05), (0.05, 0.95))]
    if digit == 7:
        return [*strokes, line((0.25, 0.52), (0.95, 0.48))]
    if digit == 1:
        foot, reach = points[points[:, 1].argmax()], rng.uniform(0.2, 0.35) * height
        return [*strokes, foot + np.array([[-reach, 0], [reach, 0]])]
    if digit == 9:
        hook = np.array([[0.0, 0], [-0.12, 0.1], [-0.28, 0.1], [-0.4, 0.02]])
        end = strokes[-1][-1] + hook * height * rng.uniform(0.7, 1.2)
        return [*strokes[:-1], np.concatenate([strokes[-1], end[1:]])]
    raise ValueError(f"no other form is known for {digit!r}; there are 0, 1, 7 and 9.")


def draw(
    strokes: Drawing, rng: np.random.Generator, pipeline: Pipeline = MNIST_PIPELINE
) -> np.ndarray:
    """One drawing as the pad would show it and the pipeline would frame it.

    Any place, 100 to 240 px, brush 8 to 32 px, on a canvas of 280. Returns uint8
    (28, 28): what the pipeline has before it normalises.
    """
    brush = rng.uniform(8, 32)
    canvas = rasterize(random_place(strokes, rng, brush_px=brush), brush)
    return run(canvas, pipeline[:-1])


def pen_images(
    pens: PenDigits,
    seed: int,
    copies: int = 1,
    strength: float = 0.0,
    other_forms: float = 0.0,
    pipeline: Pipeline = MNIST_PIPELINE,
) -> Digits:
    """Every drawing, `copies` times, each time warped, placed and inked anew.

    `other_forms` is the share of 0, 1, 7 and 9 that get another form. The order is
    that of `pens`, again for each copy.
    """
    rng, images = np.random.default_rng(seed), []
    for _ in range(copies):
        for strokes, digit in zip(pens.strokes, pens.labels.tolist(), strict=True):
            if digit in (0, 1, 7, 9) and rng.random() < other_forms:
                strokes = add_form(strokes, digit, rng)
            if strength:
                strokes = warp(strokes, rng, strength)
            images.append(draw(strokes, rng, pipeline))
    return Digits(np.stack(images), np.tile(pens.labels, copies), pens.source)


def hand_images(n: int, seed: int, pipeline: Pipeline = MNIST_PIPELINE) -> Digits:
    """n digits of the scripted hand in all its forms, warped."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 10
    images = [
        draw(
            warp(handwrite(digit, seed=rng, jitter=rng.uniform(0.5, 1.6)), rng, 0.7),
            rng,
            pipeline,
        )
        for digit in labels.tolist()
    ]
    return Digits(np.stack(images), labels, "the scripted hand")


def join(*parts: Digits) -> Digits:
    """Several sets of digits as one."""
    return Digits(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        " + ".join(dict.fromkeys(part.source for part in parts)),
    )
