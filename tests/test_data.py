"""What data promises: the digits that were asked for, whole, or a clear word."""

import errno
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import MNIST

from mnistlab import data
from mnistlab.data import (
    DataCorrupt,
    DataUnavailable,
    Digits,
    download,
    join,
    load,
    write_atomically,
)
from mnistlab.preprocess import MEAN, STD

FULL, SAMPLE = "MNIST, 60,000 training images", "5,000-image MNIST sample"
NAMES = list(data.MNIST_FILES)


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
        (IMAGES.reshape(3, 784), LABELS, r"\(3, 784\).*\(N, 28, 28\)"),
        (IMAGES[:, None], LABELS, r"\(3, 1, 28, 28\)"),
        (IMAGES, LABELS[:2], r"\(2,\).*\(3,\)"),
        (IMAGES, LABELS[:, None], r"\(3, 1\).*\(3,\)"),
        (IMAGES, LABELS.astype(np.uint8), "uint8.*int64"),
        (IMAGES, np.array([0, 10, 9]), r"\[10\].*0 to 9"),
        (IMAGES, np.array([-1, 77, 5]), r"\[-1, 77\].*0 to 9"),
    ],
)
def test_digits_refuse_other_images_and_labels(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Digits(images, labels, "a test")


def test_counts_are_those_of_the_labels(digits):
    assert digits.counts.tolist() == [20] * 10
    fours = digits.take(digits.labels == 4)
    assert fours.counts.tolist() == [0, 0, 0, 0, 20, 0, 0, 0, 0, 0]
    assert (fours.source, len(fours)) == (digits.source, 20)


def test_the_hash_sees_one_pixel_and_one_label(digits):
    images, labels = digits.images.copy(), digits.labels.copy()
    assert Digits(images, labels, "elsewhere").sha256 == digits.sha256
    images[7, 14, 14] ^= 1
    assert Digits(images, digits.labels, "").sha256 != digits.sha256
    labels[7] = (labels[7] + 1) % 10
    assert Digits(digits.images, labels, "").sha256 != digits.sha256


@pytest.mark.parametrize("n", [0, 7, 53, 200])
def test_a_balanced_draw_has_equal_shares_and_no_image_twice(digits, n):
    index = data.balanced_index(digits.labels, n, seed=3)
    counts = digits.take(index).counts
    assert counts.sum() == n == len(set(index.tolist()))
    assert np.ptp(counts) <= 1


def test_a_balanced_draw_is_random_in_choice_and_order_and_hangs_on_its_seed(digits):
    a, b, c = (data.balanced_index(digits.labels, 50, seed) for seed in (1, 1, 2))
    assert a.tolist() == b.tolist() and set(a) != set(c)
    assert np.diff(digits.labels[a]).min() < 0  # not class after class


def test_joining_keeps_the_order_and_names_each_source_once(digits):
    one, two = digits.take(slice(12)), digits.take(slice(12, 17))
    two = Digits(two.images, two.labels, "elsewhere")
    both = join(one, two, one)
    assert len(both) == 29 and both.source == "the scripted hand + elsewhere"
    np.testing.assert_array_equal(both.images[12:17], two.images)
    np.testing.assert_array_equal(both.labels[17:], one.labels)


@pytest.mark.parametrize("n, message", [(201, "21 of the digit .* 20"), (-1, "-1")])
def test_a_balanced_draw_of_an_impossible_size_says_why(digits, n, message):
    with pytest.raises(ValueError, match=message):
        digits.balanced(n)


# --- which digits load() gives ------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch, digits):
    """The four files, written by the scripted hand: 160 digits and 40 for the test."""
    train, test = digits.take(slice(160)), digits.take(slice(160, 200))
    arrays = [train.images, train.labels, test.images, test.labels]
    files = dict(zip(NAMES, map(idx, arrays), strict=True))
    known = {name: md5(content) for name, content in files.items()}
    monkeypatch.setattr(data, "MNIST_FILES", known)
    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    return files


def put(files: dict[str, bytes]) -> Path:
    folder = data.data_folder() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def fail(*_, **__):
    raise AssertionError("this must not be called")


def test_files_that_are_there_are_used_without_network(tiny, digits, monkeypatch):
    put(tiny)
    monkeypatch.setattr(data, "download", fail)
    loaded = load()
    train = digits.take(slice(160))
    assert images_of(loaded.train, loaded.validation) == images_of(train)
    assert loaded.test.sha256 == digits.take(slice(160, 200)).sha256
    assert loaded.source == loaded.test.source == FULL


def test_missing_files_are_downloaded_to_where_torchvision_reads_them(
    tiny, serve, monkeypatch, tmp_path, capsys
):
    def answer(handler):
        content = gzip.compress(tiny[handler.path.strip("/").removesuffix(".gz")])
        send(content, len(content))(handler)

    def out_of_order(handler):
        handler.send_error(503)

    monkeypatch.setattr(MNIST, "mirrors", [serve(out_of_order), serve(answer)])
    loaded = load("mnist")
    oracle = MNIST(tmp_path, train=False)
    np.testing.assert_array_equal(loaded.test.images, oracle.data)
    np.testing.assert_array_equal(loaded.test.labels, oracle.targets)
    assert f"{NAMES[0]}: 100%" in capsys.readouterr().err  # the bar
    assert sorted(os.listdir(tmp_path / "MNIST" / "raw")) == sorted(NAMES)
    (tmp_path / "other").touch()  # whoever may read this may read those
    modes = {file.stat().st_mode for file in tmp_path.rglob("*") if file.is_file()}
    assert len(modes) == 1
    monkeypatch.setattr(data, "download", fail)
    assert load("mnist").train.sha256 == loaded.train.sha256


def test_without_files_and_network_the_sample_is_taken_and_announced(tiny, capsys):
    assert load().source == SAMPLE
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert NAMES[0] in line and "5,000 real MNIST images" in line


def test_mnist_by_name_never_falls_back(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(MNIST, "mirrors", ["http://mirror.invalid/"])
    monkeypatch.setattr(data, "_sample", fail)
    with pytest.raises(ValueError, match="'fashion'.*'auto', 'mnist' or 'sample'"):
        load("fashion")
    with pytest.raises(DataUnavailable) as caught:
        load("mnist")
    message = str(caught.value)
    assert f"http://mirror.invalid/{NAMES[0]}.gz" in message  # what was tried
    assert "by hand" in message and str(tmp_path) in message  # what to do


def test_the_data_folder_is_the_repository_s_unless_a_variable_names_another(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("MNISTLAB_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    monkeypatch.setenv("MNISTLAB_DATA", "")
    assert data.data_folder() == Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def sample():
    return load("sample")


def test_the_splits_of_the_sample_are_disjoint_and_complete(sample):
    every = images_of(*data._sample())
    assert len(set(every)) == 5000
    assert images_of(sample.train, sample.validation, sample.test) == every
    assert sample.source == SAMPLE
    assert sample.validation.counts.tolist() == [50] * 10
    assert sample.test.counts.tolist() == [100] * 10


def test_the_seed_moves_the_validation_images_and_never_the_test_images(sample):
    again, other = load("sample"), load("sample", seed=1)
    assert again.train.sha256 == sample.train.sha256
    assert other.validation.sha256 != sample.validation.sha256
    assert other.test.sha256 == sample.test.sha256


def test_the_full_data_are_mnist(mnist, sample):
    sizes = [len(part) for part in (mnist.train, mnist.validation, mnist.test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert mnist.validation.counts.tolist() == [500] * 10
    every = np.concatenate([mnist.train.images, mnist.validation.images])
    assert every.mean() / 255 == pytest.approx(MEAN, abs=5e-5)
    assert every.std() / 255 == pytest.approx(STD, abs=5e-5)
    known = set(images_of(mnist.train, mnist.validation))
    assert known.issuperset(images_of(sample.train, sample.validation, sample.test))


# --- damaged files ------------------------------------------------------------------

DAMAGE = {
    "truncated": lambda content: content[:-100],
    "web page": lambda content: b"<!DOCTYPE html><title>Log in</title>",
    "one pixel": lambda content: content[:-1] + b"\7",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_left_alone(tiny, damage):
    bad = DAMAGE[damage](tiny[NAMES[0]])
    folder = put({**tiny, NAMES[0]: bad})
    with pytest.raises(DataCorrupt) as caught:
        load("auto")  # nor does "auto" cover it up
    found = f"{len(bad):,} bytes with md5 {md5(bad)} found"
    for part in (NAMES[0], found, data.MNIST_FILES[NAMES[0]], "Delete it"):
        assert part in str(caught.value)
    assert (folder / NAMES[0]).read_bytes() == bad


# --- downloads ----------------------------------------------------------------------

CONTENT = b"seven " * 50_000
PACKED = gzip.compress(CONTENT, compresslevel=0)


def fetch(url, target):
    return download([url], target, md5(CONTENT), gzip.decompress)


def send(body: bytes, announced: int | None = None):
    def answer(handler):
        handler.send_response(200)
        if announced is not None:
            handler.send_header("Content-Length", str(announced))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


BROKEN = {
    "out of order": (lambda handler: handler.send_error(503), "503"),
    "web page": (send(b"<html>Log in", 12), "gzip"),
    "stops": (send(PACKED[:90_000], len(PACKED)), r"IncompleteRead\(90000 bytes"),
    "stops unannounced": (send(PACKED[:90_000]), "ended"),
    "altered": (
        send(gzip.compress(b"eight")),
        f"expected md5:{md5(CONTENT)} but got {md5(b'eight')}",
    ),
    "says nothing": (lambda handler: None, "without response"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_failed_download_says_why_and_harms_nothing(serve, tmp_path, case):
    answer, reason = BROKEN[case]
    target, url = tmp_path / "file", serve(answer)
    target.write_bytes(b"what was there before")
    advice = f"put the file into {tmp_path} by hand"
    with pytest.raises(DataUnavailable, match=f"file .*{url}: .*{reason}.*{advice}"):
        fetch(url, target)
    assert target.read_bytes() == b"what was there before"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("body", [b"", PACKED[:90_000]], ids=["at once", "half-way"])
def test_a_server_that_hangs_is_given_up(serve, tmp_path, monkeypatch, body):
    monkeypatch.setattr(data, "SILENCE_S", 0.2)
    given_up = threading.Event()

    def hang(handler):
        send(body, len(PACKED))(handler)
        given_up.wait(10)
        handler.wfile.write(PACKED[len(body) :])  # who waited would get it all

    try:
        with pytest.raises(DataUnavailable, match="timed out"):
            fetch(serve(hang), tmp_path / "file")
    finally:
        given_up.set()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_names_the_variable(serve, tmp_path):
    # below a regular file, because root may write into any folder
    (tmp_path / "file").touch()
    with pytest.raises(DataUnavailable, match="Not a directory.*set MNISTLAB_DATA"):
        fetch(serve(send(PACKED)), tmp_path / "file" / "below")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "file"
    write_atomically(target, b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_processes_that_fetch_at_once_all_get_whole_files(serve, tmp_path):
    together = threading.Barrier(4)
    url = serve(lambda handler: (together.wait(60), send(PACKED)(handler)))
    program = (
        "import gzip, sys, pathlib; from mnistlab.data import download;"
        f"target = pathlib.Path({str(tmp_path)!r}) / 'file';"
        f"download([{url!r}], target, {md5(CONTENT)!r}, gzip.decompress);"
        "sys.stdout.buffer.write(target.read_bytes())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err.decode()
        assert out == CONTENT
    assert os.listdir(tmp_path) == ["file"]
