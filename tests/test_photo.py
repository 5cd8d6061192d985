"""Photos of paper: which ink becomes which canvas, and when it says it is not sure."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from mnistlab.classifier import Classifier
from mnistlab.photo import PHOTO_PX, read_photo
from mnistlab.strokes import place, rasterize
from mnistlab.synthetic import handwrite
from tools.photograph import INKS, PAPERS, photograph


@pytest.fixture(scope="module")
def shipped():
    return Classifier.load()


def write(digits, seed=0):
    return [handwrite(digit, seed=seed + i) for i, digit in enumerate(digits)]


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("ink", INKS)
def test_every_ink_is_found_on_every_paper(shipped, paper, ink):
    right = 0
    for digit in (2, 3, 5, 6):
        photo = photograph(write([digit], seed=3), seed=digit, paper=paper, ink=ink)
        sheet = read_photo(photo)
        assert len(sheet.canvases) == 1 and sheet.alarm == ""
        right += shipped(sheet.canvases[0]).logits.argmax() == digit
    assert right >= 3


@pytest.mark.parametrize("paper", PAPERS)
def test_a_sheet_of_ten_is_read_in_reading_order(shipped, paper):
    digits = [3, 8, 2, 0, 5, 6, 2, 9, 4, 7]
    sheet = read_photo(photograph(write(digits), seed=5, paper=paper))
    assert len(sheet.canvases) == len(sheet.boxes) == 10 and sheet.alarm == ""
    read = [int(shipped(canvas).logits.argmax()) for canvas in sheet.canvases]
    assert sum(a == b for a, b in zip(read, digits, strict=True)) >= 9


@pytest.mark.parametrize("degrees", [-9, 9])
def test_slanted_rows_are_read_one_after_the_other(shipped, degrees):
    digits = [3, 8, 2, 0, 5, 6, 2, 9, 4, 7]
    photo = np.asarray(photograph(write(digits), seed=5, paper="plain"))
    more = [(300, 300), (300, 300), (0, 0)]  # paper, which fills the turned corners
    photo = Image.fromarray(np.pad(photo, more, "edge")).rotate(degrees)
    sheet = read_photo(ImageOps.crop(photo, 200))
    read = [int(shipped(canvas).logits.argmax()) for canvas in sheet.canvases]
    assert sum(a == b for a, b in zip(read, digits, strict=True)) >= 9


def test_a_canvas_is_square_with_bright_ink_on_black():
    (canvas,) = read_photo(photograph(write([5]), seed=1)).canvases
    assert canvas.dtype == np.uint8 and canvas.shape[0] == canvas.shape[1]
    edge = np.concatenate([canvas[0], canvas[-1], canvas[:, 0], canvas[:, -1]])
    assert edge.max() == 0 and canvas.max() > 200
    assert 0.02 < (canvas > 127).mean() < 0.4


@pytest.mark.parametrize("bright", [255, 247])  # a scan's paper is pure white
def test_paper_of_any_brightness_is_no_ink(bright):
    drawn = rasterize(place(write([5])[0], 200), 14)
    photo = np.minimum(255 - drawn, np.uint8(bright))
    sheet = read_photo(photo)
    assert len(sheet.canvases) == 1 and sheet.alarm == ""
    assert (sheet.flat > 127).mean() == pytest.approx((drawn > 127).mean(), rel=0.1)


def test_light_that_falls_from_a_side_moves_no_box():
    photo = np.asarray(photograph(write([4, 2, 7]), seed=2, paper="plain"), float)
    dimmed = photo * np.linspace(1, 0.5, photo.shape[1])[None, :, None]
    one, other = (read_photo(p.astype(np.uint8)).boxes for p in (photo, dimmed))
    assert len(one) == len(other) == 3
    assert np.abs(np.array(one) - np.array(other)).max() <= 4


def test_a_file_a_picture_and_an_array_are_the_same_photo(tmp_path):
    photo = photograph(write([6]), seed=4)
    photo.save(tmp_path / "six.png")
    grey = np.asarray(photo.convert("L"))
    for same in np.asarray(photo), tmp_path / "six.png":
        assert read_photo(same).boxes == read_photo(photo).boxes
    assert len(read_photo(grey).boxes) == 1
    assert read_photo(photo.resize((4000, 4000))).flat.shape == (PHOTO_PX, PHOTO_PX)


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    photo = photograph(write([1, 7, 4]), seed=8, paper="plain")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    assert np.abs(np.array(read_photo(path).boxes) - read_photo(photo).boxes).max() < 9


def test_paper_without_ink_or_with_what_might_be_a_shadow_rings():
    light = (np.indices((400, 400)).sum(0) // 8 + 100).astype(np.uint8)
    for paper in np.full((400, 300), 240, np.uint8), np.zeros_like(light), light:
        sheet = read_photo(paper)
        assert sheet.canvases == () and "no ink" in sheet.alarm
    shaded = np.full((400, 400), 200, np.uint8)
    shaded[150:250, 190:210] = 168  # takes 16 % of the light
    assert "shadow" in read_photo(shaded).alarm
    half = (np.indices((400, 400)).sum(0) // 20 % 2 * 200 + 30).astype(np.uint8)
    assert "of the photo would be ink" in read_photo(half).alarm


def test_what_is_no_photo_is_an_error(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no photo"):
        read_photo(path)
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "missing.jpg")
