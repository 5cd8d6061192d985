"""What is no digit: how it is learnt from and refused."""

import numpy as np
import pytest
import torch

from mnistlab import checkpoint
from mnistlab.checkpoint import CheckpointError
from mnistlab.checks import Reference
from mnistlab.classifier import Classifier
from mnistlab.evaluation import predict_logits, softmax
from mnistlab.models import FastCNN, Linear
from mnistlab.preprocess import normalize
from mnistlab.strokes import place, rasterize
from mnistlab.synthetic import FORMS, NO_DIGIT, hand_images, handwrite, no_digit_images
from mnistlab.training import fit


def rng(seed=0):
    return np.random.default_rng(seed)


# --- learnt -------------------------------------------------------------------------


def test_a_network_that_learns_what_is_no_digit_becomes_unsure_of_it_alone():
    digits, marks = hand_images(600, seed=0), no_digit_images(300, 1, {"marks": 1})
    sure = {}
    for name, no_digit in (("not learnt", None), ("learnt", marks)):
        torch.manual_seed(0)
        model = FastCNN()
        fit(model, digits, no_digit=no_digit, epochs=8, progress=False)
        unseen = no_digit_images(100, 2, {"marks": 1}), hand_images(100, seed=3).images
        sure[name] = [
            softmax(predict_logits(model, images)).max(1).mean() for images in unseen
        ]
    assert sure["learnt"][0] < sure["not learnt"][0] - 0.2
    assert sure["learnt"][1] > sure["learnt"][0] + 0.3


# --- refused ------------------------------------------------------------------------


def reference(least_spread: float) -> Reference:
    inputs = normalize(hand_images(50, seed=0).images)
    return Reference.measured_on(inputs, np.zeros((50, 10)), "", least_spread)


def test_below_the_least_spread_there_is_a_reason_and_no_label_but_all_numbers():
    model = Linear()
    torch.nn.init.zeros_(model[-1].weight)
    with torch.no_grad():  # logits with a standard deviation of 0.6
        model[-1].bias.copy_(torch.tensor([0.0] * 7 + [2.0, 0, 0]))
    canvas = rasterize(handwrite(7))
    kept = Classifier(model, reference(0.59))(canvas)
    assert kept.label == 7 and not kept.reason
    refused = Classifier(model, reference(0.61))(canvas)
    assert refused.label is None and "no digit" in refused.reason
    assert "the spread is 0.6 at network; 0.61 or more is allowed" in refused.reason
    assert [alarm.name for alarm in refused.alarms] == ["no digit"]
    assert refused.ranking[0] == 7 and len(refused.stages) == len(kept.stages)


def test_a_checkpoint_keeps_its_least_spread_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "kept.pt"
    checkpoint.save(path, Linear(), reference=reference(0.375))
    assert Classifier.load(path).reference.bounds["spread"][0] == 0.375
    checkpoint.save(path, Linear(), reference=reference(float("nan")))
    with pytest.raises(CheckpointError, match="kept.pt.*nan.*expected finite"):
        Classifier.load(path)


def test_a_checkpoint_of_another_version_is_named_and_said_to_need_training(tmp_path):
    path, old = tmp_path / "old.pt", reference(0)
    del old.bounds["spread"]
    checkpoint.save(path, Linear(), reference=old)
    with pytest.raises(CheckpointError, match="old.pt.*Train the checkpoint anew"):
        Classifier.load(path)


# --- the shipped network ------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return Classifier.load()


@pytest.mark.parametrize(
    ("kind", "allowed"), [("scribbles", 0.1), ("other marks", 0.35), ("letters", 0.1)]
)
def test_the_shipped_network_calls_hardly_any_of_these_a_digit(shipped, kind, allowed):
    drawings = [NO_DIGIT[kind](rng(seed), None) for seed in range(40)]
    labels = [shipped(rasterize(place(drawing, 190))).label for drawing in drawings]
    assert np.mean([label is not None for label in labels]) <= allowed


def test_the_shipped_network_reads_every_form_and_refuses_hardly_any(shipped):
    read = {
        (digit, form): shipped(rasterize(handwrite(digit, form, 1, jitter=0.5))).label
        for digit in FORMS
        for form in FORMS[digit]
    }
    wrong = {key: label for key, label in read.items() if label != key[0]}
    assert len(wrong) <= 0.05 * len(read), wrong
