"""What the classifier promises: an answer that adds up, or a reason for none."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mnistlab import checkpoint
from mnistlab.classifier import GOLDEN_TOLERANCE, Classifier, GoldenError
from mnistlab.evaluation import predict_logits
from mnistlab.faults import FAULTS, faulty
from mnistlab.models import FastCNN
from mnistlab.preprocess import (
    INK,
    MNIST_PIPELINE,
    NAIVE_PIPELINE,
    normalize,
    run,
    trace,
)
from mnistlab.strokes import handwrite, rasterize


def write(digit, seed, px=280):
    """A canvas of px pixels, drawn as the pad would draw it."""
    drawing = handwrite(digit, seed=seed, size_px=190 * px / 280, canvas_px=px)
    return rasterize(drawing, 18 * px / 280, px)


@pytest.fixture(scope="module")
def canvas():
    return write(4, seed=4)


def invert(image):
    return 255 - image


# --- an answer ----------------------------------------------------------------------


def test_it_reads_what_the_hand_writes(classifier):
    written = [(digit, seed) for digit in range(10) for seed in range(100, 105)]
    right = [classifier(write(*pair)).label == pair[0] for pair in written]
    assert np.mean(right) >= 0.9


def test_an_answers_numbers_add_up(classifier):
    for digit in range(10):
        canvas = write(digit, seed=20 + digit)
        said = classifier(canvas)
        assert said.label == said.ranking[0] == said.logits.argmax()
        assert type(said.label) is int and said.reason == ""
        assert said.logits.dtype == said.probabilities.dtype == np.float32
        expected = torch.softmax(torch.from_numpy(said.logits), 0).numpy()
        assert np.allclose(said.probabilities, expected, atol=1e-6)
        assert said.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert sorted(said.ranking) == list(range(10))
        ranked = said.probabilities[list(said.ranking)]
        assert (np.diff(ranked) <= 0).all()
        assert said.milliseconds > 0


def test_one_drawing_is_judged_as_in_a_batch(classifier, canvas):
    said = classifier(canvas)
    batch = np.stack([run(write(n, seed=n)) for n in range(10)] + [run(canvas)])
    logits = predict_logits(classifier.model, batch)[-1]
    assert np.allclose(said.logits, logits, atol=1e-4)
    image = run(canvas, MNIST_PIPELINE[:-1])[None]  # as the evaluation gets it
    assert np.allclose(
        said.logits, predict_logits(classifier.model, image)[0], atol=1e-4
    )


def test_an_answer_brings_its_stages(classifier, canvas):
    said = classifier(canvas)
    for ours, expected in zip(said.stages, trace(canvas), strict=True):
        assert ours.name == expected.name
        assert np.array_equal(ours.image, expected.image)


def test_the_same_drawing_gets_the_same_answer(classifier, canvas):
    one, other = classifier(canvas), classifier(canvas.copy())
    assert np.array_equal(one.logits, other.logits)
    assert replace(one, milliseconds=0, stages=(), logits=None) == replace(
        other, milliseconds=0, stages=(), logits=None
    )


def test_moving_the_drawing_does_not_change_the_answer(classifier, canvas):
    moved = np.roll(canvas, (-20, 15), (0, 1))
    assert np.array_equal(classifier(moved).logits, classifier(canvas).logits)


@pytest.mark.parametrize("shape", [(64, 64), (112, 140), (280, 500), (900, 300)])
def test_a_canvas_may_have_any_size(classifier, shape):
    for digit in (1, 4, 7):
        px = min(shape)
        room = np.subtract(shape, px)
        said = classifier(np.pad(write(digit, 3, px), [(0, room[0]), (0, room[1])]))
        assert said.label == digit, (said, digit)


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


def test_a_drawing_is_only_read(classifier, canvas):
    before = canvas.copy()
    canvas.flags.writeable = False
    said = classifier(canvas)
    canvas.flags.writeable = True
    assert np.array_equal(canvas, before) and said.stages[0].image is canvas


# --- no answer, and why -------------------------------------------------------------


@pytest.mark.parametrize("brightest", [0, INK - 1])
@pytest.mark.parametrize("pipeline", [MNIST_PIPELINE, NAIVE_PIPELINE])
def test_a_blank_canvas_gets_no_answer(classifier, brightest, pipeline):
    faint = np.full((280, 280), brightest, np.uint8)
    for judge in (classifier, replace(classifier, reference=None)):
        said = judge.with_pipeline(pipeline)(faint)
        assert said.label is None and said.reason.startswith("blank")
        assert np.isnan(said.logits).all() and np.isnan(said.probabilities).all()
        assert said.logits.shape == (10,)
        assert [stage.name for stage in said.stages] == ["original"]


@pytest.mark.parametrize(
    "bug",
    [
        (invert, *MNIST_PIPELINE),
        (*MNIST_PIPELINE[:3], invert, normalize),
        (invert, *NAIVE_PIPELINE),
        faulty(MNIST_PIPELINE, "sign flipped"),
        faulty(MNIST_PIPELINE, "not divided by 255"),
        faulty(MNIST_PIPELINE, "grey paper"),
        faulty(MNIST_PIPELINE, "transparent read as black"),
    ],
    ids=lambda bug: " > ".join(step.__name__ for step in bug),
)
def test_a_serious_alarm_is_the_reason_for_no_answer(classifier, canvas, bug):
    said = classifier.with_pipeline(bug)(canvas)
    assert said.label is None
    assert said.alarms[0].serious and said.reason == str(said.alarms[0])
    # What the network would have said is still there to be looked at.
    assert said.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_a_black_on_white_canvas_gets_no_answer_but_a_reason(classifier, canvas):
    said = classifier(255 - canvas)
    assert said.label is None
    assert said.reason.startswith("polarity: border is 1 at original")


def test_an_unserious_alarm_is_told_beside_the_answer(classifier, canvas):
    said = classifier.with_pipeline(faulty(MNIST_PIPELINE, "shifted by 6 px"))(canvas)
    assert "frame" in [alarm.name for alarm in said.alarms]
    if not any(alarm.serious for alarm in said.alarms):
        assert said.label == said.logits.argmax() and said.reason == ""
    scribble = np.tril(np.full((200, 200), 255, np.uint8))
    said = classifier(np.pad(scribble, 40))
    assert {alarm.name for alarm in said.alarms} == {"ink"}
    assert said.label is not None


def test_good_drawings_ring_nothing(classifier):
    alarms = [classifier(write(digit, seed=7)).alarms for digit in range(10)]
    assert alarms == [()] * 10


def test_without_a_reference_nothing_but_blankness_is_checked(classifier, canvas):
    trusting = replace(classifier, reference=None)
    said = trusting(255 - canvas)
    assert said.alarms == () and said.label is not None
    assert np.array_equal(said.logits, classifier(255 - canvas).logits)


WRONG = {
    "empty": np.empty((0, 0), np.uint8),
    "one row": np.zeros((1, 280), np.uint8),
    "float": np.zeros((28, 28)),
    "nan": np.full((28, 28), np.nan),
    "infinity": np.full((28, 28), np.inf),
    "normalised": normalize(np.zeros((28, 28), np.uint8)),
    "a batch": np.zeros((1, 28, 28), np.uint8),
    "colour": np.zeros((28, 28, 3), np.uint8),
    "int64": np.zeros((28, 28), np.int64),
    "bool": np.zeros((28, 28), bool),
    "text": np.full((28, 28), "7"),
    "bytes": np.full((28, 28), b"7"),
    "dates": np.zeros((28, 28), "M8[s]"),
    "objects": np.full((28, 28), None),
    "a tensor": torch.zeros((28, 28), dtype=torch.uint8),
    "a list": [[0] * 28] * 28,
    "nothing": None,
}


@pytest.mark.parametrize("canvas", WRONG.values(), ids=WRONG)
def test_what_is_no_canvas_is_refused_in_words(classifier, canvas):
    with pytest.raises(ValueError, match=r"the drawing is .*; expected uint8 \(H, W\)"):
        classifier(canvas)


any_array = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=6, max_side=50)),
    arrays(np.uint8, (9, 9), elements=st.sampled_from([0, INK - 1, INK, 255])),
    arrays(
        st.sampled_from([np.uint8, np.int8, np.float64, np.complex64, "U1", "S1", "O"]),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    ),
)


@settings(max_examples=60)
@given(any_array, st.sampled_from([MNIST_PIPELINE, NAIVE_PIPELINE]))
def test_any_array_gets_an_answer_a_reason_or_a_value_error(
    classifier, canvas, pipeline
):
    try:
        said = classifier.with_pipeline(pipeline)(canvas)
    except ValueError:
        is_canvas = canvas.dtype == np.uint8 and canvas.ndim == 2
        assert not (is_canvas and min(canvas.shape) >= 8)
        return
    if canvas.max() < INK:
        assert said.label is None and np.isnan(said.logits).all()
        return
    assert np.isfinite(said.logits).all()
    assert said.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (said.label is None) == any(alarm.serious for alarm in said.alarms)
    assert (said.label is None) == bool(said.reason)
    assert said.label in (None, said.ranking[0])


# --- other pipelines, golden drawings -----------------------------------------------


def test_with_pipeline_is_the_same_network_behind_other_steps(classifier, canvas):
    bugged = classifier.with_pipeline((invert, *MNIST_PIPELINE))
    assert bugged.model is classifier.model
    assert bugged.reference is classifier.reference
    assert classifier.pipeline == MNIST_PIPELINE
    assert np.array_equal(bugged(255 - canvas).logits, classifier(canvas).logits)


def test_golden_drawings_are_fixed_and_of_all_digits(classifier):
    golden, again = classifier.golden(), classifier.golden()
    assert golden["canvases"].dtype == torch.uint8
    assert golden["canvases"].shape == (10, 112, 112)
    assert golden["logits"].shape == (10, 10)
    assert torch.equal(golden["canvases"], again["canvases"])
    assert torch.equal(golden["logits"], again["logits"])
    other = replace(classifier, model=FastCNN()).golden()
    assert torch.equal(golden["canvases"], other["canvases"])
    assert classifier.test_golden(golden) is None


@pytest.mark.parametrize("name", ["transposed", "mirrored", "upside down"])
def test_golden_drawings_see_a_wrong_orientation(classifier, name):
    bugged = classifier.with_pipeline(faulty(MNIST_PIPELINE, name))
    step = FAULTS[name][0].__name__
    with pytest.raises(GoldenError, match=f"center_of_mass > {step} > normalize"):
        bugged.test_golden(classifier.golden())


@pytest.mark.parametrize("at", range(4))
def test_golden_drawings_see_an_inversion_wherever_it_is(classifier, at):
    bug = (*MNIST_PIPELINE[:at], invert, *MNIST_PIPELINE[at:])
    with pytest.raises(GoldenError):
        classifier.with_pipeline(bug).test_golden(classifier.golden())


def test_golden_drawings_see_other_weights_and_no_numbers(classifier):
    golden = classifier.golden()
    model = copy.deepcopy(classifier.model)
    changed = replace(classifier, model=model)
    for off, refused in ((0.5, False), (1.5, True), (float("nan"), True)):
        model[-1].bias.data = classifier.model[-1].bias.data + off * GOLDEN_TOLERANCE
        if refused:
            with pytest.raises(GoldenError, match="up to"):
                changed.test_golden(golden)
        else:
            changed.test_golden(golden)


# --- from a file --------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def save(path, classifier, **card):
    card = {"golden": classifier.golden(), "reference": classifier.reference, **card}
    return checkpoint.save(path, classifier.model, **card)


def test_a_saved_classifier_comes_back_whole(classifier, path, canvas):
    saved = save(path, classifier)
    loaded = Classifier.load(path)
    assert loaded.reference == classifier.reference
    assert loaded.sha256 == saved.sha256 != ""
    assert loaded.pipeline == MNIST_PIPELINE
    assert np.allclose(loaded(canvas).logits, classifier(canvas).logits, atol=1e-5)
    assert loaded(255 - canvas).label is None
    json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)


def test_a_bare_network_is_a_classifier_that_trusts(classifier, path, canvas):
    checkpoint.save(path, classifier.model)
    loaded = Classifier.load(path)
    assert loaded.reference is None
    assert loaded(255 - canvas).label is not None


def test_a_missing_file_is_named_with_what_makes_it(path):
    with pytest.raises(FileNotFoundError, match="no model.pt in .* Notebook 01"):
        Classifier.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no weights", b"<html>"])
def test_a_file_that_is_no_checkpoint_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="model.pt.* cannot be read"):
        Classifier.load(path)


def test_weights_that_do_not_give_the_golden_logits_are_refused(classifier, path):
    torch.manual_seed(1)
    save(path, classifier, golden=replace(classifier, model=FastCNN().eval()).golden())
    with pytest.raises(GoldenError, match="recorded drawings give logits up to"):
        Classifier.load(path)
    assert issubclass(GoldenError, checkpoint.CheckpointError)


def test_a_pipeline_that_has_changed_since_training_is_refused(classifier, path):
    """As if somebody had edited the package: a step of the shipped pipeline is off."""
    bug = faulty(MNIST_PIPELINE, "transposed")
    save(path, classifier, golden=classifier.with_pipeline(bug).golden())
    with pytest.raises(GoldenError, match="crop_to_ink > fit_20x20"):
        Classifier.load(path)


def test_a_reference_of_another_version_is_refused(classifier, path):
    card = asdict(classifier.reference)
    save(path, classifier, reference={**card, "bounds": {"border": [0, 0.5]}})
    with pytest.raises(ValueError, match="Train the checkpoint anew"):
        Classifier.load(path)
