"""What was drawn, what the network said and what it really was: one SQLite file.

Each call opens the file, does one thing in one transaction and closes it again, so
several pads, processes and threads may share a journal, and a kill loses nothing that
a call had returned from. Nothing here repairs or deletes a file that it cannot read.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mnistlab.checks import energy
from mnistlab.strokes import Drawing, PenDigits

VERSION = 1
PATIENCE_S = 1.0  # how long a call waits for another program's transaction
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
    "not a database": "it is damaged or no journal; move it away and a new one begins",
    "malformed": "it is damaged; move it away and a new one begins",
    "full": "the disk is full; make room",
}


class JournalError(RuntimeError):
    """The journal cannot be used now; the message names the file and the cure."""


@dataclass(frozen=True)
class JournalReport:
    """How the network does on one person's handwriting.

    n drawings, of which labelled say what they were; accuracy is right answers over
    labelled, so an abstention is no right answer (nan without labels). per_class (10,)
    is nan for a digit never labelled. confusion (10, 11): rows what it was, columns
    the answer, the last one "abstained". confidence and milliseconds: (n,), oldest
    first, nan where there was no network. drift: a sentence.
    """

    n: int
    labelled: int
    accuracy: float
    per_class: np.ndarray
    confusion: np.ndarray
    confidence: np.ndarray
    milliseconds: np.ndarray
    drift: str

    def __str__(self) -> str:
        if not self.labelled:
            return f"{self.n} drawings, none labelled\ndrift: {self.drift}"
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
        right = int(np.trace(self.confusion))
        head = (
            f"{self.n} drawings, {self.labelled} labelled: {right} right "
            f"({self.accuracy:.1%}), {self.confusion[:, 10].sum()} abstained"
        )
        return "\n".join([head, *rows, f"drift: {self.drift}"])


class Journal:
    """A journal at path; the file and its folder are made by the first record()."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __len__(self) -> int:
        return len(self._rows("id"))

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
        another version; ValueError for a label outside 0..9.
        """
        if label is not None and label not in range(10):
            raise ValueError(f"the label is {label!r}, expected 0 to 9")
        values = {
            "strokes": json.dumps([np.asarray(s, float).tolist() for s in strokes]),
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
        names = ", ".join(["id", *values])
        marks = ", ".join("?" * (len(values) + 1))
        with self._open(create=True) as connection:
            return connection.execute(
                f"INSERT OR REPLACE INTO drawings ({names}) VALUES ({marks})",
                (row, *values.values()),
            ).lastrowid

    def report(self, reference=None, window: int = 50) -> JournalReport:
        """Read everything; reference.drift judges the last `window` inputs.

        reference: a checks.Reference, or None for no judgement of drift.
        """
        rows = self._rows("label, predicted, confidence, milliseconds, mean, energy")
        confusion = np.zeros((10, 11), int)
        for label, predicted, *_ in rows:
            if label is not None:
                confusion[label, 10 if predicted is None else predicted] += 1
        numbers = np.array([row[2:] for row in rows], float).reshape(-1, 4)
        recent = numbers[np.isfinite(numbers[:, 2:]).all(axis=1)][-window:]
        if len(recent) < ENOUGH:
            drift = f"not enough drawings ({len(recent)} of {ENOUGH})"
        elif reference is None:
            drift = "no training reference to compare with"
        else:
            drift = str(reference.drift(recent[:, 2], recent[:, 3]))
        labelled, right = confusion.sum(axis=1), np.diagonal(confusion)
        per_class = np.full(10, np.nan)
        np.divide(right, labelled, out=per_class, where=labelled > 0)
        return JournalReport(
            n=len(rows),
            labelled=int(labelled.sum()),
            accuracy=right.sum() / labelled.sum() if labelled.any() else float("nan"),
            per_class=per_class,
            confusion=confusion,
            confidence=numbers[:, 0],
            milliseconds=numbers[:, 1],
            drift=drift,
        )

    def drawings(self) -> PenDigits:
        """The labelled drawings as a data set: strokes in canvas pixels, one writer."""
        rows = [row for row in self._rows("strokes, label") if row[1] is not None]
        strokes = (
            [np.array(stroke).reshape(-1, 2) for stroke in json.loads(text)]
            for text, _ in rows
        )
        return PenDigits(
            strokes=tuple(strokes),
            labels=np.array([label for _, label in rows], np.int64),
            writers=np.zeros(len(rows), np.int64),
            source=f"{len(rows)} drawings from the journal",
        )

    def _rows(self, columns: str) -> Sequence[tuple]:
        if not self.path.exists():
            return []
        with self._open() as connection:
            if connection.execute("PRAGMA user_version").fetchone() == (0,):
                return []  # an empty file
            return connection.execute(
                f"SELECT {columns} FROM drawings ORDER BY id"
            ).fetchall()

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
            text = str(error)
            cure = next((CURES[key] for key in CURES if key in text), "see above")
            raise JournalError(
                f"The journal {self.path.name} was left as it is: {text}. "
                f"What to do: {cure}."
            ) from error

    def _check_version(self, connection: sqlite3.Connection, create: bool) -> None:
        """Make the table in an empty file; refuse whatever is not this version."""

        def read(statement):
            return connection.execute(statement).fetchone()

        empty = read("SELECT count(*) FROM sqlite_master") == (0,)
        if empty and create:
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")  # of many pads, one makes it
                if read("SELECT count(*) FROM sqlite_master") == (0,):
                    connection.execute(TABLE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        (found,) = read("PRAGMA user_version")
        if found != VERSION and not (empty and found == 0):
            raise JournalError(
                f"The journal {self.path.name} was left as it is: it has version "
                f"{found}, this program knows version {VERSION}. What to do: move it "
                "away and a new one begins, or use the program that made it."
            )
