"""What strokes promises: a browser's pixels, human digits, pens read whole or refused.

`python tests/test_strokes.py` draws chromium_strokes.npz again, with the Chromium of
the machine; the strokes in it are written by the scripted hand.
"""

import base64
import os
import shutil
import threading
import zipfile
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnistlab import data, strokes
from mnistlab.strokes import (
    BRUSH_PX,
    CANVAS_PX,
    FORMS,
    forms,
    handwrite,
    load_pens,
    pens_or_hand,
    place,
    random_place,
    rasterize,
    read_unipen,
)

CHROMIUM_PIXELS = Path(__file__).with_name("chromium_strokes.npz")
EVERY_FORM = [(digit, form) for digit in FORMS for form in forms(digit)]


def area_28x28(canvases: np.ndarray) -> np.ndarray:
    """Average uint8 (..., 280, 280) over 10x10 squares; ink 1, paper 0."""
    rows = np.asarray(canvases, float).reshape(-1, 28, 10, 28, 10)
    return rows.mean(axis=(2, 4)) / 255


def points_of(drawing: list) -> np.ndarray:
    return np.concatenate(drawing)


# --- the raster against a browser ---------------------------------------------------


def drawings_and_brushes() -> tuple[list, list]:
    """Digits of the scripted hand and what a hand does by accident."""
    rng = np.random.default_rng(0)
    drawings = [handwrite(digit, form, seed=digit) for digit, form in EVERY_FORM]
    drawings = [random_place(drawing, rng) for drawing in drawings]
    drawings += [
        [np.array([[100.3, 50.7]])],  # a dot
        [np.array([[-30.0, 140], [310, 151]])],  # in at one edge, out at another
        [np.array([[50.0, 50], [200, 50], [60, 90]])],  # a sharp corner
    ]
    drawings = [[s.astype(np.float32) for s in drawing] for drawing in drawings]
    return drawings, [(18, 10, 32)[i % 3] for i in range(len(drawings))]


def chromium() -> str:
    """Find the browser; a machine may lack one, but CI may not."""
    names = "chromium", "chromium-browser", "google-chrome"
    paths = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    found = next(filter(None, paths), None)
    if not found and os.environ.get("MNISTLAB_REQUIRE_BROWSER") == "1":
        pytest.fail("no Chromium here, and MNISTLAB_REQUIRE_BROWSER=1 asks for one")
    if not found:
        pytest.skip("no Chromium here: install it, or name it in CHROMIUM")
    return found


CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --no-first-run
    --disable-background-networking --disable-component-update --disable-sync""".split()
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
    from playwright.sync_api import sync_playwright

    shape = CANVAS_PX, CANVAS_PX
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        page, pixels = browser.new_page(), []
        for drawing, brush in zip(drawings, brushes, strict=True):
            told = [[stroke.tolist() for stroke in drawing], brush, CANVAS_PX]
            raw = base64.b64decode(page.evaluate(DRAW_IN_BROWSER, told))
            pixels.append(np.frombuffer(raw, np.uint8).reshape(shape))
        browser.close()
    return np.array(pixels)


@pytest.mark.browser
def test_the_raster_is_within_5_percent_of_a_live_chromium():
    drawings, brushes = drawings_and_brushes()
    theirs = draw_in_chromium(drawings, brushes)
    ours = [rasterize(d, b) for d, b in zip(drawings, brushes, strict=True)]
    assert theirs.max() == 255
    assert np.abs(area_28x28(ours) - area_28x28(theirs)).max() <= 0.05


def test_the_raster_is_within_5_percent_of_chromiums_recorded_pixels():
    with np.load(CHROMIUM_PIXELS) as recorded:
        lines = np.split(recorded["points"], np.cumsum(recorded["stroke_lengths"])[:-1])
        counts = np.cumsum(recorded["strokes_per_drawing"])
        pixels, brushes = recorded["pixels"] / 255, recorded["brushes"]
    drawings = np.split(np.array(lines, dtype=object), counts[:-1])
    ours = area_28x28([rasterize(d, b) for d, b in zip(drawings, brushes, strict=True)])
    assert len(pixels) > 30
    assert pixels.max() == 1
    assert np.abs(ours - pixels).max() <= 0.05


# --- the raster's own properties ----------------------------------------------------


def test_no_strokes_leave_a_blank_canvas():
    blank = rasterize([])
    assert blank.shape == (CANVAS_PX, CANVAS_PX)
    assert blank.dtype == np.uint8
    assert not blank.any()
    assert not rasterize([np.empty((0, 2))]).any()


def test_a_single_point_is_a_disc_of_the_brush():
    canvas = rasterize([[(140, 100)]], brush_px=40)
    assert canvas.sum() / 255 == pytest.approx(np.pi * 20**2, rel=0.01)
    rows, columns = np.nonzero(canvas)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == (140, 100)  # x, then y
    np.testing.assert_array_equal(rasterize([[(140, 100)] * 3], 40), canvas)


def test_a_straight_stroke_has_the_area_of_a_bar_with_round_ends():
    for end in ((200, 60), (60, 200), (200, 200), (180, 100)):
        length = np.hypot(end[0] - 60, end[1] - 60)
        ink = rasterize([[(60, 60), end]], brush_px=20).sum() / 255
        # corners lie on quarters of a pixel: a 20 px bar may be 0.35 px off
        assert ink == pytest.approx(length * 20 + np.pi * 100, rel=0.02)


def test_what_lies_outside_the_canvas_is_cut_by_the_edge():
    across = rasterize([[(-50, 140), (330, 140)]], brush_px=20)
    assert (across[131:149] == 255).all()
    assert not rasterize([[(-50, -50), (-50, 330)]]).any()
    assert rasterize([[(-4, 140)]], brush_px=20)[:, 0].any()


def test_the_drawing_of_two_strokes_is_the_lighter_of_both():
    a, b = [(50, 50), (200, 210)], [(200, 40), (80, 230)]
    both = np.maximum(rasterize([a]), rasterize([b]))
    difference = np.abs(both.astype(int) - rasterize([a, b]))
    assert (difference > 0).mean() < 0.001  # only where two soft edges cross


numbers = st.floats(allow_nan=False, allow_infinity=False)
near = st.integers(40 * 8, 240 * 8).map(lambda eighths: eighths / 8)
stroke_shapes = st.tuples(st.integers(1, 6), st.just(2))


@given(
    st.lists(arrays(float, stroke_shapes, elements=numbers), max_size=3),
    st.integers(1, 40),
)
def test_any_finite_strokes_give_a_canvas_or_are_refused_as_too_far(drawing, canvas_px):
    far = any(np.abs(stroke).max() > strokes.FARTHEST_PX for stroke in drawing)
    if far:
        with pytest.raises(ValueError, match="beyond 100,000 px"):
            rasterize(drawing, 1, canvas_px)
        return
    canvas = rasterize(drawing, 1, canvas_px)
    assert canvas.shape == (canvas_px, canvas_px)
    assert canvas.dtype == np.uint8


@given(
    arrays(float, stroke_shapes, elements=near),
    st.integers(-25, 25),
    st.integers(-25, 25),
)
def test_moving_by_whole_pixels_moves_the_raster_exactly(stroke, right, down):
    moved = rasterize([stroke + (right, down)])
    np.testing.assert_array_equal(
        moved, np.roll(rasterize([stroke]), (down, right), axis=(0, 1))
    )


@given(
    arrays(float, stroke_shapes, elements=near), st.integers(2, 20), st.integers(1, 9)
)
def test_a_thicker_brush_leaves_more_ink(stroke, brush, more):
    thin, thick = (rasterize([stroke], b).astype(int) for b in (brush, brush + more))
    assert thick.sum() > thin.sum()
    assert (thick >= thin).mean() > 0.999


@pytest.mark.parametrize(
    ("drawing", "told"),
    [
        ([[(1, np.nan)]], "stroke 0 has a point that is NaN"),
        ([[(1, 1)], [(np.inf, 1)]], "stroke 1 has a point that is NaN, infinite"),
        ([[(1, 2, 3)]], r"shape \(1, 3\); expected an array \(n, 2\)"),
        ([(1, 2)], r"shape \(2,\); expected an array \(n, 2\)"),
        ([[]], r"shape \(0,\)"),
        ([[("a", "b")]], "stroke 0: could not convert"),
        ([[(1, 2), (3,)]], "stroke 0: .*inhomogeneous"),
    ],
)
def test_bad_strokes_are_refused_by_number_and_reason(drawing, told):
    with pytest.raises(ValueError, match=told):
        rasterize(drawing)


@pytest.mark.parametrize(
    "sizes",
    [
        {"brush_px": 0},
        {"brush_px": -1},
        {"brush_px": np.nan},
        {"brush_px": 281},
        {"brush_px": "18"},
        {"canvas_px": 0},
        {"canvas_px": 28.5},
        {"canvas_px": 100_000},
        {"supersample": 0},
    ],
)
def test_an_impossible_size_is_refused_by_name(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} is .*expected a"):
        rasterize([[(1, 1)]], **sizes)


# --- size and position --------------------------------------------------------------


def test_place_keeps_proportions_and_reaches_the_size():
    drawing = handwrite(7, "barred", seed=3)
    placed = points_of(place(drawing, 100, center=(60, 200)))
    before, after = (np.ptp(p, axis=0) for p in (points_of(drawing), placed))
    assert after.max() == pytest.approx(100)
    assert after[0] / after[1] == pytest.approx(before[0] / before[1])
    assert (placed.max(axis=0) + placed.min(axis=0)) / 2 == pytest.approx([60, 200])


def test_place_moves_a_dot_without_scaling_it():
    (dot,) = place([[(3, 4)]], 190)
    assert dot.tolist() == [[140, 140]]


def test_placing_nothing_is_refused():
    with pytest.raises(ValueError, match="no points"):
        place([], 100)
    with pytest.raises(ValueError, match="center is"):
        place([[(3, 4)]], 100, center=(float("nan"), 1))


@given(st.integers(0, 2**32), st.integers(0, 9), st.sampled_from([8, 18, 32]))
def test_a_random_place_keeps_all_ink_on_the_canvas(seed, digit, brush):
    rng = np.random.default_rng(seed)
    points = points_of(random_place(handwrite(digit), rng, 100, 240, brush))
    assert points.min() >= brush / 2 - 1e-9
    assert points.max() <= CANVAS_PX - brush / 2 + 1e-9
    assert 100 <= np.ptp(points, axis=0).max() <= 240


def test_a_size_that_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit a 280 px canvas"):
        random_place([[(1, 1)]], np.random.default_rng(0), 100, 240, brush_px=41)


# --- the scripted hand --------------------------------------------------------------


@pytest.mark.parametrize(("digit", "form"), EVERY_FORM)
def test_every_form_stays_on_the_canvas_with_its_brush(digit, form):
    for seed in range(20):
        points = points_of(handwrite(digit, form, seed, size_px=CANVAS_PX - BRUSH_PX))
        assert points.min() >= BRUSH_PX / 2 - 1e-9
        assert points.max() <= CANVAS_PX - BRUSH_PX / 2 + 1e-9
        assert np.ptp(points, axis=0).max() == pytest.approx(CANVAS_PX - BRUSH_PX)


def test_every_digit_has_several_forms_and_the_seed_picks_among_them():
    for digit in range(10):
        assert len(forms(digit)) >= 3
        written = {
            len(points_of(handwrite(digit, seed=s, jitter=0))) for s in range(60)
        }
        models = {len(points_of(handwrite(digit, f, jitter=0))) for f in forms(digit)}
        assert written == models


def test_the_same_seed_writes_the_same_strokes_and_another_seed_others():
    for digit in range(10):
        one, same, other = (rasterize(handwrite(digit, seed=s)) for s in (5, 5, 6))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_without_jitter_every_seed_writes_the_model():
    a, b = (rasterize(handwrite(4, "open", seed=s, jitter=0)) for s in (1, 2))
    np.testing.assert_array_equal(a, b)


def test_a_reader_who_knows_only_the_models_reads_the_jittered_digits():
    """Nearest model by pixels: far from 10 %, so the jitter leaves digits readable."""
    models = [rasterize(handwrite(d, f, jitter=0), 40) for d, f in EVERY_FORM]
    models = area_28x28(models)
    right = []
    for digit in range(10):
        drawn = [rasterize(handwrite(digit, seed=seed), 40) for seed in range(20)]
        for image in area_28x28(drawn):
            nearest = ((models - image) ** 2).sum(axis=(1, 2)).argmin()
            right.append(EVERY_FORM[nearest][0] == digit)
    assert np.mean(right) >= 0.8


@pytest.mark.parametrize("digit", [10, -1, "7", None])
def test_an_unknown_digit_is_refused(digit):
    with pytest.raises(ValueError, match="the hand writes 0 to 9"):
        handwrite(digit)


def test_an_unknown_form_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match="no form 'hooked'; there are: .*barred"):
        handwrite(7, "hooked")


def test_a_digit_too_large_for_the_canvas_is_refused():
    with pytest.raises(ValueError, match="size_px is 270, expected .* 1 to 262"):
        handwrite(7, size_px=270)


# --- recorded pens ------------------------------------------------------------------

SEVEN = [[(100, 400), (200, 400), (120, 100)], [(90, 250), (190, 250)]]
ONE = [[(300, 410), (310, 90)]]


def unipen(*digits: tuple) -> str:
    """Write (label, writer, strokes) as pendigits-orig does, y upward."""
    lines, pen_down = [".INCLUDE dene.doc", '.LEXICON "0" "1"', ".HIERARCHY DIGIT"], 0
    for record, (label, writer, drawing) in enumerate(digits):
        last = pen_down + len(drawing) - 1
        which = f"{pen_down}-{last}" if last > pen_down else pen_down
        lines += ["", f'.SEGMENT DIGIT {which:>4} ? "{label}"']
        lines += [f".COMMENT {label} {writer:>2}  {record:>3}"]
        for stroke in drawing:
            points = [f" {x}  {y}" for x, y in stroke]
            lines += [".PEN_DOWN", *points, ".PEN_UP", ".DT 100"]
        pen_down = last + 1
    return "\n".join(lines) + "\n"


TEXT = unipen((7, 12, SEVEN), (1, 3, ONE), (7, 3, SEVEN))


def test_unipen_is_read_with_labels_writers_and_upright():
    pens = read_unipen(TEXT, "here")
    assert len(pens) == 3
    assert pens.source == "here"
    assert pens.labels.tolist() == [7, 1, 7]
    assert pens.writers.tolist() == [12, 3, 3]
    assert pens.labels.dtype == pens.writers.dtype == np.int64
    assert [s.tolist() for s in pens.strokes[0]] == [
        [[100, 100], [200, 100], [120, 400]],
        [[90, 250], [190, 250]],
    ]
    canvas = rasterize(place(pens.strokes[0], 190))
    assert canvas[:140].sum() > canvas[140:].sum()  # a 7 has its bar at the top


def test_pens_are_kept_by_writer():
    pens = read_unipen(TEXT).of_writers({3})
    assert (pens.labels.tolist(), set(pens.writers.tolist())) == ([1, 7], {3})
    assert len(pens.strokes) == 2
    with pytest.raises(ValueError, match=r"no writer \[4\], only \[3\]"):
        pens.of_writers([3, 4])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"7"', '"x"', "unknown label 'x'"),
        ('"7"', '""', "unknown label ''"),
        (' ? "7"', "", "no label in .SEGMENT DIGIT"),
        ('"7"', '"1"', ".SEGMENT says 1 and .COMMENT says 7"),
        (".COMMENT 7 12", ".COMMENT", "no line .COMMENT"),
        ("120  100\n.PEN_UP", "120  100", "without its .PEN_UP"),
        ("120  100\n", "120  1x0\n", "could not convert"),
        ("120  100\n", "120\n", "inhomogeneous"),
        ("120  100\n", "120  100 3\n", "inhomogeneous"),
        ("120  100\n", "120  501\n", r"outside 0\.\.500"),
        ("120  100\n", "nan  100\n", r"outside 0\.\.500"),
        (".DT 100", "90 90", r"points after \.PEN_UP"),
        (" 90  250\n 190  250\n", "", "not lines of x and y"),
    ],
)
def test_unipen_that_contradicts_itself_is_refused_by_digit(old, new, told):
    assert old in TEXT
    with pytest.raises(ValueError, match=f"digit 1 of .*{told}.*fetch it again"):
        read_unipen(TEXT.replace(old, new, 1))


def test_unipen_cut_anywhere_inside_its_last_digit_is_refused():
    whole = TEXT.rstrip("\n").removesuffix(".DT 100").rstrip("\n")
    start = whole.rindex(".SEGMENT") + len(".SEGMENT")
    for end in range(start, len(whole)):
        with pytest.raises(ValueError, match="digit 3"):
            read_unipen(whole[:end])
    assert len(read_unipen(whole)) == 3


@pytest.mark.parametrize("text", ["", " 47,100, 27, 81, 57, 37, 26,  0, 8\n"])
def test_a_file_without_unipen_digits_is_refused(text):
    with pytest.raises(ValueError, match=r"no \.SEGMENT line.*expected the unpacked"):
        read_unipen(text)


def unix_compress(content: bytes) -> bytes:
    """Pack as the old `compress` does: 9-bit literals, the table cleared every 7th."""
    bits = "".join(
        "".join(f"{code:09b}"[::-1] for code in [*content[i : i + 7], 256])
        for i in range(0, len(content), 7)
    )
    bits += "0" * (-len(bits) % 8)
    packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    return b"\x1f\x9d\x90" + packed


def zipped(name: str, content: bytes) -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr(name, content)
    return archive.getvalue()


MEMBER = "pendigits-orig.tra.Z"
ARCHIVE = zipped(MEMBER, unix_compress(TEXT.encode()))


@pytest.fixture
def serve(monkeypatch):
    """Let load_pens fetch what the test says from a server on this machine."""
    bodies, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(bodies[0])))
            self.end_headers()
            self.wfile.write(bodies[0])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/pens.zip"
    monkeypatch.setattr(strokes, "PENS_URL", url)

    def start(body: bytes, expected: str = TEXT) -> list:
        digest = md5(expected.encode()).hexdigest()
        monkeypatch.setattr(strokes, "PENS_MD5", digest)
        bodies[:] = [body]
        return asked

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def test_pens_are_fetched_once_unpacked_and_kept(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    asked = serve(ARCHIVE)
    first, second = load_pens(), load_pens()
    assert first.labels.tolist() == second.labels.tolist() == [7, 1, 7]
    assert asked == ["/pens.zip"]
    (kept,) = (tmp_path / "pendigits").iterdir()
    assert kept.read_text() == TEXT


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>log in here</html>", "not a whole zip archive"),
        (ARCHIVE[:-30], "not a whole zip archive"),
        (ARCHIVE[:80] + b"?" + ARCHIVE[81:], "not a whole zip archive"),
        (zipped("readme", b"hello"), "does not hold pendigits-orig.tra.Z"),
        (zipped(MEMBER, b"not packed by compress"), "Incorrect magic bytes"),
        (zipped(MEMBER, b"\x1f\x9d\x90\xff\xff\xff"), "Invalid"),
        (zipped(MEMBER, unix_compress(b"another text")), "md5 .* expected"),
    ],
)
def test_a_bad_archive_is_refused_and_nothing_is_kept(serve, tmp_path, body, told):
    serve(body)
    with pytest.raises(data.DataUnavailable, match=told):
        load_pens(tmp_path)
    assert not list(tmp_path.rglob("*.tra*"))


def test_a_damaged_file_is_refused_and_left_alone(serve, tmp_path):
    asked = serve(ARCHIVE)
    path = tmp_path / "pendigits" / "pendigits-orig.tra"
    path.parent.mkdir()
    path.write_text(TEXT[:-1])
    with pytest.raises(data.DataCorrupt, match="delete it"):
        load_pens(tmp_path)
    assert path.read_text() == TEXT[:-1]
    assert not asked


def test_without_pens_the_hand_writes_and_says_so(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    serve(b"no network")
    written, again = pens_or_hand(23, seed=4), pens_or_hand(23, seed=4)
    line, _ = capsys.readouterr().out.splitlines()
    assert "23 digits" in line
    assert "scripted hand" in line
    assert "scripted hand" in written.source
    assert set(np.bincount(written.labels)) == {2, 3}
    np.testing.assert_array_equal(points_of(written.strokes[22]), again.strokes[22][0])


def test_with_pens_they_are_drawn_by_class_and_named(
    serve, tmp_path, monkeypatch, capsys
):
    text = unipen(*[(d, d % 3, SEVEN if d == 7 else ONE) for d in [*range(10)] * 3])
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    serve(zipped(MEMBER, unix_compress(text.encode())), expected=text)
    drawn = pens_or_hand(20)
    assert capsys.readouterr().out.count("\n") == 1
    assert drawn.source == strokes.PENS_SOURCE
    assert np.bincount(drawn.labels).tolist() == [2] * 10
    assert [len(s) for s in drawn.strokes] == [1 + (d == 7) for d in drawn.labels]
    with pytest.raises(ValueError, match="Ask for fewer"):
        pens_or_hand(40)


def test_the_real_pens_are_7494_digits_of_30_writers():
    if not (data.data_folder() / "pendigits" / strokes.PENS_FILE).exists():
        pytest.skip(
            "pendigits-orig.tra is not in the data folder: run load_pens() once"
        )
    pens = load_pens()
    assert len(pens) == 7494
    assert set(pens.writers.tolist()) == set(range(1, 31))
    assert np.bincount(pens.labels).min() == 719
    sevens = [place(pens.strokes[i], 190) for i in np.flatnonzero(pens.labels == 7)]
    ends = [max(drawing, key=len)[[0, -1], 1] for drawing in sevens]
    assert np.mean([first < last for first, last in ends]) > 0.95  # 7s start at the top


if __name__ == "__main__":
    drawn, brush_sizes = drawings_and_brushes()
    np.savez_compressed(
        CHROMIUM_PIXELS,
        points=np.concatenate([points_of(d) for d in drawn]),
        stroke_lengths=[len(s) for d in drawn for s in d],
        strokes_per_drawing=[len(d) for d in drawn],
        brushes=brush_sizes,
        pixels=(area_28x28(draw_in_chromium(drawn, brush_sizes)) * 255)
        .round()
        .astype(np.uint8),
    )
