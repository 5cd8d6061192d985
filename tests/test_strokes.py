"""What strokes promises: a browser's pixels, and any drawing placed on the canvas.

`python tests/test_strokes.py` draws chromium_strokes.npz again, with the Chromium of
the machine; the strokes in it are written by the scripted hand.
"""

import base64
from pathlib import Path

import numpy as np
import pad_page
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnistlab.strokes import CANVAS_PX, place, random_place, rasterize
from mnistlab.synthetic import forms, handwrite

CHROMIUM_PIXELS = Path(__file__).with_name("chromium_strokes.npz")


def area_28x28(canvases: np.ndarray) -> np.ndarray:
    """Average uint8 (..., 280, 280) over 10x10 squares; ink 1, paper 0."""
    return np.reshape(canvases, (-1, 28, 10, 28, 10)).mean(axis=(2, 4)) / 255


# --- the raster against a browser ---------------------------------------------------


def drawings_and_brushes() -> tuple[list, list]:
    """Digits of the scripted hand and what a hand does by accident."""
    rng = np.random.default_rng(0)
    drawings = [handwrite(d, form, seed=d) for d in range(10) for form in forms(d)]
    drawings = [random_place(drawing, rng) for drawing in drawings]
    drawings += [
        [np.array([[100.3, 50.7]])],  # a dot
        [np.array([[-30.0, 140], [310, 151]])],  # in at one edge, out at another
        [np.array([[50.0, 50], [200, 50], [60, 90]])],  # a sharp corner
    ]
    drawings = [[s.astype(np.float32) for s in drawing] for drawing in drawings]
    return drawings, [(18, 10, 32)[i % 3] for i in range(len(drawings))]


DRAW_IN_BROWSER = """([strokes, brush, size]) => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = size;
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = pen.fillStyle = '#fff';
    pen.lineCap = pen.lineJoin = 'round';
    pen.lineWidth = brush;
    for (const stroke of strokes) {
        pen.beginPath();
        if (stroke.length == 1) {  // a canvas strokes no path of a single point
            pen.arc(...stroke[0], brush / 2, 0, 7);
            pen.fill();
        } else {
            for (const point of stroke) pen.lineTo(...point);
            pen.stroke();
        }
    }
    const red = pen.getImageData(0, 0, size, size).data.filter((_, i) => i % 4 == 0);
    return btoa(Array.from(red, v => String.fromCharCode(v)).join(''));
}"""


def draw_in_chromium(drawings: list, brushes: list) -> np.ndarray:
    """Let the browser draw: uint8 (N, 280, 280)."""
    with pad_page.chromium() as browser:
        page, pixels = browser.new_page(), []
        for drawing, brush in zip(drawings, brushes, strict=True):
            told = [[stroke.tolist() for stroke in drawing], brush, CANVAS_PX]
            raw = base64.b64decode(page.evaluate(DRAW_IN_BROWSER, told))
            pixels.append(np.frombuffer(raw, np.uint8).reshape(CANVAS_PX, CANVAS_PX))
    return np.array(pixels)


def strays(pixels, drawings: list, brushes) -> float:
    """How far our raster is from a browser's pixels (N, 28, 28) at most: 0 to 1."""
    ours = [rasterize(*which) for which in zip(drawings, brushes, strict=True)]
    assert len(pixels) > 30 and pixels.max() == 1
    return np.abs(area_28x28(ours) - pixels).max()


def test_the_raster_is_within_5_percent_of_chromiums_recorded_pixels():
    with np.load(CHROMIUM_PIXELS) as recorded:
        lines = np.split(recorded["points"], np.cumsum(recorded["stroke_lengths"])[:-1])
        counts = np.cumsum(recorded["strokes_per_drawing"])
        pixels, brushes = recorded["pixels"] / 255, recorded["brushes"]
    drawings = np.split(np.array(lines, dtype=object), counts[:-1])
    assert strays(pixels, drawings, brushes) <= 0.05


# --- the raster's own properties ----------------------------------------------------


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


if __name__ == "__main__":
    drawn, brush_sizes = drawings_and_brushes()
    np.savez_compressed(
        CHROMIUM_PIXELS,
        points=np.concatenate([np.concatenate(d) for d in drawn]),
        stroke_lengths=[len(s) for d in drawn for s in d],
        strokes_per_drawing=[len(d) for d in drawn],
        brushes=brush_sizes,
        pixels=(area_28x28(draw_in_chromium(drawn, brush_sizes)) * 255)
        .round()
        .astype(np.uint8),
    )
