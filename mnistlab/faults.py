"""Classic silent preprocessing faults, as steps, by name: none raises or prints.

A step takes and gives (..., 28, 28): one image or a whole test set.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import nn

from mnistlab import preprocess
from mnistlab.checkpoint import CheckpointError
from mnistlab.checks import spread
from mnistlab.data import Digits
from mnistlab.evaluation import Report, predict_logits
from mnistlab.preprocess import BILINEAR, MEAN, STD, Pipeline, Step, normalize


def _step(name: str, change: Step) -> Step:
    """`change` under the name that it has as a stage."""
    change.__name__ = name
    return change


def _picture_step(name: str, change) -> Step:
    """A step that changes one PIL image after the other."""

    def step(images):
        pictures = map(Image.fromarray, images.reshape(-1, 28, 28))
        return np.stack([*map(change, pictures)]).reshape(images.shape)

    return _step(name, step)


def _scaled(name: str, share: float, mean: float, std: float) -> Step:
    """In place of normalize, or after it: float32 (x / share - mean) / std."""
    share, mean, std = map(np.float32, (share, mean, std))
    return _step(name, lambda images: (images / share - mean) / std)


def add_noise(images):
    noise = np.random.default_rng(0).normal(0, 0.3 * 255, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


# Of uint8 images.
invert = _step("invert", lambda x: 255 - x)
halve_contrast = _step("halve_contrast", lambda x: x // 2)
transpose = _step("transpose", lambda x: x.swapaxes(-1, -2))
mirror = _step("mirror", lambda x: x[..., ::-1])
turn_180 = _step("turn_180", lambda x: x[..., ::-1, ::-1])
shift = _step("shift", lambda x: np.roll(x, (6, 6), (-2, -1)))
halve_size = _picture_step(
    "halve_size", lambda p: ImageOps.expand(p.resize((14, 14), BILINEAR), 7)
)
stretch_box = _picture_step(
    "stretch_box",
    lambda p: preprocess.resize_28x28(preprocess.crop_to_ink(np.asarray(p))),
)
thicken = _picture_step("thicken", lambda p: p.filter(ImageFilter.MaxFilter(5)))
thin = _picture_step("thin", lambda p: p.filter(ImageFilter.MinFilter(3)))
blur = _picture_step("blur", lambda p: p.filter(ImageFilter.GaussianBlur(2)))
grey_paper = _step("grey_paper", lambda x: (76 + x * 0.7).astype(np.uint8))
lose_transparency = _step("lose_transparency", lambda x: 0 * x)

FAULTS: dict[str, Pipeline] = {  # what stands where normalize should stand alone
    "none": (normalize,),
    "inverted": (invert, normalize),
    "inverted, half contrast": (invert, halve_contrast, normalize),
    "sign flipped": (normalize, _step("negate", lambda inputs: -inputs)),
    "not divided by 255": (_scaled("skip_division", 1, MEAN, STD),),
    "divided by 255 twice": (_scaled("divide_twice", 255**2, MEAN, STD),),
    "normalised twice": (normalize, _scaled("normalize_floats", 1, MEAN, STD)),
    "not normalised": (_scaled("only_divide", 255, 0, 1),),
    "normalised with 0.5, 0.5": (_scaled("normalize_half", 255, 0.5, 0.5),),
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
CANVAS_FAULTS: dict[str, Step] = {  # what stands before a whole, correct pipeline
    "canvas transposed": transpose,
    "canvas mirrored": mirror,
    "canvas upside down": turn_180,
    "canvas shifted by 6 px": shift,
}


def faulty(pipeline: Pipeline, name: str) -> Pipeline:
    """`pipeline` with a fault: in place of normalize, its last step, or before all."""
    if name in CANVAS_FAULTS:
        return (CANVAS_FAULTS[name], *pipeline)
    if name not in FAULTS:
        raise ValueError(f"no fault {name!r}; there are {[*FAULTS, *CANVAS_FAULTS]}.")
    return (*pipeline[:-1], *FAULTS[name])


def apply(name: str, images: np.ndarray) -> np.ndarray:
    """What a network gets of uint8 images (..., 28, 28): float32, same shape.

    For CANVAS_FAULTS each image, with a margin of 14, is a canvas for MNIST_PIPELINE,
    which may change its size by a pixel even without a fault.
    """
    if name in CANVAS_FAULTS:
        pipeline = faulty(preprocess.MNIST_PIPELINE, name)
        canvases = (np.pad(image, 14) for image in images.reshape(-1, 28, 28))
        inputs = [preprocess.to_input(canvas, pipeline) for canvas in canvases]
        return np.stack(inputs).reshape(images.shape)
    for step in faulty((normalize,), name):
        images = step(images)
    return np.ascontiguousarray(images)


TRAIN_MODE = "evaluated in train mode"


class InTrainMode(nn.Module):
    """The fault that is no step: dropout and batch norm as in training, always."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        copied = copy.deepcopy(self.model)  # for it changes the running averages, too
        return copied.train()(inputs)


def fault_matrix(classifier, digits: Digits) -> list[dict[str, object]]:
    """Every fault against everything that might notice: one row each.

    classifier: a classifier.Classifier with a reference and the correct pipeline.
    A row has `fault`; `accuracy` and `confidence` on `digits`, as fractions; for each
    alarm, and for `any alarm`, the share of digits for which it rings; and `golden`:
    whether the golden drawings notice. The last row is TRAIN_MODE.
    """
    golden, rows = classifier.golden(), []
    for name in [*FAULTS, *CANVAS_FAULTS, TRAIN_MODE]:
        if name == TRAIN_MODE:
            inputs = normalize(digits.images)
            suspect = replace(classifier, model=InTrainMode(classifier.model))
        else:
            inputs = apply(name, digits.images)
            suspect = classifier.with_pipeline(faulty(classifier.pipeline, name))
        logits = predict_logits(suspect.model, inputs)
        report = Report(logits, digits.labels, digits.source)
        rings = classifier.reference.outside(inputs)
        least = classifier.reference.bounds["spread"][0]
        rings["no digit"] = spread(logits) < least
        rings["any alarm"] = np.any(list(rings.values()), axis=0)
        row = {"fault": name, "accuracy": report.accuracy}
        row |= {"confidence": report.confidence}
        row |= {alarm: float(rang.mean()) for alarm, rang in rings.items()}
        try:
            suspect.test_golden(golden)
            row["golden"] = False
        except CheckpointError:
            row["golden"] = True
        rows.append(row)
    return rows
