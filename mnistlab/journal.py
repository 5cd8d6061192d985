"""What was drawn, what the network said and what it really was: one SQLite file.

Each call opens the file, does one thing in one transaction and closes it again, so
several pads, processes and threads may share a journal, and a kill loses nothing that
a call had returned from. Nothing here repairs or deletes a file that it cannot read;
a row that says something impossible is left out, and named.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from mnistlab.checks import energy
from mnistlab.pendigits import PenDigits
from mnistlab.sketch import checked
from mnistlab.strokes import Drawing

VERSION = 1
PATIENCE_S = 10.0  # how long a call waits for another program's transaction
ENOUGH = 5  # drawings; below it a window says nothing about drift
TABLE = """CREATE TABLE drawings (
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
    checkpoint_sha256 TEXT NOT NULL)"""
CURES = {
    "locked": "another program is writing to it; try again, or close that program",
    "readonly": "it may only be read; make file and folder writable",
    "unable to open": "file or folder cannot be opened; check that they may be written",
    "full": "the disk is full; make room",
    "damaged": "it is damaged or no journal; move it away and a new one begins",
}


class JournalError(RuntimeError):
    """The journal cannot be used now; the message names the file and the cure."""


def _digit(value) -> int | None:
    if value not in (None, *range(10)):
        raise ValueError(f"{value!r} is no digit")
    return value


READ = {  # column -> what it says; ValueError or TypeError if that cannot be
    "label": _digit,
    "predicted": _digit,
    "strokes": lambda text: [np.array(one) for one in checked(json.loads(text))],
    **{
        name: lambda value: np.nan if value is None else float(value)
        for name in ("confidence", "milliseconds", "mean", "energy")
    },
}


@dataclass(frozen=True)
class JournalReport:
    """How the network does on one person's handwriting.

    n drawings, of which labelled say what they were; accuracy is right answers over
    labelled, so an abstention is no right answer (nan without labels). confusion
    (10, 11): rows what it was, columns the answer, the last one "abstained".
    confidence and milliseconds: (n,), oldest first, nan where there was no network.
    drift: a sentence. skipped: a sentence for each row that could not be read.
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
        return self.confusion.trace() / self.labelled if self.labelled else np.nan

    def __str__(self) -> str:
        rest = [f"drift: {self.drift}", *self.skipped]
        if not self.labelled:
            return "\n".join([f"{self.n} drawings, none labelled", *rest])
        rows = [
            f"{digit}: {row[digit]} of {row.sum()}"
            + "".join(
                f", {count} x {answer if answer < 10 else 'abstained'}"
                for answer, count in enumerate(row)
                if count and answer != digit
            )
            for digit, row in enumerate(self.confusion)
            if row.any()
        ]
        head = (
            f"{self.n} drawings, {self.labelled} labelled: {self.confusion.trace()} "
            f"right ({self.accuracy:.1%}), {self.confusion[:, 10].sum()} abstained"
        )
        return "\n".join([head, *rows, *rest])


class Journal:
    """A journal at path; the file and its folder are made by the first record()."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __len__(self) -> int:
        return len(self._rows("label")[0])

    def record(
        self,
        strokes: Drawing,
        canvas: np.ndarray,
        prediction,
        label: int | None = None,
        checkpoint: str = "",
        row: int | None = None,
    ) -> int:
        """Keep one drawing; return its row. A row handed back in is corrected.

        canvas: uint8 (H, W), the pixels made of strokes. prediction: a Prediction,
        or None where there was no network. checkpoint: the sha256 of its file.
        Raises JournalError where the file is locked, read-only, damaged or of
        another version; ValueError for a label outside 0..9, strokes that cannot be
        drawn and a row that is not there.
        """
        if label is not None and label not in range(10):
            raise ValueError(f"the label is {label!r}, expected 0 to 9")
        values = {
            "strokes": json.dumps(checked(strokes)),
            "canvas_sha256": sha256(canvas.tobytes()).hexdigest(),
            "label": None if label is None else int(label),
            "checkpoint_sha256": checkpoint,
            "alarms": "[]",
        }
        if prediction is not None:
            values |= {
                "predicted": prediction.label,
                "confidence": float(np.max(prediction.probabilities)),  # NaN is NULL
                "mean": float(np.mean(prediction.stages[-1].image)),
                "energy": float(energy(prediction.logits)),
                "alarms": json.dumps([alarm.name for alarm in prediction.alarms]),
                "milliseconds": prediction.milliseconds,
            }
        names, marks = ", ".join(["id", *values]), ", ?" * len(values)
        with self._open(create=True) as connection:
            there = "SELECT count(*) FROM drawings WHERE id = ?"
            if row is not None and connection.execute(there, [row]).fetchone() == (0,):
                raise ValueError(f"the journal has no row {row} to correct")
            return connection.execute(
                f"INSERT OR REPLACE INTO drawings ({names}) VALUES (?{marks})",
                (row, *values.values()),
            ).lastrowid

    def report(self, reference=None, window: int = 50) -> JournalReport:
        """Read everything; reference.drift judges the last `window` inputs.

        reference: a checks.Reference, or None for no judgement of drift.
        """
        rows, skipped = self._rows("label", "predicted", *list(READ)[3:])
        confusion = np.zeros((10, 11), int)
        for label, predicted, *_ in rows:
            if label is not None:
                confusion[label, 10 if predicted is None else predicted] += 1
        numbers = np.array([row[2:] for row in rows]).reshape(-1, 4)
        recent = numbers[np.isfinite(numbers[:, 2:]).all(axis=1)][-window:]
        if len(recent) < ENOUGH:
            drift = f"not enough drawings ({len(recent)} of {ENOUGH})"
        elif reference is None:
            drift = "no training reference to compare with"
        else:
            drift = str(reference.drift(recent[:, 2], recent[:, 3]))
        return JournalReport(len(rows), confusion, *numbers.T[:2], drift, skipped)

    def drawings(self) -> PenDigits:
        """The labelled drawings as a data set: strokes in canvas pixels, one writer."""
        rows, skipped = self._rows("strokes", "label")
        rows = [row for row in rows if row[1] is not None]
        left_out = f"; left out: {', '.join(skipped)}" if skipped else ""
        return PenDigits(
            strokes=tuple(strokes for strokes, _ in rows),
            labels=np.array([label for _, label in rows], np.int64),
            writers=np.zeros(len(rows), np.int64),
            source=f"{len(rows)} drawings from the journal{left_out}",
        )

    def _rows(self, *columns: str) -> tuple[list[list], tuple[str, ...]]:
        """What can be read, oldest first, and a sentence for each row that cannot."""
        rows, skipped, found = [], [], []
        if self.path.exists():
            with self._open() as connection:
                if connection.execute("PRAGMA user_version").fetchone() != (0,):
                    found = connection.execute(
                        f"SELECT id, {', '.join(columns)} FROM drawings ORDER BY id"
                    ).fetchall()
        for number, *values in found:
            pairs = zip(columns, values, strict=True)
            try:
                rows.append([READ[column](value) for column, value in pairs])
            except (ValueError, TypeError, RecursionError) as error:
                skipped.append(f"row {number} cannot be read: {error}")
        return rows, tuple(skipped)

    @contextmanager
    def _open(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE_S)) as connection:
                self._check_version(connection, create)
                with connection:
                    yield connection
        except (sqlite3.Error, OSError) as error:
            cures = [CURES[key] for key in CURES if key in str(error)]
            raise self._left(str(error), *cures, CURES["damaged"]) from error

    def _left(self, found: str, cure: str, *_) -> JournalError:
        name = self.path.name
        return JournalError(
            f"The journal {name} was left as it is: {found}. What to do: {cure}."
        )

    def _check_version(self, connection: sqlite3.Connection, create: bool) -> None:
        """Make the table in an empty file; refuse whatever is not this version."""

        def read(statement):
            return connection.execute(statement).fetchone()[0]

        tables, version = "SELECT count(*) FROM sqlite_master", "PRAGMA user_version"
        new = (read(tables), read(version)) == (0, 0)
        if new and create:
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")  # of many pads, one makes it
                if not read(tables):
                    connection.execute(TABLE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        elif not new and (found := read(version)) != VERSION:
            found = f"it has version {found}, this program knows version {VERSION}"
            cure = "move it away and a new one begins, or use the program that made it"
            raise self._left(found, cure)
