"""What synthetic promises: digits and what is none, readable, warped, as images."""

import numpy as np
import pytest
import torch

from mnistlab.evaluation import predict_logits, softmax
from mnistlab.models import FastCNN
from mnistlab.pendigits import PenDigits
from mnistlab.preprocess import NAIVE_PIPELINE
from mnistlab.strokes import BRUSH_PX, CANVAS_PX, rasterize
from mnistlab.synthetic import (
    ADDED,
    FORMS,
    OTHERS,
    add_form,
    forms,
    hand_images,
    handwrite,
    loosen,
    no_digit_images,
    part,
    pen_images,
    warp,
)
from mnistlab.training import fit
from tools.make_model import KINDS

EVERY_FORM = [(digit, form) for digit in FORMS for form in forms(digit)]
SEEDS = range(20)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pens():
    """Twelve digits by three writers; the last wrote a single one."""
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 9])
    strokes = tuple(handwrite(d, forms(d)[0], d) for d in labels.tolist())
    return PenDigits(strokes, labels, np.array([1] * 6 + [2] * 5 + [3]), "a test")


# --- the scripted hand --------------------------------------------------------------


@pytest.mark.parametrize("digit", FORMS)
def test_every_form_is_another_one_and_stays_on_the_canvas_with_its_brush(digit):
    pictures = set()
    for form in forms(digit):
        for seed in SEEDS:
            strokes = handwrite(digit, form, seed, size_px=CANVAS_PX - BRUSH_PX)
            points = np.concatenate(strokes)
            assert points.min() >= BRUSH_PX / 2 - 1e-9
            assert points.max() <= CANVAS_PX - BRUSH_PX / 2 + 1e-9
            longer = np.ptp(points, axis=0).max()
            assert longer == pytest.approx(CANVAS_PX - BRUSH_PX)
        pictures.add(rasterize(handwrite(digit, form, jitter=0)).tobytes())
    assert len(pictures) == len(forms(digit)) >= 15


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *[({"digit": digit}, "the hand writes 0 to 9") for digit in (10, "7")],
        ({"form": "hooked"}, "no form 'hooked'; there are: .*barred"),
        ({"size_px": 270}, "size_px is 270, expected 1 to 262"),
    ],
)
def test_what_the_hand_cannot_write_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        handwrite(**{"digit": 7, **settings})


def print_of(numbers) -> float:
    """One number that every other one moves."""
    flat = np.concatenate([np.ravel(each) for each in numbers]).astype(float)
    return float(flat @ np.cos(np.arange(flat.size)))


def print_of_hand(write, which) -> float:
    """That of what write(thing, rng) gives, by lengths and points of all strokes."""
    stream = rng(1)
    strokes = [stroke for one in which for stroke in write(one, stream)]
    return print_of([[len(stroke) for stroke in strokes], *strokes])


def print_of_images(images) -> float:
    return print_of([images.mean((1, 2)) / 255])


def test_the_hand_still_writes_what_the_shipped_network_learnt_from(pens):
    ways = (
        (lambda one, _: handwrite(*one, seed=one[0]), EVERY_FORM),
        (lambda digit, stream: handwrite(digit, seed=stream), [*FORMS] * 20),
        (lambda digit, stream: warp(handwrite(digit), stream, 0.7), FORMS),
        (lambda digit, stream: loosen(handwrite(digit), stream, 0.7), FORMS),
        (lambda digit, stream: add_form(handwrite(digit), digit, stream), ADDED),
    )
    found = [print_of_hand(*way) for way in ways]
    expected = [-304.279205, 1095.41993, 338.117117, -300.942525, 387.73311]
    assert found == pytest.approx(expected, rel=1e-6)
    wanted, stream = dict.fromkeys(KINDS, 1), rng(1)
    copies = [pen_images(pens, stream, 0.7, other_forms=0.5) for _ in range(3)]
    images = (
        hand_images(40, seed=1).images,
        hand_images(40, seed=1, wide=True).images,
        np.concatenate([copy.images for copy in copies]),
        pen_images(pens, 1, pipeline=NAIVE_PIPELINE).images,
        no_digit_images(90, 1, wanted, known=KINDS),
        no_digit_images(90, 1, wanted, pens, KINDS),
    )
    found = [print_of_images(each) for each in images]
    expected = [0.308509, 0.1734, -0.416005, -0.0981779, 0.383781, 0.594235]
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("strokes", [handwrite(4, "closed"), [np.array([[3.0, 4.0]])]])
def test_a_warped_and_loosened_drawing_has_the_same_strokes_and_is_finite(strokes):
    for seed in SEEDS:
        for drawing in warp(strokes, rng(seed)), loosen(strokes, rng(seed)):
            assert len(drawing) == len(strokes)
            assert np.isfinite(np.concatenate(drawing)).all()
        np.testing.assert_allclose(warp(strokes, rng(seed), 0)[0], strokes[0])


def test_a_part_of_a_stroke_has_its_share_of_the_length_and_lies_on_it():
    stroke = np.array([[0.0, 0], [30, 0], [30, 40], [130, 40]])
    middle = part(stroke, 0.1, 0.5)
    np.testing.assert_allclose(middle, [[17, 0], [30, 0], [30, 40], [45, 40]])


def test_pen_images_keep_the_order_of_the_pens(pens):
    images, anew = pen_images(pens, seed=0), pen_images(pens, seed=[0, 1])
    np.testing.assert_array_equal(images.labels, pens.labels)
    assert images.images.shape == (12, 28, 28) and images.source == "a test"
    assert (images.images != anew.images).any((1, 2)).all()
    assert hand_images(23, 5).labels.tolist() == [*range(10), *range(10), 0, 1, 2]


# --- what is no digit ---------------------------------------------------------------


def test_no_letter_that_looks_like_a_digit_is_called_none():
    letters, others = set(OTHERS["letters"]), set(OTHERS["other letters"])
    assert not (letters | others) & set("oOlIzZsSbgq0123456789")
    assert not letters & others
    assert not set(OTHERS["marks"]) & set(OTHERS["other marks"])


def test_every_kind_of_no_digit_is_another_one_in_mnists_frame(pens):
    drawn = set()
    for kind in KINDS:
        images = no_digit_images(12, 0, {kind: 1}, known=KINDS)
        assert images.shape == (12, 28, 28) and images.dtype == np.uint8
        assert (images.max((1, 2)) > 100).all()
        assert len(np.unique(images, axis=0)) == 12
        drawn.add(images.tobytes())
        spoils = "digit" in kind or kind == "pieces"
        others = no_digit_images(12, 0, {kind: 1}, pens, KINDS)
        assert spoils == (images != others).any()
    assert len(drawn) == len(KINDS)


def test_a_network_that_learns_what_is_no_digit_becomes_unsure_of_it_alone():
    digits, marks = hand_images(600, seed=0), no_digit_images(300, 1, {"marks": 1})
    unseen = no_digit_images(100, 2, {"marks": 1}), hand_images(100, seed=3).images
    sure = []
    for no_digit in None, marks:
        torch.manual_seed(0)
        model = FastCNN()
        fit(model, digits, no_digit=no_digit, epochs=8, progress=False)
        sure += [softmax(predict_logits(model, each)).max(1).mean() for each in unseen]
    assert sure[2] < min(sure[0] - 0.2, sure[3] - 0.3)
