"""What faults promises: silent faults, each as it is called, and who sees them."""

import copy

import numpy as np
import pytest
import torch

from mnistlab.checks import STATISTICS
from mnistlab.evaluation import predict_logits
from mnistlab.faults import (
    CANVAS_FAULTS,
    FAULTS,
    TRAIN_MODE,
    InTrainMode,
    apply,
    fault_matrix,
    faulty,
)
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


def test_every_fault_keeps_the_shape_and_says_nothing(unseen, capfd):
    images = np.resize(unseen.images, (2, 3, 28, 28))
    before = images.copy()
    for name in [*FAULTS, *CANVAS_FAULTS]:
        inputs = apply(name, images)
        assert inputs.dtype == np.float32 and inputs.shape == images.shape, name
        assert np.isfinite(inputs).all(), name
        assert np.array_equal(images, before), name
    assert capfd.readouterr() == ("", "")


def test_a_drawing_meets_the_fault_that_a_test_set_meets(unseen):
    canvas = rasterize(handwrite(4, seed=4))
    image = to_input(canvas, MNIST_PIPELINE[:-1])
    for name in FAULTS:
        through = to_input(canvas, faulty(MNIST_PIPELINE, name))
        assert np.array_equal(through, apply(name, image)), name
        if name != "noise":  # which differs from one image to the next
            one, many = unseen.images[3], unseen.images[:5]
            assert np.array_equal(apply(name, many)[3], apply(name, one)), name


def test_a_fault_of_the_canvas_is_framed_anew(unseen):
    """Turned and then centred, the digit lies where MNIST has it; moved, it is back."""
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 8:11] = image[21:24, 8:20] = 255  # an L, centred
    upright = to_input(np.pad(image, 5))
    for name, turned in (
        ("canvas transposed", image.T),
        ("canvas mirrored", np.fliplr(image)),
        ("canvas upside down", np.rot90(image, 2)),
        ("canvas shifted by 6 px", image),
    ):
        assert np.array_equal(apply(name, image), to_input(np.pad(turned, 9))), name
        assert np.array_equal(apply(name, image), upright) == ("shifted" in name)
        canvas = np.pad(image, 40)
        through = to_input(canvas, faulty(MNIST_PIPELINE, name))
        assert np.array_equal(through, apply(name, image)), name


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
    "grey paper": lambda x: np.floor(76 + x * 0.7),
    "transparent read as black": lambda x: 0 * x,
}


def test_a_fault_is_what_it_is_called(unseen):
    images = unseen.images[:20]
    for name, oracle in ORACLES.items():
        expected = oracle(images.astype(float))
        assert np.allclose(undone(name, images), expected, rtol=1e-4, atol=0.02), name


def test_the_shift_moves_each_digit_by_six(unseen):
    image = np.zeros((28, 28), np.uint8)
    image[4, 7] = 255
    assert np.argwhere(undone("shifted by 6 px", image) > 128).tolist() == [[10, 13]]


PENS = ("thick pen", "thin pen", "stretched to the box")


def test_pens_blur_and_size_change_as_they_say():
    image = np.zeros((28, 28), np.uint8)
    image[7:21, 10:17] = 255  # 14 x 7
    sides = (18, 11), (12, 5), (28, 28)
    for name, size in zip(PENS, sides, strict=True):
        inked = np.argwhere(undone(name, image) > 128)
        assert tuple(np.ptp(inked, axis=0) + 1) == size, name
    half = undone("half size", image)
    expected = image.reshape(14, 2, 14, 2).mean((1, 3))
    assert abs(half[7:21, 7:21] - expected).mean() < 10
    assert half.sum() == pytest.approx(image.sum() / 4, rel=0.02)
    edge = np.repeat(image[:1] * 0, 28, 0)
    edge[:, 14:] = 255
    rise = np.diff(undone("blurred", edge)[14]) / 255  # a bell of deviation 2
    spread = np.average((np.arange(27) - 13) ** 2, weights=rise.clip(0)) ** 0.5
    assert spread == pytest.approx(2, abs=0.2)


def test_noise_is_as_strong_as_it_says():
    inputs = undone("noise", np.full((50, 28, 28), 128, np.uint8))
    # Of a normal curve with deviation 76.5, cut off at 0 and 255.
    assert inputs.mean() == pytest.approx(128, abs=2)
    assert inputs.std() == pytest.approx(70, abs=3)


def test_a_fault_stands_where_normalize_stood():
    for name, steps in FAULTS.items():
        assert faulty(MNIST_PIPELINE, name) == (*MNIST_PIPELINE[:-1], *steps)
    for name, step in CANVAS_FAULTS.items():
        assert faulty(MNIST_PIPELINE, name) == (step, *MNIST_PIPELINE)
    with pytest.raises(ValueError, match="no fault 'inverse'; there are: none, inv"):
        faulty(MNIST_PIPELINE, "inverse")


def test_train_mode_changes_the_answers_and_leaves_the_network(classifier, unseen):
    model = classifier.model
    before = copy.deepcopy(model.state_dict())
    inputs = normalize(unseen.images)
    logits = predict_logits(InTrainMode(model), inputs)
    assert logits.shape == (200, 10)
    assert np.abs(logits - predict_logits(model, inputs)).max() > 0.1
    assert not model.training
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())


# --- who sees what ------------------------------------------------------------------

# Which alarms ring for at least 95 of 100 digits. What pixels can tell does not
# depend on the network, nor on who wrote the digits.
SEEN_BY = {
    "none": "",
    "inverted": "polarity background ink placement",
    "inverted, half contrast": "background ink placement",
    "sign flipped": "range background ink placement",
    "not divided by 255": "range ink",
    "divided by 255 twice": "blank ink placement",
    "normalised twice": "range polarity background",
    "not normalised": "background ink placement",
    "normalised with 0.5, 0.5": "range polarity background ink",
    "transposed": "",
    "mirrored": "placement",  # MNIST's centre, pixel 14, is not the middle
    "upside down": "placement",
    "shifted by 6 px": "placement",
    "half size": "placement",
    "stretched to the box": "placement",
    "thick pen": "ink placement",
    "thin pen": "placement",
    "blurred": "",  # placement and ink: most of them, see below
    "grey paper": "background ink placement",
    "noise": "placement",
    "transparent read as black": "blank ink placement",
    **dict.fromkeys(CANVAS_FAULTS, ""),  # what is centred afterwards looks right
    TRAIN_MODE: "",
}


@pytest.fixture(scope="module", params=["hand", "mnist"])
def rows(request, unseen):
    """The matrix on the scripted hand, and on MNIST where that is at hand, by fault."""
    if request.param == "hand":
        matrix = fault_matrix(request.getfixturevalue("classifier"), unseen)
    else:
        test = request.getfixturevalue("mnist").test.balanced(1000)
        matrix = fault_matrix(request.getfixturevalue("mnist_classifier"), test)
    return {row["fault"]: row for row in matrix}


def test_the_matrix_has_a_row_for_each_fault_and_a_column_for_each_alarm(rows):
    alarms = [*dict.fromkeys(STATISTICS.values()), "no digit"]
    columns = ["fault", "accuracy", "confidence", *alarms, "any alarm", "golden"]
    assert list(rows) == [*FAULTS, *CANVAS_FAULTS, TRAIN_MODE]
    for row in rows.values():
        assert sorted(row) == sorted(columns)
        shares = [row[name] for name in columns[1:-1]]
        assert all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
        assert max(row[alarm] for alarm in alarms) <= row["any alarm"]
        assert isinstance(row["golden"], bool)


def test_the_alarms_that_should_see_a_fault_do(rows):
    for name, row in rows.items():
        expected = set(SEEN_BY[name].split())
        for alarm in expected:
            assert row[alarm] >= 0.95, (name, alarm)
        for alarm in {"blank", "range", "polarity"} - expected:
            assert row[alarm] <= 0.1, (name, alarm)  # a thin pen's digit may vanish


# A drawing that lies elsewhere is no fault for a pipeline that centres it.
HARMLESS = {"none", "canvas shifted by 6 px"}
GEOMETRY = {"canvas transposed", "canvas mirrored", "canvas upside down"}


def test_the_golden_drawings_see_every_fault_and_alone_some(rows):
    assert {name for name, row in rows.items() if not row["golden"]} == HARMLESS
    unseen = {name for name, row in rows.items() if row["any alarm"] < 0.9}
    assert unseen == {*HARMLESS, *GEOMETRY, "transposed", TRAIN_MODE}
    for name in unseen:
        assert rows[name]["any alarm"] < 0.1, name
    for name in GEOMETRY:
        assert rows[name]["accuracy"] < 0.6 < 0.9 < rows["none"]["accuracy"]
    shifted = rows["canvas shifted by 6 px"]["accuracy"]
    assert shifted == pytest.approx(rows["none"]["accuracy"], abs=0.02)


def test_no_monitor_of_accuracy_or_confidence_sees_a_wrong_range(rows):
    """Nearly as accurate, and surer than ever: the two faults that look like luck."""
    for name in ("not divided by 255", "normalised twice"):
        assert rows[name]["confidence"] > rows["none"]["confidence"]
        assert rows[name]["accuracy"] > rows["none"]["accuracy"] - 0.2
        assert rows[name]["range"] == 1


def test_the_storys_bug_is_a_disaster_that_the_first_drawing_shows(rows):
    assert rows["none"]["accuracy"] > 0.9
    assert rows["inverted"]["accuracy"] < 0.5
    assert rows["inverted"]["polarity"] == 1
