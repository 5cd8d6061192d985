"""What preprocess promises: a drawing's own frame, every stage, any picture or a no."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

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
    denormalize,
    fit_20x20,
    load_picture,
    normalize,
    save_trace,
    to_input,
    trace,
)
from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite


@pytest.fixture(scope="module")
def canvas():
    """A 4, uint8 (140, 140): it looks different turned, mirrored and inverted."""
    return rasterize(handwrite(4, seed=4, size_px=90, canvas_px=140), 9, 140)


def test_the_frame_of_the_drawing_matters_only_to_what_everybody_does_first(canvas):
    wide = np.pad(canvas, ((7, 140), (90, 31)))
    for other in (wide, np.roll(canvas, (5, -9), (0, 1)), crop_to_ink(canvas)):
        assert np.array_equal(to_input(other), to_input(canvas))
    change = to_input(wide, NAIVE_PIPELINE) - to_input(canvas, NAIVE_PIPELINE)
    assert abs(change).mean() > 0.2  # of a standard deviation of MNIST's pixels


def test_the_crop_is_the_smallest_box_that_holds_all_ink():
    image = np.full((50, 60), INK - 1, np.uint8)
    image[10, 20] = image[30, 25] = INK
    box = crop_to_ink(image)
    assert np.array_equal(box, image[10:31, 20:26])


@given(st.integers(1, 300), st.integers(1, 300))
def test_fitting_keeps_the_proportions_and_is_smooth(height, width):
    fitted = fit_20x20(np.full((height, width), 200, np.uint8))
    scale = 20 / max(height, width)
    assert fitted.shape == (max(1, round(height * scale)), max(1, round(width * scale)))
    stripes = np.tile(np.uint8([255, 0]), (200, 100))
    assert abs(fit_20x20(stripes).astype(int) - 127).max() <= 13  # no aliases


@settings(max_examples=100)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
@example(np.pad(np.uint8([[9]]), (0, 19)))
def test_the_centre_of_mass_comes_to_lie_on_pixel_14(image):
    if not image.any():
        with pytest.raises(ValueError):
            center_of_mass(image)
        return
    frame = center_of_mass(image)
    assert frame.shape == (28, 28) and frame.dtype == np.uint8
    assert frame.sum() == image.sum()  # nothing falls off
    for axis, side in enumerate(image.shape):
        own = np.average(range(side), weights=image.sum(1 - axis, dtype=float))
        start = np.clip(round(14 - own), 0, 28 - side)  # stopped by the edge
        centre = np.average(range(28), weights=frame.sum(1 - axis, dtype=float))
        assert centre == pytest.approx(own + start)


def test_normalize_undone_is_the_image_again():
    images = np.arange(3 * 784, dtype=np.uint64).astype(np.uint8).reshape(3, 28, 28)
    inputs = normalize(images)
    assert inputs.dtype == np.float32 and inputs.shape == images.shape
    assert inputs[0, 0, 0] == pytest.approx(-MEAN / STD)  # where images is 0
    assert np.allclose(denormalize(inputs), images / 255, atol=1e-6)
    assert np.array_equal(as_grey(inputs), images)
    faint = images // 4 + 10  # shown as faint as it is: nothing is stretched
    assert np.array_equal(as_grey(normalize(faint)), faint)
    assert np.array_equal(np.unique(as_grey(inputs * 1000)), [0, 255])  # but clipped
    for dtype, shape in ("f4", (28, 28)), ("?", (28, 28)), ("u1", (28, 27)):
        with pytest.raises(ValueError, match="expected uint8"):
            normalize(np.zeros(shape, dtype))


def test_mnists_own_images_are_where_the_pipeline_would_put_them(mnist):
    """Rounding apart: an image whose mass lies half-way may go either way."""
    moved = 0
    for image in mnist.train.images[:8000]:  # cut to every pixel that is not 0
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        moved += not np.array_equal(center_of_mass(box), image)
    assert moved <= 2  # so it is for all 70,000
    inputs = normalize(mnist.train.images)
    assert abs(inputs.mean(dtype=float)) < 5e-3 > abs(inputs.std(dtype=float) - 1)


def test_a_stages_numbers_are_those_of_its_picture():
    image = np.zeros((10, 20), np.uint8)
    image[4:6, 5:15] = 128
    image[0] = 127
    stages = trace(image, (fit_20x20, center_of_mass, normalize))
    original, centred, final = (stages[n].numbers for n in (0, -2, -1))
    assert original == {
        "shape": (10, 20),
        "dtype": "uint8",
        "low": 0,
        "high": 128,
        "mean": pytest.approx((20 * 128 + 20 * 127) / 200),
        "border": pytest.approx(20 * 127 / 56),
        "ink": pytest.approx(20 / 200),
    }
    assert (final["dtype"], final["shape"]) == ("float32", (28, 28))
    assert final["low"] == pytest.approx(-MEAN / STD)
    assert final["ink"] == centred["ink"]  # the same pixels are ink either way
    assert final["mean"] == pytest.approx((centred["mean"] / 255 - MEAN) / STD, 1e-4)


def test_a_saved_trace_is_the_trace(canvas, tmp_path):
    stages = trace(canvas)
    names = "original crop_to_ink fit_20x20 center_of_mass normalize".split()
    assert [stage.name for stage in stages] == names
    assert stages[0].image is canvas
    paths = save_trace(stages, tmp_path / "new" / "folder")
    written = [f"debug_{name}.png" for name in (*names[:-1], "final")]
    assert [path.name for path in paths] == [*written, "debug_stages.csv"]
    # What the normalised picture shows is the picture before, not one stretched.
    seen = [stage.image for stage in (*stages[:-1], stages[-2])]
    for path, image in zip(paths[:-1], seen, strict=True):
        assert np.array_equal(Image.open(path), image)
    table = pd.read_csv(paths[-1])
    for name in ("low", "high", "mean", "border", "ink"):
        assert table[name].tolist() == [stage.numbers[name] for stage in stages]
    assert table["shape"].tolist() == [str(stage.image.shape) for stage in stages]
    twice = [path.name for path in save_trace((stages[0], *stages), tmp_path)]
    assert twice[:2] == ["debug_original.png", "debug_original_2.png"]


def test_ink_that_cannot_be_cropped_or_vanishes_is_an_error_and_no_black_picture():
    for faint in (0, INK - 1):
        with pytest.raises(ValueError, match=f"brightest pixel is {faint}; ink begins"):
            to_input(np.full((28, 28), faint, np.uint8))
    canvas = np.zeros((2000, 2000), np.uint8)
    canvas[0, 0] = canvas[-1, -1] = 255
    with pytest.raises(ValueError, match="no ink is left"):
        to_input(canvas)


@settings(max_examples=200)
@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    st.sampled_from([MNIST_PIPELINE, NAIVE_PIPELINE]),
)
def test_any_canvas_gives_a_finite_input_or_a_value_error(canvas, pipeline):
    before = canvas.copy()
    try:
        image = to_input(canvas, pipeline)
    except ValueError:
        assert min(canvas.shape) < 8 or canvas.max() < INK
        return
    assert image.shape == (28, 28) and image.dtype == np.float32
    assert -MEAN / STD - 1e-6 <= image.min() <= image.max() <= (1 - MEAN) / STD + 1e-6
    assert np.array_equal(canvas, before)  # the drawing is the caller's


GREY = np.zeros((20, 30), np.uint8)
GREY[5:15, 8:12] = np.arange(60, 260, 5)[:40].reshape(10, 4)
GREY[8:10, 12:25] = 255
COLOURS = np.stack([GREY] * 3, -1)


def saved(format, picture=None, **more) -> bytes:
    content = io.BytesIO()
    (picture or Image.fromarray(GREY)).save(content, format, **more)
    return content.getvalue()


def test_every_mode_and_layout_gives_the_same_canvas():
    for mode in "L LA P PA RGB RGBA RGBX CMYK".split():
        for ink, grey in (("light", GREY), ("dark", 255 - GREY)):
            loaded = load_picture(Image.fromarray(grey).convert(mode), ink=ink)
            assert loaded.dtype == np.uint8 and np.array_equal(loaded, GREY), mode
    opaque = np.concatenate([COLOURS, np.full_like(COLOURS[..., :1], 255)], -1)
    for array in (GREY, COLOURS, opaque, np.asfortranarray(GREY)):
        assert np.array_equal(load_picture(array), GREY)
    assert np.array_equal(load_picture(GREY > 100), (GREY > 100) * np.uint8(255))
    primary = np.uint8([[(255, 0, 0), (0, 255, 0), (0, 0, 255)]]).repeat(8, 0)
    assert load_picture(primary.repeat(3, 1))[0, ::3].tolist() == [76, 150, 29]


def test_black_ink_on_transparency_is_laid_on_the_paper_that_was_declared():
    """What a browser's canvas gives: black ink, and nothing at all around it."""
    ink = Image.fromarray((GREY > 127) * np.uint8(255))
    clear = Image.merge("LA", [Image.new("L", ink.size), ink]).convert("RGBA")
    assert np.array_equal(load_picture(clear, ink="dark"), ink)
    assert load_picture(clear).max() == 0  # light ink on black paper: nothing is seen
    empty = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert set(load_picture(empty, paper=99).ravel()) == {99}
    assert set(load_picture(empty, ink="dark", paper=99).ravel()) == {156}
    for wrong in ({"paper": 256}, {"paper": 0.5}, {"ink": "auto"}):
        with pytest.raises(ValueError, match="expected light or dark"):
            load_picture(GREY, **wrong)


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "a four " * 9
FILES = [saved(name) for name in ("TIFF", "GIF", "BMP", "PPM")]
FILES += [saved(name, exif=EXIF) for name in ("PNG", "JPEG", "WEBP")]


def test_files_are_read_by_path_and_turned_as_their_exif_says(tmp_path):
    path = tmp_path / "four"
    for n, content in enumerate(FILES):
        path.write_bytes(content)
        upright = GREY if n < 4 else np.rot90(GREY, -1)
        for source in (path, str(path), Image.open(io.BytesIO(content))):
            error = load_picture(source).astype(int) - upright
            assert abs(error).mean() < (4 if n > 4 else 0.1)  # JPEG and WEBP lose a bit


def test_what_is_larger_than_a_canvas_is_reduced():
    large = Image.new("L", (MAX_SIDE + 904, 3750), 255)
    large.paste(0, (2500, 0, 5000, 3750))
    canvas = load_picture(large)
    assert canvas.shape == (3072, MAX_SIDE) and large.width == 5000
    assert canvas[:, :2040].min() == 255 and canvas[:, 2060:].max() == 0


def test_an_impossible_size_is_refused_before_it_is_decoded(tmp_path):
    bomb = saved("PNG", Image.new("1", (20_000, 9_000)))
    (tmp_path / "bomb.png").write_bytes(bomb[:60])  # its size, and no pixel
    with pytest.raises(ValueError, match="bomb.png cannot be read: .*180000000 pix"):
        load_picture(tmp_path / "bomb.png")


def test_a_file_that_is_no_whole_picture_is_named(tmp_path):
    path = tmp_path / "four.png"
    # Of the last one Pillow only warns; but which way up is written in there.
    parts = b"<!doctype html>", saved("PNG")[:70], saved("JPEG")[:300]
    for content in (None, *parts, saved("PNG", exif=EXIF.tobytes()[:20])):
        if content:
            path.write_bytes(content)
        with pytest.raises(ValueError, match="four.png cannot be read: .*; expected"):
            load_picture(path)


def test_what_is_no_canvas_and_no_picture_is_refused_in_words():
    neither = [np.zeros((7, 280), np.uint8)]
    neither += [np.empty((0, 0), np.uint8), np.zeros((28, 28, 5), np.uint8), None]
    neither += [GREY / 255, GREY.astype(np.uint16), GREY.astype(np.int64)]
    neither += [torch.from_numpy(GREY), GREY.tolist(), Image.fromarray(np.uint16(GREY))]
    large = np.zeros((8, MAX_SIDE + 1), np.uint8)
    for source in (*neither, COLOURS, GREY > 100, large):
        with pytest.raises(ValueError, match=r"the drawing is .*; expected uint8 \(H,"):
            trace(source, ())
    for source in neither:
        with pytest.raises(ValueError, match="cannot be read: .*; expected 8 bits"):
            load_picture(source)
