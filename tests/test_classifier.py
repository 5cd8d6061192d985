"""What the classifier promises: an answer that adds up, or a reason for none."""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mnistlab import checkpoint
from mnistlab.classifier import Classifier, GoldenError, Prediction
from mnistlab.evaluation import predict_logits
from mnistlab.faults import faulty, invert
from mnistlab.models import FastCNN
from mnistlab.preprocess import (
    INK,
    MNIST_PIPELINE,
    NAIVE_PIPELINE,
    normalize,
    to_input,
    trace,
)
from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite

SCRIBBLE = np.pad(np.tril(np.full((200, 200), 255, np.uint8)), 40)


@pytest.fixture(scope="module")
def canvas():
    return rasterize(handwrite(4, seed=4))


def names(alarms):
    return [alarm.name for alarm in alarms]


# --- an answer ----------------------------------------------------------------------


def test_it_reads_what_the_hand_writes_and_its_numbers_add_up(classifier):
    right = []
    for seed in range(100, 150):
        said = classifier(rasterize(handwrite(seed % 10, seed=seed)))
        right.append(said.label == seed % 10)
        assert said.label == said.ranking[0] == said.logits.argmax()
        assert type(said.label) is int and said.reason == ""
        assert said.logits.dtype == said.probabilities.dtype == np.float32
        expected = torch.softmax(torch.from_numpy(said.logits), 0).numpy()
        assert np.allclose(said.probabilities, expected, atol=1e-6)
        ranked = said.probabilities[list(said.ranking)]
        assert (np.diff(ranked) <= 0).all() and sorted(said.ranking) == list(range(10))
    assert np.mean(right) >= 0.9
    tied = np.float32([0, 1, 0, 1, 0, 2, 0, 0, 0, 0])
    ranking = Prediction(None, "", tied, (), (), 0.0).ranking
    assert ranking == (5, 1, 3, 0, 2, 4, 6, 7, 8, 9)


def test_one_drawing_is_judged_as_in_a_batch_and_brings_its_stages(classifier, canvas):
    said = classifier(canvas)
    canvases = [*(rasterize(handwrite(n, seed=n)) for n in range(10)), canvas]
    batch = np.stack([to_input(each) for each in canvases])
    image = to_input(canvas, MNIST_PIPELINE[:-1])[None]  # as the evaluation gets it
    for inputs in batch, image:
        logits = predict_logits(classifier.model, inputs)[-1]
        assert np.allclose(said.logits, logits, atol=1e-4)
    for ours, expected in zip(said.stages, trace(canvas), strict=True):
        assert ours.name == expected.name
        assert np.array_equal(ours.image, expected.image)


def test_the_network_is_left_in_the_mode_it_was_in(classifier, canvas):
    model = copy.deepcopy(classifier.model)
    model.train()
    model[2].eval()  # somebody froze a batch norm
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    said = replace(classifier, model=model)(canvas)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weights[key], t) for key, t in model.state_dict().items())
    assert np.array_equal(said.logits, classifier(canvas).logits)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_prediction_takes_one_thread_and_gives_the_others_back(
    classifier, canvas, threads
):
    seen, before = [], torch.get_num_threads()
    model = copy.deepcopy(classifier.model)
    model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    broken = copy.deepcopy(classifier.model)
    broken[-1] = torch.nn.Linear(7, 10)  # does not fit
    try:
        torch.set_num_threads(threads)
        replace(classifier, model=model)(canvas)
        assert (seen, torch.get_num_threads()) == ([1], threads)
        with pytest.raises(RuntimeError):
            replace(classifier, model=broken)(canvas)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_milliseconds_are_those_that_passed(classifier, canvas):
    def wait(image):
        time.sleep(0.03)
        return image

    said = classifier.with_pipeline((wait, *MNIST_PIPELINE))(canvas)
    assert 30 <= said.milliseconds < 30_000


# --- no answer, and why -------------------------------------------------------------


@pytest.mark.parametrize("pipeline", [MNIST_PIPELINE, NAIVE_PIPELINE])
def test_a_blank_canvas_gets_no_answer(classifier, pipeline):
    faint = np.full((280, 280), INK - 1, np.uint8)
    for judge in (classifier, replace(classifier, reference=None)):
        said = judge.with_pipeline(pipeline)(faint)
        assert said.label is None and said.reason.startswith("There is no ink")
        assert np.isnan(said.logits).all() and said.logits.shape == (10,)
        assert [stage.name for stage in said.stages] == ["original"]


@pytest.mark.parametrize(
    "pipeline",
    [
        (*MNIST_PIPELINE[:3], invert, normalize),
        (invert, *NAIVE_PIPELINE),
        faulty(MNIST_PIPELINE, "not divided by 255"),
    ],
    ids=lambda pipeline: " > ".join(step.__name__ for step in pipeline),
)
def test_a_serious_alarm_is_the_reason_for_no_answer(classifier, canvas, pipeline):
    said = classifier.with_pipeline(pipeline)(canvas)
    assert said.label is None
    assert said.alarms[0].serious and said.reason == str(said.alarms[0])
    # What the network would have said is still there to be looked at.
    assert said.probabilities.sum() == pytest.approx(1, abs=1e-5)
    trusting = replace(classifier, reference=None).with_pipeline(pipeline)(canvas)
    assert trusting.alarms == () and trusting.label == said.logits.argmax()


def test_an_unserious_alarm_is_told_beside_the_answer(classifier, canvas):
    said = classifier.with_pipeline(faulty(MNIST_PIPELINE, "shifted by 6 px"))(canvas)
    assert "placement" in names(said.alarms)
    said = classifier(SCRIBBLE)
    assert names(said.alarms) == ["ink"]
    assert said.label == said.logits.argmax() and said.reason == ""
    bounds = {**classifier.reference.bounds, "spread": [99.0, 1e9]}
    reference = replace(classifier.reference, bounds=bounds)
    said = replace(classifier, reference=reference)(SCRIBBLE)
    assert names(said.alarms) == ["no digit", "ink"], "the reason comes first"


def test_what_is_no_canvas_is_refused_in_words(classifier):
    for wrong in (np.zeros((28, 28)), np.zeros((7, 28), np.uint8), None):
        with pytest.raises(ValueError, match="the drawing is .*; expected uint8"):
            classifier(wrong)


def test_noise_is_no_digit_for_the_shipped_network():
    shipped, rng = Classifier.load(), np.random.default_rng(0)
    for power in np.linspace(1, 9, 90):  # from grey to a few bright pixels
        noise = (rng.random((28, 28)) ** power * 255).astype(np.uint8)
        assert shipped(noise).label is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_no_answer(classifier, canvas, value):
    """Not even the label 0, which argmax would give."""
    model = copy.deepcopy(classifier.model)
    model[-1].bias.data[3] = value
    for judge in (classifier, replace(classifier, reference=None)):
        said = replace(judge, model=model)(canvas)
        (alarm,) = said.alarms
        assert (said.label, said.reason) == (None, str(alarm))
        assert (alarm.name, alarm.serious, alarm.stage) == ("logits", True, "network")
        assert np.array_equal(alarm.value, value, equal_nan=True)
    said = replace(classifier, model=model)(SCRIBBLE)
    assert names(said.alarms) == ["logits", "ink"]


any_canvas = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=50)),
    arrays(np.uint8, (9, 9), elements=st.sampled_from([0, INK - 1, INK, 255])),
)


@settings(max_examples=60)
@given(any_canvas, st.sampled_from([MNIST_PIPELINE, NAIVE_PIPELINE]))
def test_any_canvas_gets_an_answer_or_a_reason(classifier, canvas, pipeline):
    try:
        said = classifier.with_pipeline(pipeline)(canvas)
    except ValueError:  # ink that vanishes when it is shrunk
        assert (canvas >= INK).any() and pipeline is MNIST_PIPELINE
        return
    assert (said.label is None) == any(alarm.serious for alarm in said.alarms)
    assert (said.label is None) == bool(said.reason)
    assert said.label in (None, said.ranking[0])
    if canvas.max() < INK:
        assert said.label is None and np.isnan(said.logits).all()
    else:
        assert said.probabilities.sum() == pytest.approx(1, abs=1e-5)


# --- golden drawings, and from a file -----------------------------------------------


def test_golden_drawings_are_fixed_and_of_all_digits(classifier):
    golden, other = classifier.golden(), replace(classifier, model=FastCNN()).golden()
    shipped = checkpoint.load(checkpoint.ARTIFACTS / "best_model.pt").golden
    assert golden["canvases"].dtype == torch.uint8
    assert golden["canvases"].shape == (10, 112, 112)
    for again in classifier.golden(), other, shipped:
        assert torch.equal(golden["canvases"], again["canvases"])
    assert classifier.test_golden(golden) is None


def test_golden_drawings_see_a_wrong_orientation_and_any_inversion(classifier):
    wrong = [faulty(MNIST_PIPELINE, name) for name in ("transposed", "mirrored")]
    wrong += [
        (*MNIST_PIPELINE[:at], invert, *MNIST_PIPELINE[at:])
        for at in range(len(MNIST_PIPELINE))
    ]
    for pipeline in wrong:
        steps = " > ".join(step.__name__ for step in pipeline)
        with pytest.raises(GoldenError, match=steps):
            classifier.with_pipeline(pipeline).test_golden(classifier.golden())


def test_golden_drawings_see_other_weights_and_no_numbers(classifier):
    golden, model = classifier.golden(), copy.deepcopy(classifier.model)
    changed = replace(classifier, model=model)
    model[-1].bias.data += 0.01  # as far as another processor may be off
    changed.test_golden(golden)
    for off in 0.19, float("nan"):  # what is surely another network
        model[-1].bias.data += off
        with pytest.raises(GoldenError):
            changed.test_golden(golden)


def test_a_saved_classifier_comes_back_whole(classifier, tmp_path, canvas):
    path = tmp_path / "model.pt"
    card = {"golden": classifier.golden(), "reference": classifier.reference}
    saved = checkpoint.save(path, classifier.model, **card)
    loaded = Classifier.load(path)
    assert loaded.reference == classifier.reference
    assert loaded.sha256 == saved.sha256 != "" and loaded.pipeline == MNIST_PIPELINE
    assert np.allclose(loaded(canvas).logits, classifier(canvas).logits, atol=1e-5)
    assert loaded(255 - canvas).label is None
    other = replace(classifier, model=FastCNN().eval()).golden()
    checkpoint.save(path, classifier.model, **card | {"golden": other})
    with pytest.raises(GoldenError, match="logits up to .* crop_to_ink > fit_20x20"):
        Classifier.load(path)
    assert issubclass(GoldenError, checkpoint.CheckpointError)
    checkpoint.save(path, classifier.model)  # a bare network: it trusts
    assert Classifier.load(path)(255 - canvas).label is not None
