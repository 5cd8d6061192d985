"""What synthetic promises: readable digits, warped, in other forms, drawn as images."""

import numpy as np
import pytest

from mnistlab.pendigits import PenDigits
from mnistlab.preprocess import NAIVE_PIPELINE
from mnistlab.strokes import BRUSH_PX, CANVAS_PX, rasterize
from mnistlab.synthetic import (
    FORMS,
    add_form,
    draw,
    forms,
    hand_images,
    handwrite,
    pen_images,
    warp,
)

EVERY_FORM = [(digit, form) for digit in FORMS for form in forms(digit)]
SEEDS = range(20)


def rng(seed=0):
    return np.random.default_rng(seed)


def size(strokes):
    return np.ptp(np.concatenate(strokes), axis=0)


def area_28x28(canvases) -> np.ndarray:
    """Average uint8 (..., 280, 280) over 10x10 squares; ink 1, paper 0."""
    rows = np.asarray(canvases, float).reshape(-1, 28, 10, 28, 10)
    return rows.mean(axis=(2, 4)) / 255


@pytest.fixture(scope="module")
def pens():
    """Twelve digits by three writers; the last wrote a single one."""
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 9])
    strokes = tuple(
        handwrite(digit, forms(digit)[0], digit) for digit in labels.tolist()
    )
    return PenDigits(strokes, labels, np.array([1] * 6 + [2] * 5 + [3]), "a test")


# --- the scripted hand --------------------------------------------------------------


@pytest.mark.parametrize(("digit", "form"), EVERY_FORM)
def test_every_form_stays_on_the_canvas_with_its_brush(digit, form):
    for seed in range(20):
        points = handwrite(digit, form, seed, size_px=CANVAS_PX - BRUSH_PX)
        points = np.concatenate(points)
        assert points.min() >= BRUSH_PX / 2 - 1e-9
        assert points.max() <= CANVAS_PX - BRUSH_PX / 2 + 1e-9
        assert np.ptp(points, axis=0).max() == pytest.approx(CANVAS_PX - BRUSH_PX)


def test_every_digit_has_several_forms_and_the_seed_picks_among_them():
    def points(*which):
        return len(np.concatenate(handwrite(*which, jitter=0)))

    for digit in range(10):
        assert len(forms(digit)) >= 3
        written = {points(digit, None, seed) for seed in range(400)}
        assert written == {points(digit, form) for form in forms(digit)}


def test_the_same_seed_writes_the_same_strokes_and_another_seed_others():
    for digit in range(10):
        one, same, other = (rasterize(handwrite(digit, seed=s)) for s in (5, 5, 6))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_a_reader_who_knows_only_the_models_reads_the_jittered_digits():
    """Nearest model by pixels: far from 10 %, so the jitter leaves digits readable."""
    models = [rasterize(handwrite(d, f, jitter=0), 40) for d, f in EVERY_FORM]
    models = area_28x28(models)
    right = []
    for digit in range(10):
        drawn = [rasterize(handwrite(digit, seed=seed), 40) for seed in range(12)]
        for image in area_28x28(drawn):
            nearest = ((models - image) ** 2).sum(axis=(1, 2)).argmin()
            right.append(EVERY_FORM[nearest][0] == digit)
    assert np.mean(right) >= 0.7


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *[({"digit": digit}, "the hand writes 0 to 9") for digit in (10, -1, "7")],
        ({"form": "hooked"}, "no form 'hooked'; there are: .*barred"),
        ({"size_px": 270}, "size_px is 270, expected .* 1 to 262"),
        *[({"jitter": much}, "jitter is .* from 0 to 3") for much in (-1, 4, np.nan)],
    ],
)
def test_what_the_hand_cannot_write_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        handwrite(**{"digit": 7, **settings})


def fingerprint(drawings) -> float:
    """One number that every coordinate moves."""
    flat = np.concatenate([stroke for one in drawings for stroke in one]).ravel()
    return float(flat @ np.cos(np.arange(flat.size)))


def test_the_hand_still_writes_what_the_shipped_network_learnt_from():
    drawings = [handwrite(digit, form, seed=digit) for digit, form in EVERY_FORM]
    assert fingerprint(drawings) == pytest.approx(-691.2823326252693, rel=1e-6)
    stream = rng(1)
    warped = [warp(handwrite(digit), stream) for digit in range(10)]
    assert fingerprint(warped) == pytest.approx(274.18794706857733, rel=1e-6)
    stream = rng(1)
    other = [add_form(handwrite(digit), digit, stream) for digit in (0, 1, 7, 9)]
    assert fingerprint(other) == pytest.approx(-221.50824319456055, rel=1e-6)


# --- warping ------------------------------------------------------------------------


def test_a_warped_drawing_has_the_same_strokes_and_points_and_is_finite():
    for strokes in handwrite(4, "closed"), [np.array([[3.0, 4.0]])]:  # or a dot
        warped = warp(strokes, rng())
        assert [s.shape for s in warped] == [s.shape for s in strokes]
        assert all(np.isfinite(s).all() for s in warped)
        for before, after in zip(strokes, warp(strokes, rng(), 0), strict=True):
            np.testing.assert_allclose(after, before, atol=1e-9)  # at strength 0


@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_a_warp_is_the_same_in_any_units_and_keeps_the_size(scale):
    strokes = handwrite(8)
    for seed in SEEDS:
        small = warp(strokes, rng(seed))
        large = warp([s * scale for s in strokes], rng(seed))
        if size(strokes).max() * scale >= 1:  # below one unit it is only a dot
            np.testing.assert_allclose(large[0], small[0] * scale, rtol=1e-6)
        assert 0.5 < size(small).max() / size(strokes).max() < 1.7


# --- other forms --------------------------------------------------------------------


@pytest.mark.parametrize("digit", [0, 1, 7])
def test_another_form_of_0_1_and_7_is_one_stroke_more(digit):
    strokes = handwrite(digit, "plain")
    for seed in SEEDS:
        given = [stroke.copy() for stroke in strokes]
        other = add_form(strokes, digit, rng(seed))
        assert len(other) == len(strokes) + 1
        assert all(map(np.array_equal, given, strokes))  # left alone
        for before, after in zip(strokes, other, strict=False):
            np.testing.assert_array_equal(after, before)
        assert size(other[-1:]).max() > 0.2 * size(strokes).max()


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
    assert length == len(handwrite(9, "plain")[-1])  # left alone
    np.testing.assert_array_equal(other[-1][:length], strokes[-1])
    assert (other[-1][length:, 0] < strokes[-1][-1, 0]).all()


@pytest.mark.parametrize("digit", [2, 10, -1, "7"])
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
    assert (images.images[:12] != images.images[12:24]).any((1, 2)).all()  # inked anew


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


def test_another_pipeline_can_be_asked_for(pens):
    naive = pen_images(pens, seed=0, pipeline=NAIVE_PIPELINE).images
    spans = [np.ptp(np.nonzero(image)[0]) + 1 for image in naive]
    assert naive.shape == (12, 28, 28) and len(set(spans)) > 3  # of all sizes


def test_the_hand_writes_all_ten_digits_in_turn():
    images = hand_images(23, seed=0)
    np.testing.assert_array_equal(images.labels, np.arange(23) % 10)
    assert (images.images.reshape(23, 784).max(1) > 150).all()


def test_the_images_are_still_those_that_the_shipped_network_learnt_from():
    shares = hand_images(40, seed=0).images.reshape(40, -1).mean(1) / 255
    assert shares @ np.cos(np.arange(40)) == pytest.approx(0.414353, rel=1e-3)
