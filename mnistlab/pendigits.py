"""Recorded pens: the digits of UCI's pendigits as strokes, fetched, read, by writer.

*Pen-Based Recognition of Handwritten Digits* by E. Alpaydin and F. Alimoglu, 1996,
CC BY 4.0: the original files, in UNIPEN's format, not UCI's table of features.
"""

import re
import zipfile
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from unlzw3 import unlzw

from mnistlab import data
from mnistlab.strokes import Drawing
from mnistlab.synthetic import handwrite

PENS_URL = (
    "https://archive.ics.uci.edu/static/public/81/"
    "pen+based+recognition+of+handwritten+digits.zip"
)
PENS_FILE = "pendigits-orig.tra"
PENS_MD5 = "28e269fb7eaf8cb51af3f561743a0de5"  # unpacked
PENS_SOURCE = "UCI pendigits, 7,494 digits by the pens of 30 writers"
HAND_SOURCE = "the scripted hand (recorded pens could not be had)"


@dataclass(frozen=True)
class PenDigits:
    """Drawings, y down, in any units: place() them. labels, writers: int64 (N,)."""

    strokes: tuple[Drawing, ...]
    labels: np.ndarray
    writers: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.strokes)

    def take(self, rows: np.ndarray) -> "PenDigits":
        """Keep the drawings with these row numbers, in this order."""
        strokes = tuple(self.strokes[row] for row in rows)
        return PenDigits(strokes, self.labels[rows], self.writers[rows], self.source)


def read_unipen(text: str, source: str) -> PenDigits:
    """Read UNIPEN text as UCI's pendigits-orig files write it, whose hash was checked.

    A digit is a line `.SEGMENT DIGIT 6-7 ? "4"`, a line `.COMMENT 4 14 100` (label,
    writer, record) and one block of `x y` lines for each pen-down, 0..500 tablet units,
    y upward.
    """
    strokes, about = [], []
    for record in re.split(r"^\.SEGMENT", text, flags=re.M)[1:]:
        head, *blocks = record.split(".PEN_DOWN")
        about.append(re.search(r"\.COMMENT +(\d) +(\d+)", head).groups())
        points = [re.findall(r"^ *(\d+) +(\d+)", block, re.M) for block in blocks]
        strokes.append([np.array(xy, float) * (1, -1) + (0, 500) for xy in points])
    labels, writers = np.array(about, np.int64).T
    return PenDigits(tuple(strokes), labels, writers, source)


def load_pens() -> PenDigits:
    """Load the recorded pens, fetched at first; DataUnavailable or DataCorrupt."""

    def unpack(archive: bytes) -> bytes:
        return unlzw(zipfile.ZipFile(BytesIO(archive)).read(PENS_FILE + ".Z"))

    path = data.data_folder() / "pendigits" / PENS_FILE
    content = data.read_or_fetch(path, PENS_MD5, [PENS_URL], unpack)
    return read_unipen(content.decode("ascii"), PENS_SOURCE)


def pens_or_hand(n: int, seed: int = 0) -> PenDigits:
    """Draw n digits, all classes alike: recorded pens, or the hand; prints which."""
    try:
        pens = load_pens()
        pens = pens.take(data.balanced_index(pens.labels, n, seed))
    except data.DataUnavailable:
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(n) % 10)
        drawings = tuple(handwrite(digit, seed=rng) for digit in labels.tolist())
        pens = PenDigits(drawings, labels, np.zeros(n, int), HAND_SOURCE)
    print(f"Pen strokes: {n:,} digits drawn from {pens.source}")
    return pens
