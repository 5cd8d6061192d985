"""The pad's logic, without a browser: events go in by hand, HTML comes out."""

import asyncio
import copy
import itertools
import re
import sqlite3
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from threading import Lock

import numpy as np
import pytest
import torch
from PIL import Image

from mnistlab import pad as pad_module
from mnistlab.checks import Alarm
from mnistlab.classifier import Classifier, Prediction
from mnistlab.faults import invert
from mnistlab.journal import Journal
from mnistlab.models import build
from mnistlab.pad import CanvasSurface, Pad
from mnistlab.preprocess import MNIST_PIPELINE, as_grey, to_input, trace
from mnistlab.sketch import Sketch, checked
from mnistlab.strokes import CANVAS_PX, rasterize

FAULT = (invert, *MNIST_PIPELINE)
ONE = [(140, 40), (140, 240)]


class Brightness:
    """A stand-in for a Classifier: refuses where the input is bright, else says 1."""

    sha256, pipeline, error = "0" * 64, MNIST_PIPELINE, None

    def __init__(self, **said):
        self.asked, self.said = [], said

    def with_pipeline(self, pipeline):
        other = copy.copy(self)
        other.pipeline = pipeline
        return other

    def __call__(self, canvas):
        self.asked.append(canvas.copy())
        if self.error:
            raise self.error
        stages = trace(canvas, self.pipeline)
        logits = np.arange(10, dtype=np.float32)
        if stages[-1].image.mean() > 0.6:
            alarm = Alarm("polarity", "border", 0.9, 0.0, 0.5, "invert")
            return Prediction(None, str(alarm), logits, stages, (alarm,), 0.5)
        logits[1] = 20
        return replace(Prediction(1, "", logits, stages, (), 0.5), **self.said)


@pytest.fixture
def classifier():
    return Brightness()


@pytest.fixture
def pad(classifier, tmp_path):
    return Pad(classifier, fault=FAULT, journal=Journal(tmp_path / "journal.sqlite"))


def stroke(pad, *points):
    """Put the pen down at the first point, draw through the others, lift it."""
    pad.feed("down", points[0])
    pad.feed("move", *points[1:-1])
    pad.feed("up", points[-1])


def labels(pad):
    return re.findall(r'data-path="(\w+)" data-label="(.?)"', pad._answer.value)


def status(pad):
    return re.sub("<[^>]+>", "", pad._status.value).strip()


def pictures(html):
    """What is shown: name -> pixels."""
    found = re.findall(r'<img alt="([^"]+)"\s+src="[^,]+,([^"]+)"', html.value)
    return {
        name: np.array(Image.open(BytesIO(b64decode(data)))) for name, data in found
    }


def assert_seen(pad):
    """Canvas, answer and drawing are one."""
    expected = rasterize(pad.sketch.strokes, pad.sketch.brush_px)
    np.testing.assert_array_equal(pad.canvas, expected)
    assert f'data-strokes="{len(pad.sketch.strokes)}"' in pad._answer.value
    assert (pad.prediction is None) == (not pad.sketch.strokes)


# --- drawing --------------------------------------------------------------------------


def test_a_blank_pad_asks_for_a_digit_and_no_network(pad, classifier):
    assert "Draw a digit" in pad._answer.value and labels(pad) == [("correct", "")]
    assert classifier.asked == []
    text = pad._repr_mimebundle_()["text/plain"]  # where widgets cannot be shown
    assert text == repr(pad) and "draw" in text
    shown = pictures(pad._stages)
    assert len(shown) == 4 and not any(picture.any() for picture in shown.values())


def test_the_network_is_given_pillows_pixels_of_what_the_pen_did(pad, classifier):
    stroke(pad, (140, 40), (141.5, 100), (140, 240))
    stroke(pad, (60, 60), (60, 70), (60, 70), (np.nan, 75), (900, 80))
    stroke(pad, (10, np.inf))  # nowhere, so no stroke
    assert pad.sketch.strokes == [
        [(140, 40), (141.5, 100), (140, 240)],
        [(60, 60), (60, 70), (CANVAS_PX, 80)],
    ]
    assert_seen(pad)
    np.testing.assert_array_equal(classifier.asked[-1], pad.canvas)
    assert labels(pad) == [("correct", "1")]


def test_a_replay_shows_ever_more_ink_and_stops_for_the_pen(pad, monkeypatch):
    frames = []
    monkeypatch.setattr(pad_module, "FRAME_MS", 0)

    async def watch():
        pad.example(5)
        drawing, total = pad.sketch.strokes, sum(map(len, pad.sketch.strokes))
        pad._surface.show = lambda strokes, _: frames.append(sum(map(len, strokes)))
        pad.replay()
        while pad._film is not None:
            await asyncio.sleep(0)
            assert f'data-strokes="{len(pad._strokes())}"' in pad._answer.value
        assert frames == sorted(frames) and frames[0] == 0 and frames[-1] == total
        pad.replay()
        await asyncio.sleep(0)
        pad.feed("down", (10, 10))
        pad.replay()  # not under the pen
        assert pad._film is None and frames[-1] == total
        count = len(frames)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(frames) == count and len(pad.sketch.strokes) == len(drawing) + 1
        pad.feed("up")
        pad.replay()
        pad.save(1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert "Kept as a 1" in status(pad), "no frame of it comes after that"

    asyncio.run(watch())
    pad.replay()  # without an event loop
    assert pad._film is None
    assert_seen(pad)


# --- seeing ---------------------------------------------------------------------------


def test_the_answer_has_ten_bars_and_numbers_for_those_who_want_them(pad):
    stroke(pad, *ONE)
    html = pad._answer.value
    rows = re.findall(r"<li.*?</li>", html, re.DOTALL)
    heights = [float(high) for high in re.findall(r'style="height:([\d.]+)%"', html)]
    np.testing.assert_allclose(heights, 100 * pad.prediction.probabilities, atol=0.051)
    assert [digit for digit, row in enumerate(rows) if 'class="best"' in row] == [1]
    assert len(rows) == 10 and "+20.00" not in html and " ms " not in html
    assert html.count('class="quiet"') == 9, "ten times 0 % say nothing"
    assert "float32" not in pad._stages.value
    pad._numbers.value = True
    assert "+20.00" in pad._answer.value and "0.5 ms" in pad._answer.value
    mean = to_input(pad.canvas).mean()
    assert f"-0.42 … 2.82<br>mean {mean:.2f}" in pad._stages.value
    nearly = {"shape": (1, 1), "dtype": "float32", "low": 0, "high": 0, "mean": -0.001}
    assert "mean 0.00" in pad_module.PAGE.measured(nearly), "no minus before a zero"
    alarms = [Alarm(name, "border", 0.9, 0, 0.5, "") for name in ("polarity", "ink")]
    pad.classifier = Brightness(alarms=tuple(alarms))
    for numbers, count in (False, 1), (True, 2):
        pad._numbers.value = numbers
        assert pad._answer.value.count('class="alarm"') == count


@pytest.mark.parametrize(
    "logits, label, state, shares, words",
    [
        ([3.5, 0, 0, 0], 0, "sure", 1, "Sure"),
        ([1, 0.9, 0, 0], 0, "unsure", 2, "0, or 1?"),  # the others: 13 % each
        ([9, 0, 0, 0], None, "refused", 1, "No answer</strong><br>It would say 0."),
        ([0] * 10, None, "refused", 1, "answer</strong><br>All ten are alike to it."),
        ([np.nan] * 4, None, "refused", 10, "No answer</strong></p>"),
    ],
)
def test_sure_unsure_and_refused_differ_in_shape_and_word(
    pad, logits, label, state, shares, words
):
    full = np.array([*logits, *[min(logits) - 3] * 6][:10], np.float32)
    reason = "" if label is not None else "<b>no digit</b>"  # text, and not HTML
    pad.classifier = Brightness(logits=full, label=label, reason=reason)
    stroke(pad, *ONE)
    html = pad._answer.value
    assert re.findall(r'class="answer (\w+)"', html) == [state] and words in html
    assert ("&lt;b&gt;no digit" in html) == (label is None)
    assert ("nan" not in html) and ('class="bars"' in html) == np.isfinite(logits[0])
    assert html.count('class="quiet"') == 10 - shares, "neighbours would overlap"
    pad.save(2)
    assert pad.journal.report().confusion[2, 10 if label is None else 0] == 1


def test_the_switch_shows_the_fault_and_accuses_its_step_in_a_sentence(pad):
    stroke(pad, *ONE)
    pad._switch.value = "faulty"
    assert labels(pad) == [("faulty", "?")] and "No answer" in pad._answer.value
    accused = re.findall(r'class="accused"><span class="verb">(\w+)', pad._stages.value)
    assert accused == ["invert"] and "invert, suspected" in pad._stages.value
    (alarm,) = pad.faulty.alarms
    said = re.findall(r'<p class="alarm">(.*)</p>', pad._answer.value)
    assert said == [alarm.sentence], "a reason is said once"
    pad._switch.value = "both"
    assert labels(pad) == [("correct", "1"), ("faulty", "?")]
    assert len(re.findall("<img", pad._stages.value)) == 4 + 5
    pad._switch.value = "correct"
    assert labels(pad) == [("correct", "1")] and pad.faulty is None


def test_the_stages_are_shown_as_they_are_and_what_is_faint_stays_faint(classifier):
    def fade(image):
        return image // 2

    pad = Pad(classifier, fault=(*MNIST_PIPELINE[:-1], fade, *MNIST_PIPELINE[-1:]))
    pad._switch.value = "faulty"
    stroke(pad, *ONE)
    shown = pictures(pad._stages)
    verbs = "cut to the ink", "fit into 20 × 20", "centre by mass", "fade", "normalise"
    assert tuple(shown) == verbs and shown["fade"].max() == 127
    for stage, verb in zip(pad.faulty.stages[2:], verbs[1:], strict=True):
        np.testing.assert_array_equal(shown[verb], as_grey(stage.image))


def test_a_real_network_answers_as_if_called_and_shows_its_first_filters():
    torch.manual_seed(0)
    classifier = Classifier(build("DigitCNN").eval())
    pad = Pad(classifier, fault=FAULT)
    pad._switch.value = "both"
    pad.example(9)
    nine = pad.sketch.strokes
    wrong = classifier.with_pipeline(FAULT)
    for said, direct in (pad.prediction, classifier), (pad.faulty, wrong):
        np.testing.assert_array_equal(said.logits, direct(rasterize(nine)).logits)
    assert labels(pad)[0] == ("correct", str(pad.prediction.label))
    pad.example(9)
    assert pad.sketch.strokes != nine, "each time another one"
    assert pad._inside.value == ""
    pad._open.value = True
    picture = pictures(pad._inside)["32 feature maps"]
    with torch.inference_mode():
        maps = torch.from_numpy(pad.prediction.stages[-1].image)[None, None]
        for layer in list(classifier.model)[:4]:
            maps = layer(maps)
    assert picture.shape == (4 * 16, 8 * 16)
    expected = ((maps[0] / maps.max()).sqrt() * 255).byte().numpy()
    np.testing.assert_array_equal(picture[1:15, 17:31], expected[1])
    pad.clear()
    assert pad._inside.value == ""


def test_live_answers_are_few_and_the_last_one_is_of_all_the_ink(pad, monkeypatch):
    monkeypatch.setattr(pad_module, "LIVE_MS", 0)
    asked = pad.classifier.asked

    async def draw():
        pad.feed("down", (20, 20))
        for x in range(20, 260):
            pad.feed("move", (x, 0.8 * x))
            if x % 40 == 0:  # the pen rests
                while pad._waiting:
                    await asyncio.sleep(0)
                np.testing.assert_array_equal(asked[-1], rasterize(pad.sketch.strokes))
        assert len(asked) == 6, "once a rest, not once a move"
        assert "data-pen" in pad._answer.value
        pad.feed("up")
        assert len(asked) == 7, "the end of a stroke asks at once"
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asked) == 7, "and what was planned is dropped"
        assert_seen(pad)

    asyncio.run(draw())


def test_the_answer_goes_before_ink_draft_and_pictures(pad, monkeypatch):
    order = []
    monkeypatch.setattr(pad._surface, "line", lambda _: order.append("ink"))
    monkeypatch.setattr(pad.sketch, "keep", lambda: order.append("draft"))
    for name, html in ("answer", pad._answer), ("pictures", pad._stages):
        html.observe(lambda _, name=name: order.append(name), "value")

    async def draw():
        pad.feed("down", (20, 20))
        pad.feed("up", (90, 90))
        assert order == ["ink", "draft", "answer", "ink", "draft"]
        while len(order) < 6:
            await asyncio.sleep(0)
        assert order[5] == "pictures"

    asyncio.run(draw())


# --- what goes wrong ------------------------------------------------------------------


@pytest.mark.parametrize("found", [False, True])
def test_without_a_network_it_draws_shows_stages_and_says_what_to_do(
    tmp_path, monkeypatch, found
):
    path = tmp_path / "best_model.pt"
    if found:  # whatever a stranger's file makes torch raise
        monkeypatch.setattr(Classifier, "load", lambda path: {}["model"])
    pad = Pad(path, fault=FAULT, journal=Journal(tmp_path / "j"))
    stroke(pad, *ONE)
    pad._switch.value = "both"
    assert "best_model.pt" in pad._answer.value and "invert" in pictures(pad._stages)
    pad.save(1)
    assert "Kept as a 1" in status(pad)


def test_a_network_that_raises_is_seen_and_drawing_goes_on(pad, classifier, caplog):
    stroke(pad, *ONE)
    classifier.error = RuntimeError("weights <b>lost</b>")
    stroke(pad, (40, 40), (240, 40))
    assert "RuntimeError: weights &lt;b&gt;lost" in status(pad)
    assert labels(pad) == [("correct", "")], "an old answer must not stay"
    assert '<p class="hint">No answer.' in pad._answer.value
    assert "Traceback" in caplog.text and pictures(pad._stages) == {}
    pad.save(7)
    assert "RuntimeError" in status(pad) and len(pad.journal) == 0
    classifier.error = None
    stroke(pad, (40, 90), (240, 90))
    assert len(pad.sketch.strokes) == 3 and labels(pad) == [("correct", "1")]
    assert status(pad) == ""
    pad.draw([np.array([[np.nan, 1]])])  # cannot be drawn: the old one stays
    assert "ValueError" in status(pad) and len(pad.sketch.strokes) == 3
    assert_seen(pad)


def test_a_failing_canvas_does_not_lose_the_stroke(pad, monkeypatch, caplog):
    pad.feed("down", (10, 10))
    monkeypatch.setattr(pad._surface, "line", lambda _: 1 / 0)
    pad.feed("move", (20, 20))
    assert "ZeroDivisionError" in status(pad)
    pad.feed("up", (30, 30))
    assert pad.sketch.strokes == [[(10, 10), (20, 20), (30, 30)]]
    assert_seen(pad)


def test_threads_that_draw_and_switch_at_once_take_turns(pad, monkeypatch):
    turn, met = Lock(), []

    def alone(*drawing):
        met.append(turn.locked())
        with turn:
            time.sleep(0.001)
            return rasterize(*drawing)

    monkeypatch.setattr(pad_module, "rasterize", alone)
    places = itertools.product(range(10, 200, 10), (50, 150))
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(stroke, pad, place) for place in places]
        for path in ("both", "faulty", "correct") * 5:
            jobs.append(pool.submit(setattr, pad._switch, "value", path))
    assert [job.result() for job in jobs] == [None] * 53
    assert sum(map(len, pad.sketch.strokes)) >= 38 and met and not any(met)
    assert_seen(pad)


# --- remembering ----------------------------------------------------------------------


def test_a_label_keeps_what_was_seen_and_a_second_one_corrects_it(pad, monkeypatch):
    pad.save(3)
    assert "no drawing" in status(pad) and len(pad.journal) == 0
    stroke(pad, *ONE)
    pad.save(7)
    assert "Kept as a 7. It said 1: you found one. Of your 1 la" in status(pad)
    pad.save(1)
    assert "found" not in status(pad) and "had 1 right" in status(pad)
    with sqlite3.connect(pad.journal.path) as connection:
        row = connection.execute("SELECT predicted, checkpoint_sha256 FROM drawings")
        assert row.fetchall() == [(1, Brightness.sha256)]
    connection.close()
    pad.undo()
    pad.redo()  # the same strokes, but another moment
    pad.save(1)
    pad.redo()  # nothing happens
    pad.save(2)
    assert pad.journal.drawings().labels.tolist() == [1, 2]
    stroke(pad, (40, 40))
    pad.save(4)
    pad.replay()
    pad.save(5)
    pad._brush.value = 30
    pad.save(6)
    back = pad.journal.drawings()
    assert back.labels.tolist() == [1, 2, 5, 6]
    assert checked(back.strokes[-1]) == pad.sketch.strokes
    monkeypatch.setattr(pad_module, "LAST", 3)
    pad.save(1)
    assert "Of your last 3 labelled drawings the network had 1 right" in status(pad)
    pad.journal.path.unlink()  # a row that is gone is said once
    pad.save(7)
    pad.save(7)
    assert pad.journal.drawings().labels.tolist() == [7]


def test_a_journal_or_a_draft_in_trouble_is_said_and_drawing_goes_on(
    pad, classifier, tmp_path, caplog
):
    pad.journal.path.write_bytes(b"no journal" * 1000)
    stroke(pad, *ONE)
    pad.save(2)
    assert "JournalError" in status(pad) and "What to do" in status(pad)
    stroke(pad, (40, 40))
    assert labels(pad) == [("correct", "1")] and status(pad) == ""
    (tmp_path / "file").write_text("in the way")
    assert "holds no drawing" in status(Pad(classifier, draft=tmp_path / "file"))
    pad = Pad(classifier, draft=tmp_path / "file" / "draft.json")
    stroke(pad, *ONE)
    assert "Error" in status(pad) and labels(pad) == [("correct", "1")]


# --- the surface ----------------------------------------------------------------------


def test_the_surface_reports_pen_and_pages_in_the_drawings_pixels():
    heard = []
    surface = CanvasSurface(
        lambda *event: heard.append(event), lambda: heard.append("ready")
    )

    def receive(event, *touches):
        content = {"event": event, "touches": [{"x": x, "y": y} for x, y in touches]}
        surface.canvas._handle_frontend_event(None, content, [])
        return heard[-1]

    assert receive("touch_start", (20, 20)) == ("down", (10, 10))
    assert receive("touch_move", (3, 20), (180, 180)) == ("move", (1.5, 10), (90, 90))
    assert receive("touch_end", (180, 180)) == ("up", (90, 90))
    assert receive("client_ready") == "ready"


def test_a_page_that_connects_is_sent_the_whole_drawing_after_a_detour(
    pad, monkeypatch
):
    """ipycanvas #322: only a change of canvas tells a new page which one is meant."""
    pad.example(3)
    sent, canvas = [], pad._surface.canvas
    manager = canvas._canvas_manager
    monkeypatch.setattr(manager, "_send_custom", lambda said, *_: sent.append(said))
    canvas._handle_frontend_event(None, {"event": "client_ready"}, [])
    (commands,) = sent
    switch = pad_module.Canvas.__init__.__globals__["COMMANDS"]["switchCanvas"]
    canvases = [command[1] for command in commands if command[0] == switch]
    ids = pad._surface.spare.model_id, canvas.model_id
    assert canvases == [[f"IPY_MODEL_{one}"] for one in ids]
    assert not manager._caching


# --- in agreement ---------------------------------------------------------------------


class Mirror:
    """What a page would show: the surface's commands, as strokes."""

    def __init__(self, pad):
        self.strokes = []
        pad._surface.show, pad._surface.line = self.show, self.line

    def show(self, strokes, brush_px):
        self.strokes = [list(stroke) for stroke in strokes]

    def line(self, points):
        self.strokes += [points]


def test_a_thousand_random_sequences_leave_everything_in_agreement(
    tmp_path, monkeypatch, caplog
):
    rng = np.random.default_rng(0)
    caplog.set_level("CRITICAL")
    for name, value in {"LIVE_MS": 0, "FRAME_MS": 0, "FRAMES": 3}.items():
        monkeypatch.setattr(pad_module, name, value)
    monkeypatch.setattr("os.fsync", lambda file: None)

    def hasty(*where, connect=sqlite3.connect, **how):
        connection = connect(*where, **how)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr("sqlite3.connect", hasty)  # no power will fail
    monkeypatch.setattr(Pad, "_show_rest", lambda self: None)  # pictures
    draft, network = tmp_path / "draft.json", Brightness()
    broken = Brightness()
    broken.error = RuntimeError("for now")

    def spot():
        places = [rng.uniform(-50, 330), 9, np.nan]
        return tuple(rng.choice(places, 2, p=[0.8, 0.1, 0.1]))

    def some_event(pad):
        """One of the things that happen to a pad."""
        moves = [spot() for _ in range(rng.integers(1, 4))]
        yield from [lambda: pad.feed("down", spot()), lambda: pad.feed("up")] * 2
        yield from [lambda: pad.feed("move", *moves)] * 4
        yield from [pad.undo, pad.redo, pad.clear, pad.replay, pad._page_connected]
        yield lambda: pad.example(int(rng.integers(10)))
        yield lambda: pad.draw([[[np.nan, 1]]])
        yield lambda: setattr(pad._switch, "value", rng.choice(["correct", "both"]))
        yield lambda: setattr(pad._brush, "value", int(rng.integers(6, 41)))
        yield lambda: setattr(pad, "classifier", rng.choice([network, broken]))
        yield from [lambda: pad.save(int(rng.integers(10)))] * 2

    async def draw(pad, mirror, kept):
        for _ in range(rng.integers(3, 14)):
            events = list(some_event(pad))
            before = pad._row
            events[rng.integers(len(events))]()
            if "Kept as a" in status(pad) and pad._row is not None:
                kept += pad._row != before and before is None
                drawn = pad.journal.drawings().strokes[-1]
                assert checked(drawn) == pad.sketch.strokes
            for _ in range(rng.integers(3)):
                await asyncio.sleep(0)
        pad.classifier = network
        pad.feed("up")
        while pad._waiting or pad._film is not None:
            await asyncio.sleep(0)
        assert_seen(pad)
        shown = rasterize(mirror.strokes, pad.sketch.brush_px)
        np.testing.assert_array_equal(pad.canvas, shown)
        if pad.sketch.strokes:
            np.testing.assert_array_equal(network.asked[-1], pad.canvas)
        assert "data-pen" not in pad._answer.value
        again = Sketch(draft)
        assert (again.strokes, again.trouble) == (pad.sketch.strokes, "")
        assert again.brush_px == pad.sketch.brush_px
        report = pad.journal.report()
        assert (report.n, report.skipped) == (kept, ())
        return kept

    async def many():
        for number in range(1000):
            if number % 50 == 0:
                journal = Journal(tmp_path / f"{number}.sqlite")
                pad = Pad(network, fault=FAULT, journal=journal, draft=draft)
                mirror = Mirror(pad)
                pad._page_connected()
                kept = 0
            kept = await draw(pad, mirror, kept)

    asyncio.run(many())
