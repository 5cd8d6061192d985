"""The drawing pad: draw a digit and watch the network see it.

The strokes live here, in Python. Pillow makes the pixels that the network is given
(strokes.rasterize); the canvas in the browser only mirrors them, because an image
read back from a browser comes late, or never. All that is seen is a function of the
strokes, the brush and the switch, whether a hand, a test or a reload asks for it.
"""

import asyncio
import json
import logging
from base64 import b64encode
from functools import wraps
from html import escape
from io import BytesIO
from math import isfinite, nan
from pathlib import Path
from threading import RLock

import numpy as np
from ipycanvas import Canvas, hold_canvas
from ipywidgets import HTML, Box, Button, Checkbox, IntSlider, Layout, ToggleButtons
from PIL import Image

from mnistlab.classifier import Classifier
from mnistlab.data import write_atomically
from mnistlab.preprocess import INK, MNIST_PIPELINE, as_grey, trace
from mnistlab.strokes import BRUSH_PX, CANVAS_PX, handwrite, rasterize

BRUSHES_PX = 6, 40  # the slider's ends
LIVE_MS = 50  # while the pen moves, the network is asked at most this often
FRAME_MS, FRAMES = 30, 50  # of a replay
BEAT_S, MISSED = 5, 3  # the kernel's sign of life; how many may be missing
STYLE = Path(__file__).with_name("pad.css").read_text(encoding="utf-8")

# JupyterLab runs the callbacks of one widget on two threads, and ipycanvas's queue of
# commands belongs to the process, so one lock guards all pads.
_LOCK = RLock()
_log = logging.getLogger(__name__)


class CanvasSurface:
    """All that knows ipycanvas: shows strokes, reports the pen and the keyboard.

    Calls on_pen(kind, x, y) with kind "down", "move", "up" or "out" and canvas pixels,
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
            def pen(touches):
                one = len(touches) == 1 and kind != "out"
                # A second finger ends the stroke. What ends names the fingers that
                # remain, so it has no place of its own.
                on_pen(*(kind, *touches[0]) if one else ("out", nan, nan))

            return pen

        canvas.on_mouse_down(lambda x, y: on_pen("down", x, y))
        canvas.on_mouse_move(lambda x, y: on_pen("move", x, y))
        canvas.on_mouse_up(lambda x, y: on_pen("up", x, y))
        canvas.on_mouse_out(lambda x, y: on_pen("out", x, y))
        canvas.on_touch_start(fingers("down"))
        canvas.on_touch_move(fingers("move"))
        canvas.on_touch_end(fingers("out"))
        canvas.on_touch_cancel(fingers("out"))
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

    def line(self, start, end):
        self._canvas.stroke_line(*start, *end)

    def leave(self):
        """Give the keyboard back, which ipycanvas would keep for itself."""
        self._canvas.blur()


def _guarded(method):
    """Hold the lock; show an exception in the status line, where it can be seen."""

    @wraps(method)
    def guarded(self, *arguments):
        with _LOCK:
            try:
                return method(self, *arguments)
            except Exception as error:
                _log.exception("in the pad's %s", method.__name__)
                self._say(f"{type(error).__name__}: {error}", "error")

    return guarded


class Pad:
    """A canvas, what the network makes of it, and how it got there.

    network: a Classifier, or the path of a checkpoint; where that cannot be loaded,
    the pad still draws, shows the stages and says what to do. bug: a second pipeline
    for the same strokes, to switch to or to see beside the first. journal: a Journal,
    where "it was a 7" is kept. draft: a file of this pad alone, with what is on it; a
    pad built anew, by a kernel that was restarted or a page that was loaded again, goes
    on from there. Display the pad as the last line of a cell.
    """

    def __init__(self, network, bug=None, journal=None, draft=None, beat_s=BEAT_S):
        self.strokes, self.brush_px, self.path = [], BRUSH_PX, "correct"
        self.canvas = rasterize([])  # uint8 (280, 280): what the network is given
        self.prediction = self.faulty = None  # of the right path, of the bug's
        self.classifier, self._missing = network, ""
        self.bug, self.journal, self.draft = bug, journal, draft and Path(draft)
        self._past, self._future = [], []
        self._stroke = None  # the stroke under the pen, which is in strokes, too
        self._film = None  # the running replay
        self._row = None  # the journal's row of this very drawing
        self._waiting = False  # a live update is on its way
        self._updates = self._examples = 0
        if isinstance(network, (str, Path)):
            try:
                self.classifier = Classifier.load(network)
            except (FileNotFoundError, ValueError) as error:
                self.classifier, self._missing = None, str(error)
        if bug is not None and self.classifier is not None:
            self._bugged = self.classifier.with_pipeline(bug)
        trouble = self._take_up()
        self._drafted = self._as_text()  # what the draft holds, or would if it could
        self._build()
        self._update()
        if trouble:
            self._say(trouble, "error")
        self._beat(beat_s, 0)

    # --- drawing ------------------------------------------------------------------

    @_guarded
    def feed(self, kind, x, y):
        """One event of the pen: "down", "move", "up" or "out", in canvas pixels.

        A place outside is moved to the edge; one that is no number ends the stroke.
        """
        known = isfinite(x) and isfinite(y)
        point = tuple(float(min(max(v, 0), CANVAS_PX)) for v in (x, y)) if known else ()
        if kind == "down" and known:
            self._settle()
            self._change([*self.strokes, [point]])
            self._stroke = self.strokes[-1]
            self._surface.dot(point, self.brush_px)
            self._update_soon()
        elif self._stroke is not None:
            stroke, last = self._stroke, self._stroke[-1]
            if kind != "move":
                self._settle()
            if known and point != last:
                stroke.append(point)
                self._surface.line(last, point)
            (self._update_soon if kind == "move" else self._update)()

    def _settle(self):
        """End the stroke under the pen, and a replay."""
        self._stroke = None
        if self._film is not None:
            self._film = None
            self._show(self.strokes)

    def _change(self, strokes):
        """Make it another drawing; the one before can be brought back."""
        self._past.append(self.strokes)
        self._future.clear()
        self.strokes, self._row = strokes, None

    def _show(self, strokes):
        self._surface.show(strokes, self.brush_px)

    @_guarded
    def _page_connected(self):
        self._show(self.strokes)

    @_guarded
    def undo(self):
        self._step(self._past, self._future)

    @_guarded
    def redo(self):
        self._step(self._future, self._past)

    def _step(self, source, target):
        self._settle()
        if source:
            target.append(self.strokes)
            self.strokes, self._row = source.pop(), None
            self._show(self.strokes)
            self._update()

    @_guarded
    def draw(self, strokes):
        """Replace the drawing by these strokes, (n, 2) each; none of them clears it."""
        self._settle()
        self._change(_points(strokes))
        self._show(self.strokes)
        self._update()

    def clear(self):
        if self.strokes:
            self.draw([])

    def example(self, digit):
        """Let the scripted hand write a digit, each time another one."""
        self._examples += 1
        self.draw(handwrite(digit, seed=self._examples))

    @_guarded
    def replay(self):
        """Draw it once more, as it was drawn, with the network watching."""
        self._settle()
        self._film = film = object()
        total = sum(map(len, self.strokes))
        self._play(film, 0, max(1, -(-total // FRAMES)), total)

    @_guarded
    def _play(self, film, shown, step, total):
        if film is not self._film:
            return
        strokes, left = [], shown
        for stroke in self.strokes:
            strokes += [stroke[:left]] * (left > 0)
            left = max(0, left - len(stroke))
        self._show(strokes)
        self._update(strokes)
        if shown == total:
            self._film = None
        elif not _later(
            FRAME_MS, self._play, film, min(shown + step, total), step, total
        ):
            self._play(film, total, step, total)

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

    # --- remembering --------------------------------------------------------------

    @_guarded
    def save(self, label):
        """Keep the drawing in the journal; a second label for it is a correction."""
        self._settle()
        self._update()
        if not self.strokes or self.journal is None:
            missing = "journal: this pad was given none" if self.strokes else "drawing"
            return self._say(f"Nothing was kept, for there is no {missing}.", "hint")
        sha = self.classifier.sha256 if self.classifier else ""
        said = self.strokes, self.canvas, self.prediction, label, sha, self._row
        self._row = self.journal.record(*said)
        report = self.journal.report()
        self._say(
            f"Kept as a {label}. Of your {report.labelled} labelled drawings the "
            f"network had {report.confusion.trace()} right.",
            "kept",
        )

    def _take_up(self):
        """Begin with the draft's drawing; return what is wrong with it, if anything."""
        if self.draft is None or not self.draft.exists():
            return ""
        try:
            kept = json.loads(self.draft.read_text())
            brush_px = int(np.clip(kept["brush_px"], *BRUSHES_PX))
            strokes = [np.array(one, float).reshape(-1, 2) for one in kept["strokes"]]
            if not all(len(one) and np.isfinite(one).all() for one in strokes):
                raise ValueError("a stroke without points, or without places")
        except (OSError, ValueError, TypeError, KeyError) as error:
            return (
                f"{self.draft.name} holds no drawing, so this pad begins empty and "
                f"its next stroke replaces that ({type(error).__name__}: {error})."
            )
        self.brush_px = brush_px
        self.strokes = _points(np.clip(one, 0, CANVAS_PX) for one in strokes)
        self._past = [self.strokes[:count] for count in range(len(strokes))]
        return ""

    def _keep_draft(self):
        if self.draft is not None and (text := self._as_text()) != self._drafted:
            self.draft.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.draft, text.encode())
            self._drafted = text

    def _as_text(self):
        return json.dumps({"brush_px": self.brush_px, "strokes": self.strokes})

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
        """Make everything that is seen from strokes, by default the whole drawing."""
        self._waiting = False
        self._updates += 1
        strokes = self.strokes if strokes is None else strokes
        self.prediction = self.faulty = None
        try:
            self.canvas = rasterize(strokes, self.brush_px)
            blank = self.canvas.max() < INK
            if self.classifier is not None and not blank:
                self.prediction = self.classifier(self.canvas)
                if self.path != "correct":
                    self.faulty = self._bugged(self.canvas)
        except Exception:  # the status line says it; an old answer must not stay
            no = '<p class="hint">No answer.</p>'
            self._answer.value = _card("", self.path, no)
            raise
        cards, strips = [], []
        hint = escape(self._missing) or "Draw a digit, 0 to 9."
        for path, said in ("correct", self.prediction), ("inverted", self.faulty):
            if self.path not in (path, "both"):
                continue
            title = path if self.path == "both" else ""
            if said is not None and np.isfinite(said.logits).all():
                cards.append(_answer(title, path, said, self._logits.value))
                strips.append((title, said.stages))
            else:
                cards.append(_card(title, path, f'<p class="hint">{hint}</p>'))
                steps = MNIST_PIPELINE if path == "correct" else self.bug
                strips.append((title, () if blank else trace(self.canvas, steps)))
        finished = len(strokes) - (self._stroke is not None)
        self._answer.value = (
            f'<div class="answers" data-update="{self._updates}" '
            f'data-strokes="{finished}">{"".join(cards)}</div>'
        )
        self._say("")
        self._stages.value = "".join(_strip(*strip) for strip in strips)
        if strokes is self.strokes and self._stroke is None:
            self._keep_draft()

    def _say(self, text, kind="quiet"):
        """Put it into the status line, in place of what was said before."""
        text = escape(text) or "&nbsp;"
        self._status.value = f'<div role="status" class="{kind}">{text}</div>'

    def _beat(self, beat_s, count):
        """Send a sign of life: a warning that shows itself unless it is replaced."""
        late = beat_s * MISSED
        self._heart.value = (
            f'<div class="dead" style="animation-delay:{late}s" data-beat="{count}">'
            f"No sign of life from the kernel for {late} seconds: it is busy, or it "
            "has stopped. If it has stopped, run the notebook again; on the web page, "
            "reload.</div>"
        )
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
            return [HTML(f'<div class="caption">{text}</div>'), row("digits", *ten)]

        self._surface = CanvasSurface(
            CANVAS_PX, self.feed, self.key, self._page_connected
        )
        self._tools = [
            button("Undo", self.undo),
            button("Redo", self.redo),
            button("Clear", self.clear),
            button("Replay", self.replay),
        ]
        self._heart, self._answer, self._status, self._stages = (
            HTML() for _ in range(4)
        )
        self._logits = Checkbox(description="raw logits", indent=False)
        self._switch = ToggleButtons(options=["correct", "inverted", "both"])
        self._brush = IntSlider(self.brush_px, *BRUSHES_PX, description="Brush")
        for control in self._logits, self._switch, self._brush:
            control.observe(self._chosen, "value")
        controls = [self._switch] * (self.bug is not None) + [self._logits]
        labels = digits("It was a", self.save) if self.journal is not None else []
        self.widget = row(
            "pad",
            HTML(f"<style>{STYLE}</style>"),
            self._heart,
            row(
                "columns",
                row("ink", self._surface.widget, row("tools", *self._tools)),
                row(
                    "seen",
                    row("switch", *controls),
                    self._answer,
                    self._status,
                    self._stages,
                ),
                row(
                    "more",
                    self._brush,
                    *digits("Example of a", self.example),
                    *labels,
                    HTML(KEYS),
                ),
            ),
        )

    @_guarded
    def _chosen(self, change):
        """A control was moved: the switch, the brush or the logits."""
        self._settle()
        self.path = self._switch.value
        if change["owner"] is self._brush:
            self.brush_px, self._row = self._brush.value, None
            self._show(self.strokes)
        self._update()

    def __repr__(self):
        return "Pad: run this cell, then draw with mouse, finger or pen."

    def _repr_mimebundle_(self, **options):
        bundle = self.widget._repr_mimebundle_(**options)
        return {**bundle, "text/plain": repr(self)}


def _points(strokes):
    """Strokes (n, 2) as the pad has them: lists of pairs of floats."""
    return [[tuple(p) for p in np.array(one, float).tolist()] for one in strokes]


def _later(delay_ms, act, *arguments):
    """Do it later on this thread's event loop; False if there is none, as in tests."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop.call_later(delay_ms / 1000, act, *arguments)
    return True


# --- HTML ---------------------------------------------------------------------------

KEYS = """<div class="keys">Keys on the canvas: <kbd>Ctrl+Z</kbd> undo,
<kbd>Ctrl+Shift+Z</kbd> or <kbd>Ctrl+Y</kbd> redo, <kbd>Delete</kbd> clear,
<kbd>Tab</kbd> <kbd>Shift+Tab</kbd> <kbd>Esc</kbd> leave.</div>"""


def _card(title, path, body, label=""):
    heading = f"<h4>{title}</h4>" if title else ""
    return (
        f'<section class="answer" data-path="{path}" data-label="{label}">'
        f"{heading}{body}</section>"
    )


def _percent(share):
    return f"{100 * share:.1f}\u202f%"  # with a thin space that does not break


def _answer(title, path, prediction, logits):
    """Label, top three, ten bars, alarms in words and milliseconds."""
    shares = prediction.probabilities
    first, second, third = prediction.ranking[:3]
    label = "?" if prediction.label is None else prediction.label
    nearest = f"no answer; nearest {first}: " if prediction.label is None else ""
    rows = []
    for digit, share in enumerate(shares):
        best = digit == first
        rows.append(
            f'<tr class="{"best" * best}"><th scope="row">{digit}</th>'
            f'<td class="bar"><i style="width:{100 * share:.1f}%"></i></td>'
            f"<td>{_percent(share)}</td><td>{'◂' * best}</td>"
            + f"<td>{prediction.logits[digit]:+.2f}</td></tr>"
            * logits
        )
    said = dict.fromkeys([prediction.reason, *map(str, prediction.alarms)])
    alarms = [f'<p class="alarm">{escape(text)}</p>' for text in said if text]
    return _card(
        title,
        path,
        f'<div class="top"><b>{label}</b><span>{nearest}{_percent(shares[first])}<br>'
        f"then {second}: {_percent(shares[second])}, {third}: "
        f"{_percent(shares[third])}</span></div>"
        f"<table><caption>probability of each digit{', and its logit' * logits}"
        f"</caption>{''.join(rows)}</table>{''.join(alarms)}"
        f'<p class="ms">{prediction.milliseconds:.1f} ms from pixels to answer</p>',
        label,
    )


def _strip(title, stages):
    """The stages in a row: grey pictures with fixed limits, range and mean."""
    if not stages:
        return ""
    figures = []
    for stage in stages:
        image, numbers = stage.image, stage.numbers
        name = escape(stage.name.replace("_", " "))
        height, width = image.shape
        places = 0 if image.dtype == np.uint8 else 2
        mean = round(numbers["mean"], 2) + 0.0  # no minus before a zero
        figures.append(
            f'<figure><img alt="{name}" src="{_png(image)}"><figcaption><b>{name}</b>'
            f"{width} × {height} {image.dtype}<br>{numbers['low']:.{places}f}"
            f" … {numbers['high']:.{places}f}<br>"
            f"mean {mean:.{places or 1}f}</figcaption></figure>"
        )
    heading = f"<h4>{title}</h4>" if title else ""
    return f'<section class="stages">{heading}<div>{"".join(figures)}</div></section>'


def _png(image):
    """A picture as a data URI: 0 is black and 255 white, whatever it holds."""
    picture = Image.fromarray(as_grey(image))
    picture.thumbnail((140, 140))
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
