"""The drawing pad: draw a digit and watch the network see it.

The strokes live here, in Python. Pillow makes the pixels that the network is given
(strokes.rasterize); the canvas in the browser only mirrors them, because an image
read back from a browser comes late, or never. pad.html and pad.css say how it looks;
pad.js holds the pen fast, shows its ink at once, and says so when nobody answers.
"""

import asyncio
import logging
import os
import re
from functools import partial, wraps
from math import isfinite
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from ipycanvas import Canvas, hold_canvas
from ipykernel.connect import get_connection_file
from ipywidgets import HTML, Box, Button, Checkbox, IntSlider, Output, RadioButtons
from jinja2 import Environment, FileSystemLoader
from torch import nn

from mnistlab.classifier import Classifier
from mnistlab.preprocess import INK, MNIST_PIPELINE, Stage, as_uri, trace
from mnistlab.sketch import BRUSHES_PX, Sketch
from mnistlab.strokes import CANVAS_PX, rasterize
from mnistlab.synthetic import handwrite

LIVE_MS = 50  # while the pen moves, the network is asked at most this often
REST_MS = 2  # the answer is sent before the pictures are made
FRAME_MS, FRAMES = 30, 50  # of a replay
SCALE = 2  # pixels of the browser's canvas for one of ours: sharp on fine screens
LAST = 50  # drawings that are counted when one is kept
SURE = 0.75  # probability from which an answer is shown without a doubt
PATHS = "correct", "faulty"  # from a drawing to an answer
FOLDER = Path(__file__).parent
# JupyterLab runs the callbacks of one widget on two threads, and ipycanvas's queue of
# commands belongs to the process, so one lock guards all pads.
_LOCK = RLock()
_log = logging.getLogger(__name__)


class CanvasSurface:
    """All that knows ipycanvas: shows strokes, reports the pen and pages that connect.

    Calls on_pen(kind, *points) with kind "down", "move" or "up" and canvas pixels.
    Without a page, what is drawn goes nowhere.
    """

    def __init__(self, on_pen, on_ready):
        size_px = SCALE * CANVAS_PX
        self.canvas = canvas = Canvas(width=size_px, height=size_px)
        self.spare = Canvas(width=1, height=1)
        # The frame is the box's: a border of the canvas would shift its coordinates.
        self.widget = Box([canvas]).add_class("mnistlab-canvas")

        # pad.js sends all that was drawn since as one touch of many places.
        def pen(kind, touches):
            on_pen(kind, *((x / SCALE, y / SCALE) for x, y in touches))

        canvas.on_touch_start(lambda touches: pen("down", touches))
        canvas.on_touch_move(lambda touches: pen("move", touches))
        canvas.on_touch_end(lambda touches: pen("up", touches))
        canvas.on_client_ready(on_ready)

    def show(self, strokes, brush_px):
        """Paint everything anew."""
        canvas, paths = self.canvas, [np.array(stroke, float) for stroke in strokes]
        # An exception inside hold_canvas would silence every canvas of the kernel, so
        # all that could raise comes before it.
        with hold_canvas():
            # A page that was loaded again does not know which canvas is meant, and
            # ipycanvas tells it only when that changes: hence a detour to another.
            self.spare.clear()
            canvas.set_transform(SCALE, 0, 0, SCALE, 0, 0)
            canvas.fill_style, canvas.stroke_style = "black", "white"
            canvas.fill_rect(0, 0, canvas.width, canvas.height)
            canvas.line_cap = canvas.line_join = "round"
            canvas.line_width = brush_px
            for path in paths:
                self.line(path)

    def line(self, points):
        """Go on painting; a line from a point to itself would be nothing, not a dot."""
        self.canvas.stroke_lines(np.vstack([points, np.add(points[-1], [0.01, 0])]))


def _event(method):
    """One event: it happens, is answered, its ink is shown and its draft kept."""

    @wraps(method)
    def event(self, *arguments):
        happen = partial(method, self, *arguments)
        then = self._update, self._paint, self.sketch.keep
        self._take(lambda: ("", "quiet"), happen, *then)

    return event


class Pad:
    """A canvas, what the network makes of it, and how it got there.

    network: a Classifier, or the path of a checkpoint; where that cannot be loaded,
    the pad still draws, shows the stages and says what to do. fault: a second pipeline
    for the same strokes, to switch to or to see beside the first. journal: a Journal,
    where "it was a 7" is kept. draft: a file of this pad alone, with what is on it; a
    pad built anew, by a kernel that was restarted or a page that was loaded again, goes
    on from there. Display the pad as the last line of a cell.
    """

    def __init__(self, network, fault=None, journal=None, draft=None):
        self.sketch = Sketch(_of_this_tab(draft))
        self.canvas = rasterize([])  # uint8 (280, 280): what the network is given
        self.prediction = self.faulty = None  # by the correct pipeline, by the fault
        self.classifier, self._missing = network, ""
        self.fault, self.journal = fault, journal
        self._film = self._frame = None  # the running replay, and what it shows
        self._row = None  # the journal's row of this very drawing
        self._waiting = False  # a live update is on its way
        self._wet = []  # places of the pen that are not on the canvas yet
        self._updates = self._examples = 0
        if isinstance(network, str | Path):
            try:
                self.classifier = Classifier.load(network)
            except Exception as error:  # of a stranger's file nothing is certain
                self.classifier = None
                self._missing = f"{error} ({type(error).__name__}, {network})"
        self._build()
        self._page_connected()

    # --- drawing ------------------------------------------------------------------

    @_event
    def feed(self, kind, *points):
        """One event of the pen: "down", "move" or "up", and where, in canvas pixels.

        A place outside is moved to the edge; one that is no number is left out.
        """
        points = [point for point in points if all(map(isfinite, point))]
        shown = 0
        if kind == "down" and points:
            self._settle()
            self._row = None
            self.sketch.down(*points[0])
        elif self.sketch.pen_down:
            shown = len(self.sketch.strokes[-1]) - 1
        else:
            return
        try:
            for point in points:
                self.sketch.move(*point)
        finally:
            self._wet = self.sketch.strokes[-1][shown:]
            if kind == "up":
                self._settle()
        if self.sketch.pen_down and not self._waiting:
            self._waiting = True  # whatever is drawn till then is in it
            _later(LIVE_MS, lambda: self._waiting and self._live())

    @_event
    def _live(self):
        self._waiting = False

    def _settle(self):
        """End the stroke under the pen, and a replay."""
        self.sketch.pen_down = False
        if self._film:
            self._film = self._frame = None
            self._show()

    def _paint(self):
        """Ink comes behind the answer: the page shows a trace of its own till then."""
        points, self._wet = self._wet, []
        if points:
            self._surface.line(points)

    def _strokes(self):
        return self.sketch.strokes if self._frame is None else self._frame

    def _show(self):
        self._surface.show(self._strokes(), self.sketch.brush_px)

    @_event
    def _page_connected(self):
        self._show()
        return self.sketch.trouble and (self.sketch.trouble, "error")

    def undo(self):
        self._change(self.sketch.undo)

    def redo(self):
        self._change(self.sketch.redo)

    def draw(self, strokes):
        """Replace the drawing by these strokes, (n, 2) each; none of them clears it."""
        self._change(self.sketch.replace, strokes)

    def clear(self):
        self.draw([])

    def example(self, digit):
        """Let the scripted hand write a digit, each time another one."""
        self._examples += 1
        self.draw(handwrite(digit, seed=self._examples))

    @_event
    def _change(self, change, *strokes):
        """Make it another drawing."""
        before = self.sketch.strokes
        self._settle()
        change(*strokes)
        if self.sketch.strokes is not before:
            self._row = None
            self._show()

    @_event
    def replay(self):
        """Draw it once more, as it was drawn, with the network watching."""
        if not self.sketch.pen_down:
            self._film = self.sketch.frames(FRAMES)
            self._play(self._film)

    @_event
    def _play(self, film):
        self._frame = next(film, None)
        self._show()
        if self._frame is None:
            self._film = None
        else:
            _later(FRAME_MS, self._play_on, film)

    def _play_on(self, film):
        with _LOCK:
            if film is self._film:  # else it is over, and so is no event
                self._play(film)

    @_event
    def save(self, label):
        """Keep the drawing in the journal; a second label for it is a correction."""
        self._settle()
        self._update()  # raises where there is no answer to keep
        if not self.sketch.strokes:
            return "Nothing was kept, for there is no drawing.", "hint"
        row, self._row = self._row, None  # a row that is gone will not be asked again
        about = self.prediction, label, getattr(self.classifier, "sha256", ""), row
        self._row = self.journal.record(self.sketch.strokes, self.canvas, *about)
        report = self.journal.report(last=LAST)
        answer = getattr(self.prediction, "label", None)
        found = "" if answer in (None, label) else f" It said {answer}: you found one."
        of = f"{'last ' * (report.n == LAST)}{report.labelled} labelled drawings"
        right = f"Of your {of} the network had {report.confusion.trace()} right."
        return f"Kept as a {label}.{found} {right}", "kept"

    # --- seeing -------------------------------------------------------------------

    def _take(self, *steps):
        """Take the steps, under the lock; what one returns or raises is the status."""
        with _LOCK:
            for step in steps:
                try:
                    said = step()
                except Exception as error:
                    _log.exception("in the pad")
                    said = f"{type(error).__name__}: {error}", "error"
                if said:
                    self._status.value = PAGE.status(*said)

    def _update(self):
        """Make all that is seen from the strokes, the brush and the switch."""
        if self.sketch.pen_down and self._waiting:
            return
        self._waiting, self._updates = False, self._updates + 1
        choice, strokes = self._switch.value, self._strokes()
        shown = PATHS if choice == "both" else [choice]
        seen = {}  # if what follows raises; the status says why
        try:
            self.canvas = rasterize(strokes, self.sketch.brush_px)
            seen = {path: self._see(path) for path in {"correct", *shown}}
        finally:
            self._views = [(path, *seen.get(path, (None, ()))) for path in shown]
            self.prediction, self.faulty = (seen.get(path, [None])[0] for path in PATHS)
            pen, hint = self.sketch.pen_down, self._missing if seen else "No answer."
            about = self._updates, len(strokes) - pen, pen, self.sketch.brush_px
            how = self._views, hint, SURE, self._numbers.value
            self._answer.value = PAGE.answers(*about, *how)
            _later(REST_MS, self._take, self._show_rest)

    def _show_rest(self):
        self._stages.value = PAGE.stages(self._views, self._numbers.value)
        self._inside.value = self._look_inside() if self._open.value else ""

    def _see(self, path):
        """The answer on this path and the stages before it, as far as there are any."""
        steps = MNIST_PIPELINE if path == "correct" else self.fault
        if self.canvas.max() < INK:
            names = [step.__name__ for step in steps]
            return None, [Stage(name, self.canvas) for name in ["original", *names]]
        if self.classifier is None:
            return None, trace(self.canvas, steps)
        said = self.classifier.with_pipeline(steps)(self.canvas)
        return said, said.stages

    def _look_inside(self):
        """What the first filters of the network find in the drawing."""
        layers = getattr(self.classifier, "model", None)
        if not isinstance(layers, nn.Sequential) or self.prediction is None:
            return ""
        maps = torch.from_numpy(self.prediction.stages[-1].image)[None, None]
        with torch.inference_mode():
            for layer in layers:
                maps = layer(maps)
                if isinstance(layer, nn.ReLU):
                    break
        if maps.ndim != 4:  # no filters, but single numbers
            return ""
        maps = (maps[0] / maps.max().clamp(min=1e-6)).sqrt()  # the faint is seen, too
        tiles = np.pad(maps, [(0, 0), (1, 1), (1, 1)])
        rows = [np.hstack(tiles[at : at + 8]) for at in range(0, len(tiles), 8)]
        return PAGE.inside(as_uri((np.vstack(rows) * 255).astype(np.uint8)), len(maps))

    # --- widgets ------------------------------------------------------------------

    def _build(self):
        def button(text, act, *arguments, tip=None):
            made = Button(description=text, tooltip=tip)
            made.on_click(lambda _: act(*arguments))
            return made

        def row(name, *children):
            return Box(children).add_class(f"mnistlab-{name}")

        def digits(text, act):
            ten = (button(str(d), act, d, tip=f"{text} {d}") for d in range(10))
            return row("group", HTML(PAGE.caption(text)), row("digits", *ten))

        self._surface = CanvasSurface(self.feed, self._page_connected)
        acts = [self.undo, self.redo, self.clear, self.replay]
        tools = [button(act.__name__.capitalize(), act) for act in acts]
        self._answer, self._status, self._stages, self._inside = map(HTML, [""] * 4)
        self._status.add_class("mnistlab-says")
        self._numbers = Checkbox(description="Numbers", indent=False)
        self._open = Checkbox(description="Look inside", indent=False)
        options = [*PATHS, "both"]
        self._switch = RadioButtons(options=options, orientation="horizontal")
        self._brush = IntSlider(self.sketch.brush_px, *BRUSHES_PX, description="Brush")
        controls = [self._brush, self._numbers, self._open]
        for control in *controls, self._switch:
            control.observe(self._chosen, "value")
        switch = [HTML(PAGE.caption("Pipeline")), self._switch]
        switch = [row("group", *switch)] * (self.fault is not None)
        labels = [digits("It was a", self.save)] * (self.journal is not None)
        controls.insert(1, digits("Write me a", self.example))
        script = {"application/javascript": (FOLDER / "pad.js").read_text("utf-8")}
        script = {"output_type": "display_data", "data": script, "metadata": {}}
        words, keys = HTML(PAGE.words(_kernel())), HTML(PAGE.keys())
        self.widget = row(
            "pad",
            HTML(PAGE.style((FOLDER / "pad.css").read_text("utf-8"))),
            row(
                "columns",
                row("ink", self._surface.widget, row("tools", *tools)),
                row("seen", self._answer, words, *labels, self._status),
                row("path", row("switch", *switch), self._stages, self._inside),
                row("more", *controls),
            ),
            keys,
            Output(outputs=[script]).add_class("mnistlab-script"),
        )

    @_event
    def _chosen(self, change):
        """A control was moved: the switch, the brush or a box."""
        if change["owner"] is self._brush:
            self.sketch.brush_px, self._row = self._brush.value, None
            self._show()

    def __repr__(self):
        return "Pad: run this cell, then draw with mouse, finger or pen."

    def _repr_mimebundle_(self, **options):
        bundle = self.widget._repr_mimebundle_(**options)
        return {**bundle, "text/plain": repr(self)}


def _later(delay_ms, act, *arguments):
    """Do it later on this thread's event loop; at once where there is none."""
    try:
        asyncio.get_running_loop().call_later(delay_ms / 1000, act, *arguments)
    except RuntimeError:
        act(*arguments)


def _of_this_tab(draft):
    """On the web page every tab has a draft of its own, named in its address."""
    tab = re.search(r"\bdraft=([0-9a-f]{8})\b", os.environ.get("QUERY_STRING", ""))
    path = draft and Path(draft)
    return path.with_stem(f"{path.stem}-{tab[1]}") if path and tab else draft


def _kernel():
    """The name of this kernel, by which pad.js asks the server for it."""
    try:
        return Path(get_connection_file()).stem
    except RuntimeError:  # not in a kernel
        return ""


_how = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
_pages = Environment(loader=FileSystemLoader(FOLDER), **_how)
_pages.filters["png"] = as_uri
PAGE = _pages.get_template("pad.html").module  # its macros, to be called
