"""The journal keeps what was drawn, and says so when it cannot."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from hashlib import sha256
from threading import Timer
from types import SimpleNamespace

import numpy as np
import pytest

from mnistlab.journal import Journal, JournalError
from mnistlab.strokes import rasterize

ONE = [np.array([[140.0, 40.0], [139.5, 130.25], [140.0, 240.0]])]
EMPTY = np.zeros((280, 280), np.uint8)


def said(label, confidence=0.9, milliseconds=1.5, mean=0.0, alarms=()):
    """What Journal.record reads of a Prediction."""
    probabilities = np.full(10, (1 - confidence) / 9, np.float32)
    probabilities[label or 0] = confidence
    stages = [np.zeros((280, 280)), np.full((28, 28), mean)]
    return SimpleNamespace(
        label=label,
        probabilities=probabilities,
        logits=np.log(probabilities),
        milliseconds=milliseconds,
        alarms=tuple(SimpleNamespace(name=name) for name in alarms),
        stages=tuple(SimpleNamespace(image=image) for image in stages),
    )


def sql(journal, statement, *values):
    """The first row of what a database program would be told."""
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        return connection.execute(statement, values).fetchone()


class Reference:
    def drift(self, means, energies):
        return f"{len(means)} drawings, mean {np.mean(means):.2f}"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "new folder" / "journal.sqlite")


def test_reading_a_journal_that_nobody_wrote_makes_no_file(journal):
    report = journal.report()
    assert (len(journal), report.n, report.labelled) == (0, 0, 0)
    assert "none labelled" in str(report)
    assert len(journal.drawings()) == 0
    assert not journal.path.parent.exists()


def test_drawings_come_back_as_a_data_set_point_for_point(journal):
    journal.record(ONE, rasterize(ONE), said(7), label=1)
    journal.record(ONE * 2, rasterize(ONE * 2), said(7))  # nobody said what it was
    journal.record(ONE * 3, rasterize(ONE * 3), None, label=4)
    back = journal.drawings()
    assert back.labels.tolist() == [1, 4]
    assert [len(drawing) for drawing in back.strokes] == [1, 3]
    for stroke in back.strokes[1]:
        np.testing.assert_array_equal(stroke, ONE[0])
    np.testing.assert_array_equal(rasterize(back.strokes[0]), rasterize(ONE))
    assert "2 drawings" in back.source


def test_the_report_counts_right_wrong_and_abstained(journal):
    answers = [(1, 1), (1, 7), (1, None), (4, 4), (None, 3)]
    for label, answer in answers:
        journal.record(ONE, EMPTY, said(answer, alarms=("ink",)), label=label)
    report = journal.report()
    assert (report.n, report.labelled, report.accuracy) == (5, 4, 0.5)
    assert report.confusion.sum() == 4
    assert report.confusion[1, [1, 7, 10]].tolist() == [1, 1, 1]
    assert "5 drawings, 4 labelled: 2 right (50.0%), 1 abstained" in str(report)
    assert "1: 1 of 3, 1 x 7, 1 x abstained" in str(report)


def test_confidence_and_latency_are_kept_in_the_order_of_drawing(journal):
    for confidence, milliseconds in ((0.5, 1.0), (0.9, 2.0)):
        journal.record(ONE, EMPTY, said(3, confidence, milliseconds))
    journal.record(ONE, EMPTY, None)
    report = journal.report()
    np.testing.assert_allclose(report.confidence, [0.5, 0.9, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(report.milliseconds, [1, 2, np.nan])


def test_drift_looks_at_the_last_window_and_not_at_fewer_than_five(journal):
    for count in range(1, 8):
        journal.record(ONE, EMPTY, said(1, mean=float(count)))
        text = journal.report(Reference(), window=5).drift
        assert ("not enough drawings" in text) == (count < 5)
    assert text == "5 drawings, mean 5.00"  # 3, 4, 5, 6, 7
    assert "no training reference" in journal.report().drift


def test_a_row_says_what_was_seen(journal):
    prediction = said(2, mean=0.25, alarms=("ink", "polarity"))
    prediction.logits = np.array([1000.0] + [0.0] * 9)  # would overflow if naive
    canvas = rasterize(ONE)
    journal.record(ONE, canvas, prediction, checkpoint="abc")
    columns = "strokes, canvas_sha256, predicted, mean, energy, alarms, label"
    row = sql(journal, f"SELECT {columns}, checkpoint_sha256 FROM drawings")
    assert json.loads(row[0]) == [ONE[0].tolist()]
    assert row[1] == sha256(canvas.tobytes()).hexdigest()
    assert row[2:] == (2, 0.25, -1000, '["ink", "polarity"]', None, "abc")


def test_a_row_handed_back_is_corrected_and_not_counted_twice(journal):
    row = journal.record(ONE, EMPTY, said(7), label=1)
    assert journal.record(ONE, EMPTY, said(7), label=7, row=row) == row
    assert len(journal) == 1 and journal.report().accuracy == 1


def test_a_blank_prediction_is_recorded_without_numbers(journal):
    prediction = said(None)
    prediction.probabilities = prediction.logits = np.full(10, np.nan)
    journal.record([], EMPTY, prediction)
    assert np.isnan(journal.report().confidence).all()


@pytest.mark.parametrize("label", [10, -1, "3", 2.5])
def test_a_label_that_is_no_digit_is_refused(journal, label):
    with pytest.raises(ValueError, match="expected 0 to 9"):
        journal.record(ONE, EMPTY, said(1), label=label)
    assert not journal.path.exists()


def test_strokes_that_cannot_be_drawn_and_a_row_that_never_was_are_refused(journal):
    with pytest.raises(ValueError, match="stroke 0"):
        journal.record([np.array([[np.nan, 1]])], EMPTY, said(1))
    assert not journal.path.exists()
    with pytest.raises(ValueError, match="no row 7"):
        journal.record(ONE, EMPTY, said(1), row=7)
    assert len(journal) == 0


@pytest.mark.parametrize(
    "column, value",
    [
        ("predicted", 42),
        ("predicted", "seven"),
        ("confidence", "high"),
        ("energy", b"\x00"),
        ("strokes", "[[["),
        ("strokes", "[" * 100_000),
        ("strokes", '{"a": 1}'),
        ("strokes", "[[[NaN, 1]]]"),
        ("strokes", b"\xff"),
    ],
)
def test_a_row_that_says_something_impossible_is_named_and_left_out(
    journal, column, value
):
    for label in range(3):
        journal.record(ONE, EMPTY, said(label), label=label)
    sql(journal, f"UPDATE drawings SET {column} = ? WHERE id = 2", value)
    if column == "strokes":
        back = journal.drawings()
        assert back.labels.tolist() == [0, 2] and "row 2 cannot" in back.source
    else:
        report = journal.report()
        assert report.n == report.labelled == 2 and len(report.skipped) == 1
        assert "row 2 cannot be read" in str(report)
    journal.record(ONE, EMPTY, said(4), label=4)


def test_a_missing_table_is_damage(journal):
    journal.record(ONE, EMPTY, said(1), label=1)
    sql(journal, "DROP TABLE drawings")
    for use in (journal.report, journal.drawings):
        with pytest.raises(JournalError, match="no such table.*move it away"):
            use()


def test_a_power_cut_loses_nothing_either(journal, monkeypatch):
    """In WAL mode a commit is on the disk only if synchronous is FULL (2)."""
    told, connect = [], sqlite3.connect

    def spying(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(told.append)
        return connection

    monkeypatch.setattr("mnistlab.journal.sqlite3.connect", spying)
    journal.record(ONE, EMPTY, said(1), label=1)
    assert any("INSERT" in statement for statement in told)
    assert not any("synchronous" in statement.lower() for statement in told)
    assert sql(journal, "PRAGMA synchronous") == (2,), "SQLite's own default"


def test_a_locked_journal_says_so_and_takes_the_drawing_later(journal, monkeypatch):
    monkeypatch.setattr("mnistlab.journal.PATIENCE_S", 0.01)
    journal.record(ONE, EMPTY, said(1), label=1)
    other = sqlite3.connect(journal.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked.*another program"):
        journal.record(ONE, EMPTY, said(1), label=1)
    assert len(journal) == 1  # WAL: reading goes on beside a writer
    other.rollback()
    other.close()
    journal.record(ONE, EMPTY, said(1), label=1)
    assert len(journal) == 2


def test_a_drawing_waits_until_another_program_has_written(journal):
    journal.record(ONE, EMPTY, said(1), label=1)
    other = sqlite3.connect(journal.path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    Timer(1.5, other.rollback).start()
    journal.record(ONE, EMPTY, said(1), label=1)
    other.close()
    assert len(journal) == 2


def test_a_read_only_journal_says_so(journal, monkeypatch):
    journal.record(ONE, EMPTY, said(1), label=1)
    connect = partial(sqlite3.connect, uri=True)
    monkeypatch.setattr(  # root may write anywhere, so file modes prove nothing
        "mnistlab.journal.sqlite3.connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", **options),
    )
    with pytest.raises(JournalError, match="readonly.*writable"):
        journal.record(ONE, EMPTY, said(1), label=1)
    assert len(journal) == 1


@pytest.mark.parametrize("begin", ["", "PRAGMA journal_mode = WAL"])
def test_a_journal_that_was_only_just_begun_is_empty(journal, begin):
    journal.path.parent.mkdir()
    connection = sqlite3.connect(journal.path)
    connection.execute(begin)
    connection.close()
    journal.path.touch()
    assert len(journal) == journal.report().n == 0
    journal.record(ONE, EMPTY, said(1), label=1)
    assert len(journal) == 1


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="journal.sqlite"):
        Journal(tmp_path / "file" / "journal.sqlite").record(ONE, EMPTY, said(1))


def test_a_journal_of_another_version_is_left_alone(journal):
    journal.record(ONE, EMPTY, said(1), label=1)
    connection = sqlite3.connect(journal.path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = journal.path.read_bytes()
    for use in (journal.report, lambda: journal.record(ONE, EMPTY, said(1))):
        with pytest.raises(JournalError, match="version 2.*version 1"):
            use()
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize(
    "theirs, version",
    [("CREATE TABLE recipes (title)", 0), ("PRAGMA user_version = 5", 5)],
)
def test_another_programs_database_gets_no_table_of_ours(tmp_path, theirs, version):
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(theirs)
    connection.close()
    before = path.read_bytes()
    for use in (Journal(path).report, lambda: Journal(path).record(ONE, EMPTY, None)):
        with pytest.raises(JournalError, match=f"version {version}"):
            use()
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no journal at all", "flipped bytes"])
def test_a_damaged_journal_is_left_alone_and_named(journal, damage):
    journal.record(ONE, EMPTY, said(1), label=1)
    content = bytearray(journal.path.read_bytes())
    if damage == "no journal at all":
        content[:] = b"these are not the digits you look for" * 50
    else:
        content[100:] = b"\xff" * (len(content) - 100)
    journal.path.write_bytes(content)
    for use in (journal.drawings, lambda: journal.record(ONE, EMPTY, said(1))):
        with pytest.raises(JournalError, match="move it away"):
            use()
    assert journal.path.read_bytes() == content


WRITER = """
import sys
from types import SimpleNamespace
import numpy as np
from mnistlab.journal import Journal
journal = Journal(sys.argv[1])
input()
for number in range(int(sys.argv[2])):
    journal.record([np.zeros((2, 2))], np.zeros((8, 8), np.uint8), None, label=3)
    print(number + 1, flush=True)
"""


def writer(path, count):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WRITER, str(path), str(count)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def test_several_pads_write_one_journal_at_once(journal):
    writers = [writer(journal.path, 10) for _ in range(3)]
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate() and process.returncode for process in writers] == [
        0
    ] * 3
    assert journal.report().labelled == 30


def test_a_kill_loses_nothing_that_was_acknowledged(journal):
    with writer(journal.path, 100_000) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        acknowledged = [process.stdout.readline() for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    assert len(journal) >= int(acknowledged[-1]) >= 25
    journal.record(ONE, EMPTY, said(1), label=1)
    assert journal.drawings().labels[-1] == 1
