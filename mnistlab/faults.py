"""The zoo: classic silent preprocessing bugs, as steps, by name.

A fault is what stands in a pipeline where `normalize` should stand alone. Every
step takes and gives (..., 28, 28), so one image or a whole test set goes through
it. None of them raises or prints anything; that is what makes them a zoo.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn

from mnistlab.checkpoint import CheckpointError
from mnistlab.data import Digits
from mnistlab.evaluation import Report, predict_logits
from mnistlab.preprocess import MEAN, STD, Pipeline, crop_to_ink, normalize


def invert(images):
    return 255 - images


def halve_contrast(images):
    return images // 2


def negate(inputs):
    return -inputs


def skip_division(images):
    return (images - np.float32(MEAN)) / np.float32(STD)


def divide_twice(images):
    return (images / np.float32(255**2) - np.float32(MEAN)) / np.float32(STD)


def normalize_floats(inputs):
    return (inputs - np.float32(MEAN)) / np.float32(STD)


def only_divide(images):
    return images / np.float32(255)


def normalize_half(images):
    return (images / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def transpose(images):
    return images.swapaxes(-1, -2)


def mirror(images):
    return images[..., ::-1]


def turn_180(images):
    return images[..., ::-1, ::-1]


def shift(images):
    return np.roll(images, (6, 6), (-2, -1))


def grey_paper(images):
    return (76 + images * 0.7).astype(np.uint8)


def add_noise(images):
    noise = np.random.default_rng(0).normal(0, 0.3 * 255, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


def lose_transparency(images):
    """Black ink on a transparent canvas, converted to grey: nothing is left."""
    return np.zeros_like(images)


def _picture_step(change: Callable[[Image.Image], Image.Image]):
    """A step out of a change of one Pillow picture."""

    def step(images):
        pictures = [Image.fromarray(image) for image in images.reshape(-1, 28, 28)]
        changed = [np.asarray(change(picture)) for picture in pictures]
        return np.stack(changed).reshape(images.shape)

    step.__name__ = change.__name__
    return step


@_picture_step
def halve_size(picture):
    small = Image.new("L", (28, 28))
    small.paste(picture.resize((14, 14), Image.Resampling.BILINEAR), (7, 7))
    return small


@_picture_step
def stretch_box(picture):
    box = Image.fromarray(crop_to_ink(np.asarray(picture)))
    return box.resize((28, 28), Image.Resampling.BILINEAR)


@_picture_step
def thicken(picture):
    return picture.filter(ImageFilter.MaxFilter(5))


@_picture_step
def thin(picture):
    return picture.filter(ImageFilter.MinFilter(3))


@_picture_step
def blur(picture):
    return picture.filter(ImageFilter.GaussianBlur(2))


FAULTS: dict[str, Pipeline] = {
    "none": (normalize,),
    "inverted": (invert, normalize),
    "inverted, half contrast": (invert, halve_contrast, normalize),
    "sign flipped": (normalize, negate),
    "not divided by 255": (skip_division,),
    "divided by 255 twice": (divide_twice,),
    "normalised twice": (normalize, normalize_floats),
    "not normalised": (only_divide,),
    "normalised with 0.5, 0.5": (normalize_half,),
    "transposed": (transpose, normalize),
    "mirrored": (mirror, normalize),
    "upside down": (turn_180, normalize),
    "shifted by 6 px": (shift, normalize),
    "half size": (halve_size, normalize),
    "stretched to the box": (stretch_box, normalize),
    "thick pen": (thicken, normalize),
    "thin pen": (thin, normalize),
    "blurred": (blur, normalize),
    "grey paper": (grey_paper, normalize),
    "noise": (add_noise, normalize),
    "transparent read as black": (lose_transparency, normalize),
}


def faulty(pipeline: Pipeline, name: str) -> Pipeline:
    """`pipeline` with the fault called `name` where its last step, normalize, was."""
    if name not in FAULTS:
        raise ValueError(f"no fault {name!r}; there are: {', '.join(FAULTS)}.")
    return (*pipeline[:-1], *FAULTS[name])


def apply(name: str, images: np.ndarray) -> np.ndarray:
    """What a network gets of uint8 images (N, 28, 28): float32 (N, 28, 28)."""
    for step in faulty((normalize,), name):
        images = step(images)
    return np.ascontiguousarray(images)


TRAIN_MODE = "evaluated in train mode"


class InTrainMode(nn.Module):
    """The fault that is no step: a network that stays in training mode.

    Dropout then drops, and batch norm uses the batch that it is tested on. A copy
    does it, since it also changes the running averages.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return copy.deepcopy(self.model).train()(inputs)


def zoo_matrix(classifier, digits: Digits) -> list[dict[str, object]]:
    """Every fault against everything that might notice: one row each.

    classifier: a classifier.Classifier with a reference, whose pipeline is the right
    one. A row has `fault`; `accuracy` and `confidence`, as fractions, of the network
    on `digits` with the fault; for each alarm the share of digits for which it rings;
    `any alarm`; and `golden`: whether the golden drawings notice. The last row is
    the fault that is no step.
    """
    golden, rows = classifier.golden(), []
    for name in [*FAULTS, TRAIN_MODE]:
        if name == TRAIN_MODE:
            suspect = replace(classifier, model=InTrainMode(classifier.model))
            inputs = apply("none", digits.images)
        else:
            suspect = classifier.with_pipeline(faulty(classifier.pipeline, name))
            inputs = apply(name, digits.images)
        logits = predict_logits(suspect.model, inputs)
        report = Report(logits, digits.labels, digits.source)
        rings = classifier.reference.outside(inputs)
        row = {
            "fault": name,
            "accuracy": report.accuracy,
            "confidence": report.confidence,
            **{alarm: float(rang.mean()) for alarm, rang in rings.items()},
            "any alarm": float(np.any(list(rings.values()), axis=0).mean()),
        }
        try:
            suspect.test_golden(golden)
            rows.append({**row, "golden": False})
        except CheckpointError:
            rows.append({**row, "golden": True})
    return rows
