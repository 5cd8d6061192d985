"""The drawing pad: draw a digit and watch the network see it.

The strokes live here, in Python. Pillow makes the pixels that the network is given
(strokes.rasterize); the canvas in the browser only mirrors them, because an image
read back from a browser comes late, or never. All that is seen is a function of the
strokes, the brush and the switch, whether a hand, a test or a reload asks for it.
How it looks is said in pad.html and pad.css.
"""

import asyncio
import logging
from base64 import b64encode
from functools import wraps
from io import BytesIO
from math import isfinite
from pathlib import Path
from threading import RLock

import numpy as np
from ipycanvas import Canvas, hold_canvas
from ipywidgets import HTML, Box, Button, Checkbox, IntSlider, Layout, ToggleButtons
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from mnistlab.classifier import Classifier
from mnistlab.preprocess import INK, MNIST_PIPELINE, as_grey, trace
from mnistlab.sketch import BRUSHES_PX, Sketch
from mnistlab.strokes import CANVAS_PX, rasterize
from mnistlab.synthetic import handwrite

LIVE_MS = 50  # while the pen moves, the network is asked at most this often
FRAME_MS, FRAMES = 30, 50  # of a replay
BEAT_S, MISSED = 5, 3  # the kernel's sign of life; how many may be missing

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
        fixed = Layout(width=f"{size_px}px", height=f"{size_px}px")
        self._canvas = canvas = Canvas(width=size_px, height=size_px, layout=fixed)
        self._spare = Canvas(width=1, height=1)
        # The frame is the box's: a border of the canvas would shift its coordinates.
        self.widget = Box([canvas]).add_class("mnistlab-canvas")

        def fingers(kind):
            # A second finger ends the stroke. What ends names the fingers that remain,
            # so it has no place of its own.
            return lambda touches: (
                on_pen(kind, touches[0]) if len(touches) == 1 else on_pen("up")
            )

        canvas.on_mouse_down(lambda x, y: on_pen("down", (x, y)))
        canvas.on_mouse_move(lambda x, y: on_pen("move", (x, y)))
        canvas.on_mouse_up(lambda x, y: on_pen("up", (x, y)))
        canvas.on_mouse_out(lambda x, y: on_pen("up", (x, y)))
        canvas.on_touch_start(fingers("down"))
        canvas.on_touch_move(fingers("move"))
        canvas.on_touch_end(lambda touches: on_pen("up"))
        canvas.on_touch_cancel(lambda touches: on_pen("up"))
        canvas.on_key_down(
            lambda key, shift, *control: on_key(key, shift, any(control))
        )
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

    def __init__(self, network, fault=None, journal=None, draft=None, beat_s=BEAT_S):
        self.sketch = Sketch(draft)
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
                _log.warning("no network", exc_info=error)
                known = isinstance(error, (OSError, ValueError))
                self.classifier = None
                self._missing = str(error) if known else f"{network}: {error!r}"
        self._build()
        self._update()
        if self.sketch.trouble:
            self._say(self.sketch.trouble, "error")
        self._beat(beat_s, 0)

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
            self._surface.dot(points[0], self.sketch.brush_px)
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
        """End the stroke under the pen, and a replay; whether there was one."""
        moving = self.sketch.lift() or self._film is not None
        if self._film is not None:
            self._film = None
            self._show(self.sketch.strokes)
        return moving

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
        if self.sketch.strokes:
            self.draw([])

    def example(self, digit):
        """Let the scripted hand write a digit, each time another one."""
        self._examples += 1
        self.draw(handwrite(digit, seed=self._examples))

    @_guarded
    def _change(self, change, *strokes):
        """Make it another drawing, and see it."""
        before = self.sketch.strokes
        moving = self._settle()
        change(*strokes)
        if moving or self.sketch.strokes is not before:
            self._row = None
            self._show(self.sketch.strokes)
            self._update()

    @_guarded
    def replay(self):
        """Draw it once more, as it was drawn, with the network watching."""
        self._settle()
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
            case "Tab", False, _:
                self._tools[0].focus()
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
            missing = "journal: this pad was given none"
            missing = "drawing" if self.journal is not None else missing
            return self._say(f"Nothing was kept, for there is no {missing}.", "hint")
        row, self._row = self._row, None  # a row that is gone will not be asked again
        self._row = self.journal.record(
            self.sketch.strokes,
            self.canvas,
            self.prediction,
            label,
            self.classifier.sha256 if self.classifier else "",
            row,
        )
        report = self.journal.report()
        self._say(
            f"Kept as a {label}. Of your {report.labelled} labelled drawings the "
            f"network had {report.confusion.trace()} right.",
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
            self.prediction, self.faulty = (
                seen["correct"][0],
                seen.get("faulty", [None])[0],
            )
            hint = self._missing or "Draw a digit, 0 to 9."
        finally:
            paths = [(p, p if both else "", *seen.get(p, (None, ()))) for p in shown]
            finished = len(strokes) - self.sketch.pen_down
            self._answer.value = PAGE.answers(
                self._updates, finished, paths, hint, self._logits.value
            )
            self._say("")
            self._stages.value = PAGE.stages(paths)

    def _see(self, path):
        """The answer on this path and the stages before it, as far as there are any."""
        steps = MNIST_PIPELINE if path == "correct" else self.fault
        if self.canvas.max() < INK:
            return None, ()
        if self.classifier is None:
            return None, trace(self.canvas, steps)
        correct = path == "correct"
        network = self.classifier if correct else self.classifier.with_pipeline(steps)
        said = network(self.canvas)
        return said, said.stages

    def _say(self, text, kind="quiet"):
        """Put it into the status line, in place of what was said before."""
        self._status.value = PAGE.status(text, kind)

    def _beat(self, beat_s, count):
        """Send a sign of life: a warning that shows itself unless it is replaced."""
        self._heart.value = PAGE.heart(beat_s * MISSED, count)
        if self._heart.comm is not None:  # else the widget was closed
            _later(beat_s * 1000, self._beat, beat_s, count + 1)

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
            return [HTML(PAGE.caption(text)), row("digits", *ten)]

        size = CANVAS_PX
        self._surface = CanvasSurface(size, self.feed, self.key, self._page_connected)
        acts = [self.undo, self.redo, self.clear, self.replay]
        self._tools = [button(act.__name__.capitalize(), act) for act in acts]
        self._heart, self._answer, self._status, self._stages = map(HTML, [""] * 4)
        self._logits = Checkbox(description="raw logits", indent=False)
        self._switch = ToggleButtons(options=["correct", "faulty", "both"])
        self._brush = IntSlider(self.sketch.brush_px, *BRUSHES_PX, description="Brush")
        for control in self._logits, self._switch, self._brush:
            control.observe(self._chosen, "value")
        switch = [self._switch] * (self.fault is not None)
        labels = digits("It was a", self.save) if self.journal is not None else []
        examples = digits("Example of a", self.example)
        seen = self._answer, self._status, self._stages
        self.widget = row(
            "pad",
            HTML(PAGE.style(STYLE)),
            self._heart,
            row(
                "columns",
                row("ink", self._surface.widget, row("tools", *self._tools)),
                row("seen", row("switch", *switch, self._logits), *seen),
                row("more", self._brush, *examples, *labels, HTML(PAGE.keys())),
            ),
        )

    @_guarded
    def _chosen(self, change):
        """A control was moved: the switch, the brush or the logits."""
        self._settle()
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


def _png(image):
    """A picture as a data URI: 0 is black and 255 white, whatever it holds."""
    picture = Image.fromarray(as_grey(image))
    picture.thumbnail((140, 140))
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def _percent(share):
    return f"{100 * share:.1f}\u202f%"  # with a thin space that does not break


FOLDER = Path(__file__).parent
STYLE = (FOLDER / "pad.css").read_text(encoding="utf-8")
_pages = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters |= {"png": _png, "percent": _percent}
PAGE = _pages.get_template("pad.html").module  # its macros, to be called
