"""What faults promises: silent faults, each as it is called, and who sees them."""

import copy

import numpy as np
import pytest
import torch

from mnistlab import faults
from mnistlab.checks import STATISTICS
from mnistlab.evaluation import predict_logits
from mnistlab.faults import CANVAS_FAULTS, FAULTS, TRAIN_MODE, apply, faulty
from mnistlab.preprocess import MEAN, MNIST_PIPELINE, STD, normalize, to_input
from mnistlab.strokes import rasterize
from mnistlab.synthetic import hand_images, handwrite


@pytest.fixture(scope="module")
def unseen():
    return hand_images(200, seed=2)


def undone(name, images):
    """What a network gets, with the normalisation undone, in 0..255."""
    return (apply(name, images) * STD + MEAN) * 255


# --- each fault ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAULTS, *CANVAS_FAULTS])
def test_a_drawing_meets_in_silence_what_a_test_set_meets(unseen, capfd, name):
    images = unseen.images[:6].reshape(2, 3, 28, 28)
    before, inputs = images.copy(), apply(name, images)
    assert inputs.dtype == np.float32 and inputs.shape == images.shape
    assert np.isfinite(inputs).all() and np.array_equal(images, before)
    if name != "noise":  # which differs from one image to the next
        assert np.array_equal(inputs[1, 0], apply(name, images[1, 0]))
    if name in FAULTS:
        canvas = rasterize(handwrite(4, seed=4))
        image = to_input(canvas, MNIST_PIPELINE[:-1])
        through = to_input(canvas, faulty(MNIST_PIPELINE, name))
        assert np.array_equal(through, apply(name, image))
    assert capfd.readouterr() == ("", "")


def test_a_fault_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'inverse'.*'inverted'.*'canvas mirrored'"):
        faulty(MNIST_PIPELINE, "inverse")


def test_a_fault_of_the_canvas_is_framed_anew():
    """Turned and then centred, the digit lies where MNIST has it; moved, it is back."""
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 8:11] = image[21:24, 8:20] = 255  # an L, centred
    turned = image.T, np.fliplr(image), np.rot90(image, 2), image
    for name, expected in zip(CANVAS_FAULTS, turned, strict=True):
        inputs = apply(name, image)
        assert np.array_equal(inputs, to_input(np.pad(expected, 9))), name
        through = to_input(np.pad(image, 40), faulty(MNIST_PIPELINE, name))
        assert np.array_equal(through, inputs), name


ORACLES = {
    "none": lambda x: x,
    "inverted": lambda x: 255 - x,
    "inverted, half contrast": lambda x: (255 - x) // 2,
    "sign flipped": lambda x: 2 * 255 * MEAN - x,
    "not divided by 255": lambda x: x * 255,
    "divided by 255 twice": lambda x: x / 255,
    "normalised twice": lambda x: 255 * (x / 255 - MEAN) / STD,
    "not normalised": lambda x: x * STD + 255 * MEAN,
    "normalised with 0.5, 0.5": lambda x: 255 * ((x / 255 - 0.5) * 2 * STD + MEAN),
    "transposed": lambda x: np.transpose(x, (0, 2, 1)),
    "mirrored": lambda x: np.flip(x, 2),
    "upside down": lambda x: np.rot90(x, 2, (1, 2)),
    "shifted by 6 px": lambda x: np.pad(x[:, :22, :22], ((0, 0), (6, 0), (6, 0))),
    "grey paper": lambda x: np.floor(76 + x * 0.7),
    "transparent read as black": lambda x: 0 * x,
}


def test_a_fault_is_what_it_is_called():
    images = np.zeros((20, 28, 28), np.uint8)
    images[:, :20, 2:22] = np.random.default_rng(0).integers(0, 256, (20, 20, 20))
    for name, oracle in ORACLES.items():
        found, expected = undone(name, images), oracle(images.astype(float))
        assert np.allclose(found, expected, rtol=1e-4, atol=0.02), name


SIDES = {"thick pen": (18, 11), "thin pen": (12, 5), "stretched to the box": (28, 28)}


def test_pens_blur_size_and_noise_change_as_they_say():
    image = np.zeros((28, 28), np.uint8)
    image[7:21, 10:17] = 255  # 14 x 7
    for name, size in SIDES.items():
        inked = np.argwhere(undone(name, image) > 128)
        assert tuple(np.ptp(inked, axis=0) + 1) == size, name
    half = undone("half size", image)
    smaller = image.reshape(14, 2, 14, 2).mean((1, 3))
    assert abs(half[7:21, 7:21] - smaller).mean() < 10
    assert half.sum() == pytest.approx(image.sum() / 4, rel=0.02)
    edge = np.where(np.arange(28) < 14, 0, 255) * np.ones((28, 1))
    rise = np.diff(undone("blurred", edge.astype(np.uint8))[14]) / 255
    spread = np.average((np.arange(27) - 13) ** 2, weights=rise.clip(0)) ** 0.5
    assert spread == pytest.approx(2, abs=0.2)  # the deviation of a bell
    noisy = undone("noise", np.full((50, 28, 28), 128, np.uint8))
    assert noisy.mean() == pytest.approx(128, abs=2)
    assert noisy.std() == pytest.approx(70, abs=3)  # 76.5, cut off at 0 and 255


def test_train_mode_changes_the_answers_and_leaves_the_network(classifier, unseen):
    model = classifier.model
    before = copy.deepcopy(model.state_dict())
    inputs = normalize(unseen.images)
    logits = predict_logits(faults.InTrainMode(model), inputs)
    assert np.abs(logits - predict_logits(model, inputs)).max() > 0.1
    assert not model.training
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())


# --- who sees what ------------------------------------------------------------------

SEEN_BY = {  # these alarms ring for nearly all digits, and for hardly any otherwise
    "blank": {"divided by 255 twice", "transparent read as black"},
    "range": {
        "sign flipped",
        "not divided by 255",
        "normalised twice",
        "normalised with 0.5, 0.5",
    },
    "polarity": {"inverted"},
}
# A drawing that lies elsewhere is no fault for a pipeline that centres it.
HARMLESS = {"none", "canvas shifted by 6 px"}
GEOMETRY = {"canvas transposed", "canvas mirrored", "canvas upside down"}


def test_the_matrix_says_who_sees_a_fault_and_who_does_not(classifier, unseen):
    rows = {row["fault"]: row for row in faults.fault_matrix(classifier, unseen)}
    assert list(rows) == [*FAULTS, *CANVAS_FAULTS, TRAIN_MODE]
    assert list(rows)[1] == "inverted"  # notebook 03 opens it unnamed
    alarms = set(STATISTICS.values())
    for name, row in rows.items():
        shares = [row[alarm] for alarm in alarms]
        assert 0 <= max(shares) <= row["any alarm"] <= 1
        for alarm, seen in SEEN_BY.items():
            assert row[alarm] >= 0.95 if name in seen else row[alarm] <= 0.1
        harmless = {*HARMLESS, *GEOMETRY, "transposed", TRAIN_MODE}
        assert row["any alarm"] < 0.1 if name in harmless else row["any alarm"] > 0.9
        assert row["golden"] is (name not in HARMLESS)
        if name in GEOMETRY | {"inverted"}:
            assert row["accuracy"] < 0.6 < 0.85 < rows["none"]["accuracy"]
    shifted = rows["canvas shifted by 6 px"]["accuracy"]
    assert shifted == pytest.approx(rows["none"]["accuracy"], abs=0.02)
    assert rows[TRAIN_MODE]["confidence"] != rows["none"]["confidence"]
    for name in ("not divided by 255", "normalised twice"):  # they look like luck
        assert rows[name]["confidence"] > rows["none"]["confidence"]
