"""What is no digit: how it is drawn, learnt from, and refused; and honest odds."""

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
from mnistlab.synthetic import (
    FORMS,
    NO_DIGIT,
    OTHERS,
    draw,
    forms,
    hand_images,
    handwrite,
    loosen,
    no_digit_images,
    part,
)
from mnistlab.training import divide_logits, fit, temperature

SEEDS = range(20)
KINDS = dict.fromkeys(NO_DIGIT, 1.0)


def rng(seed=0):
    return np.random.default_rng(seed)


# --- drawn --------------------------------------------------------------------------


def test_a_part_of_a_stroke_has_its_share_of_the_length_and_lies_on_it():
    stroke = np.array([[0.0, 0], [30, 0], [30, 40], [130, 40]])
    middle = part(stroke, 0.1, 0.5)
    np.testing.assert_allclose(middle, [[17, 0], [30, 0], [30, 40], [45, 40]])
    np.testing.assert_allclose(part(stroke, 0, 1), stroke)


def test_loosening_by_nothing_changes_nothing_but_the_points_on_the_path():
    for seed in SEEDS:
        before = rasterize(handwrite(4, "closed"), 8)
        after = rasterize(loosen(handwrite(4, "closed"), rng(seed), 0), 8)
        assert np.abs(before.astype(int) - after).max() < 40


def test_a_looser_pen_is_seeded_strays_more_and_draws_the_same_strokes():
    strokes = handwrite(4, "closed")
    strayed = []
    for by in (0.3, 1.0, 2.0):
        drawings = [loosen(strokes, rng(seed), by) for seed in SEEDS]
        assert all(len(drawing) == len(strokes) for drawing in drawings)
        assert all(np.isfinite(np.concatenate(drawing)).all() for drawing in drawings)
        boxes = [np.ptp(np.concatenate(drawing), axis=0) for drawing in drawings]
        strayed.append(np.std(boxes, axis=0).mean())
    assert strayed == sorted(strayed)
    again = loosen(strokes, rng(3), 2.0)
    np.testing.assert_array_equal(again[0], drawings[3][0])


def test_a_dot_can_be_loosened():
    assert np.isfinite(loosen([np.array([[3.0, 4.0]])], rng())[0]).all()


@pytest.mark.parametrize("digit", range(10))
def test_every_form_of_a_digit_can_be_written_and_is_another_one(digit):
    drawn = {}
    for form in forms(digit):
        image = draw(place(handwrite(digit, form, jitter=0), 190), rng())
        assert image.max() > 200
        drawn[image.tobytes()] = form
    assert len(drawn) == len(forms(digit)) >= 15


def test_no_letter_that_looks_like_a_digit_is_called_none():
    written = {*OTHERS["letters"], *OTHERS["other letters"]}
    assert not written & set("oOlIzZsSbgq")
    assert not set(OTHERS["letters"]) & set(OTHERS["other letters"])
    assert not set(OTHERS["marks"]) & set(OTHERS["other marks"])
    assert not written & {str(digit) for digit in FORMS}


@pytest.mark.parametrize("kind", NO_DIGIT)
def test_every_kind_of_no_digit_is_drawn_in_mnists_frame_and_seeded(kind):
    images = no_digit_images(12, 0, {kind: 1})
    assert images.shape == (12, 28, 28) and images.dtype == np.uint8
    assert (images.reshape(12, -1).max(1) > 100).all()
    assert len(np.unique(images, axis=0)) == 12
    np.testing.assert_array_equal(images, no_digit_images(12, 0, {kind: 1}))
    assert (images != no_digit_images(12, 1, {kind: 1})).any()


def test_a_glyph_has_several_strokes_and_is_too_broad_for_a_1():
    for seed in range(60):
        strokes = NO_DIGIT["glyphs"](rng(seed), None)
        low, high = sorted(np.ptp(np.concatenate(strokes), axis=0))
        assert 2 <= len(strokes) <= 4 and low >= 0.55 * high


def test_wide_pens_are_thinner_and_thicker_than_ordinary_ones():
    ordinary, wide = (
        [draw(handwrite(1, "plain"), rng(s), wide=w).mean() for s in range(100)]
        for w in (False, True)
    )
    assert min(wide) < 0.8 * min(ordinary)
    assert max(wide) > 1.05 * max(ordinary)


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


# --- honest odds --------------------------------------------------------------------


@pytest.mark.parametrize("by", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_that_spoilt_the_odds(by):
    honest = rng().normal(0, 2, (20_000, 10))
    chances = softmax(honest)
    labels = (chances.cumsum(1) > rng(1).random((20_000, 1))).argmax(1)
    found = temperature((honest * by).astype(np.float32), labels)
    assert found == pytest.approx(by, rel=0.05)


def test_a_folded_temperature_divides_the_logits_and_changes_no_answer():
    images = normalize(hand_images(20, seed=0).images)
    model = FastCNN().eval()
    before = predict_logits(model, images)
    divide_logits(model, 0.25)
    np.testing.assert_allclose(predict_logits(model, images), before * 4, rtol=1e-4)


@pytest.mark.parametrize("by", [0, -1, float("nan"), float("inf")])
def test_a_temperature_that_is_no_finite_number_above_0_is_refused(by):
    model = FastCNN()
    before = model[-1].weight.clone()
    with pytest.raises(ValueError, match="temperature is .* finite number above 0"):
        divide_logits(model, by)
    assert torch.equal(model[-1].weight, before)


# --- refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "threshold", [float("nan"), float("inf"), -0.1, 1, "0.5", None]
)
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold.*expected a probability"):
        Classifier(Linear(), threshold=threshold)


def test_below_the_threshold_there_is_a_reason_and_no_label_but_all_numbers():
    model = Linear()
    torch.nn.init.zeros_(model[-1].weight)
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.0] * 7 + [2.0, 0, 0]))
    canvas = rasterize(handwrite(7))
    probability = np.exp(2) / (np.exp(2) + 9)
    kept = Classifier(model, threshold=probability - 0.01)(canvas)
    assert kept.label == 7 and not kept.reason
    refused = Classifier(model, threshold=probability + 0.01)(canvas)
    assert refused.label is None and "no digit" in refused.reason
    assert f"{probability:.3g}" in refused.reason
    assert [alarm.name for alarm in refused.alarms] == ["no digit"]
    assert refused.ranking[0] == 7 and len(refused.stages) == len(kept.stages)


def test_a_checkpoint_keeps_its_threshold_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "kept.pt"
    checkpoint.save(path, Linear(), threshold=0.375)
    assert Classifier.load(path).threshold == 0.375
    checkpoint.save(path, Linear())
    assert Classifier.load(path).threshold == 0  # it refuses nothing
    checkpoint.save(path, Linear(), threshold=float("nan"))
    with pytest.raises(CheckpointError, match="kept.pt.*threshold.*nan"):
        Classifier.load(path)


def test_a_checkpoint_of_another_version_is_named_and_said_to_need_training(tmp_path):
    path, images = tmp_path / "old.pt", hand_images(50, seed=0).images
    inputs = normalize(images)
    reference = Reference.measured_on(
        inputs, predict_logits(Linear(), inputs), "a test"
    )
    del reference.bounds["side_px"]
    checkpoint.save(path, Linear(), reference=reference)
    with pytest.raises(CheckpointError, match="old.pt.*Train the checkpoint anew"):
        Classifier.load(path)


# --- the shipped network ------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return Classifier.load()


def test_the_shipped_network_calls_a_scribble_a_star_and_a_letter_no_digit(shipped):
    for kind, allowed in (("scribbles", 0.1), ("other marks", 0.5), ("letters", 0.15)):
        canvases = []
        for seed in range(40):
            drawing = NO_DIGIT[kind](rng(seed), None)
            canvases.append(rasterize(place(drawing, 190)))
        named = [shipped(canvas).label is not None for canvas in canvases]
        assert np.mean(named) <= allowed, kind


def test_the_shipped_network_reads_every_form_and_refuses_hardly_any(shipped):
    wrong = []
    for digit in range(10):
        for form in forms(digit):
            prediction = shipped(rasterize(handwrite(digit, form, seed=1, jitter=0.5)))
            if prediction.label != digit:
                wrong.append((digit, form, prediction.label))
    assert len(wrong) <= 0.05 * sum(map(len, FORMS.values())), wrong
