"""What tools/make_model.py promises: it is examined on hands that it has not seen."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mnistlab import checkpoint, data
from mnistlab.classifier import Classifier
from mnistlab.data import Data, join
from mnistlab.evaluation import evaluate
from mnistlab.pendigits import PenDigits
from mnistlab.synthetic import NO_DIGIT, hand_images, handwrite, pen_images

SCRIPT = Path(__file__).parents[1] / "tools" / "make_model.py"
FEW = {"epochs": 2, "hand_digits": 40, "no_digits": 20}
FEW |= {"then_epochs": 1, "then_hand_digits": 20, "then_no_digits": 20}
FEW |= {"then_pen_copies": 2}


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
    return script.estimate()


@pytest.fixture(scope="module")
def card(script, estimated):
    return script.make(script.BEST)


def test_no_writer_is_examined_by_a_network_that_learnt_from_them(
    script, estimated, pens
):
    drawn = pen_images(pens, 3, copies=2, strength=1.0, other_forms=0.2)
    folds = [
        {image.tobytes() for image in digits.images}
        for digits in script.learnt[: script.FOLDS]
    ]
    for writer in range(1, 31):
        images = drawn.images[np.tile(pens.writers, 2) == writer]
        shares = [np.mean([i.tobytes() in fold for i in images]) for fold in folds]
        assert sorted(shares) == [0.0] + [1.0] * (len(folds) - 1), writer


def test_the_estimate_is_by_writer_and_holds_what_is_refused(script, estimated):
    for way in ("pens_of_unseen_writers", "pens_where_none_were_seen"):
        figures = estimated[way]
        low, high = figures["interval"]
        assert low <= figures["accuracy"] <= high
        assert figures["accuracy"] == pytest.approx(
            np.mean(list(figures["by_writer"].values()))
        )
        assert figures["worst"] == min(figures["by_writer"].values())
        assert figures["n_writers"] == len(figures["by_writer"]) == 30
    assert 0 < estimated["threshold"] < 1 and estimated["temperature"] > 0
    assert set(NO_DIGIT) < set(estimated["refused"])
    assert json.loads(script.ESTIMATE.read_text())["refused"] == estimated["refused"]


def test_it_judges_on_kinds_that_it_does_not_learn_from(script):
    first, all_of_them = set(script.LEARNT), set(script.LEARNT_LATER)
    assert first < all_of_them < set(NO_DIGIT)
    assert not set(script.JUDGED) & first
    assert set(NO_DIGIT) - all_of_them == {"other marks", "mirrored digits"}


def test_the_shipped_network_learns_from_everybody(script, card, pens):
    parts = script.parts
    drawn = pen_images(pens, 3, copies=2, strength=1.0, other_forms=0.2)
    learnt = join(parts.train, hand_images(20, 4, wide=True), drawn)
    assert card["data"]["n"] == len(learnt)
    assert card["data"]["train_sha256"] == learnt.sha256
    assert card["data"]["writers"] == list(range(1, 31))


def test_the_file_holds_the_network_of_the_card_its_odds_and_its_threshold(
    script, card, estimated
):
    classifier = Classifier.load(script.BEST)  # its golden drawings, too
    assert classifier.threshold == card["threshold"] == estimated["threshold"]
    assert card["temperature"] == estimated["temperature"]
    report = evaluate(classifier.model, script.parts.test)
    said = card["accuracies"]["mnist_test"]
    assert said["n"] == 30  # the card has five decimals
    assert said["accuracy"] == pytest.approx(report.accuracy, abs=1e-5)
    ours = card["calibration_error"]["mnist_test"]
    assert ours == pytest.approx(report.calibration_error, abs=1e-5)
    assert checkpoint.load(script.BEST).card == json.loads(
        script.BEST.with_suffix(".json").read_text()
    )
