"""What tools/make_model.py promises: nobody who is examined was learnt from."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mnistlab import checkpoint, data
from mnistlab.data import Data, join
from mnistlab.evaluation import evaluate
from mnistlab.pendigits import (
    TEST_WRITERS,
    TRAIN_WRITERS,
    VALIDATION_WRITERS,
    PenDigits,
)
from mnistlab.synthetic import hand_images, handwrite, pen_images

SCRIPT = Path(__file__).parents[1] / "tools" / "make_model.py"


@pytest.fixture(scope="module")
def pens():
    """Thirty writers; the n-th wrote n % 4 + 1 digits."""
    writers = np.repeat(np.arange(1, 31), np.arange(1, 31) % 4 + 1)
    labels = np.arange(len(writers)) % 10
    strokes = [handwrite(digit, seed=n) for n, digit in enumerate(labels.tolist())]
    return PenDigits(tuple(strokes), labels, writers, "pens of a test")


@pytest.fixture(scope="module")
def made(write_digits, pens, tmp_path_factory):
    """The script on a few digits: its card, its file, the digits."""
    spec = importlib.util.spec_from_file_location("make_model", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    parts = Data(*(write_digits(n, seed=n) for n in (200, 20, 30)))
    path = tmp_path_factory.mktemp("made") / "model.pt"
    few = {"epochs": 2, "pen_copies": 2, "hand_digits": 40}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda source: parts)
        patch.setattr(script, "load_pens", lambda: pens)
        patch.setattr(script, "SETTINGS", {**script.SETTINGS, **few})
        return script.make(path), path, parts


def test_it_learns_from_mnist_the_pens_of_the_training_writers_and_the_hand(made, pens):
    card, _, parts = made
    ours = {"copies": 2, "strength": 1.0, "other_forms": 0.2}
    drawn = pen_images(pens.of_writers(TRAIN_WRITERS), 1, **ours)
    learnt = join(parts.train, drawn, hand_images(40, 2))
    assert card["data"]["n"] == len(learnt)
    assert card["data"]["train_sha256"] == learnt.sha256
    assert card["data"]["source"] == learnt.source


def test_it_is_examined_on_what_it_has_not_seen(made, pens):
    card, path, parts = made
    model = checkpoint.load(path).model
    test_pens = pens.of_writers(TEST_WRITERS)
    held_out = pens.of_writers(VALIDATION_WRITERS)
    drawn = pen_images(test_pens, 4, copies=4)
    expected = {
        "mnist_validation": parts.validation,
        "mnist_test": parts.test,
        "pens_validation_writers": pen_images(held_out, 3, copies=3),
        "pens_test_writers": drawn,
        "pens_test_writers_other_forms": pen_images(test_pens, 5, other_forms=1.0),
    }
    for name, digits in expected.items():
        report = evaluate(model, digits)
        said = card["accuracies"][name]
        assert said["n"] == len(digits)
        assert said["accuracy"] == pytest.approx(report.accuracy, abs=1e-4), name
    writers = np.tile(test_pens.writers, 4)
    for writer in TEST_WRITERS:
        report = evaluate(model, drawn.take(writers == writer))
        said = card["by_writer"][str(writer)]["accuracy"]
        assert said == pytest.approx(report.accuracy, abs=1e-4), writer
