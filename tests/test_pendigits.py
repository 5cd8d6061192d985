"""What pendigits promises: recorded pens, whole and upright; or a clear word."""

import zipfile
from hashlib import md5
from io import BytesIO

import numpy as np
import pytest

from mnistlab import data, pendigits
from mnistlab.pendigits import load_pens, pens_or_hand, read_unipen
from mnistlab.strokes import place

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
    assert (len(pens), pens.source) == (3, "here")
    assert pens.labels.tolist() == [7, 1, 7] and pens.writers.tolist() == [12, 3, 3]
    assert pens.labels.dtype == pens.writers.dtype == np.int64
    assert [s.tolist() for s in pens.strokes[0]] == [
        [[100, 100], [200, 100], [120, 400]],
        [[90, 250], [190, 250]],
    ]
    theirs = pens.take(np.flatnonzero(pens.writers == 3))
    assert (theirs.labels.tolist(), theirs.writers.tolist()) == ([1, 7], [3, 3])
    assert theirs.strokes == pens.strokes[1:]


def unix_compress(content: bytes) -> bytes:
    """Pack as the old `compress` does: 9-bit literals, the table cleared every 7th."""
    parts = [[*content[i : i + 7], 256] for i in range(0, len(content), 7)]
    bits = "".join(f"{code:09b}"[::-1] for part in parts for code in part)
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
def offer(serve, monkeypatch, tmp_path):
    """offer(body) lets load_pens fetch that from a server here; returns who asked."""

    def start(body: bytes, expected: str = TEXT) -> list:
        asked = []

        def answer(handler):
            asked.append(handler.path)
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)

        monkeypatch.setattr(pendigits, "PENS_URL", serve(answer) + "pens.zip")
        monkeypatch.setattr(pendigits, "PENS_MD5", md5(expected.encode()).hexdigest())
        monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
        return asked

    return start


def test_pens_are_fetched_once_unpacked_kept_and_checked_each_time(offer, tmp_path):
    asked = offer(ARCHIVE)
    first, second = load_pens(), load_pens()
    assert first.labels.tolist() == second.labels.tolist() == [7, 1, 7]
    (kept,) = (tmp_path / "pendigits").iterdir()
    assert kept.read_text() == TEXT
    kept.write_text(TEXT[:-1])
    with pytest.raises(data.DataCorrupt):
        load_pens()
    assert kept.read_text() == TEXT[:-1] and asked == ["/pens.zip"]


def test_a_bad_archive_is_refused_and_nothing_is_kept(offer, tmp_path):
    garbage = zipped(MEMBER, b"\x1f\x9d\x90\xff\xff\xff")
    for body in ARCHIVE[:-30], zipped("readme", b""), garbage:
        offer(body)
        with pytest.raises(data.DataUnavailable):
            load_pens()
    assert not list(tmp_path.rglob("*.tra*"))


def test_without_pens_the_hand_writes_and_says_so(offer, capsys):
    offer(b"no network")
    written, again = pens_or_hand(23, seed=4), pens_or_hand(23, seed=4)
    line, _ = capsys.readouterr().out.splitlines()
    assert "23 digits" in line and "scripted hand" in line
    assert written.source == pendigits.HAND_SOURCE
    assert set(np.bincount(written.labels)) == {2, 3}
    np.testing.assert_array_equal(written.strokes[22][0], again.strokes[22][0])


def test_with_pens_they_are_drawn_by_class_and_named(offer, capsys):
    text = unipen(*[(d, d % 3, SEVEN if d == 7 else ONE) for d in [*range(10)] * 3])
    offer(zipped(MEMBER, unix_compress(text.encode())), expected=text)
    drawn = pens_or_hand(20)
    assert capsys.readouterr().out.count("\n") == 1
    assert drawn.source == pendigits.PENS_SOURCE
    assert np.bincount(drawn.labels).tolist() == [2] * 10
    assert [len(s) for s in drawn.strokes] == [1 + (d == 7) for d in drawn.labels]
    rows = [pens_or_hand(20, seed).writers.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] == drawn.writers.tolist() != rows[2]
    with pytest.raises(ValueError, match="Ask for fewer"):
        pens_or_hand(40)


def test_the_real_pens_are_7494_digits_of_30_writers():
    if not (data.data_folder() / "pendigits" / pendigits.PENS_FILE).exists():
        pytest.skip("the pens are not in the data folder: run load_pens() once")
    pens = load_pens()
    assert len(pens) == 7494
    assert set(pens.writers.tolist()) == set(range(1, 31))
    assert np.bincount(pens.labels).min() == 719
    sevens = [place(pens.strokes[i], 190) for i in np.flatnonzero(pens.labels == 7)]
    ends = [max(drawing, key=len)[[0, -1], 1] for drawing in sevens]
    assert np.mean([first < last for first, last in ends]) > 0.95  # 7s start at the top
