"""What checks promises: alarms that ring for what they name and for little else."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mnistlab import checks, data
from mnistlab.checks import CAUSES, MEASURED, SERIOUS, STATISTICS, Drift, Reference
from mnistlab.faults import invert
from mnistlab.preprocess import (
    INK,
    MEAN,
    MNIST_PIPELINE,
    NAIVE_PIPELINE,
    STD,
    normalize,
    resize_28x28,
    trace,
)
from mnistlab.strokes import rasterize
from mnistlab.synthetic import hand_images, handwrite

CANVAS = rasterize(handwrite(4, seed=4))


@pytest.fixture(scope="module")
def reference(classifier):
    return classifier.reference


@pytest.fixture(scope="module")
def unseen():
    """200 digits of the scripted hand that nothing was measured on."""
    return hand_images(200, seed=2)


# --- the statistics and their bounds ------------------------------------------------


def in_words(image) -> dict[str, float]:
    """The statistics of one image, 0..1, pixel by pixel."""
    pixels = [(y, x, image[y, x]) for y in range(28) for x in range(28)]
    ringed = [v for y, x, v in pixels if y in (0, 27) or x in (0, 27)]
    inked = [(y, x) for y, x, v in pixels if v >= INK / 255]
    steps = np.clip(image, 0, 1)
    mass = sum(steps[y, x] for y, x, _ in pixels)
    outline = abs(steps[1:] - steps[:-1]).sum() + abs(steps.T[1:] - steps.T[:-1]).sum()
    return {
        **{"peak": image.max(), "highest": image.max(), "lowest": image.min()},
        "border": np.mean(ringed),
        "paper": np.mean([image[0, 0], image[0, 27], image[27, 0], image[27, 27]]),
        "ink": image.mean(),
        "pen_px": 2 * mass / outline,
        "side_px": max(max(side) - min(side) + 1 for side in zip(*inked, strict=True)),
        "center_x": sum(x * steps[y, x] for y, x, _ in pixels) / mass,
        "center_y": sum(y * steps[y, x] for y, x, _ in pixels) / mass,
    }


def test_the_statistics_are_what_their_names_say(unseen):
    faint = np.zeros((2, 28, 28), np.uint8)
    faint[0, 10, 12] = 100  # all the ink that there is
    faint[1, 5:20, 14], faint[1, 3, 14], faint[1, 1, 14] = 255, INK + 3, INK - 3
    images = np.concatenate([unseen.images[:5], 255 - unseen.images[:2], faint])
    noise = np.random.default_rng(0).normal(0.3, 1, (2, 28, 28)).astype(np.float32)
    inputs = np.concatenate([normalize(images), noise])
    found = checks.measure(inputs)
    assert set(found) == set(STATISTICS) - {"spread"}
    for n, image in enumerate(inputs * STD + MEAN):
        for name, value in in_words(image).items():
            assert found[name][n] == pytest.approx(value, abs=1e-4), (name, n)
    for name, values in checks.measure(np.tile(inputs, (150, 1, 1))).items():
        np.testing.assert_allclose(values, np.tile(found[name], 150), rtol=1e-4)


def test_bounds_come_from_the_training_images(unseen):
    inputs = normalize(unseen.images)
    logits = np.zeros((200, 10), np.float32)
    reference = Reference.measured_on(inputs, logits, "these", least_spread=2)
    found = checks.measure(inputs)
    expected = {name: np.quantile(found[name], [0.0005, 0.9995]) for name in MEASURED}
    expected |= {"peak": (INK / 255, 1e9), "border": (-1e9, 0.5), "spread": (2, 1e9)}
    expected["lowest"] = found["lowest"].min() - 0.01, 1
    expected["highest"] = 0, found["highest"].max() + 0.01
    expected["paper"] = -0.02, found["paper"].max() + 0.02
    assert set(reference.bounds) == set(expected)
    for name, bounds in expected.items():
        assert reference.bounds[name] == pytest.approx(bounds), name
    assert (reference.n, reference.source) == (200, "these")
    assert reference.mean == pytest.approx([inputs.mean(), inputs.mean((1, 2)).std()])
    assert reference.energy == pytest.approx([-np.log(10), 0], abs=1e-5)


@pytest.mark.parametrize("writer, most", [("hand", 0.05), ("mnist", 0.015)])
def test_good_drawings_ring_little_and_nothing_serious(request, unseen, writer, most):
    """Measured: 3 of 200 by the hand; 46 of MNIST's 10,000."""
    digits, which = unseen, "classifier"
    if writer == "mnist":
        digits, which = request.getfixturevalue("mnist").test, "mnist_classifier"
    reference = request.getfixturevalue(which).reference
    rings = reference.outside(normalize(digits.images))
    assert 0 < np.any([*rings.values()], axis=0).mean() <= most
    assert not any(rang.any() for name, rang in rings.items() if name in SERIOUS)


def test_every_inverted_image_is_caught_and_no_other(reference):
    """All 70,000 images of MNIST, or the 5,000 of the sample."""
    everything = data.load()
    for part in (everything.train, everything.validation, everything.test):
        assert not reference.outside(normalize(part.images))["polarity"].any()
        assert reference.outside(normalize(255 - part.images))["polarity"].all()


# --- the alarms of one drawing ------------------------------------------------------


def drawn(rows, columns):
    """A canvas with a rectangle of ink: rows and columns as (start, end)."""
    canvas = np.zeros((280, 280), np.uint8)
    canvas[slice(*rows), slice(*columns)] = 255
    return trace(canvas)


def changed(place, change):
    """The stages with one step more than MNIST_PIPELINE has."""
    return trace(CANVAS, (*MNIST_PIPELINE[:place], change, *MNIST_PIPELINE[place:]))


def spoilt(value):
    return changed(4, lambda inputs: np.where(inputs == inputs.max(), value, inputs))


CASES = {
    "blank": [changed(3, lambda image: image * 0), changed(3, lambda x: x // 10)],
    "range": [
        changed(4, lambda inputs: inputs * 255),
        changed(4, lambda inputs: -inputs),
        changed(4, lambda inputs: (inputs - np.float32(MEAN)) / np.float32(STD)),
        *(spoilt(np.float32(value)) for value in (np.nan, np.inf, -np.inf)),
    ],
    "polarity": [
        changed(3, invert),
        changed(0, invert),
        trace(255 - CANVAS),
        drawn((0, 280), (0, 280)),  # all inked
    ],
    "background": [
        changed(3, lambda image: np.maximum(image, 40)),
        changed(4, lambda inputs: inputs * np.float32(STD) + np.float32(MEAN)),
    ],
    "ink": [
        drawn((40, 240), (40, 140)),  # a block
        trace(rasterize([np.array([[90.0, 70.0]])])),  # a dot
        changed(3, lambda image: image // 4),  # low contrast
        drawn((40, 240), (100, 101)),  # a hair
    ],
    "placement": [
        changed(3, lambda image: np.roll(image, 3, 0)),
        changed(3, lambda image: np.roll(image, -3, 1)),
        changed(3, lambda image: np.pad(image[::2, ::2], 7)),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_each_alarm_rings_for_the_cases_made_for_it(reference, name):
    for stages in CASES[name]:
        alarm = {alarm.name: alarm for alarm in reference.check(stages)}[name]
        assert not alarm.low <= alarm.value <= alarm.high
        assert STATISTICS[alarm.statistic] == name
        assert [alarm.low, alarm.high] == reference.bounds[alarm.statistic]
        assert alarm.serious == (name in SERIOUS)
        assert alarm.stage in [stage.name for stage in stages]
        (rings,) = reference.outside(stages[-1].image[None])[name]  # as in a batch
        assert rings == (alarm.stage == stages[-1].name)


def test_every_alarm_has_a_case_and_a_good_drawing_rings_none(reference, unseen):
    of_the_network = {"logits", "no digit"}
    assert set(CASES) == set(CAUSES) - of_the_network
    assert set(STATISTICS.values()) == set(CAUSES) - {"logits"}
    assert not reference.check(trace(CANVAS))
    # Nor do floats, as large as the canvas, before the last stage.
    assert not reference.check(trace(unseen.images[0], (normalize, np.copy)))


def test_an_alarm_says_what_is_allowed_and_what_was_measured(reference):
    (alarm,) = reference.check(CASES["polarity"][1])[:1]
    found = f"the border is {alarm.value:.3g} at invert; at most 0.5 is allowed"
    assert str(alarm) == f"{CAUSES['polarity']} ({found})"
    (alarm,) = reference.check(CASES["placement"][0])
    bounds = f"{alarm.low:.3g} to {alarm.high:.3g}"
    wanted = f" at normalize; {bounds} was measured on training images)"
    assert str(alarm).endswith(wanted)


def test_an_inversion_is_named_where_it_happens(reference):
    """Between crop and centring no paper is left: there only golden drawings help."""
    for canvas, pipeline, stage in (
        (CANVAS, (*MNIST_PIPELINE[:3], invert, normalize), "normalize"),
        (CANVAS, (invert, *NAIVE_PIPELINE), "invert"),
        (CANVAS, (resize_28x28, invert, normalize), "normalize"),
        (255 - CANVAS, (invert, *MNIST_PIPELINE), "original"),  # hidden again
    ):
        first, *_ = reference.check(trace(canvas, pipeline))
        assert (first.name, first.stage) == ("polarity", stage)
        assert first.value > 0.9


def test_serious_alarms_come_first_and_require_says_them_all(reference):
    stages = trace(255 - CANVAS, (*MNIST_PIPELINE, lambda x: x * 3))
    alarms = reference.check(stages)
    found = [alarm.name for alarm in alarms]
    assert len(found) > 3 and found == [name for name in CAUSES if name in found]
    assert [alarm.serious for alarm in (alarms[0], alarms[-1])] == [True, False]
    with pytest.raises(checks.InputAlarm) as caught:
        reference.require(stages)
    assert str(caught.value).splitlines() == [str(alarm) for alarm in alarms]
    reference.require(CASES["placement"][0])  # this can be answered


# --- drift --------------------------------------------------------------------------


def test_energy_is_minus_logsumexp():
    logits = np.random.default_rng(0).normal(0, 300, (50, 10))
    expected = -torch.logsumexp(torch.from_numpy(logits), -1).numpy()
    assert np.allclose(checks.energy(logits), expected)
    assert checks.energy(logits[0]) == pytest.approx(expected[0])


def test_drift_counts_in_standard_errors(reference):
    reference = replace(reference, mean=[0.0, 0.5], energy=[-4.0, 2.0])
    drift = reference.drift(np.full(16, 0.25), np.full(16, -5.0))
    assert drift == Drift(16, mean=pytest.approx(2), energy=pytest.approx(-2))
    assert "no drift" in str(drift)
    for mean, energy in ((0.45, -4.0), (-0.45, -4.0), (0.0, -5.8), (0.0, -2.2)):
        drift = reference.drift(np.full(16, mean), np.full(16, energy))
        assert "unlike" in str(drift)
    assert reference.drift(np.ones(4), np.ones(4)) is None
    assert reference.drift(np.ones(5), np.ones(5)).n == 5


# --- the card -----------------------------------------------------------------------


def test_a_reference_survives_its_card_and_that_of_another_version_is_refused(
    reference,
):
    text, bounds = json.dumps(asdict(reference), allow_nan=False), reference.bounds
    assert Reference.from_card(json.loads(text)) == reference
    for other in {**bounds, "median": [0, 1]}, {"pen_px": bounds["pen_px"]}:
        with pytest.raises(ValueError, match="(median|ink).*Train the checkpoint anew"):
            Reference.from_card({**asdict(reference), "bounds": other})
