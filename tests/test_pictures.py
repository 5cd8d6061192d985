"""Pictures of all kinds: how they are read, and other digits drawn like them."""

import numpy as np
import pytest
from PIL import Image

from mnistlab.pictures import Picture, gather
from mnistlab.strokes import random_place, rasterize
from mnistlab.synthetic import handwrite
from tools.photograph import photograph


def canvas(digit):
    """White on black, uint8 (240, 240), somewhere."""
    rng, strokes = np.random.default_rng(digit), handwrite(digit, seed=digit)
    return rasterize(random_place(strokes, rng, 90, 160, 14, 240), 14, 240)


def transparent(image, mode="RGBA", ink=(0, 0, 0)):
    picture = Image.new("RGBA", image.shape, (*ink, 0))
    picture.putalpha(Image.fromarray(image))
    return picture.convert(mode)


KINDS = {  # how a canvas comes, and a word of the code that reads it
    "canvas": (lambda c: c, "light"),
    "RGB": (lambda c: Image.fromarray(255 - c).convert("RGB"), "dark"),
    "black on nothing": (transparent, "dark"),
    "white on nothing": (lambda c: transparent(c, ink=(255,) * 3), "light"),
    "LA": (lambda c: transparent(c, "LA"), "dark"),
    "colour array": (lambda c: np.dstack([255 - c] * 3), "dark"),
    "float": (lambda c: 1 - c / 255, "Picture"),
    "bool": (lambda c: c > 127, "Picture"),
    "png": (lambda c: Image.fromarray(255 - c), "dark"),
    "jpg": (lambda c: Image.fromarray(255 - c).convert("RGB"), "dark"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_digits_are_drawn_as_the_picture_is(kind, tmp_path):
    make, code = KINDS[kind]
    source = make(canvas(3))
    if kind in ("png", "jpg"):
        source.save(path := str(tmp_path / f"3.{kind}"))
        source = path
    picture = Picture(source)
    other = picture.draw(canvas(5), tmp_path / "drawn")
    assert code in picture.code and type(other) is type(source)
    for about in ("mode", "dtype", "shape"):
        assert getattr(other, about, "") == getattr(source, about, "")
    if isinstance(source, np.ndarray):
        assert other.max() == pytest.approx(source.max())
    for read, digit in ((picture, 3), (Picture(other), 5)):
        assert np.abs(read.canvas - canvas(digit).astype(float)).mean() < 3


def test_a_digit_is_as_large_and_where_theirs_is(digits):
    placed = Picture(canvas(3)).place(digits.images[7])
    assert placed.shape == (240, 240) and placed.max() == 255
    theirs, ours = (
        np.array([np.flatnonzero((c > 127).any(a))[[0, -1]] for a in (0, 1)])
        for c in (canvas(3), placed)
    )
    assert abs(np.ptp(ours, 1).max() - np.ptp(theirs, 1).max()) < 12
    assert np.abs(ours.mean(1) - theirs.mean(1)).max() < 6


def test_colour_and_uneven_light_are_kept(tmp_path):
    picture = Picture(transparent(canvas(3), ink=(30, 50, 215)))
    assert picture.pen.tolist() == [30, 50, 215, 255] and picture.paper[0, 0, 3] == 0
    photo = photograph([handwrite(5, seed=5)], seed=5)
    picture = Picture(photo)
    assert picture.is_photo and picture.code == "read_photo(picture).canvases[0]"
    drawn = picture.draw(np.zeros(picture.paper.shape[:2]), tmp_path / "drawn")
    ours, light = (np.asarray(p.convert("L").resize((8, 8))) for p in (drawn, photo))
    assert np.corrcoef(ours[0], light[0])[0, 1] > 0.8  # the digit is not up there
    assert np.asarray(drawn).min() > 1.5 * np.asarray(photo).min()  # and gone


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(np.pad(255 - canvas(7), ((0, 0), (0, 99)), "edge"))
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "7.png", exif=exif)
    one, other = Picture(upright), Picture(tmp_path / "7.png")
    assert one.side == other.side and np.allclose(one.middle, other.middle)


def test_names_are_labels_and_what_cannot_be_read_is_named(tmp_path):
    for name in ("0_a", "3", "4/IMG_2041", "35/e", "untitled"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(canvas(4)).save(path)
    (tmp_path / "7_b.png").write_bytes(b"no picture")
    (tmp_path / "9_d.heic").write_bytes(b"a format that Pillow does not read")
    (tmp_path / "notes.txt").write_text("not a picture, and not counted")
    good, left_out = gather(tmp_path)
    assert {p.name: p.label for p in good} == {
        "0_a.png": 0, "3.png": 3, "IMG_2041.png": 4, "untitled.png": None
    }  # fmt: skip
    said = ["e.png: label 35 is a letter's", "7_b.png cannot be read", "9_d.heic: "]
    for expected, words in zip(said, left_out, strict=True):
        assert expected in words


def test_files_that_are_only_counted_have_no_labels(tmp_path):
    (tmp_path / "8").mkdir()
    for name in ("1", "2", "10", "7_1", "8/11"):
        Image.fromarray(canvas(4)).save(tmp_path / f"{name}.png")
    labels = {p.name: p.label for p in gather(tmp_path)[0]}
    assert labels == {"1.png": None, "2.png": None, "10.png": None, "7_1.png": 7,
                      "11.png": 8}  # fmt: skip


def test_a_phone_s_large_photo_is_read():
    photo = photograph([handwrite(5, seed=5)], seed=5)
    large = photo.resize((photo.width * 5000 // photo.height, 5000))
    assert Picture(large).is_photo and Picture(large).label is None


TWO = photograph([handwrite(digit, seed=digit) for digit in (1, 7)], seed=1)


@pytest.mark.parametrize(
    "odd, said",
    [
        (np.full((60, 60), np.nan), "values up to nan"),
        (np.full((60, 60), 300), "values up to 300"),
        (np.zeros((60, 60), np.uint8), "no ink"),
        (TWO, "2 digits are on it"),
    ],
)
def test_what_is_no_picture_of_one_digit_is_left_out(odd, said):
    good, left_out = gather([odd, canvas(1)])
    assert good[0].name == "picture 2" and len(good) == len(left_out) == 1
    assert left_out[0].startswith("picture 1: ") and said in left_out[0]


def test_there_have_to_be_pictures_and_labels_that_fit(tmp_path):
    for labels in [1], [1, -1], [1, 99], [1, 2.5]:
        with pytest.raises(ValueError, match="expected a picture or more, and 0 to 9"):
            gather([canvas(1), canvas(2)], labels)
    for nothing in ([], tmp_path):
        with pytest.raises(ValueError, match="^0 pictures"):
            gather(nothing)
    assert len(gather(Image.fromarray(canvas(1)), [1])[0]) == 1
