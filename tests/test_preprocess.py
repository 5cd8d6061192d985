"""What preprocess promises: a drawing's own frame, every stage, any picture or a no."""

import csv
import io
import struct
import warnings
import zlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageFile

from mnistlab.preprocess import (
    INK,
    MAX_SIDE,
    MEAN,
    MNIST_PIPELINE,
    NAIVE_PIPELINE,
    STD,
    as_grey,
    center_of_mass,
    crop_to_ink,
    fit_20x20,
    load_picture,
    normalize,
    save_trace,
    to_input,
    trace,
)
from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite

FRAME = MNIST_PIPELINE[:3]  # all but normalize: what is left is uint8 (28, 28)


@pytest.fixture(scope="module")
def canvases():
    """Thirty small canvases, uint8 (140, 140): three of each digit."""
    return [
        rasterize(handwrite(n % 10, seed=n, size_px=90, canvas_px=140), 9, 140)
        for n in range(30)
    ]


@pytest.fixture(scope="module")
def canvas(canvases):
    """A 4: it looks different turned, mirrored and inverted."""
    return canvases[4]


def balance(image) -> tuple[float, float]:
    """Row and column of the centre of mass, by a plain weighted mean."""
    rows, columns = np.indices(image.shape)
    return np.average(rows, weights=image), np.average(columns, weights=image)


def apart(one, other) -> np.ndarray:
    """Differences of grey, where one may lie a pixel beside the other."""
    places = product((-1, 0, 1), repeat=2)
    moved = [np.roll(other, place, (0, 1)).astype(int) - one for place in places]
    return min(map(np.abs, moved), key=np.sum)


# --- one drawing, anywhere and at any size ------------------------------------------


def test_moving_a_drawing_does_not_change_what_the_network_gets(canvases):
    rng = np.random.default_rng(0)
    for canvas in canvases:
        low, high = np.argwhere(canvas).min(0), 139 - np.argwhere(canvas).max(0)
        dy, dx = rng.integers(-low, high, endpoint=True)
        assert np.array_equal(
            to_input(np.roll(canvas, (dy, dx), (0, 1))), to_input(canvas)
        )


def test_the_size_of_the_canvas_does_not_matter(canvas):
    wide = np.pad(canvas, ((7, 0), (90, 31)))
    assert np.array_equal(to_input(wide), to_input(canvas))
    assert np.array_equal(to_input(crop_to_ink(canvas)), to_input(canvas))


def test_scaling_strokes_and_brush_changes_no_more_than_rounding():
    """Where rounding lets the shorter side be the same, grey changes by 1 % of 255.

    Elsewhere, for about one drawing in eight, the shorter side is a pixel longer or
    shorter, and the centre may move by a pixel. Measured over 1,500 drawings: the
    mean change is at most 0.2 of what a move by one pixel makes; with another side
    it is at most 0.9 of that move.
    """
    rng = np.random.default_rng(0)
    rounded = 0
    for n in range(100):
        around = [stroke - 140 for stroke in handwrite(n % 10, seed=n, size_px=100)]
        scale, brush_px = rng.uniform(0.8, 2.3), rng.uniform(8, 18)
        one, other = (
            trace(rasterize([s * k + 140 for s in around], brush_px * k), FRAME)
            for k in (1, scale)
        )
        sides = np.subtract(one[2].image.shape, other[2].image.shape)
        image = one[-1].image.astype(int)
        a_pixel = np.mean([abs(image - np.roll(image, 1, axis)) for axis in (0, 1)])
        change = apart(image, other[-1].image).mean()
        assert abs(sides).sum() <= 1
        assert change < (1.0 if sides.any() else 0.25) * a_pixel, (n, scale, brush_px)
        rounded += bool(sides.any())
    assert 0 < rounded < 30


def test_what_everybody_does_first_depends_on_place_and_size(canvas):
    wide = np.pad(canvas, ((0, 140), (0, 140)))
    change = to_input(wide, NAIVE_PIPELINE) - to_input(canvas, NAIVE_PIPELINE)
    assert abs(change).mean() > 0.2  # of a standard deviation of MNIST's pixels


# --- the steps ----------------------------------------------------------------------


def test_the_crop_is_the_smallest_box_that_holds_all_ink():
    image = np.full((50, 60), INK - 1, np.uint8)
    image[10, 20] = image[30, 25] = INK
    box = crop_to_ink(image)
    assert np.array_equal(box, image[10:31, 20:26])


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300))
def test_fitting_keeps_the_proportions(height, width):
    fitted = fit_20x20(np.full((height, width), 200, np.uint8)).shape
    assert max(fitted) == 20
    assert min(fitted) == max(1, round(20 * min(height, width) / max(height, width)))
    assert (fitted[0] > fitted[1]) <= (height > width)


def test_fitting_is_smooth_and_keeps_the_share_of_ink():
    stripes = np.tile(np.uint8([255, 0]), (200, 100))
    assert abs(fit_20x20(stripes).astype(int) - 127).max() <= 13  # no aliases
    assert fit_20x20(np.full((9, 9), 255, np.uint8)).min() == 255


@settings(max_examples=100)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_the_centre_of_mass_comes_to_lie_on_pixel_14(image):
    if not image.any():
        with pytest.raises(ValueError):
            center_of_mass(image)
        return
    frame = center_of_mass(image)
    assert frame.shape == (28, 28) and frame.dtype == np.uint8
    assert frame.sum() == image.sum()  # nothing falls off
    wanted = [round(14 - where) for where in balance(image)]
    stopped = [
        not 0 <= start <= 28 - side
        for start, side in zip(wanted, image.shape, strict=True)
    ]  # by the edge of the frame, on this axis
    off = np.abs(np.subtract(balance(frame), 14))
    assert (off[~np.array(stopped)] <= 0.5 + 1e-9).all()


def test_normalize_undone_is_the_image_again():
    images = np.arange(3 * 784, dtype=np.uint64).astype(np.uint8).reshape(3, 28, 28)
    inputs = normalize(images)
    assert inputs.dtype == np.float32 and inputs.shape == images.shape
    assert inputs[0, 0, 0] == pytest.approx(-MEAN / STD)  # where images is 0
    assert np.array_equal(as_grey(inputs), images)
    assert np.array_equal(normalize(images[1]), inputs[1])
    faint = images // 4 + 10  # shown as faint as it is: nothing is stretched
    assert np.array_equal(as_grey(normalize(faint)), faint)


def test_normalize_refuses_what_is_no_uint8_image():
    for dtype, shape in (("f4", (28, 28)), ("?", (28, 28)), ("u1", (28, 27))):
        with pytest.raises(ValueError, match="expected uint8"):
            normalize(np.zeros(shape, dtype))


def test_inverting_twice_is_identity(canvas):
    def invert(image):
        return 255 - image

    assert np.array_equal(
        to_input(canvas, (invert, invert, *MNIST_PIPELINE)), to_input(canvas)
    )
    once = to_input(canvas, (invert, *MNIST_PIPELINE))
    assert abs(once - to_input(canvas)).mean() > 1  # and once is not


def test_mnists_own_images_are_where_the_pipeline_would_put_them(mnist):
    """Rounding apart: an image whose mass lies half-way may go either way."""
    images = np.concatenate([mnist.train.images[:8000], mnist.test.images[:2000]])
    moved = [
        not np.array_equal(center_of_mass(crop_to_any(image)), image)
        for image in images
    ]
    assert sum(moved) <= 2  # so it is for all 70,000


def crop_to_any(image):
    """Cut to every pixel that is not 0: what MNIST's makers had before centring."""
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_normalised_training_images_have_mean_0_and_deviation_1(mnist):
    images = np.concatenate([mnist.train.images, mnist.validation.images])
    mean = std = 0.0
    for chunk in np.split(images, 60):
        inputs = normalize(chunk)
        mean, std = mean + inputs.mean() / 60, std + np.square(inputs).mean() / 60
    assert abs(mean) < 1e-3
    assert abs(std**0.5 - 1) < 1e-3


# --- stages -------------------------------------------------------------------------


def test_a_trace_names_every_step_and_ends_on_the_input(canvas):
    stages = trace(canvas)
    names = "original crop_to_ink fit_20x20 center_of_mass normalize".split()
    assert [stage.name for stage in stages] == names
    assert stages[0].image is canvas
    assert np.array_equal(stages[-1].image, to_input(canvas))
    assert np.array_equal(normalize(stages[-2].image), stages[-1].image)
    naive = [stage.name for stage in trace(canvas, NAIVE_PIPELINE)]
    assert naive == ["original", "resize_28x28", "normalize"]


def test_a_stages_numbers_are_those_of_its_picture():
    image = np.zeros((10, 20), np.uint8)
    image[4:6, 5:15] = 200
    image[0] = 56
    original, centred, final = (
        trace(image, (fit_20x20, center_of_mass, normalize))[n].numbers
        for n in (0, -2, -1)
    )
    assert original == {
        "shape": (10, 20),
        "dtype": "uint8",
        "low": 0,
        "high": 200,
        "mean": pytest.approx((20 * 200 + 20 * 56) / 200),
        "border": pytest.approx(20 * 56 / 56),
        "ink": pytest.approx(20 / 200),
    }
    assert (final["dtype"], final["shape"]) == ("float32", (28, 28))
    assert final["low"] == pytest.approx(-MEAN / STD)
    assert final["ink"] == centred["ink"]  # the same pixels are ink either way
    assert final["mean"] == pytest.approx((centred["mean"] / 255 - MEAN) / STD, 1e-4)


def test_a_saved_trace_is_the_trace(canvas, tmp_path):
    stages = trace(canvas)
    paths = save_trace(stages, tmp_path / "new" / "folder")
    names = "original crop_to_ink fit_20x20 center_of_mass final".split()
    assert [path.name for path in paths] == [
        *(f"debug_{name}.png" for name in names),
        "debug_stages.csv",
    ]
    for path, stage in zip(paths[:-2], stages[:-1], strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), stage.image)
    twice = [path.name for path in save_trace((stages[0], *stages), tmp_path)]
    assert twice[:2] == ["debug_original.png", "debug_original_2.png"]
    # What the normalised picture shows is the picture before, not one stretched.
    assert np.array_equal(load_picture(paths[-2]), stages[-2].image)
    with open(paths[-1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("stage") for row in rows] == [stage.name for stage in stages]
    for row, stage in zip(rows, stages, strict=True):
        assert row == {name: str(value) for name, value in stage.numbers.items()}


def test_what_leaves_the_range_is_clipped_when_it_is_shown():
    inputs = np.full((28, 28), 5, np.float32)
    inputs[0] = -5
    assert set(as_grey(inputs).ravel().tolist()) == {0, 255}
    with pytest.warns(RuntimeWarning):
        as_grey(inputs * np.float32("nan"))  # it does not pass for grey in silence


NO_CANVAS = {
    "seven rows": np.zeros((7, 280), np.uint8),
    "too wide": np.zeros((8, MAX_SIDE + 1), np.uint8),
    "a line": np.zeros(784, np.uint8),
    "colour": np.zeros((28, 28, 3), np.uint8),
    "bool": np.zeros((28, 28), bool),
    "text": np.full((28, 28), "7"),
    "a tensor": torch.zeros((28, 28), dtype=torch.uint8),
    "a list": [[0] * 28] * 28,
    "nothing": None,
}


@pytest.mark.parametrize("canvas", NO_CANVAS.values(), ids=NO_CANVAS)
def test_what_is_no_canvas_is_refused_in_words(canvas):
    with pytest.raises(ValueError, match=r"the drawing is .*; expected uint8 \(H, W\)"):
        trace(canvas, ())


def test_ink_that_cannot_be_cropped_or_vanishes_is_an_error_and_no_black_picture():
    for faint in (0, INK - 1):
        with pytest.raises(ValueError, match=f"brightest pixel is {faint}; ink begins"):
            to_input(np.full((28, 28), faint, np.uint8))
    assert to_input(np.zeros((28, 28), np.uint8), NAIVE_PIPELINE).max() < 0
    canvas = np.zeros((2000, 2000), np.uint8)
    canvas[0, 0] = canvas[-1, -1] = 255
    with pytest.raises(ValueError, match="no ink is left"):
        to_input(canvas)


canvases_of_any_kind = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    arrays(
        st.sampled_from([np.uint8, np.int16, np.float32, bool]),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
    ),
)


@settings(max_examples=200)
@given(canvases_of_any_kind, st.sampled_from([MNIST_PIPELINE, NAIVE_PIPELINE]))
def test_any_array_gives_a_finite_input_or_a_value_error(canvas, pipeline):
    before = canvas.copy()
    try:
        stages = trace(canvas, pipeline)
    except ValueError as error:
        is_canvas = canvas.dtype == np.uint8 and canvas.ndim == 2
        assert not is_canvas or min(canvas.shape) < 8 or canvas.max() < INK, error
        return
    image = stages[-1].image
    assert image.shape == (28, 28) and image.dtype == np.float32
    assert -MEAN / STD - 1e-6 <= image.min() <= image.max() <= (1 - MEAN) / STD + 1e-6
    assert np.array_equal(canvas, before)  # the drawing is the caller's
    assert all(np.isfinite(s.numbers["mean"]) for s in stages)


# --- any picture in -----------------------------------------------------------------

GREY = np.zeros((20, 30), np.uint8)
GREY[5:15, 8:12] = np.arange(60, 260, 5)[:40].reshape(10, 4)
GREY[8:10, 12:25] = 255


def as_mode(grey, mode) -> Image.Image:
    """The picture that has these greys in another of Pillow's modes."""
    picture = Image.fromarray(grey)
    if mode == "RGBa":
        picture = picture.convert("RGBA")
    return picture.convert(mode)


def saved(format, picture=None, **more) -> bytes:
    content = io.BytesIO()
    (picture or Image.fromarray(GREY)).save(content, format, **more)
    return content.getvalue()


@pytest.mark.parametrize(
    "mode", ["L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK"]
)
def test_every_mode_gives_the_same_canvas(mode):
    for ink, grey in (("light", GREY), ("dark", 255 - GREY)):
        loaded = load_picture(as_mode(grey, mode), ink=ink)
        assert loaded.dtype == np.uint8
        assert np.array_equal(loaded, GREY)


def test_every_layout_of_an_array_gives_the_same_canvas():
    colours = np.stack([GREY] * 3, -1)
    opaque = np.concatenate([colours, np.full_like(colours[..., :1], 255)], -1)
    for array in (GREY, colours, opaque, np.asfortranarray(GREY)):
        assert np.array_equal(load_picture(array), GREY)
    bits = GREY > 100
    for source in (bits, Image.fromarray(bits)):
        assert np.array_equal(load_picture(source), bits * np.uint8(255))


def test_colour_becomes_grey_by_its_luma():
    colours = np.uint8([[(255, 0, 0), (0, 255, 0), (0, 0, 255)]]).repeat(8, 0)
    assert load_picture(colours.repeat(3, 1))[0, ::3].tolist() == [76, 150, 29]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_black_ink_on_transparency_is_laid_on_paper(mode, tmp_path):
    """What a browser's canvas gives: black ink, and nothing at all around it."""
    ink, path = (GREY > 127) * np.uint8(255), tmp_path / "ink.png"
    drawn = Image.fromarray(ink)
    if mode in ("RGBA", "LA"):
        Image.merge("LA", [Image.new("L", drawn.size), drawn]).convert(mode).save(path)
    else:  # one colour is called transparent
        grey = Image.fromarray(np.where(ink, 0, 99).astype(np.uint8)).convert(mode)
        clear = {"L": 99, "RGB": (99, 99, 99)}.get(mode) or grey.getpixel((0, 0))
        grey.save(path, transparency=clear)
    assert np.array_equal(load_picture(path, ink="dark"), ink)
    # Declared as light ink on the default black paper, nothing is to be seen.
    assert load_picture(path).max() == 0


def test_paper_and_the_inks_polarity_are_declared_and_never_guessed():
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert set(load_picture(clear, paper=99).ravel()) == {99}
    assert set(load_picture(clear, ink="dark", paper=99).ravel()) == {156}
    for wrong in ({"paper": -1}, {"paper": 256}, {"paper": 0.5}, {"ink": "auto"}):
        with pytest.raises(ValueError, match="expected ink='light' .* or 'dark'"):
            load_picture(GREY, **wrong)
    assert np.array_equal(load_picture(255 - GREY), 255 - GREY)  # nothing is guessed


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_files_are_read_whole_by_path(format, tmp_path):
    path = tmp_path / "four"
    path.write_bytes(saved(format))
    for source in (path, str(path)):
        error = load_picture(source).astype(int) - GREY
        assert abs(error).mean() < (4 if format in ("JPEG", "WEBP") else 0.1)


@pytest.mark.parametrize(
    "orientation, undo",
    [(2, np.fliplr), (3, lambda a: a[::-1, ::-1]), (5, np.transpose), (6, np.rot90)],
)
def test_a_photo_is_turned_as_its_exif_says(orientation, undo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = Image.fromarray(undo(GREY).copy())  # as the sensor saw what stood upright
    path = tmp_path / "photo"
    path.write_bytes(saved("PNG", seen, exif=exif))
    assert np.array_equal(load_picture(path), GREY)
    with Image.open(path) as picture:
        assert np.array_equal(load_picture(picture), GREY)


def png(width, height) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


SIZES = [(7, 100), (MAX_SIDE + 1, 8), (10_000, 10_000), (60_000, 60_000)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_impossible_size_is_refused_before_it_is_decoded(
    size, tmp_path, monkeypatch, recwarn
):
    """Pillow by itself warns from 89 million pixels on, refuses from 179 million."""

    def load(self):
        pytest.fail(f"a picture of {self.size} was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(ValueError, match="bomb.png cannot be read"):
        load_picture(path)
    assert not recwarn.list
    path.write_bytes(png(100, 100))  # and the test would notice
    with pytest.raises(pytest.fail.Exception, match="was decoded"):
        load_picture(path)


exif = Image.Exif()
exif[0x0112], exif[0x010E] = 6, "a four " * 9
NO_PICTURE = {
    "empty": b"",
    "a web page": b"<!doctype html><html>Please log in</html>",
    "half a png": saved("PNG")[:70],
    "half a jpeg": saved("JPEG")[:300],
    "a png without its pixels": png(100, 100),
    # Pillow only warns; but which way up is written in there.
    "half an exif": saved("PNG", exif=exif.tobytes()[:20]),
}


@pytest.mark.parametrize("content", NO_PICTURE.values(), ids=NO_PICTURE)
def test_a_file_that_is_no_whole_picture_is_named(content, tmp_path):
    path = tmp_path / "four.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in anybody's notebook
        with pytest.raises(ValueError, match="four.png cannot be read: .*; expected"):
            load_picture(path)


def test_a_folder_and_a_missing_file_are_no_pictures(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        load_picture(tmp_path / "nowhere.png")
    (tmp_path / "cut.png").write_bytes(saved("PNG")[:70])
    with Image.open(tmp_path / "cut.png") as picture, pytest.raises(ValueError):
        load_picture(picture)


FILES = [saved(name) for name in ("TIFF", "GIF", "BMP", "PPM")]
FILES += [saved(name, exif=exif) for name in ("PNG", "JPEG", "WEBP")]


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_a_canvas_or_a_value_error(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(FILES)))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    places = st.integers(0, max(len(content) - 1, 0))
    flips = st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)
    for place, byte in data.draw(flips) if content else ():
        content[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        loaded = load_picture(path)
    except ValueError:
        return
    assert loaded.dtype == np.uint8 and loaded.ndim == 2
    assert 8 <= min(loaded.shape) <= max(loaded.shape) <= MAX_SIDE


NO_PIXELS = {
    "empty": np.empty((0, 0), np.uint8),
    "five channels": np.zeros((28, 28, 5), np.uint8),
    "channels first": np.zeros((3, 28, 28), np.uint8),
    "a number": np.array(7, np.uint8),
    "too wide": np.zeros((8, MAX_SIDE + 1), np.uint8),
    "shares": GREY / 255,
    "floats": GREY.astype(np.float32),
    "16 bits": GREY.astype(np.uint16),
    "64 bits": GREY.astype(np.int64),
    "text": np.full((28, 28), "7"),
    "a 16-bit picture": Image.fromarray(GREY.astype(np.uint16)),
    "a flat picture": Image.new("L", (100, 7)),
    "a list": [[0] * 28] * 28,
    "nothing": None,
}


@pytest.mark.parametrize("source", NO_PIXELS.values(), ids=NO_PIXELS)
def test_what_pillow_would_clip_or_cannot_read_is_refused_in_words(source):
    with pytest.raises(ValueError, match="cannot be read: .*; expected 8 bits"):
        load_picture(source)
