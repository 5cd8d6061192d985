"""What faults promises: silent bugs, each as it is called, and who sees them."""

import copy

import numpy as np
import pytest
import torch

from mnistlab.checks import CAUSES
from mnistlab.evaluation import predict_logits
from mnistlab.faults import (
    FAULTS,
    TRAIN_MODE,
    InTrainMode,
    apply,
    faulty,
    zoo_matrix,
)
from mnistlab.preprocess import MEAN, MNIST_PIPELINE, STD, normalize, run
from mnistlab.recipe import hand_images
from mnistlab.strokes import handwrite, rasterize


@pytest.fixture(scope="module")
def unseen():
    return hand_images(200, seed=2)


def undone(name, images):
    """What a network gets, with the normalisation undone, in 0..255."""
    return (apply(name, images) * STD + MEAN) * 255


# --- each fault ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28), (4, 28, 28), (2, 3, 28, 28)])
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_keeps_the_shape_and_says_nothing(name, shape, unseen, capfd):
    images = np.resize(unseen.images, shape)
    before = images.copy()
    inputs = apply(name, images)
    assert inputs.dtype == np.float32 and inputs.shape == shape
    assert np.isfinite(inputs).all()
    assert np.array_equal(images, before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", FAULTS)
def test_a_drawing_meets_the_fault_that_a_test_set_meets(name, unseen):
    canvas = rasterize(handwrite(4, seed=4))
    through = run(canvas, faulty(MNIST_PIPELINE, name))
    image = run(canvas, MNIST_PIPELINE[:-1])
    assert np.array_equal(through, apply(name, image))
    if name != "noise":  # which differs from one image to the next
        assert np.array_equal(
            apply(name, unseen.images)[3], apply(name, unseen.images[3])
        )


def test_only_none_gives_what_training_gets(unseen):
    right = normalize(unseen.images)
    same = [
        name for name in FAULTS if np.array_equal(apply(name, unseen.images), right)
    ]
    assert same == ["none"]


ORACLES = {
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


@pytest.mark.parametrize("name", ORACLES)
def test_a_fault_is_what_it_is_called(name, unseen):
    images = unseen.images[:20]
    expected = ORACLES[name](images.astype(float))
    assert np.allclose(undone(name, images), expected, rtol=1e-4, atol=0.02)


def test_the_shift_moves_each_digit_by_six(unseen):
    image = np.zeros((28, 28), np.uint8)
    image[4, 7] = 255
    assert np.argwhere(undone("shifted by 6 px", image) > 128).tolist() == [[10, 13]]


def test_pens_blur_and_size_change_as_they_say(unseen):
    images = unseen.images
    image = undone("none", images)
    thick, thin, blurred, half, stretched = (
        undone(name, images)
        for name in ("thick pen", "thin pen", "blurred", "half size")
        + ("stretched to the box",)
    )
    assert (thick >= image - 0.1).all() and thick.sum() > 1.5 * image.sum()
    assert (thin <= image + 0.1).all() and thin.sum() < 0.7 * image.sum()
    assert blurred.max((1, 2)).mean() < 0.8 * image.max((1, 2)).mean()
    assert half.sum() == pytest.approx(image.sum() / 4, rel=0.1)
    for edge in (stretched[:, 0], stretched[:, -1], stretched[..., 0]):
        assert (edge.max(1) > 0).all()


def test_noise_is_as_strong_as_it_says():
    inputs = undone("noise", np.full((50, 28, 28), 128, np.uint8))
    # Of a normal curve with deviation 76.5, cut off at 0 and 255.
    assert inputs.mean() == pytest.approx(128, abs=2)
    assert inputs.std() == pytest.approx(70, abs=3)


def test_a_fault_stands_where_normalize_stood():
    for name, steps in FAULTS.items():
        assert faulty(MNIST_PIPELINE, name) == (*MNIST_PIPELINE[:-1], *steps)
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
    "inverted": "polarity background ink frame",
    "inverted, half contrast": "background ink frame",
    "sign flipped": "range background ink frame",
    "not divided by 255": "range ink",
    "divided by 255 twice": "blank ink frame",
    "normalised twice": "range polarity background",
    "not normalised": "background ink frame",
    "normalised with 0.5, 0.5": "range polarity background ink",
    "transposed": "",
    "mirrored": "frame",  # MNIST's centre is on pixel 14, half a pixel off the middle
    "upside down": "frame",
    "shifted by 6 px": "frame",
    "half size": "frame",
    "stretched to the box": "frame",
    "thick pen": "ink frame",
    "thin pen": "frame",
    "blurred": "",  # frame and ink: most of them, see below
    "grey paper": "background ink frame",
    "noise": "frame",
    "transparent read as black": "blank ink frame",
    TRAIN_MODE: "",
}


def test_the_zoo_is_complete():
    assert list(SEEN_BY) == [*FAULTS, TRAIN_MODE]


@pytest.fixture(scope="module", params=["hand", "mnist"])
def matrix(request, unseen):
    """The matrix on the scripted hand, and on MNIST where that is at hand."""
    if request.param == "hand":
        return zoo_matrix(request.getfixturevalue("classifier"), unseen)
    test = request.getfixturevalue("mnist").test.balanced(1000)
    return zoo_matrix(request.getfixturevalue("mnist_classifier"), test)


@pytest.fixture(scope="module")
def rows(matrix):
    return {row["fault"]: row for row in matrix}


def test_the_matrix_has_a_row_for_each_fault_and_a_column_for_each_alarm(matrix):
    columns = ["fault", "accuracy", "confidence", *CAUSES, "any alarm", "golden"]
    assert [row["fault"] for row in matrix] == list(SEEN_BY)
    for row in matrix:
        assert sorted(row) == sorted(columns)
        shares = [row[name] for name in columns[1:-1]]
        assert all(isinstance(share, float) and 0 <= share <= 1 for share in shares)
        assert max(row[alarm] for alarm in CAUSES) <= row["any alarm"]
        assert isinstance(row["golden"], bool)


@pytest.mark.parametrize("name", SEEN_BY)
def test_the_alarms_that_should_see_a_fault_do(rows, name):
    row = rows[name]
    for alarm in SEEN_BY[name].split():
        assert row[alarm] >= 0.95, alarm
    for alarm in {"blank", "range", "polarity"} - set(SEEN_BY[name].split()):
        assert row[alarm] <= 0.1, alarm  # a thin pen's digit may vanish


def test_every_fault_is_seen_by_an_alarm_or_by_the_golden_drawings(rows):
    for name, row in rows.items():
        assert row["golden"] or row["any alarm"] > 0.9 or name == "none", name
    assert rows["blurred"]["any alarm"] > 0.9
    assert rows["none"]["any alarm"] < 0.05 and not rows["none"]["golden"]


def test_the_golden_drawings_see_every_fault(rows):
    assert [name for name, row in rows.items() if not row["golden"]] == ["none"]


def test_only_the_golden_drawings_see_a_transposed_input(rows):
    for name in ("transposed", TRAIN_MODE):
        assert rows[name]["any alarm"] < 0.05 and rows[name]["golden"]
    unseen = {name for name, row in rows.items() if row["any alarm"] < 0.9}
    assert unseen == {"none", "transposed", TRAIN_MODE}


def test_no_monitor_of_accuracy_or_confidence_sees_a_wrong_range(rows):
    """Nearly as accurate, and surer than ever: the two bugs that look like luck."""
    for name in ("not divided by 255", "normalised twice"):
        assert rows[name]["confidence"] > rows["none"]["confidence"]
        assert rows[name]["accuracy"] > rows["none"]["accuracy"] - 0.2
        assert rows[name]["range"] == 1


def test_the_famous_bug_is_a_disaster_that_the_first_drawing_shows(rows):
    assert rows["none"]["accuracy"] > 0.9
    assert rows["inverted"]["accuracy"] < 0.5
    assert rows["inverted"]["polarity"] == 1
