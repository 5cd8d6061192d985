"""The journal keeps what was drawn, and says so when it cannot."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import sha256
from threading import Timer

import numpy as np
import pytest

from mnistlab import journal as module
from mnistlab.checks import Alarm, Reference
from mnistlab.classifier import Prediction
from mnistlab.journal import Journal, JournalError
from mnistlab.preprocess import Stage
from mnistlab.strokes import rasterize

ONE = [np.array([[140.0, 40.0], [139.5, 130.25], [140.0, 240.0]])]
EMPTY = np.zeros((280, 280), np.uint8)


def said(label, confidence=0.9, mean=0.0, alarms=()):
    logits = np.zeros(10, np.float32)
    logits[label or 0] = np.log(9 * confidence / (1 - confidence))
    alarms = [Alarm(name, "border", 0.0, 0.0, 0.0, "normalize") for name in alarms]
    stages = [Stage("original", EMPTY), Stage("normalize", np.full((28, 28), mean))]
    return Prediction(label, "", logits, stages, alarms, 1.5)


def keep(journal, label=1, answer=1, **more):
    return journal.record(ONE, EMPTY, said(answer, **more), label)


def sql(journal, *statements):
    """What a database program would be told by the last statement."""
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        return [connection.execute(*one).fetchall() for one in statements][-1]


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "new folder" / "journal.sqlite")


def test_reading_a_journal_that_nobody_wrote_makes_no_file(journal):
    report = journal.report()
    assert (len(journal), report.n, report.labelled) == (0, 0, 0)
    assert "0 drawings, 0 labelled" in str(report) and np.isnan(report.accuracy)
    assert len(journal.drawings()) == 0
    assert not journal.path.parent.exists()


def test_drawings_come_back_as_a_data_set_point_for_point(journal):
    for count, label in (1, 1), (2, None), (3, 4):
        drawing = ONE * count
        journal.record(drawing, rasterize(drawing), None, label)
    back = journal.drawings()
    assert back.labels.tolist() == [1, 4] and "2 drawings" in back.source
    assert [len(drawing) for drawing in back.strokes] == [1, 3]
    for stroke in back.strokes[1]:
        np.testing.assert_array_equal(stroke, ONE[0])


def test_the_report_counts_right_wrong_and_abstained_in_the_order_of_drawing(journal):
    for label, answer in [(1, 1), (1, 7), (1, None), (4, 4), (None, 3)]:
        keep(journal, label, answer, confidence=0.9 - 0.1 * len(journal))
    journal.record(ONE, EMPTY, None)
    report = journal.report()
    assert (report.n, report.labelled, report.accuracy) == (6, 4, 0.5)
    assert report.confusion[1, [1, 7, 10]].tolist() == [1, 1, 1]
    assert report.confusion.sum() == 4 and report.confusion[4, 4] == 1
    assert "6 drawings, 4 labelled, 2 answered right" in str(report)
    expected = [0.9, 0.8, 0.7, 0.6, 0.5, np.nan]
    np.testing.assert_allclose(report.confidence, expected, rtol=1e-6)
    np.testing.assert_array_equal(report.milliseconds, [1.5] * 5 + [np.nan])
    last = journal.report(last=3)
    assert (last.n, last.labelled, last.confusion[4, 4]) == (3, 1, 1)
    np.testing.assert_allclose(last.confidence, expected[3:], rtol=1e-6)


def test_drift_looks_at_the_last_fifty_and_not_at_fewer_than_five(journal):
    reference = Reference({}, (0.0, 1.0), (0.0, 1.0), 100, "a test")
    for count in range(1, 56):
        keep(journal, mean=float(count))
        text = journal.report(reference).drift
        assert ("five drawings" in text) == (count < 5)
    journal.record(ONE, EMPTY, None)  # no network: nothing to judge
    mean = np.arange(6, 56).mean() * 50**0.5
    said = journal.report(reference).drift
    assert f"over 50 drawings the mean is {mean:+.1f}" in said == text
    assert "training reference" in journal.report().drift


def test_a_row_says_what_was_seen(journal):
    canvas, logits = rasterize(ONE), np.array([1000.0] + [0.0] * 9)  # not naively
    prediction = replace(said(2, mean=0.25, alarms=("ink", "polarity")), logits=logits)
    journal.record(ONE, canvas, prediction, checkpoint="abc")
    columns = "strokes, canvas_sha256, predicted, mean, energy, alarms, label"
    (row,) = sql(journal, [f"SELECT {columns}, checkpoint_sha256 FROM drawings"])
    assert json.loads(row[0]) == [ONE[0].tolist()]
    assert row[1] == sha256(canvas.tobytes()).hexdigest()
    assert row[2:] == (2, 0.25, -1000, '["ink", "polarity"]', None, "abc")
    blank = replace(said(None), logits=np.full(10, np.nan))
    row = journal.record([], EMPTY, blank)
    assert np.isnan(journal.report().confidence).tolist() == [False, True]
    assert journal.record(ONE, EMPTY, said(7), label=7, row=row) == row
    assert len(journal) == 2 and journal.report().accuracy == 1, "it was corrected"


def test_what_cannot_be_is_refused_and_nothing_is_kept(journal):
    for label in 10, -1, "3", 2.5:
        with pytest.raises(ValueError, match="no digit"):
            keep(journal, label)
    with pytest.raises(ValueError, match="stroke 0"):
        journal.record([np.array([[np.nan, 1]])], EMPTY, said(1))
    assert not journal.path.exists()
    with pytest.raises(ValueError, match="no row 7"):
        journal.record(ONE, EMPTY, said(1), row=7)
    assert len(journal) == 0


IMPOSSIBLE = {
    "predicted": (42, "seven"),
    "confidence": ("high", b"\x00"),
    "strokes": ("[[[", "[" * 100_000, '{"a": 1}', "[[[NaN, 1]]]", b"\xff"),
}


@pytest.mark.parametrize("column", IMPOSSIBLE)
def test_a_row_that_says_something_impossible_is_named_and_left_out(journal, column):
    for label in range(3):
        keep(journal, label, label)
    for value in IMPOSSIBLE[column]:
        sql(journal, (f"UPDATE drawings SET {column} = ? WHERE id = 2", [value]))
        if column == "strokes":
            back = journal.drawings()
            assert back.labels.tolist() == [0, 2] and "row 2 cannot" in back.source
        else:
            report = journal.report()
            assert report.n == report.labelled == 2 and len(report.skipped) == 1
            assert "row 2 cannot be read" in str(report)


def test_the_last_drawings_are_reported_without_reading_the_others(
    journal, monkeypatch
):
    read, value = [], module._value
    monkeypatch.setattr(module, "_value", lambda *it: [read.append(it), value(*it)][1])
    for label in range(9):
        keep(journal, label, label)
    right = journal.report(last=3).confusion.diagonal()
    assert right.tolist() == 6 * [0] + 3 * [1] + [0] and len(read) == 3 * 6  # columns


def test_a_power_cut_loses_nothing_either(journal):
    """In WAL mode a commit is on the disk only if synchronous is FULL (2)."""
    for _ in range(2):  # the one that makes the file, and one later
        with journal._open(to_write=True) as connection:
            assert connection.execute("PRAGMA synchronous").fetchall() == [(2,)]


def test_a_locked_journal_is_waited_for_and_then_says_so(journal, monkeypatch):
    keep(journal)
    other = sqlite3.connect(journal.path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    Timer(1.5, other.rollback).start()
    keep(journal)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("mnistlab.journal.PATIENCE_S", 0.01)
    with pytest.raises(JournalError, match="locked.*another program"):
        keep(journal)
    assert len(journal) == 2  # WAL: reading goes on beside a writer
    other.close()
    keep(journal)
    assert len(journal) == 3


def test_a_journal_that_cannot_be_written_says_so(journal, monkeypatch, tmp_path):
    keep(journal)
    connect = partial(sqlite3.connect, uri=True)
    monkeypatch.setattr(  # root may write anywhere, so file modes prove nothing
        "mnistlab.journal.sqlite3.connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", **options),
    )
    with pytest.raises(JournalError, match="readonly.*writable"):
        keep(journal)
    assert len(journal) == 1
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="j.sqlite"):
        keep(Journal(tmp_path / "file" / "j.sqlite"))


@pytest.mark.parametrize("begin", ["", "PRAGMA journal_mode = WAL"])
def test_a_journal_that_was_only_just_begun_is_empty(journal, begin):
    journal.path.parent.mkdir()
    sql(journal, [begin])
    journal.path.touch()
    assert len(journal) == journal.report().n == 0
    keep(journal)
    assert len(journal) == 1


@pytest.mark.parametrize(
    "theirs, version",
    [("CREATE TABLE recipes (title)", 0), ("PRAGMA user_version = 5", 5)],
)
def test_another_programs_database_gets_no_table_of_ours(tmp_path, theirs, version):
    path = tmp_path / "other.sqlite"
    sql(Journal(path), [theirs])
    before = path.read_bytes()
    for use in Journal(path).report, partial(keep, Journal(path)):
        with pytest.raises(JournalError, match=f"version {version}.*program that made"):
            use()
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "no table"])
def test_a_damaged_journal_is_left_alone_and_named(journal, damage):
    keep(journal)
    if damage == "no table":
        sql(journal, ["DROP TABLE drawings"], ["PRAGMA wal_checkpoint"])
    else:
        journal.path.write_bytes(b"these are not the digits you look for" * 50)
    content = journal.path.read_bytes()
    for use in journal.drawings, journal.report, partial(keep, journal):
        with pytest.raises(JournalError, match="move it away"):
            use()
    assert journal.path.read_bytes() == content


WRITER = """
import sys
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


def test_several_pads_write_one_journal_at_once_and_a_kill_loses_nothing(journal):
    writers = [writer(journal.path, count) for count in (10, 10, 100_000)]
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    acknowledged = [writers[2].stdout.readline() for _ in range(25)]
    for process in writers[:2]:
        process.communicate()
        assert process.returncode == 0
    writers[2].send_signal(signal.SIGKILL)
    acknowledged += writers[2].stdout.readlines()
    writers[2].communicate()
    assert len(journal) >= 20 + int(acknowledged[-1]) >= 45
    keep(journal, 1)
    assert journal.drawings().labels[-1] == 1
