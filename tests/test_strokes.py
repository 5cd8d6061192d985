"""What strokes promises: what a round pen covers, and any drawing on the canvas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnistlab.strokes import CANVAS_PX, place, random_place, rasterize
from mnistlab.synthetic import handwrite

# --- the raster ---------------------------------------------------------------------


def covered(strokes, brush_px) -> np.ndarray:
    """What lies within half a brush of the path: shares of 28x28 squares of 10 px.

    That is what a browser draws with round ends and joins: Chromium's pixels were
    within 0.02 of it, in 38 drawings.
    """
    y, x = np.indices((CANVAS_PX, CANVAS_PX)) + 0.5
    far = np.full((CANVAS_PX, CANVAS_PX), np.inf)
    for stroke in strokes:
        for (x0, y0), (x1, y1) in zip(stroke, [*stroke[1:], stroke[-1]], strict=True):
            along = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
            along = (along / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)).clip(0, 1)
            off = x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)
            far = np.minimum(far, np.hypot(*off))
    inked = (brush_px / 2 - far + 0.5).clip(0, 1)
    return inked.reshape(28, 10, 28, 10).mean((1, 3))


@pytest.mark.parametrize("brush_px", [10, 18, 32])
def test_the_raster_is_within_4_percent_of_what_a_round_pen_covers(brush_px):
    rng = np.random.default_rng(0)
    drawings = [random_place(handwrite(digit, seed=digit), rng) for digit in range(10)]
    drawings += [
        [[(100.3, 50.7)]],  # a dot
        [[(-30.0, 140), (310, 151)]],  # in at one edge, out at another
        [[(50.0, 50), (200, 50), (60, 90)]],  # a sharp corner
    ]
    for drawing in drawings:
        ours = rasterize(drawing, brush_px).reshape(28, 10, 28, 10).mean((1, 3)) / 255
        expected = covered(drawing, brush_px)
        assert expected.max() > 0.1 and np.abs(ours - expected).max() <= 0.04


def test_a_single_point_is_a_disc_of_the_brush():
    canvas = rasterize([[(140, 100)]], brush_px=40)
    assert canvas.sum() / 255 == pytest.approx(np.pi * 20**2, rel=0.01)
    rows, columns = np.nonzero(canvas)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == (140, 100)  # x, then y
    np.testing.assert_array_equal(rasterize([[(140, 100)] * 3], 40), canvas)
    seen = [rasterize([[(x, 100)]], 40).sum(0) for x in (140.125, 140.375)]
    left, right = (np.average(range(CANVAS_PX), weights=columns) for columns in seen)
    assert right - left == pytest.approx(0.25, abs=0.02)  # halves go one way


def test_what_lies_outside_the_canvas_is_cut_by_the_edge_and_nothing_is_blank():
    across = rasterize([[(-50, 140), (330, 140)]], brush_px=20)
    assert (across[131:149] == 255).all()
    for nothing in [], [np.empty((0, 2))], [[(-50, -50), (-50, 330)]]:
        blank = rasterize(nothing)
        assert blank.shape == (CANVAS_PX, CANVAS_PX) and blank.dtype == np.uint8
        assert not blank.any()
    assert rasterize([[(-4, 140)]], brush_px=20)[:, 0].any()


near = st.integers(40 * 8, 240 * 8).map(lambda eighths: eighths / 8)
stroke_shapes = st.tuples(st.integers(1, 6), st.just(2))


@given(arrays(float, stroke_shapes, elements=near), st.integers(-25, 25))
def test_moving_by_whole_pixels_moves_the_raster_exactly(stroke, by):
    moved = np.roll(rasterize([stroke]), (-by, by), axis=(0, 1))
    np.testing.assert_array_equal(rasterize([stroke + (by, -by)]), moved)


def test_bad_strokes_and_impossible_sizes_are_refused_in_words():
    for stroke in [(1, np.nan)], [(1e6, 1)], [(1, 2, 3)], (1, 2), [("a", "b")]:
        with pytest.raises(ValueError, match="stroke 1.* within 100,000|convert"):
            rasterize([[(1, 1)], stroke])
    for brush, canvas in (0, 280), (np.nan, 280), (281, 280), (18, 0), (18, 100_000):
        name = "brush_px" if canvas == 280 else "canvas_px"
        with pytest.raises(ValueError, match=f"{name} is .*expected"):
            rasterize([[(1, 1)]], brush, canvas)


# --- size and position --------------------------------------------------------------


def test_place_keeps_proportions_and_reaches_the_size():
    drawing = handwrite(7, "barred", seed=3)
    placed = np.concatenate(place(drawing, 100, center=(60, 200)))
    before, after = (np.ptp(p, axis=0) for p in (np.concatenate(drawing), placed))
    assert after.max() == pytest.approx(100)
    assert after[0] / after[1] == pytest.approx(before[0] / before[1])
    assert (placed.max(axis=0) + placed.min(axis=0)) / 2 == pytest.approx([60, 200])
    assert place([[(3, 4)]], 190)[0].tolist() == [[140, 140]]  # a dot is only moved
    with pytest.raises(ValueError, match="no points"):
        place([], 100)


def test_random_places_keep_all_ink_reach_every_size_and_both_edges_or_are_refused():
    rng, sizes, middles = np.random.default_rng(0), [], []
    for n in range(200):
        drawing, brush = handwrite(n % 10), (8, 18, 32)[n % 3]
        points = np.concatenate(random_place(drawing, rng, 100, 240, brush))
        assert points.min() >= brush / 2 - 1e-9
        assert points.max() <= CANVAS_PX - brush / 2 + 1e-9
        sizes.append(np.ptp(points, axis=0).max())
        middles.append(points.mean(axis=0)[0])
    assert 100 - 1e-9 <= min(sizes) < 110 and 230 < max(sizes) <= 240 + 1e-9
    assert min(middles) < 75 and max(middles) > 205
    for impossible in (100, 240, 41), (9, 8, 1):
        with pytest.raises(ValueError, match="expected"):
            random_place([[(1, 1)]], rng, *impossible)
