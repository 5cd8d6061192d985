"""What was drawn, what the network said and what it really was: one SQLite file.

Each call opens the file, does one thing in one transaction and closes it again, so
several pads, processes and threads may share a journal, and a kill loses nothing that
a call had returned from. A file that cannot be read is left as it is; a row that says
something impossible is left out, and named.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from mnistlab.checks import energy
from mnistlab.pendigits import PenDigits
from mnistlab.sketch import checked

VERSION = 1
PATIENCE_S = 10.0  # how long a call waits for another program's transaction
RECENT = 50  # drawings, by which drift is judged
ALL = -1
DIGITS = {None, *range(10)}
TABLE = f"""BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS drawings (
    id INTEGER PRIMARY KEY,
    saved_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    strokes TEXT NOT NULL,        -- JSON: strokes of [x, y], canvas pixels
    canvas_sha256 TEXT NOT NULL,  -- of the canvas as the network was given it
    predicted INTEGER,            -- NULL: it abstained, or there was no network
    confidence REAL,              -- the largest probability
    mean REAL,                    -- of the network's input
    energy REAL,                  -- -log(sum(exp(logits)))
    alarms TEXT NOT NULL,         -- JSON: names
    milliseconds REAL,
    label INTEGER CHECK (label BETWEEN 0 AND 9),  -- NULL: nobody said
    checkpoint_sha256 TEXT NOT NULL);
    PRAGMA user_version = {VERSION}; COMMIT"""
CURES = {
    "locked": "another program is writing to it; try again, or close that program",
    "readonly": "it may only be read; make file and folder writable",
    "version": "use the program that made it, or move it away and a new one begins",
    "unable": "file or folder cannot be opened; check that they may be written",
    "": "it is damaged or no journal; move it away and a new one begins",
}


class JournalError(RuntimeError):
    """The journal cannot be used now; the message names the file and the cure."""


def _digit(value) -> int | None:
    if value not in DIGITS:
        raise ValueError(f"{value!r} is no digit; expected 0 to 9, or None")
    return None if value is None else int(value)


def _value(column: str, value):
    """What a column says; ValueError or TypeError where it cannot be."""
    match column:
        case "strokes":
            return [np.array(stroke) for stroke in checked(json.loads(value))]
        case "label" | "predicted":
            return _digit(value)
    return np.nan if value is None else float(value)


@dataclass(frozen=True)
class JournalReport:
    """How the network does on one person's handwriting: n drawings, oldest first.

    confusion (10, 11): rows what it was, columns the answer, the last one "none".
    confidence and milliseconds: (n,), nan where there was no network. drift: a
    sentence. skipped: a sentence for each row that could not be read.
    """

    n: int
    confusion: np.ndarray = field(repr=False)
    confidence: np.ndarray = field(repr=False)
    milliseconds: np.ndarray = field(repr=False)
    drift: str
    skipped: tuple[str, ...]

    @property
    def labelled(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Right answers over labelled; none is not right. NaN without labels."""
        return self.confusion.trace() / self.labelled if self.labelled else np.nan

    def __str__(self) -> str:
        table = pd.DataFrame(self.confusion, columns=[*range(10), "none"])
        counts = (
            f"{self.n} drawings, {self.labelled} labelled, {self.confusion.trace()} "
            f"answered right; what they were (rows), what was said (columns):\n{table}"
        )
        return "\n".join([counts, f"drift: {self.drift}", *self.skipped])


class Journal:
    """A journal at path; the file and its folder are made by the first record()."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __len__(self) -> int:
        return self.report().n

    def record(self, strokes, canvas, prediction, label=None, checkpoint="", row=None):
        """Keep one drawing; return its row. A row handed back in is corrected.

        canvas: uint8 (H, W), the pixels made of strokes. prediction: a Prediction,
        or None where there was no network. label: 0..9 or None. checkpoint: the sha256
        of its file. Raises JournalError where the file is locked, read-only, damaged or
        of another version; ValueError for a label, strokes or a row that cannot be.
        """
        said = {
            "strokes": json.dumps(checked(strokes)),
            "canvas_sha256": sha256(canvas.tobytes()).hexdigest(),
            "label": _digit(label),
            "checkpoint_sha256": checkpoint,
            "alarms": "[]",
        }
        if prediction is not None:
            said |= {
                "predicted": prediction.label,
                "confidence": float(np.max(prediction.probabilities)),  # NaN is NULL
                "mean": float(np.mean(prediction.stages[-1].image)),
                "energy": float(energy(prediction.logits)),
                "alarms": json.dumps([alarm.name for alarm in prediction.alarms]),
                "milliseconds": prediction.milliseconds,
            }
        names, marks = ", ".join(["id", *said]), ", ?" * len(said)
        with self._open(to_write=True) as connection:
            found = connection.execute("SELECT 1 FROM drawings WHERE id = ?", [row])
            if row is not None and not found.fetchall():
                raise ValueError(f"the journal has no row {row} to correct")
            insert = f"INSERT OR REPLACE INTO drawings ({names}) VALUES (?{marks})"
            return connection.execute(insert, (row, *said.values())).lastrowid

    def report(self, reference=None, last: int = ALL) -> JournalReport:
        """Of the last drawings, or of all; constant time where `last` is given.

        reference: a checks.Reference, by which the drift is judged.
        """
        columns = ["label", "predicted", "confidence", "milliseconds", "mean", "energy"]
        rows, skipped = self._read(columns, last)
        confusion = np.zeros((10, 11), int)
        for label, predicted, *_ in rows:
            if label is not None:
                confusion[label, 10 if predicted is None else predicted] += 1
        numbers = np.array([row[2:] for row in rows]).reshape(-1, 4)
        recent = numbers[np.isfinite(numbers[:, 2:]).all(axis=1)][-RECENT:]
        drift = reference and reference.drift(recent[:, 2], recent[:, 3])
        drift = str(drift or "needs a training reference and five drawings")
        return JournalReport(len(rows), confusion, *numbers.T[:2], drift, skipped)

    def drawings(self) -> PenDigits:
        """The labelled drawings as a data set: strokes in canvas pixels, one writer."""
        rows, skipped = self._read(["strokes", "label"])
        rows = [row for row in rows if row[1] is not None]
        return PenDigits(
            strokes=tuple(strokes for strokes, _ in rows),
            labels=np.array([label for _, label in rows], np.int64),
            writers=np.zeros(len(rows), np.int64),
            source=f"{len(rows)} drawings from the journal" + "; ".join(["", *skipped]),
        )

    def _read(self, columns: list[str], last: int = ALL):
        """What can be read, oldest first, and a sentence for each row that cannot."""
        rows, skipped, names = [], [], ", ".join(columns)
        select = f"SELECT id, {names} FROM drawings ORDER BY id DESC LIMIT {last:d}"
        with self._open() as connection:
            found = connection.execute(select).fetchall()
        for number, *values in reversed(found):
            try:
                rows.append(list(map(_value, columns, values)))
            except (ValueError, TypeError, RecursionError) as error:
                skipped.append(f"row {number} cannot be read: {error}")
        return rows, tuple(skipped)

    @contextmanager
    def _open(self, to_write: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; an empty file, or to read from none, is given the table."""
        try:
            if to_write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            path = self.path if to_write or self.path.exists() else ":memory:"
            with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                tables = connection.execute("SELECT 1 FROM sqlite_master").fetchall()
                if version == 0 and not tables:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(TABLE)  # of many pads, one makes it
                elif version != VERSION:
                    raise sqlite3.Error(f"it has version {version}, not {VERSION}")
                with connection:
                    yield connection
        except (sqlite3.Error, OSError) as error:
            cure = next(cure for sign, cure in CURES.items() if sign in str(error))
            what = f"The journal {self.path.name} was left as it is: {error}"
            raise JournalError(f"{what}. What to do: {cure}.") from error
