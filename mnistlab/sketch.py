"""A drawing that is being made: strokes, undo and redo, and a draft on the disk.

A drawing that could not be drawn never replaces one that can.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnistlab.data import write_atomically
from mnistlab.strokes import BRUSH_PX, CANVAS_PX, FARTHEST_PX

BRUSHES_PX = 6, 40  # the thinnest and the thickest
POINTS = 10_000  # of one drawing: minutes with the pen down; a digit has some hundred
STEPS = 100  # that can be undone
DRAFT_BYTES = 2_000_000  # more than POINTS can need

Strokes = list[list[tuple[float, float]]]


def checked(strokes) -> Strokes:
    """Strokes (n, 2), canvas pixels, as lists of pairs of floats.

    Raises ValueError for what cannot be drawn: not (n, 2), no points or more than
    10,000 in all, one that is no number or farther than 100,000 px away.
    """
    arrays = [np.asarray(stroke, dtype=float) for stroke in strokes]
    for number, stroke in enumerate(arrays):
        is_near = (np.abs(stroke) <= FARTHEST_PX).all()  # False for NaN, too
        if stroke.shape != (len(stroke), 2) or not len(stroke) or not is_near:
            found = f"stroke {number} has the shape {stroke.shape}"
            raise ValueError(f"{found}; expected (n, 2), within {FARTHEST_PX:,} px")
    if (count := sum(map(len, arrays))) > POINTS:
        raise ValueError(f"{count:,} points; expected {POINTS:,} at most")
    return [[tuple(point) for point in stroke.tolist()] for stroke in arrays]


class Sketch:
    """Strokes and how they came to be; strokes is a new list after every change.

    draft: a file that holds the drawing whenever keep() was called. What is in it
    at the beginning is taken up; trouble says why, if it cannot be.
    """

    def __init__(self, draft: str | Path | None = None):
        self.strokes: Strokes = []
        self.brush_px, self.trouble = BRUSH_PX, ""
        self.pen_down = False  # the last stroke goes on
        self._past, self._future = [], []
        self._draft = draft and Path(draft)
        if self._draft and self._draft.exists():
            self._take_up()
        self._kept = self._text()  # what the draft holds, or would if it could

    def down(self, x: float, y: float) -> None:
        """Begin a stroke. A place outside the canvas is moved to its edge."""
        self._change([*self.strokes, [_on_canvas(x, y)]])
        self.pen_down = True

    def move(self, x: float, y: float) -> None:
        """Go on with the stroke, if there is one and that makes it longer."""
        point = _on_canvas(x, y)
        if self.pen_down and point != self.strokes[-1][-1]:
            if sum(map(len, self.strokes)) >= POINTS:
                raise ValueError(f"{POINTS:,} points are the most: Clear, or Undo")
            self.strokes[-1].append(point)

    def replace(self, strokes) -> None:
        """Make it another drawing; raises what checked() raises, changing nothing."""
        if (strokes := checked(strokes)) != self.strokes:
            self._change(strokes)

    def _change(self, strokes: Strokes) -> None:
        self._past = [*self._past, self.strokes][-STEPS:]
        self.strokes, self._future, self.pen_down = strokes, [], False

    def undo(self) -> None:
        self._step(self._past, self._future)

    def redo(self) -> None:
        self._step(self._future, self._past)

    def _step(self, source: list[Strokes], target: list[Strokes]) -> None:
        self.pen_down = False
        if source:
            target.append(self.strokes)
            self.strokes = source.pop()

    def frames(self, count: int) -> Iterator[Strokes]:
        """The drawing as it came to be, from nothing to all, in some count steps."""
        total = sum(map(len, self.strokes))
        for shown in [*range(0, total, max(1, -(-total // count))), total]:
            strokes = []
            for stroke in self.strokes:
                strokes += [stroke[:shown]] * (shown > 0)
                shown = max(0, shown - len(stroke))
            yield strokes

    def keep(self) -> None:
        """Write the draft, if it would change and the pen is not on its way."""
        if self._draft and not self.pen_down and (text := self._text()) != self._kept:
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._draft, text.encode())
            self._kept, self.trouble = text, ""

    def _text(self) -> str:
        return json.dumps({"brush_px": self.brush_px, "strokes": self.strokes})

    def _take_up(self) -> None:
        try:
            if (size := self._draft.stat().st_size) > DRAFT_BYTES:
                raise ValueError(f"{size:,} bytes, expected {DRAFT_BYTES:,} at most")
            kept = json.loads(self._draft.read_text())
            brush_px = int(np.clip(kept["brush_px"], *BRUSHES_PX))
            drawing = checked(kept["strokes"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            found = f"{self._draft.name} holds no drawing ({error!r:.99})"
            self.trouble = f"{found}: this pad begins empty, and will be kept there."
        else:
            self.brush_px = brush_px
            self.strokes = [[_on_canvas(*point) for point in one] for one in drawing]
            self._past = [self.strokes[:n] for n in range(len(drawing))][-STEPS:]


def _on_canvas(*place: float) -> tuple[float, ...]:
    return tuple(float(min(max(value, 0), CANVAS_PX)) for value in place)
