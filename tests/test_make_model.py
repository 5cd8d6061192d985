"""What tools/make_model.py promises: it is examined on hands that it has not seen."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistlab import checkpoint, data
from mnistlab.classifier import Classifier
from mnistlab.data import Data, join
from mnistlab.evaluation import evaluate, predict_logits, softmax
from mnistlab.models import FastCNN
from mnistlab.pendigits import PenDigits
from mnistlab.preprocess import normalize
from mnistlab.synthetic import hand_images, handwrite, pen_images

SCRIPT = Path(__file__).parents[1] / "tools" / "make_model.py"
FEW = {"epochs": 2, "hand_digits": 40, "no_digits": 20, "then_pen_copies": 2}
FEW |= {"then_epochs": 1, "then_hand_digits": 40, "then_no_digits": 20}


@pytest.fixture(scope="module")
def pens():
    """Thirty writers; the n-th wrote n % 4 + 1 digits."""
    writers = np.repeat(np.arange(1, 31), np.arange(1, 31) % 4 + 1)
    labels = np.arange(len(writers)) % 10
    strokes = [handwrite(digit, seed=n) for n, digit in enumerate(labels.tolist())]
    return PenDigits(tuple(strokes), labels, writers, "pens of a test")


@pytest.fixture(scope="module")
def script(write_digits, pens, tmp_path_factory):
    """The script with a few digits, and what its second stages learnt from."""
    spec = importlib.util.spec_from_file_location("make_model", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.parts = Data(*(write_digits(n, seed=n) for n in (200, 20, 30)))
    script.learnt, with_pens = [], script.with_pens

    def spied(start, train, no_digit, seed):
        script.learnt.append(train)
        return with_pens(start, train, no_digit, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda source: script.parts)
        patch.setattr(script, "load_pens", lambda: pens)
        patch.setattr(script, "with_pens", spied)
        patch.setattr(script, "SETTINGS", {**script.SETTINGS, **FEW})
        patch.setattr(script, "N_OF_A_KIND", 5)
        folder = tmp_path_factory.mktemp("made")
        patch.setattr(script, "ESTIMATE", folder / "estimate.json")
        patch.setattr(script, "BEST", folder / "model.pt")
        yield script


@pytest.fixture(scope="module")
def estimated(script):
    with pytest.raises(FileNotFoundError, match=r"estimate\.json.*--estimate"):
        script.make(script.BEST)
    return script.write_estimate([0, 1])


@pytest.fixture(scope="module")
def drawn(pens):
    """What the pens draw for the second stages, two copies in turn."""
    how = {"strength": 1.0, "other_forms": 0.2}
    return join(*(pen_images(pens, [3, n], **how) for n in range(2)))


def test_no_writer_is_examined_by_a_network_that_learnt_from_them(
    script, estimated, pens, drawn
):
    folds = [
        {image.tobytes() for image in digits.images}
        for digits in script.learnt[: script.FOLDS]
    ]
    for writer in range(1, 31):
        images = drawn.images[np.tile(pens.writers, 2) == writer]
        shares = [np.mean([i.tobytes() in fold for i in images]) for fold in folds]
        assert sorted(shares) == [0.0] + [1.0] * (len(folds) - 1), writer


def test_the_first_stage_keeps_its_last_weights_whatever_mnist_says(script):
    parts, images = script.parts, normalize(script.parts.test.images)
    shifted = replace(parts.validation, labels=(parts.validation.labels + 1) % 10)
    logits = [
        predict_logits(script.without_pens(digits, seed=0), images)
        for digits in (parts, replace(parts, validation=shifted))
    ]
    assert np.array_equal(*logits)


def test_the_estimate_is_by_writer_and_of_kinds_that_were_not_learnt(script, estimated):
    for way in ("pens_of_unseen_writers", "pens_where_none_were_seen"):
        figures = estimated[way]
        shares, (low, high) = [*figures["by_writer"].values()], figures["interval"]
        assert low <= figures["accuracy"] <= high
        assert figures["accuracy"] == pytest.approx(np.mean(shares))
        assert figures["worst"] == min(shares)
        assert figures["n_writers"] == len(shares) == 30
    assert json.loads(script.ESTIMATE.read_text())["refused"] == estimated["refused"]
    (other,) = estimated["other_seeds"]
    for figures in other.values():
        assert figures["accuracy"] == pytest.approx(
            np.mean([*figures["by_writer"].values()])
        )
    first, later = set(script.LEARNT), set(script.LEARNT_LATER)
    assert first < later < set(script.KINDS) < set(estimated["refused"])
    assert not set(script.JUDGED) & first
    assert set(script.KINDS) - later == {"other marks", "mirrored digits"}


def test_the_shipped_network_learns_from_everybody_and_its_card_says_how_it_does(
    script, estimated, drawn
):
    card = script.make(script.BEST)
    parts, known = script.parts, card["data"]
    hand = [hand_images(10, [4, n], wide=True) for n in range(4)]
    learnt = join(parts.train, *hand, drawn)
    assert (known["n"], known["train_sha256"]) == (len(learnt), learnt.sha256)
    assert known["writers"] == list(range(1, 31))
    classifier = Classifier.load(script.BEST)  # its golden drawings, too
    least = classifier.reference.bounds["spread"][0]
    assert least == pytest.approx(estimated["least_spread"], abs=1e-5) and least > 0
    assert card["temperature"] == estimated["temperature"]
    report = evaluate(classifier.model, parts.test)
    said = {
        "accuracy": card["accuracies"]["mnist_test"]["accuracy"],
        "calibration_error": card["calibration_error"]["mnist_test"],
    }
    for figure, value in said.items():  # the card has five decimals
        assert value == pytest.approx(getattr(report, figure), abs=1e-5)
    assert checkpoint.load(script.BEST).card == card


# --- honest odds --------------------------------------------------------------------


@pytest.mark.parametrize("by", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_that_spoilt_the_odds(script, by):
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (20_000, 10))
    labels = (softmax(honest).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    found = script.temperature((honest * by).astype(np.float32), labels)
    assert found == pytest.approx(by, rel=0.05)


def test_a_folded_temperature_divides_the_logits_and_changes_no_answer(script):
    images = normalize(hand_images(20, seed=0).images)
    model = FastCNN().eval()
    before = predict_logits(model, images)
    script.divide_logits(model, 0.25)
    np.testing.assert_allclose(predict_logits(model, images), before * 4, rtol=1e-4)


@pytest.mark.parametrize("by", [0, -1, np.nan, np.inf])
def test_a_temperature_that_is_no_finite_number_above_0_is_refused(script, by):
    model = FastCNN()
    before = model[-1].weight.clone()
    with pytest.raises(ValueError, match="temperature is .* finite number above 0"):
        script.divide_logits(model, by)
    assert torch.equal(model[-1].weight, before)
