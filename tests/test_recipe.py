"""What the shipped network learns from: warped pens, other forms, who is held out."""

import numpy as np
import pytest

from mnistlab.data import Digits
from mnistlab.preprocess import NAIVE_PIPELINE
from mnistlab.recipe import (
    TEST_WRITERS,
    TRAIN_WRITERS,
    VALIDATION_WRITERS,
    add_form,
    draw,
    hand_images,
    join,
    pen_images,
    warp,
)
from mnistlab.strokes import PenDigits, forms, handwrite

SEEDS = range(20)


def rng(seed=0):
    return np.random.default_rng(seed)


def size(strokes):
    return np.ptp(np.concatenate(strokes), axis=0)


@pytest.fixture(scope="module")
def pens():
    """Twelve digits by three writers; the last wrote a single one."""
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 9])
    strokes = tuple(
        handwrite(digit, forms(digit)[0], digit) for digit in labels.tolist()
    )
    return PenDigits(strokes, labels, np.array([1] * 6 + [2] * 5 + [3]), "a test")


# --- warping ------------------------------------------------------------------------


def test_a_warped_drawing_has_the_same_strokes_and_points_and_is_finite():
    strokes = handwrite(4, "closed")
    for seed in SEEDS:
        warped = warp(strokes, rng(seed))
        assert [s.shape for s in warped] == [s.shape for s in strokes]
        assert all(np.isfinite(s).all() for s in warped)


def test_warping_at_strength_zero_changes_nothing():
    strokes = handwrite(5)
    for before, after in zip(strokes, warp(strokes, rng(), 0), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-9)


def test_warping_is_seeded_and_never_the_same_twice():
    strokes, stream = handwrite(6), rng(1)
    first, second = warp(strokes, stream), warp(strokes, stream)
    np.testing.assert_array_equal(warp(strokes, rng(1))[0], first[0])
    assert np.abs(first[0] - second[0]).max() > 1


@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_a_warp_is_the_same_in_any_units_and_keeps_the_size(scale):
    strokes = handwrite(8)
    for seed in SEEDS:
        small = warp(strokes, rng(seed))
        large = warp([s * scale for s in strokes], rng(seed))
        if size(strokes).max() * scale >= 1:  # below one unit it is only a dot
            np.testing.assert_allclose(large[0], small[0] * scale, rtol=1e-6)
        assert 0.5 < size(small).max() / size(strokes).max() < 1.7


def test_more_strength_bends_more():
    strokes = handwrite(3)

    def moved(strength):
        shifts = [warp(strokes, rng(s), strength)[0] - strokes[0] for s in SEEDS]
        return np.mean([np.ptp(shift, axis=0).mean() for shift in shifts])

    assert moved(0.2) < moved(0.6) < moved(1.0)


def test_a_dot_can_be_warped():
    assert np.isfinite(warp([np.array([[3.0, 4.0]])], rng())[0]).all()


# --- other forms --------------------------------------------------------------------


@pytest.mark.parametrize("digit", [0, 1, 7])
def test_another_form_of_0_1_and_7_is_one_stroke_more(digit):
    strokes = handwrite(digit, "plain")
    for seed in SEEDS:
        other = add_form(strokes, digit, rng(seed))
        assert len(other) == len(strokes) + 1
        for before, after in zip(strokes, other, strict=False):
            np.testing.assert_array_equal(after, before)
        assert size(other[-1:]).max() > 0.2 * size(strokes).max()


def test_the_foot_of_a_1_is_level_and_at_its_lowest_point():
    strokes = handwrite(1, "plain")
    lowest = np.concatenate(strokes)[:, 1].max()
    np.testing.assert_allclose(add_form(strokes, 1, rng())[-1][:, 1], lowest)


def test_a_slash_rises_and_a_bar_crosses_the_middle():
    slash = add_form(handwrite(0, "plain"), 0, rng())[-1]
    assert (slash[0, 0] - slash[1, 0]) * (slash[0, 1] - slash[1, 1]) < 0
    seven = handwrite(7, "plain")
    low, high = np.concatenate(seven).min(0), np.concatenate(seven).max(0)
    bar = add_form(seven, 7, rng())[-1]
    assert (np.abs((bar - low) / (high - low) - 0.5)[:, 1] < 0.25).all()


def test_a_hooked_9_goes_on_to_the_left_from_where_it_ended():
    strokes = handwrite(9, "plain")
    other = add_form(strokes, 9, rng())
    assert len(other) == len(strokes)
    length = len(strokes[-1])
    np.testing.assert_array_equal(other[-1][:length], strokes[-1])
    assert (other[-1][length:, 0] < strokes[-1][-1, 0]).all()


def test_adding_a_form_leaves_the_drawing_that_was_given_alone():
    for digit in (0, 1, 7, 9):
        strokes = handwrite(digit, "plain")
        before = [stroke.copy() for stroke in strokes]
        add_form(strokes, digit, rng())
        assert len(strokes) == len(before)
        for was, now in zip(before, strokes, strict=True):
            np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("digit", [2, 3, 4, 5, 6, 8, 10, -1, "7"])
def test_a_digit_without_another_form_is_refused_and_named(digit):
    with pytest.raises(ValueError, match=f"{digit!r}.*0, 1, 7 and 9"):
        add_form(handwrite(2), digit, rng())


# --- images -------------------------------------------------------------------------


def test_a_drawing_becomes_28x28_in_mnists_frame_with_ink_on_black():
    for seed in SEEDS:
        image = draw(handwrite(seed % 10, seed=seed), rng(seed))
        assert image.shape == (28, 28) and image.dtype == np.uint8
        assert image.max() > 200 and image[::27, ::27].max() == 0
        rows, columns = np.nonzero(image)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20


def test_pen_images_keep_the_order_of_the_pens_in_each_copy(pens):
    images = pen_images(pens, seed=0, copies=3)
    np.testing.assert_array_equal(images.labels, [*pens.labels] * 3)
    assert images.images.shape == (36, 28, 28) and images.source == "a test"
    assert (images.images.reshape(36, -1).max(1) > 150).all()


def test_each_copy_is_placed_and_inked_anew(pens):
    copies = pen_images(pens, seed=0, copies=2).images.reshape(2, 12, 28, 28)
    assert (copies[0] != copies[1]).any((1, 2)).all()


def test_copies_show_the_same_digits(pens):
    first, second = pen_images(pens, seed=0, copies=2).images.reshape(2, 12, -1) / 255.0
    likeness = np.corrcoef(np.vstack([first, second]))[:12, 12:]
    assert (likeness.argmax(1) == np.arange(12)).mean() > 0.7


@pytest.mark.parametrize(
    "make",
    [
        lambda pens, seed: pen_images(pens, seed, strength=1.0, other_forms=0.5),
        lambda pens, seed: hand_images(12, seed),
    ],
)
def test_images_are_the_same_for_a_seed_and_others_for_another(pens, make):
    assert make(pens, 5).sha256 == make(pens, 5).sha256
    assert make(pens, 5).sha256 != make(pens, 6).sha256


def test_only_the_wanted_share_gets_another_form(pens):
    sevens = pens.take(np.full(200, 7))
    plain, none, half, every = (
        pen_images(sevens, 0, other_forms=share).images.astype(float).mean((1, 2))
        for share in (0.0, 0.0, 0.5, 1.0)
    )
    np.testing.assert_array_equal(plain, none)
    assert plain.mean() < half.mean() < every.mean()  # a bar is ink


def test_other_forms_leave_the_other_digits_alone(pens):
    rest = pens.take(np.flatnonzero(~np.isin(pens.labels, (0, 1, 7, 9))))
    plain, other = (pen_images(rest, 3, other_forms=s) for s in (0.0, 1.0))
    assert plain.sha256 == other.sha256


def test_a_writer_with_one_digit_works(pens):
    alone = pens.of_writers({3})
    assert len(alone) == 1
    images = pen_images(alone, seed=0, copies=2, strength=1.0, other_forms=1.0)
    assert images.labels.tolist() == [9, 9]


def test_another_pipeline_can_be_asked_for(pens):
    naive = pen_images(pens, seed=0, pipeline=NAIVE_PIPELINE).images
    spans = [np.ptp(np.nonzero(image)[0]) + 1 for image in naive]
    assert naive.shape == (12, 28, 28) and len(set(spans)) > 3  # of all sizes


def test_the_hand_writes_all_ten_digits_in_turn():
    images = hand_images(23, seed=0)
    np.testing.assert_array_equal(images.labels, np.arange(23) % 10)
    assert images.images.shape == (23, 28, 28)
    assert (images.images.reshape(23, -1).max(1) > 150).all()


def test_joining_keeps_the_order_and_names_each_source_once(pens):
    one, two = pen_images(pens, 0), hand_images(5, 0)
    both = join(one, two, one)
    assert isinstance(both, Digits) and len(both) == 29
    np.testing.assert_array_equal(both.images[12:17], two.images)
    np.testing.assert_array_equal(both.labels[17:], one.labels)
    assert both.source == "a test + the scripted hand"


# --- who is held out ----------------------------------------------------------------


def test_every_writer_is_in_exactly_one_of_the_three_groups():
    groups = [*TEST_WRITERS, *VALIDATION_WRITERS, *TRAIN_WRITERS]
    assert sorted(groups) == list(range(1, 31))


def test_the_writers_held_out_were_drawn_by_the_seed_that_is_named():
    drawn = (np.random.default_rng(0).permutation(30) + 1).tolist()
    assert sorted(drawn[:5]) == list(TEST_WRITERS)
    assert sorted(drawn[5:9]) == list(VALIDATION_WRITERS)
