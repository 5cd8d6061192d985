"""The sketch: what the pen did, and the way back."""

import json

import numpy as np
import pytest

from mnistlab.sketch import DRAFT_BYTES, POINTS, STEPS, Sketch, checked
from mnistlab.strokes import CANVAS_PX
from mnistlab.synthetic import handwrite


def stroke(sketch, *points):
    sketch.down(*points[0])
    for point in points[1:]:
        sketch.move(*point)
    sketch.pen_down = False
    sketch.keep()


def test_strokes_are_what_the_pen_did_moved_onto_the_canvas():
    sketch = Sketch()
    sketch.move(10, 10)  # no pen is down
    stroke(sketch, (200, 100), (141.5, 100), (141.5, 100), (900, -5))
    sketch.move(150, 150)
    assert sketch.strokes == [[(200, 100), (141.5, 100), (CANVAS_PX, 0)]]
    sketch.down(10, 10)
    sketch.down(200, 200)  # a lift that was lost does not join two strokes
    assert sketch.strokes[1:] == [[(10, 10)], [(200, 200)]]


def test_undo_and_redo_walk_through_every_drawing():
    sketch = Sketch()
    stroke(sketch, (50, 50), (60, 200))
    stroke(sketch, (150, 50), (160, 200))
    sketch.replace([])
    sketch.replace(handwrite(3, seed=1))
    seen = [sketch.strokes]
    for _ in range(5):
        sketch.undo()
        seen.append(sketch.strokes)
    assert [len(drawing) for drawing in seen[1:]] == [0, 2, 1, 0, 0]
    for expected in [*seen[3::-1], seen[0]]:
        sketch.redo()
        assert sketch.strokes == expected
    sketch.undo()
    stroke(sketch, (90, 90))  # forgets what could be redone
    sketch.redo()
    assert sketch.strokes == [[(90, 90)]]
    sketch.down(9, 9)
    sketch.redo()  # there is nothing, but the stroke ends
    sketch.move(60, 60)
    assert sketch.strokes[-1] == [(9, 9)]
    for at in range(STEPS + 1):
        stroke(sketch, (at, at))
    for _ in range(STEPS + 9):
        sketch.undo()
    assert len(sketch.strokes) == 3, "memory has an end"


def test_a_replay_is_ever_more_ink_from_nothing_to_all():
    sketch = Sketch()
    assert list(sketch.frames(5)) == [[]]
    sketch.replace(handwrite(5, seed=1))
    frames = list(sketch.frames(20))
    counts = [sum(map(len, frame)) for frame in frames]
    assert counts == sorted(set(counts)) and counts[0] == 0 and len(counts) <= 22
    assert frames[-1] == sketch.strokes
    for frame in frames:
        assert all(map(len, frame))
        joined = [point for one in frame for point in one]
        assert joined == [p for one in sketch.strokes for p in one][: len(joined)]


def test_a_drawing_that_cannot_be_drawn_never_replaces_one_that_can():
    sketch = Sketch()
    sketch.down(9, 9)
    strange = [[[np.nan, 1]]], [[[1]]], [[]], [[[1e6, 1]]], [[[1, 2]]] * (POINTS + 1)
    for strokes in strange:
        with pytest.raises(ValueError):
            sketch.replace(strokes)
        assert sketch.strokes == [[(9, 9)]] and sketch.pen_down
    sketch.undo()
    assert sketch.strokes == []


def test_the_pen_ends_where_a_drawing_would_be_endless():
    sketch = Sketch()
    sketch.replace([[(1, 1)] * (POINTS - 1)])
    sketch.down(2, 2)
    with pytest.raises(ValueError, match="Undo"):
        sketch.move(3, 3)
    assert checked(sketch.strokes) == sketch.strokes


# --- the draft ------------------------------------------------------------------------


@pytest.fixture
def draft(tmp_path):
    return tmp_path / "draft.json"


def test_a_sketch_begun_anew_goes_on_from_the_draft(draft):
    draft = draft.parent / "new" / "folder" / "draft.json"
    first = Sketch(draft)
    first.keep()
    assert not draft.exists()  # nothing was drawn
    stroke(first, (60, 60), (60, 220))
    first.brush_px = 26
    stroke(first, (100, 60.5), (220, 220))
    first.down(9, 9)
    first.keep()  # under the pen: not yet
    again = Sketch(draft)
    assert again.strokes == first.strokes[:2] and again.brush_px == 26
    before = draft.stat().st_ino
    again.keep()
    assert before == draft.stat().st_ino, "nothing new"
    again.undo()
    again.keep()
    assert Sketch(draft).strokes == first.strokes[:1]


BROKEN = {
    "empty": "",
    "another": "[]",
    "no strokes": '{"brush_px": 18}',
    "brackets": "[" * 100_000,
    "large": json.dumps({"brush_px": 18, "strokes": [[[1, 2]]] * 300_000}),
    "no number": '{"brush_px": 18, "strokes": [[[NaN, 1]]]}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_draft_that_is_none_is_said_and_stays_until_the_next_stroke(draft, text):
    draft.write_text(text)
    sketch = Sketch(draft)
    sketch.keep()
    assert sketch.strokes == [] and "draft.json holds no drawing" in sketch.trouble
    assert ("bytes" in sketch.trouble) == (len(text) > DRAFT_BYTES), "not even read"
    assert draft.read_text() == text
    stroke(sketch, (60, 60), (60, 220))
    assert Sketch(draft).strokes == sketch.strokes
    assert sketch.trouble == Sketch(draft).trouble == ""


def test_a_draft_of_another_size_is_brought_onto_the_canvas(draft):
    draft.write_text('{"brush_px": 900, "strokes": [[[-5, 10], [999, 10]]]}')
    sketch = Sketch(draft)
    assert sketch.strokes == [[(0, 10), (CANVAS_PX, 10)]] and sketch.brush_px == 40


def test_a_draft_that_cannot_be_written_or_read_is_said(tmp_path):
    assert "IsADirectoryError" in Sketch(tmp_path).trouble
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        stroke(Sketch(tmp_path / "file" / "draft.json"), (60, 60))
