"""What synthetic promises: digits and what is none, readable, warped, as images."""

import numpy as np
import pytest

from mnistlab.pendigits import PenDigits
from mnistlab.preprocess import NAIVE_PIPELINE
from mnistlab.strokes import BRUSH_PX, CANVAS_PX, rasterize
from mnistlab.synthetic import (
    FORMS,
    NO_DIGIT,
    OTHERS,
    add_form,
    draw,
    forms,
    hand_images,
    handwrite,
    loosen,
    no_digit_images,
    part,
    pen_images,
    warp,
)

EVERY_FORM = [(digit, form) for digit in FORMS for form in forms(digit)]
SEEDS = range(20)


def rng(seed=0):
    return np.random.default_rng(seed)


def size(strokes):
    return np.ptp(np.concatenate(strokes), axis=0)


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
            assert size(strokes).max() == pytest.approx(CANVAS_PX - BRUSH_PX)
        pictures.add(rasterize(handwrite(digit, form, jitter=0)).tobytes())
    assert len(pictures) == len(forms(digit)) >= 15


def test_the_seed_picks_among_the_forms():
    def points(*which):
        return len(np.concatenate(handwrite(*which, jitter=0)))

    for digit in FORMS:
        written = {points(digit, None, seed) for seed in range(400)}
        assert written == {points(digit, form) for form in forms(digit)}


def test_a_reader_who_knows_only_the_models_reads_the_jittered_digits():
    """Nearest model by pixels: far from 10 %, so the jitter leaves digits readable."""

    def small(*which, **more):
        drawn = rasterize(handwrite(*which, **more), 40).astype(float)
        return drawn.reshape(28, 10, 28, 10).mean((1, 3))

    models = np.array([small(*which, jitter=0) for which in EVERY_FORM])
    right = []
    for digit in FORMS:
        for seed in range(12):
            far = ((models - small(digit, seed=seed)) ** 2).sum((1, 2))
            right.append(EVERY_FORM[far.argmin()][0] == digit)
    assert np.mean(right) >= 0.7


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


def fingerprint(drawings) -> float:
    """One number that every coordinate moves."""
    flat = np.concatenate([stroke for one in drawings for stroke in one]).ravel()
    return float(flat @ np.cos(np.arange(flat.size)))


def test_the_hand_still_writes_what_the_shipped_network_learnt_from():
    drawings = [handwrite(digit, form, seed=digit) for digit, form in EVERY_FORM]
    assert fingerprint(drawings) == pytest.approx(-691.2823326252693, rel=1e-6)
    stream = rng(1)
    warped = [warp(handwrite(digit), stream) for digit in FORMS]
    assert fingerprint(warped) == pytest.approx(274.18794706857733, rel=1e-6)
    stream = rng(1)
    loose = [loosen(handwrite(digit), stream) for digit in FORMS]
    assert fingerprint(loose) == pytest.approx(-486.6263053586589, rel=1e-6)
    stream = rng(1)
    other = [add_form(handwrite(digit), digit, stream) for digit in (0, 1, 7, 9)]
    assert fingerprint(other) == pytest.approx(-221.50824319456055, rel=1e-6)
    shares = hand_images(40, seed=0).images.reshape(40, -1).mean(1) / 255
    assert shares @ np.cos(np.arange(40)) == pytest.approx(0.414353, rel=1e-3)


# --- warped, loosened, in other forms -----------------------------------------------


@pytest.mark.parametrize("strokes", [handwrite(4, "closed"), [np.array([[3.0, 4.0]])]])
def test_a_warped_and_loosened_drawing_has_the_same_strokes_and_is_finite(strokes):
    for seed in SEEDS:
        for drawing in warp(strokes, rng(seed)), loosen(strokes, rng(seed)):
            assert len(drawing) == len(strokes)
            assert np.isfinite(np.concatenate(drawing)).all()
        np.testing.assert_allclose(warp(strokes, rng(seed), 0)[0], strokes[0])
    before = rasterize(strokes, 8).astype(int)  # loosening by 0 leaves the path
    assert np.abs(before - rasterize(loosen(strokes, rng(), 0), 8)).max() < 40


def test_a_warp_is_the_same_in_any_units_and_keeps_the_size():
    strokes = handwrite(8)
    for seed in SEEDS:
        warped = warp(strokes, rng(seed))
        assert 0.5 < size(warped).max() / size(strokes).max() < 1.7
        for scale in (0.1, 100):
            other = warp([s * scale for s in strokes], rng(seed))
            np.testing.assert_allclose(other[0], warped[0] * scale, rtol=1e-6)


def test_a_looser_pen_strays_more():
    strayed = []
    for by in (0.3, 1.0, 2.0):
        boxes = [size(loosen(handwrite(4), rng(seed), by)) for seed in SEEDS]
        strayed.append(np.std(boxes, axis=0).mean())
    assert strayed == sorted(strayed)


def test_a_part_of_a_stroke_has_its_share_of_the_length_and_lies_on_it():
    stroke = np.array([[0.0, 0], [30, 0], [30, 40], [130, 40]])
    middle = part(stroke, 0.1, 0.5)
    np.testing.assert_allclose(middle, [[17, 0], [30, 0], [30, 40], [45, 40]])


@pytest.mark.parametrize("digit", [0, 1, 7, 9])
def test_another_form_adds_a_slash_a_base_a_bar_or_a_hook_and_leaves_the_rest(digit):
    strokes = handwrite(digit, "plain")
    given = [stroke.copy() for stroke in strokes]
    low, high = np.concatenate(strokes).min(0), np.concatenate(strokes).max(0)
    for seed in SEEDS:
        other = add_form(strokes, digit, rng(seed))
        assert all(map(np.array_equal, given, strokes))
        assert len(other) == len(strokes) + (digit != 9)
        if digit == 9:
            added = other[-1][len(strokes[-1]) :]
            assert (added[:, 0] < strokes[-1][-1, 0]).all()  # to the left
            continue
        added = other[-1]
        assert size([added]).max() > 0.2 * size(strokes).max()
        if digit == 0:
            assert np.prod(added[0] - added[1]) < 0  # it rises
        if digit == 7:  # it crosses the middle
            assert (np.abs((added - low) / (high - low) - 0.5)[:, 1] < 0.25).all()


# --- images -------------------------------------------------------------------------


def test_a_drawing_becomes_28x28_in_mnists_frame_with_ink_on_black():
    for seed in SEEDS:
        image = draw(handwrite(seed % 10, seed=seed), rng(seed))
        assert image.shape == (28, 28) and image.dtype == np.uint8
        assert image.max() > 200 and image[::27, ::27].max() == 0
        assert 18 <= max(map(np.ptp, np.nonzero(image))) + 1 <= 20


def test_wide_pens_are_thinner_and_thicker_than_ordinary_ones():
    ordinary, wide = (
        [draw(handwrite(1, "plain"), rng(s), wide=w).mean() for s in range(100)]
        for w in (False, True)
    )
    assert min(wide) < 0.8 * min(ordinary) and max(wide) > 1.05 * max(ordinary)


def test_pen_images_keep_the_order_of_the_pens_in_each_copy(pens):
    images = pen_images(pens, seed=0, copies=3)
    np.testing.assert_array_equal(images.labels, [*pens.labels] * 3)
    assert images.images.shape == (36, 28, 28) and images.source == "a test"
    assert (images.images[:12] != images.images[12:24]).any((1, 2)).all()  # inked anew


def test_images_are_the_same_for_a_seed_and_others_for_another(pens):
    def make(seed):
        return pen_images(pens, seed, strength=1.0, other_forms=0.5).sha256

    assert make(5) == make(5) != make(6)
    assert hand_images(23, 5).labels.tolist() == [*range(10), *range(10), 0, 1, 2]
    assert hand_images(12, 5).sha256 != hand_images(12, 6).sha256


def test_only_the_wanted_share_gets_another_form(pens):
    sevens = pens.take(np.full(200, 7))
    none, half, every = (
        pen_images(sevens, 0, other_forms=share).images.mean() for share in (0, 0.5, 1)
    )
    assert none < half < every  # a bar is ink


def test_another_pipeline_can_be_asked_for(pens):
    naive = pen_images(pens, seed=0, pipeline=NAIVE_PIPELINE).images
    assert len({np.ptp(np.nonzero(image)[0]) for image in naive}) > 3  # of all sizes


# --- what is no digit ---------------------------------------------------------------


def test_no_letter_that_looks_like_a_digit_is_called_none():
    letters, others = set(OTHERS["letters"]), set(OTHERS["other letters"])
    assert not (letters | others) & set("oOlIzZsSbgq0123456789")
    assert not letters & others
    assert not set(OTHERS["marks"]) & set(OTHERS["other marks"])


@pytest.mark.parametrize("kind", NO_DIGIT)
def test_every_kind_of_no_digit_is_drawn_in_mnists_frame_and_seeded(kind, pens):
    images = no_digit_images(12, 0, {kind: 1})
    assert images.shape == (12, 28, 28) and images.dtype == np.uint8
    assert (images.reshape(12, -1).max(1) > 100).all()
    assert len(np.unique(images, axis=0)) == 12
    np.testing.assert_array_equal(images, no_digit_images(12, 0, {kind: 1}))
    spoils = "digit" in kind or kind == "pieces"
    assert spoils == (images != no_digit_images(12, 0, {kind: 1}, pens)).any()


def test_no_kind_of_no_digit_is_another_one():
    drawn = {no_digit_images(4, 0, {kind: 1}).tobytes() for kind in NO_DIGIT}
    assert len(drawn) == len(NO_DIGIT)


def test_a_glyph_has_several_strokes_and_is_too_broad_for_a_1():
    for seed in range(60):
        strokes = NO_DIGIT["glyphs"](rng(seed), None)
        low, high = sorted(size(strokes))
        assert 2 <= len(strokes) <= 4 and low >= 0.55 * high
