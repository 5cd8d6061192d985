"""What data promises: the digits that were asked for, whole, or a clear word."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mnistlab import data
from mnistlab.data import DataCorrupt, DataUnavailable, Digits, join, load
from mnistlab.preprocess import MEAN, STD

NAMES = list(data.MNIST_FILES)
ROOT = Path(__file__).parents[1]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def images_of(*parts: Digits) -> list[bytes]:
    return sorted(image.tobytes() for part in parts for image in part.images)


# --- Digits -------------------------------------------------------------------------

IMAGES, LABELS = np.zeros((3, 28, 28), np.uint8), np.zeros(3, int)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES.astype(np.float32), LABELS, "float32.*uint8"),
        (IMAGES[:, None], LABELS, r"\(3, 1, 28, 28\)"),
        (IMAGES, LABELS[:2], r"\(2,\)"),
        (IMAGES, LABELS.astype(np.uint8), "uint8.*int64"),
        (IMAGES, np.array([0, 10, -1]), r"\[-1, 10\].*0 to 9"),
    ],
)
def test_digits_refuse_other_images_and_labels(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Digits(images, labels, "a test")


def test_the_hash_sees_one_pixel_and_one_label(digits):
    images, labels = digits.images.copy(), digits.labels.copy()
    assert Digits(images, labels, "elsewhere").sha256 == digits.sha256
    images[7, 14, 14] ^= 1
    labels[7] = (labels[7] + 1) % 10
    for changed in Digits(images, digits.labels, ""), Digits(digits.images, labels, ""):
        assert changed.sha256 != digits.sha256


def test_a_balanced_draw_is_random_in_equal_shares_and_takes_no_image_twice(digits):
    def draw(n, seed):
        return data.balanced_index(digits.labels, n, seed)

    for n in (0, 7, 53, 200):
        one = draw(n, 3)
        counts = digits.take(one).counts
        assert counts.sum() == n == len(set(one.tolist())) and np.ptp(counts) <= 1
        assert one.tolist() == draw(n, 3).tolist()
    assert np.diff(digits.labels[draw(53, 3)]).min() < 0  # not class after class
    assert set(draw(53, 3)) != set(draw(53, 4))
    for n, told in (201, "need 21 of each digit.* 20"), (-1, "-1"):
        with pytest.raises(ValueError, match=told):
            digits.balanced(n)


def test_joining_keeps_the_order_and_names_each_source_once(digits):
    one, two = digits.take(slice(12)), digits.take(digits.labels == 4)
    two = Digits(two.images, two.labels, "elsewhere")
    both = join(one, two, one)
    assert len(both) == 44 and both.source == "the scripted hand + elsewhere"
    np.testing.assert_array_equal(both.images[12:32], two.images)
    np.testing.assert_array_equal(both.labels[12:], [*[4] * 20, *one.labels])


# --- which digits load() gives ------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch, digits):
    """The four files, written by the scripted hand: 160 digits and 40 for the test."""
    train, test = digits.take(slice(160)), digits.take(slice(160, 200))
    arrays = [train.images, train.labels, test.images, test.labels]
    files = dict(zip(NAMES, map(idx, arrays), strict=True))
    known = {name: md5(content) for name, content in files.items()}
    monkeypatch.setattr(data, "MNIST_FILES", known)
    monkeypatch.setattr(
        "torchvision.datasets.MNIST.mirrors", ["http://mirror.invalid/"]
    )
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    return files


def test_files_are_downloaded_once_to_where_torchvision_reads_them(
    tiny, digits, serve, monkeypatch, tmp_path, capsys
):
    def answer(handler):
        content = gzip.compress(tiny[handler.path.strip("/").removesuffix(".gz")])
        if handler.headers["Accept-Encoding"] != "identity":  # some would unpack it
            content = b"unpacked on its way"
        send(content, len(content))(handler)

    from torchvision.datasets import MNIST  # every test process would wait for it

    mirrors = [serve(lambda handler: handler.send_error(503)), serve(answer)]
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", mirrors)
    loaded, oracle = load("mnist"), MNIST(tmp_path, train=False)
    np.testing.assert_array_equal(loaded.test.images, oracle.data)
    np.testing.assert_array_equal(loaded.test.labels, oracle.targets)
    train = images_of(digits.take(slice(160)))
    assert images_of(loaded.train, loaded.validation) == train
    sources = [loaded.train.source, loaded.validation.source, loaded.test.source]
    assert sources == ["MNIST, 60,000 training images"] * 2 + [
        "MNIST, 10,000 test images"
    ]
    assert "100%" in capsys.readouterr().err  # the bar
    assert sorted(os.listdir(tmp_path / "MNIST" / "raw")) == sorted(NAMES)
    (tmp_path / "other").touch()  # whoever may read this may read those
    modes = {file.stat().st_mode for file in tmp_path.rglob("*") if file.is_file()}
    assert len(modes) == 1
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    assert load("auto").train.sha256 == loaded.train.sha256


def test_without_files_and_network_the_sample_is_taken_and_announced(
    tiny, capsys, monkeypatch, tmp_path
):
    assert load().train.source == "5,000-image MNIST sample"
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert NAMES[0] in line and "5,000 real MNIST images" in line
    monkeypatch.setattr(data, "_sample", None)  # mnist by name never falls back
    with pytest.raises(DataUnavailable) as caught:
        load("mnist")
    for part in (f"http://mirror.invalid/{NAMES[0]}.gz", "by hand", str(tmp_path)):
        assert part in str(caught.value)
    monkeypatch.setenv("MNISTLAB_DATA", "")
    assert data.data_folder() == ROOT / "data"
    with pytest.raises(ValueError, match="'fashion'.*'auto', 'mnist' or 'sample'"):
        load("fashion")


def test_the_splits_are_disjoint_complete_and_only_the_validation_hangs_on_the_seed():
    sample, again, other = load("sample"), load("sample"), load("sample", seed=1)
    every = images_of(*data._sample())
    assert len(set(every)) == 5000
    assert images_of(sample.train, sample.validation, sample.test) == every
    assert sample.validation.counts.tolist() == [50] * 10
    assert sample.test.counts.tolist() == [100] * 10
    assert again.train.sha256 == sample.train.sha256
    assert other.validation.sha256 != sample.validation.sha256
    assert other.test.sha256 == sample.test.sha256


def test_the_full_data_are_mnist(mnist):
    sizes = [len(part) for part in (mnist.train, mnist.validation, mnist.test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert mnist.validation.counts.tolist() == [500] * 10
    every = join(mnist.train, mnist.validation).images
    assert every.mean() / 255 == pytest.approx(MEAN, abs=5e-5)
    assert every.std() / 255 == pytest.approx(STD, abs=5e-5)
    known = set(images_of(mnist.train, mnist.validation))
    assert known.issuperset(images_of(*data._sample()))


def test_a_damaged_file_is_named_and_left_alone(tiny):
    path = data.data_folder() / "MNIST" / "raw" / NAMES[0]
    path.parent.mkdir(parents=True)
    for damaged in tiny[NAMES[0]][:-100], tiny[NAMES[0]][:-1] + b"\7":
        path.write_bytes(damaged)
        with pytest.raises(DataCorrupt, match=f"{path.name} .*{md5(tiny[NAMES[0]])}"):
            load("auto")  # nor does "auto" cover it up
        assert path.read_bytes() == damaged


# --- downloads ----------------------------------------------------------------------

CONTENT = b"seven " * 50_000
PACKED = gzip.compress(CONTENT, compresslevel=0)


def fetch(url, path):
    return data.read_or_fetch(path, md5(CONTENT), [url], gzip.decompress)


def send(body: bytes, announced: int | None = None, then_hangs_s: float = 0):
    def answer(handler):
        handler.send_response(200)
        if announced is not None:
            handler.send_header("Content-Length", str(announced))
        handler.end_headers()
        handler.wfile.write(body)
        time.sleep(then_hangs_s)

    return answer


BROKEN = {
    "web page": (send(b"<html>Log in", 12), "gzip"),
    "stops": (send(PACKED[:90_000], len(PACKED)), r"IncompleteRead\(90000 bytes"),
    "altered": (send(gzip.compress(b"eight")), f"got {md5(b'eight')}"),
    "hangs": (send(PACKED[:90_000], len(PACKED), then_hangs_s=5), "timed out"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_failed_download_says_why_and_leaves_nothing(
    serve, tmp_path, case, monkeypatch
):
    monkeypatch.setattr(data, "SILENCE_S", 1)
    answer, reason = BROKEN[case]
    url, advice = serve(answer), f"put the file into {tmp_path} by hand"
    with pytest.raises(DataUnavailable, match=f"file .*{url}: .*{reason}.*{advice}"):
        fetch(url, tmp_path / "file")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()  # below it nothing can be written, even by root
    with pytest.raises(DataUnavailable, match="Not a directory.*set MNISTLAB_DATA"):
        fetch(url, tmp_path / "file" / "below")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError("No space left on device")

    data.write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        data.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_processes_that_fetch_at_once_all_get_whole_files(serve, tmp_path):
    together = threading.Barrier(4)
    url = serve(lambda handler: (together.wait(60), send(PACKED)(handler)))
    program = (
        "import gzip, sys, pathlib; from mnistlab.data import read_or_fetch;"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'file';"
        f"read = read_or_fetch(path, {md5(CONTENT)!r}, [{url!r}], gzip.decompress);"
        "sys.stdout.buffer.write(read)"
    )
    command, pipes = [sys.executable, "-c", program], {"stdout": subprocess.PIPE}
    children = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    for child in children:
        assert child.communicate(timeout=120)[0] == CONTENT
    assert os.listdir(tmp_path) == ["file"]
