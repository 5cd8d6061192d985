"""Pen strokes: how they become pixels, a hand that writes digits, recorded pens.

A *stroke* is a float array (n, 2) of points in canvas pixels, x to the right and y
down; a *drawing* is a list of strokes. Ink is 255, paper is 0. No torch is needed.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CANVAS_PX = 280
BRUSH_PX = 18
LARGEST_CANVAS_PX = 4096
FARTHEST_PX = 100_000  # farther out, Pillow's coordinates would lose precision

Drawing = list[np.ndarray]


# --- from strokes to pixels ---------------------------------------------------------


def rasterize(
    strokes: Sequence[np.ndarray],
    brush_px: float = BRUSH_PX,
    canvas_px: int = CANVAS_PX,
    supersample: int = 4,
) -> np.ndarray:
    """Draw strokes as a browser's canvas does, with a round, anti-aliased brush.

    strokes: any number of float (n, 2), canvas pixels; a single point is a dot, and
    what lies outside the canvas is cut off by its edge. Returns uint8
    (canvas_px, canvas_px), ink 255 on paper 0. Raises ValueError for points that are
    not finite (n, 2) numbers within 100,000 px and for impossible sizes.
    """
    _check("canvas_px", canvas_px, 1, LARGEST_CANVAS_PX, whole=True)
    _check("supersample", supersample, 1, 16, whole=True)
    _check("brush_px", brush_px, 1 / supersample, canvas_px)
    strokes = _checked(strokes)
    canvas = Image.new("L", (canvas_px, canvas_px))
    # Only the box around the ink is drawn large and averaged: that is the slow part.
    points = np.concatenate([np.empty((0, 2)), *strokes])
    low = points.min(axis=0, initial=canvas_px) - brush_px
    high = points.max(axis=0, initial=0) + brush_px
    corner, end = np.clip([np.floor(low), np.ceil(high)], 0, canvas_px).astype(int)
    if len(points) == 0 or (end <= corner).any():
        return np.array(canvas)
    large = Image.new("L", tuple(((end - corner) * supersample).tolist()))
    pen = ImageDraw.Draw(large)
    width = round(brush_px * supersample)
    radius = (width - 1) / 2  # Pillow's shapes hold the pixels of their outline, too
    for stroke in strokes:
        path = (stroke - corner) * supersample - 0.5  # the pixel 0 is centred on 0
        corners = _nearest(path - radius)
        for box in np.hstack([corners, corners + width - 1]).tolist():
            pen.ellipse(box, fill=255)  # round ends and round joins
        # Pillow's own wide lines are up to half a pixel off: 0.05 instead of 0.03.
        step = np.diff(path, axis=0)
        length = np.maximum(np.hypot(*step.T), 1e-9)[:, None]
        side = step[:, ::-1] / length * (-radius, radius)
        start, stop = path[:-1], path[1:]
        bars = np.hstack([start + side, stop + side, stop - side, start - side])
        for bar in _nearest(bars).tolist():
            pen.polygon(bar, fill=255)
    canvas.paste(large.reduce(supersample), tuple(corner.tolist()))
    return np.array(canvas)


def _nearest(position: np.ndarray) -> np.ndarray:
    # np.round would send 0.5 and 1.5 different ways, Pillow -0.7 and 0.7.
    return np.floor(position + 0.5).astype(int)


def _checked(strokes: Sequence[np.ndarray]) -> Drawing:
    checked = []
    for number, stroke in enumerate(strokes):
        wanted = "expected an array (n, 2) of x, y in canvas pixels"
        try:
            points = np.asarray(stroke, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"stroke {number}: {error}; {wanted}") from error
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"stroke {number} has shape {points.shape}; {wanted}")
        if not (np.abs(points) <= FARTHEST_PX).all():  # False for NaN, too
            raise ValueError(
                f"stroke {number} has a point that is NaN, infinite or beyond "
                f"{FARTHEST_PX:,} px; drop it, or place() the drawing on the canvas"
            )
        checked.append(points)
    return checked


def _check(name: str, value: float, low: float, high: float, whole=False) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.number)
    if not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{name} is {value!r}, expected {kind} from {low:g} to {high:g}"
        )


# --- size and position --------------------------------------------------------------


def place(
    strokes: Sequence[np.ndarray],
    size_px: float,
    center: tuple[float, float] | None = None,
    canvas_px: int = CANVAS_PX,
) -> Drawing:
    """Scale and move a drawing: its longer side is size_px, its box sits at center.

    Proportions are kept; a drawing without extent (a dot) is only moved. The brush is
    not counted. center is (x, y) in pixels, by default the middle of the canvas.
    Raises ValueError for a drawing without points or impossible numbers.
    """
    _check("size_px", size_px, 0, FARTHEST_PX)
    strokes = _checked(strokes)
    if sum(map(len, strokes)) == 0:
        raise ValueError("the drawing has no points, so there is nothing to place")
    center = (canvas_px / 2, canvas_px / 2) if center is None else center
    if not np.isfinite(center).all():
        raise ValueError(f"center is {center}, expected x, y in canvas pixels")
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max()
    scale = size_px / extent if extent > 1e-9 else 1.0
    return [(stroke - (low + high) / 2) * scale + center for stroke in strokes]


def random_place(
    strokes: Sequence[np.ndarray],
    rng: np.random.Generator,
    low: float = 100,
    high: float = 240,
    brush_px: float = BRUSH_PX,
    canvas_px: int = CANVAS_PX,
) -> Drawing:
    """Place a drawing at a random size (longer side low..high px) and position.

    All ink, half a brush around the points included, stays on the canvas. Raises
    ValueError where that is impossible.
    """
    if not 0 <= low <= high <= canvas_px - brush_px:
        raise ValueError(
            f"sizes {low:g}..{high:g} px with a {brush_px:g} px brush do not fit a "
            f"{canvas_px} px canvas; expected low <= high <= {canvas_px - brush_px:g}"
        )
    drawing = place(strokes, rng.uniform(low, high), canvas_px=canvas_px)
    points = np.concatenate(drawing)
    room = canvas_px - brush_px - np.ptp(points, axis=0)
    shift = brush_px / 2 + rng.uniform(0, 1, 2) * room - points.min(axis=0)
    return [stroke + shift for stroke in drawing]


# --- the scripted hand --------------------------------------------------------------

# Every form is what the pen does, in a box of 100 x 100 with y down: a smooth curve
# through the points, with a corner at each "|", and a new stroke after each ";".
FORMS = {
    0: {
        "plain": "54,2 28,10 14,45 22,85 50,99 76,86 86,48 74,12 50,2 42,5",
        "slashed": "54,6 28,14 18,48 25,84 50,95 73,84 82,48 72,16 50,6;"
        "88,2 50,50 10,99",
        "looped": "34,12 20,40 20,74 42,97 66,92 82,62 78,26 58,5 40,8 44,22 66,20"
        " 78,10",
        "open": "38,10 20,34 17,68 38,97 64,93 82,62 78,24 62,5 44,2",
    },
    1: {
        "plain": "50,1 50,34 49,66 50,99",
        "flagged": "28,32 42,20 56,2 | 55,34 55,66 54,99",
        "based": "28,26 42,16 52,2 | 51,34 51,66 50,97;22,98 50,97 80,97",
        "upstroke": "8,42 34,26 62,2 | 58,34 52,66 47,99",
    },
    2: {
        "plain": "16,22 30,6 54,2 74,14 74,36 56,62 34,82 14,98 | 50,96 86,96",
        "looped": "18,22 34,5 58,4 72,20 66,44 48,68 28,88 14,92 12,82 24,78 42,86"
        " 62,96 88,92",
        "flat": "16,12 40,4 64,8 74,24 62,48 40,74 18,96 | 44,94 64,98 86,96",
    },
    3: {
        "round": "20,14 42,2 66,8 72,26 58,42 38,47 | 62,51 78,70 66,92 40,99 16,88",
        "flat": "16,5 46,5 80,4 | 62,24 44,42 | 66,46 80,66 70,90 44,99 16,90",
        "curled": "18,16 38,3 64,6 70,24 54,42 38,46 46,50 70,56 78,76 60,96 34,98"
        " 22,86 30,80",
    },
    4: {
        "open": "34,2 26,30 18,58 | 48,58 86,56;68,22 66,60 62,99",
        "closed": "66,99 67,50 67,2 | 40,34 10,68 | 50,68 92,67",
        "crossed": "50,2 32,34 12,66 | 46,66 88,64;62,42 61,70 59,99",
        "one-stroke": "30,6 20,36 22,54 44,54 66,40 76,10 | 70,44 64,72 58,99",
    },
    5: {
        "plain": "76,4 52,4 28,5 | 26,24 22,44 | 48,37 72,48 78,70 64,92 38,99 14,88",
        "topbar": "30,6 27,26 23,46 | 46,38 70,48 76,70 62,92 38,99 16,88;"
        "28,6 54,5 84,2",
        "curved": "80,3 54,4 36,12 26,30 34,42 56,48 70,64 62,86 40,98 14,94",
    },
    6: {
        "plain": "62,2 38,24 24,54 24,82 46,99 70,90 74,70 58,56 38,62 25,80",
        "curved": "76,10 58,3 36,16 22,46 22,78 42,98 66,92 76,72 60,54 36,60 23,78",
        "straight": "60,2 42,32 28,64 30,90 50,99 68,88 68,72 50,66 29,80",
    },
    7: {
        "plain": "14,6 48,6 84,4 | 66,36 52,66 42,99",
        "barred": "16,7 48,7 82,4 | 66,36 52,66 42,99;26,50 54,48 82,46",
        "flagged": "15,24 16,8 | 50,8 84,4 | 66,36 54,66 46,99",
        "curved": "12,18 24,6 42,10 64,12 82,4 | 70,30 56,56 50,76 50,99",
        "flagged-barred": "14,24 16,8 | 50,8 84,4 | 66,36 54,66 46,99;"
        "26,54 54,50 82,48",
    },
    8: {
        "plain": "74,14 52,2 30,10 28,30 48,46 70,62 74,84 52,99 28,90 26,70 48,50"
        " 70,32 74,12",
        "circles": "52,46 30,36 28,14 50,2 70,12 70,34 52,46 46,46;"
        "50,47 26,58 22,82 48,99 74,86 74,60 52,47 46,48",
        "crossed": "70,8 46,4 28,20 44,42 68,60 72,84 50,99 30,86 40,62 60,40 80,6",
    },
    9: {
        "plain": "74,20 56,4 32,10 22,32 34,50 56,46 72,26 | 72,52 68,76 64,99",
        "hooked": "72,16 52,4 30,12 24,32 38,46 58,40 71,18 | 76,48 72,80 52,98"
        " 28,94 18,84",
        "round": "72,28 62,8 42,4 26,20 30,42 50,48 68,38 72,20 | 72,44 62,76 42,99",
    },
}


def forms(digit: int) -> tuple[str, ...]:
    """Name the ways in which the hand writes a digit; ValueError outside 0..9."""
    if digit not in FORMS:
        raise ValueError(f"there is no digit {digit!r}; the hand writes 0 to 9")
    return tuple(FORMS[digit])


def handwrite(
    digit: int,
    form: str | None = None,
    seed: int | np.random.Generator = 0,
    size_px: float = 190,
    canvas_px: int = CANVAS_PX,
    center: tuple[float, float] | None = None,
    jitter: float = 1.0,
) -> Drawing:
    """Write a digit as a person might; the same seed gives the same strokes.

    form is one of forms(digit); None lets the seed choose. jitter scales what varies
    between two drawings: slant, rotation, proportions, every point; 0 is the model
    itself. The longer side is size_px and the box lies around center, by default the
    middle of the canvas. Raises ValueError for an unknown digit or form, or where the
    digit with a brush of BRUSH_PX would not fit the canvas.
    """
    names = forms(digit)
    rng = np.random.default_rng(seed)
    choice = names[rng.integers(len(names))]  # drawn in any case: one stream per seed
    form = choice if form is None else form
    if form not in names:
        raise ValueError(
            f"the digit {digit} has no form {form!r}; there are: {', '.join(names)}"
        )
    _check("jitter", jitter, 0, 3)
    _check("size_px", size_px, 1, canvas_px - BRUSH_PX)
    turn, shear = rng.uniform((-0.15, -0.15), (0.15, 0.3)) * jitter
    stretch = np.exp(rng.uniform(-0.2, 0.2) * jitter)
    slant = [[stretch, turn], [-turn - shear, 1 / stretch]]
    phase = rng.uniform(0, 2 * np.pi, 2)
    drawing = []
    for points, corners in _model(FORMS[digit][form]):
        points = points + rng.normal(0, 1.8 * jitter, points.shape)
        ends = [0, *corners, len(points) - 1]
        pieces = [_smooth(points[a : b + 1]) for a, b in pairwise(ends)]
        x, y = np.concatenate(pieces).T
        # A slow wave bends what a ruler would draw straight.
        x = x + 2 * jitter * np.sin(y / 20 + phase[0])
        y = y + 2 * jitter * np.sin(x / 20 + phase[1])
        drawing.append(np.stack([x, y], axis=1) @ slant)
    return place(drawing, size_px, center, canvas_px)


@cache
def _model(text: str) -> list[tuple[np.ndarray, list[int]]]:
    """Read a form: for each stroke its points (n, 2) and which of them are corners."""
    strokes = []
    for stroke in text.split(";"):
        runs = [run.split() for run in stroke.split("|")]
        points = [tuple(map(float, p.split(","))) for run in runs for p in run]
        corners = (np.cumsum([len(run) for run in runs[:-1]], dtype=int) - 1).tolist()
        strokes.append((np.array(points), corners))
    return strokes


def _smooth(points: np.ndarray, per_interval: int = 5) -> np.ndarray:
    """Lay a centripetal Catmull-Rom curve through points (n, 2), as cubic Hermites."""
    gaps = np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1))
    tangents = np.gradient(points, np.concatenate([[0], np.cumsum(gaps)]), axis=0)
    u = np.linspace(0, 1, per_interval, endpoint=False)[:, None]
    first, last, gaps = points[:-1, None], points[1:, None], gaps[:, None, None]
    curve = (
        (1 + 2 * u) * (1 - u) ** 2 * first
        + u**2 * (3 - 2 * u) * last
        + u * (1 - u) ** 2 * gaps * tangents[:-1, None]
        - u**2 * (1 - u) * gaps * tangents[1:, None]
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


# --- recorded pens ------------------------------------------------------------------

PENS_URL = (
    "https://archive.ics.uci.edu/static/public/81/"
    "pen+based+recognition+of+handwritten+digits.zip"
)
PENS_FILE = "pendigits-orig.tra"
PENS_MD5 = "28e269fb7eaf8cb51af3f561743a0de5"  # of the unpacked text
PENS_SOURCE = "UCI pendigits, 7,494 digits by the pens of 30 writers"
PENS_MAX_BYTES = 30_000_000
HAND_SOURCE = "the scripted hand (recorded pens could not be had)"
TABLET_UNITS = 500


@dataclass(frozen=True)
class PenDigits:
    """Drawings, labels int64 (N,), writers int64 (N,), and where they are from.

    The strokes are upright, y down, in the units of their source: place() them.
    """

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

    def of_writers(self, writers: Iterable[int]) -> "PenDigits":
        """Keep the drawings of these writers; ValueError for one who is not here."""
        wanted, present = set(writers), set(self.writers.tolist())
        if missing := wanted - present:
            raise ValueError(
                f"{self.source}: no writer {sorted(missing)}, only {sorted(present)}"
            )
        return self.take(np.flatnonzero(np.isin(self.writers, list(wanted))))


def read_unipen(text: str, source: str = "this UNIPEN text") -> PenDigits:
    """Read digits from UNIPEN text as UCI's pendigits-orig files write it.

    A digit is a line `.SEGMENT DIGIT 6-7 ? "4"` (which pen-downs, what label), a line
    `.COMMENT 4 14 100` (label, writer, record) and one block of `x y` lines for each
    pen-down, 0..500 tablet units with y upward. The strokes returned have y down.
    Raises ValueError, which names the digit, for whatever is cut or contradicts itself.
    """
    _, *records = re.split(r"^\.SEGMENT", text, flags=re.MULTILINE)
    if not records:
        raise ValueError(
            f"{source} has no .SEGMENT line, so no digits; expected the unpacked text "
            f"of {PENS_FILE}, not the table of features that UCI also offers"
        )
    digits = []
    for number, record in enumerate(records, 1):
        try:
            digits.append(_read_digit(record))
        except ValueError as error:
            raise ValueError(
                f"digit {number} of {source}: {error}; the file is cut or of another "
                f"kind than {PENS_FILE}: fetch it again"
            ) from error
    strokes, labels, writers = zip(*digits, strict=True)
    return PenDigits(strokes, np.array(labels), np.array(writers), source)


def _read_digit(record: str) -> tuple[Drawing, int, int]:
    head, *blocks = record.split(".PEN_DOWN")
    segment = re.match(r'\s+DIGIT\s+(\d+)(?:-(\d+))?\s+\?\s+"(.*?)"', head)
    comment = re.search(r"^\.COMMENT\s+(\S+)\s+(\d+)\s+\d+\s*$", head, re.MULTILINE)
    if not segment:
        raise ValueError(f"found no label in .SEGMENT{head.partition(chr(10))[0]}")
    first, last, label = segment.groups()
    if label not in list("0123456789"):
        raise ValueError(f"found the unknown label {label!r}, expected 0 to 9")
    if not comment:
        raise ValueError("found no line .COMMENT label writer record")
    if comment[1] != label:
        raise ValueError(f".SEGMENT says {label} and .COMMENT says {comment[1]}")
    expected = int(last or first) - int(first) + 1
    if len(blocks) != expected:
        raise ValueError(f"found {len(blocks)} pen-downs, expected {expected}")
    return [_read_pen_down(block) for block in blocks], int(label), int(comment[2])


def _read_pen_down(block: str) -> np.ndarray:
    inside, pen_up, after = block.partition(".PEN_UP")
    if not pen_up:
        raise ValueError("found a .PEN_DOWN without its .PEN_UP")
    if any(not line.startswith(".") for line in after.split("\n") if line.strip()):
        raise ValueError("found points after .PEN_UP")
    points = np.array([line.split() for line in inside.strip().splitlines()], float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("found a pen-down that is not lines of x and y")
    if not ((points >= 0) & (points <= TABLET_UNITS)).all():
        raise ValueError(f"found a coordinate outside 0..{TABLET_UNITS}")
    return points * (1, -1) + (0, TABLET_UNITS)


def load_pens(folder: Path | None = None) -> PenDigits:
    """Load the recorded pens of UCI pendigits, fetching them at the first call.

    folder is the data folder, by default data.data_folder(); the text is kept in its
    pendigits/pendigits-orig.tra. Raises data.DataUnavailable where it cannot be
    fetched and data.DataCorrupt for a file that is there but is not the known one.
    """
    from mnistlab import data

    path = Path(folder or data.data_folder()) / "pendigits" / PENS_FILE
    if not path.exists():
        limits = {"md5": PENS_MD5, "max_bytes": PENS_MAX_BYTES}
        data.download([PENS_URL], path, unpack=_unpack_pens, **limits)
    content = path.read_bytes()
    if (found := md5(content).hexdigest()) != PENS_MD5:
        raise data.DataCorrupt(
            f"{path} has md5 {found}, expected {PENS_MD5}: delete it, and the next "
            "call fetches it again"
        )
    return read_unipen(content.decode("ascii"), PENS_SOURCE)


def _unpack_pens(archive: bytes) -> bytes:
    """Take the file out of UCI's zip and undo Unix compress, or raise ValueError."""
    from unlzw3 import unlzw

    member = PENS_FILE + ".Z"
    try:
        with zipfile.ZipFile(BytesIO(archive)) as files:
            packed = files.open(member).read(PENS_MAX_BYTES)
    except KeyError as error:
        raise ValueError(f"the zip archive does not hold {member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"not a whole zip archive: {error}") from error
    return unlzw(packed)


def pens_or_hand(n: int, seed: int = 0) -> PenDigits:
    """Draw n digits, all classes alike: recorded pens, or the scripted hand offline.

    Prints one line that says which; `source` says it, too. The strokes are in the
    units of their source. Raises ValueError if there are not n.
    """
    from mnistlab import data

    _check("n", n, 1, 1_000_000, whole=True)
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
