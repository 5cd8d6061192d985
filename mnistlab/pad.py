"""The drawing pad: draw a digit and watch the network see it.

The strokes live here, in Python. Pillow makes the pixels that the network is given
(strokes.rasterize); the canvas in the browser only mirrors them, because an image
read back from a browser comes late, or never. All that is seen is a function of the
strokes, the brush and the switch, whether a hand, a test or a reload asks for it.
How it looks is said in pad.html and pad.css; pad.js holds the pen fast in the browser,
shows its ink at once, and says so when nobody answers.
"""

import asyncio
import logging
import os
import re
from base64 import b64encode
from functools import wraps
from io import BytesIO
from math import isfinite
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from ipycanvas import Canvas, hold_canvas
from ipykernel.connect import get_connection_file
from ipywidgets import HTML, Box, Button, Checkbox, IntSlider, Output, RadioButtons
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from torch.nn import ReLU

from mnistlab.classifier import Classifier
from mnistlab.preprocess import INK, MNIST_PIPELINE, Stage, as_grey, trace
from mnistlab.sketch import BRUSHES_PX, Sketch
from mnistlab.strokes import CANVAS_PX, rasterize
from mnistlab.synthetic import handwrite

LIVE_MS = 50  # while the pen moves, the network is asked at most this often
FRAME_MS, FRAMES = 30, 50  # of a replay
SCALE = 2  # pixels of the browser's canvas for one of ours: sharp on fine screens
SURE = 0.75  # probability from which an answer is shown without a doubt

# JupyterLab runs the callbacks of one widget on two threads, and ipycanvas's queue of
# commands belongs to the process, so one lock guards all pads.
_LOCK = RLock()
_log = logging.getLogger(__name__)


class CanvasSurface:
    """All that knows ipycanvas: shows strokes, reports the pen and the keyboard.

    Calls on_pen(kind, *points) with kind "down", "move" or "up" and canvas pixels,
    on_key(key, shift, control), and on_ready() whenever a page has connected. Without
    a page, what is drawn goes nowhere.
    """

    def __init__(self, size_px, on_pen, on_key, on_ready):
        self._canvas = canvas = Canvas(width=SCALE * size_px, height=SCALE * size_px)
        self._spare = Canvas(width=1, height=1)
        # The frame is the box's: a border of the canvas would shift its coordinates.
        self.widget = Box([canvas]).add_class("mnistlab-canvas")

        def pen(kind, places):
            on_pen(kind, *((x / SCALE, y / SCALE) for x, y in places))

        # pad.js sends all that was drawn since as one touch of many places; the mouse
        # is heard where it cannot run. What ends a touch names those that remain.
        canvas.on_touch_start(lambda touches: pen("down", touches))
        canvas.on_touch_move(lambda touches: pen("move", touches))
        canvas.on_touch_end(lambda touches: pen("up", []))
        canvas.on_touch_cancel(lambda touches: pen("up", []))
        canvas.on_mouse_down(lambda *place: pen("down", [place]))
        canvas.on_mouse_move(lambda *place: pen("move", [place]))
        canvas.on_mouse_up(lambda *place: pen("up", [place]))
        canvas.on_mouse_out(lambda *place: pen("up", [place]))
        canvas.on_key_down(lambda key, shift, *ctrl: on_key(key, shift, any(ctrl)))
        canvas.on_client_ready(on_ready)

    def show(self, strokes, brush_px):
        """Paint everything anew."""
        canvas, paths = self._canvas, [np.array(stroke, float) for stroke in strokes]
        # An exception inside hold_canvas would silence every canvas of the kernel, so
        # all that could raise comes before it.
        with hold_canvas():
            # A page that was loaded again does not know which canvas is meant, and
            # ipycanvas tells it only when that changes: hence a detour to another.
            self._spare.clear()
            canvas.set_transform(SCALE, 0, 0, SCALE, 0, 0)
            canvas.fill_style = "black"
            canvas.fill_rect(0, 0, canvas.width, canvas.height)
            canvas.fill_style = canvas.stroke_style = "white"
            canvas.line_cap = canvas.line_join = "round"
            canvas.line_width = brush_px
            for path in paths:
                if len(path) == 1:
                    self.dot(path[0].tolist(), brush_px)
                else:
                    canvas.stroke_lines(path)

    def dot(self, point, brush_px):
        self._canvas.fill_circle(*point, brush_px / 2)

    def line(self, points):
        self._canvas.stroke_lines(points)

    def leave(self):
        """Give the keyboard back, which ipycanvas would keep for itself."""
        self._canvas.blur()


def _guarded(method):
    """One event: under the lock, an exception in the status line, the draft kept."""

    @wraps(method)
    def guarded(self, *arguments):
        with _LOCK:
            try:
                method(self, *arguments)
                self.sketch.keep()
            except Exception as error:
                _log.exception("in the pad's %s", method.__name__)
                self._say(f"{type(error).__name__}: {error}", "error")

    return guarded


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
        self._film = None  # the running replay
        self._row = None  # the journal's row of this very drawing
        self._waiting = False  # a live update is on its way
        self._updates = self._examples = 0
        if isinstance(network, (str, Path)):
            try:
                self.classifier = Classifier.load(network)
            except Exception as error:  # of a stranger's file nothing is certain
                self.classifier = None
                self._missing = f"{error} ({type(error).__name__}, {network})"
        self._build()
        self._update()
        if self.sketch.trouble:
            self._say(self.sketch.trouble, "error")

    # --- drawing ------------------------------------------------------------------

    @_guarded
    def feed(self, kind, *points):
        """One event of the pen: "down", "move" or "up", and where, in canvas pixels.

        A place outside is moved to the edge; one that is no number is left out.
        """
        points = [point for point in points if all(map(isfinite, point))]
        if kind == "down" and points:
            self._settle()
            self._row = None
            self.sketch.down(*points[0])
            self._surface.dot(self.sketch.strokes[-1][0], self.sketch.brush_px)
            self._update_soon()
        elif self.sketch.pen_down:
            stroke = self.sketch.strokes[-1]
            before = len(stroke)
            try:
                for point in points:
                    self.sketch.move(*point)
                if len(stroke) > before:
                    self._surface.line(stroke[before - 1 :])
            finally:
                if kind == "up":
                    self._settle()
                (self._update_soon if self.sketch.pen_down else self._update)()

    def _settle(self):
        """End the stroke under the pen, and a replay."""
        self.sketch.lift()
        if self._film is not None:
            self._film = None
            self._show(self.sketch.strokes)

    def _show(self, strokes):
        self._surface.show(strokes, self.sketch.brush_px)

    @_guarded
    def _page_connected(self):
        self._show(self.sketch.strokes)

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

    @_guarded
    def _change(self, change, *strokes):
        """Make it another drawing, and see it; the page waits for an answer anyway."""
        before = self.sketch.strokes
        self._settle()
        try:
            change(*strokes)
        finally:
            if self.sketch.strokes is not before:
                self._row = None
                self._show(self.sketch.strokes)
            self._update()

    @_guarded
    def replay(self):
        """Draw it once more, as it was drawn, with the network watching."""
        if self.sketch.pen_down:
            return self._update()  # the stroke goes on
        self._film = self.sketch.frames(FRAMES)
        self._play(self._film)

    @_guarded
    def _play(self, film):
        while film is self._film:
            strokes = next(film)
            self._show(strokes)
            if strokes == self.sketch.strokes:
                self._film = None
            self._update(strokes)
            if self._film is None or _later(FRAME_MS, self._play, film):
                return

    @_guarded
    def key(self, key, shift, control):
        """One key while the canvas has the keyboard; Tab and Escape give it back."""
        match key if len(key) > 1 else key.lower(), shift, control:
            case (("Tab" | "Escape"), _, _):
                self._surface.leave()
            case ("z", True, True) | ("y", _, True):
                self.redo()
            case "z", False, True:
                self.undo()
            case (("Delete" | "Backspace"), _, _):
                self.clear()

    @_guarded
    def save(self, label):
        """Keep the drawing in the journal; a second label for it is a correction."""
        self._settle()
        self._look(self.sketch.strokes)  # raises where there is no answer to keep
        if not self.sketch.strokes or self.journal is None:
            missing = "journal" if self.journal is None else "drawing"
            return self._say(f"Nothing was kept, for there is no {missing}.", "hint")
        row, self._row = self._row, None  # a row that is gone will not be asked again
        sha = self.classifier.sha256 if self.classifier else ""
        said = self.sketch.strokes, self.canvas, self.prediction, label, sha
        self._row = self.journal.record(*said, row=row)
        report, answer = self.journal.report(), getattr(self.prediction, "label", None)
        found = "" if answer in (None, label) else f" It said {answer}: you found one."
        self._say(
            f"Kept as a {label}.{found} Of your {report.labelled} labelled drawings "
            f"the network had {report.confusion.trace()} right.",
            "kept",
        )

    # --- seeing -------------------------------------------------------------------

    def _update_soon(self):
        """Ask the network within LIVE_MS. Whatever is drawn till then is in it."""
        if not self._waiting:
            self._waiting = _later(LIVE_MS, self._update_live)

    @_guarded
    def _update_live(self):
        if self._waiting:  # else the stroke has ended and was seen to
            self._update()

    @_guarded
    def _update(self, strokes=None):
        self._look(self.sketch.strokes if strokes is None else strokes)

    def _look(self, strokes):
        """Make everything that is seen from strokes."""
        self._waiting = False
        self._updates += 1
        self.prediction = self.faulty = None
        both = self._switch.value == "both"
        shown = ["correct", "faulty"] if both else [self._switch.value]
        seen, hint = {}, "No answer."  # if what follows raises; the status says why
        try:
            self.canvas = rasterize(strokes, self.sketch.brush_px)
            seen = {path: self._see(path) for path in {"correct", *shown}}
            self.prediction = seen["correct"][0]
            self.faulty = seen["faulty"][0] if "faulty" in seen else None
            hint = self._missing
        finally:
            paths = [(p, p if both else "", *seen.get(p, (None, ()))) for p in shown]
            pen, brush_px = self.sketch.pen_down, self.sketch.brush_px
            about = self._updates, len(strokes) - pen, pen, brush_px
            numbers = self._numbers.value
            self._answer.value = PAGE.answers(*about, paths, hint, SURE, numbers)
            self._say("")
            self._stages.value = PAGE.stages(paths, numbers)
            self._inside.value = self._look_inside() if self._open.value else ""

    def _see(self, path):
        """The answer on this path and the stages before it, as far as there are any."""
        steps = MNIST_PIPELINE if path == "correct" else self.fault
        if self.canvas.max() < INK:
            names = [step.__name__ for step in steps]
            return None, [Stage(name, self.canvas) for name in ["original", *names]]
        if self.classifier is None:
            return None, trace(self.canvas, steps)
        correct = path == "correct"
        network = self.classifier if correct else self.classifier.with_pipeline(steps)
        said = network(self.canvas)
        return said, said.stages

    def _look_inside(self):
        """What the first filters of the network find in the drawing."""
        layers = getattr(self.classifier, "model", None)
        if not isinstance(layers, torch.nn.Sequential) or self.prediction is None:
            return ""
        first = next((n for n, one in enumerate(layers) if isinstance(one, ReLU)), 0)
        given = torch.from_numpy(self.prediction.stages[-1].image)[None, None]
        with torch.inference_mode():
            maps = torch.nn.Sequential(*list(layers)[: first + 1])(given)[0]
        if maps.ndim != 3:  # no filters, but single numbers
            return ""
        maps = (maps / maps.max().clamp(min=1e-6)).sqrt()  # the faint is seen, too
        tiles = np.pad(maps, [(0, 0), (1, 1), (1, 1)])
        rows = [np.hstack(tiles[at : at + 8]) for at in range(0, len(tiles), 8)]
        return PAGE.inside(_png((np.vstack(rows) * 255).astype(np.uint8)), len(maps))

    def _say(self, text, kind="quiet"):
        """Put it into the status line, in place of what was said before."""
        self._status.value = PAGE.status(text, kind)

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

        size = CANVAS_PX
        self._surface = CanvasSurface(size, self.feed, self.key, self._page_connected)
        acts = [self.undo, self.redo, self.clear, self.replay]
        tools = [button(act.__name__.capitalize(), act) for act in acts]
        self._answer, self._status, self._stages, self._inside = map(HTML, [""] * 4)
        self._status.add_class("mnistlab-says")
        self._numbers = Checkbox(description="Numbers", indent=False)
        self._open = Checkbox(description="Look inside", indent=False)
        choices = ["correct", "faulty", "both"]
        self._switch = RadioButtons(options=choices, orientation="horizontal")
        self._brush = IntSlider(self.sketch.brush_px, *BRUSHES_PX, description="Brush")
        for control in self._numbers, self._open, self._switch, self._brush:
            control.observe(self._chosen, "value")
        switch = [HTML(PAGE.caption("Pipeline")), self._switch]
        switch = [row("group", *switch)] * (self.fault is not None)
        labels = [digits("It was a", self.save)] * (self.journal is not None)
        examples = digits("Write me a", self.example)
        words = HTML(PAGE.words(_kernel()))
        script = {"application/javascript": SCRIPT}
        script = {"output_type": "display_data", "data": script, "metadata": {}}
        self.widget = row(
            "pad",
            HTML(PAGE.style(STYLE)),
            row(
                "columns",
                row("ink", self._surface.widget, row("tools", *tools)),
                row("seen", self._answer, words, *labels, self._status),
                row("path", row("switch", *switch), self._stages, self._inside),
                row("more", self._brush, examples, self._numbers, self._open),
            ),
            HTML(PAGE.keys()),
            Output(outputs=[script]).add_class("mnistlab-script"),
        )

    @_guarded
    def _chosen(self, change):
        """A control was moved: the switch, the brush or a box."""
        if change["owner"] is self._brush:
            self.sketch.brush_px, self._row = self._brush.value, None
            self._show(self.sketch.strokes)
        self._update()

    def __repr__(self):
        return "Pad: run this cell, then draw with mouse, finger or pen."

    def _repr_mimebundle_(self, **options):
        bundle = self.widget._repr_mimebundle_(**options)
        return {**bundle, "text/plain": repr(self)}


def _later(delay_ms, act, *arguments):
    """Do it later on this thread's event loop; False if there is none, as in tests."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop.call_later(delay_ms / 1000, act, *arguments)
    return True


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


def _png(image):
    """A picture as a data URI: 0 is black and 255 white, whatever it holds."""
    picture = Image.fromarray(as_grey(image))
    picture.thumbnail((140, 140))
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def _percent(share):
    return f"{100 * share:.0f}\u202f%"  # with a thin space that does not break


FOLDER = Path(__file__).parent
STYLE = (FOLDER / "pad.css").read_text(encoding="utf-8")
SCRIPT = (FOLDER / "pad.js").read_text(encoding="utf-8")
_pages = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters |= {"png": _png, "percent": _percent}
PAGE = _pages.get_template("pad.html").module  # its macros, to be called
