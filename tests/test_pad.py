"""The pad's logic, without a browser: events go in by hand, HTML comes out."""

import asyncio
import re
import sqlite3
import threading
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from mnistlab import pad as pad_module
from mnistlab.checks import Alarm
from mnistlab.classifier import Classifier, Prediction
from mnistlab.journal import Journal
from mnistlab.models import build
from mnistlab.pad import CanvasSurface, Pad
from mnistlab.preprocess import MNIST_PIPELINE, as_grey, to_input, trace
from mnistlab.sketch import Sketch, checked
from mnistlab.strokes import CANVAS_PX, rasterize


def invert(image):
    return 255 - image


FAULT = (invert, *MNIST_PIPELINE)


class Brightness:
    """A stand-in for a Classifier: says 8 where the input is bright, else 1."""

    sha256 = "0" * 64

    def __init__(self, pipeline=MNIST_PIPELINE):
        self.pipeline, self.asked = pipeline, []

    def with_pipeline(self, pipeline):
        return Brightness(pipeline)

    def __call__(self, canvas):
        self.asked.append(canvas.copy())
        stages = trace(canvas, self.pipeline)
        bright = stages[-1].image.mean() > 0.6
        logits = np.arange(10, dtype=np.float32)
        logits[8 if bright else 1] = 20
        alarm = Alarm("polarity", "border", 0.9, 0.0, 0.5, "invert")
        alarms = (alarm,) if bright else ()
        label, reason = (None, str(alarm)) if bright else (1, "")
        return Prediction(label, reason, logits, stages, alarms, 0.5)


@pytest.fixture
def classifier():
    return Brightness()


@pytest.fixture
def pad(classifier, tmp_path):
    return Pad(classifier, fault=FAULT, journal=Journal(tmp_path / "journal.sqlite"))


ONE = (140, 40), (140, 240)


def stroke(pad, *points):
    """Put the pen down at the first point, draw through the others, lift it."""
    pad.feed("down", points[0])
    for point in points[1:]:
        pad.feed("move", point)
    pad.feed("up", points[-1])


def labels(pad):
    return re.findall(r'data-path="(\w+)" data-label="(.?)"', pad._answer.value)


def status(pad):
    return re.sub("<[^>]+>", "", pad._status.value).strip()


def pictures(pad):
    """The stages' pictures: name -> pixels."""
    found = re.findall(r'<img alt="([^"]+)"\s+src="[^,]+,([^"]+)"', pad._stages.value)
    return {
        name: np.array(Image.open(BytesIO(b64decode(data)))) for name, data in found
    }


# --- drawing --------------------------------------------------------------------------


def test_a_blank_pad_asks_for_a_digit_and_no_network(pad, classifier):
    assert "Draw a digit" in pad._answer.value
    assert labels(pad) == [("correct", "")]
    assert classifier.asked == []
    assert not any(picture.any() for picture in pictures(pad).values())


def test_the_network_is_given_pillows_pixels_of_what_the_pen_did(pad, classifier):
    stroke(pad, (140, 40), (141.5, 100), (140, 240))
    pad.feed("down", (60, 60))
    pad.feed("move", (60, 70), (60, 70), (900, 80))  # moves that came together
    pad.feed("up")
    assert pad.sketch.strokes == [
        [(140, 40), (141.5, 100), (140, 240)],
        [(60, 60), (60, 70), (CANVAS_PX, 80)],
    ]
    np.testing.assert_array_equal(pad.canvas, rasterize(pad.sketch.strokes))
    np.testing.assert_array_equal(classifier.asked[-1], pad.canvas)
    assert labels(pad) == [("correct", "1")]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_place_that_is_no_number_is_never_drawn(pad, bad):
    pad.feed("down", (bad, 10))
    assert pad.sketch.strokes == []
    pad.feed("down", (10, 10))
    pad.feed("move", (10, bad), (20, 20))
    assert pad.sketch.strokes == [[(10, 10), (20, 20)]]
    pad.feed("up", (bad, bad))
    assert not pad.sketch.pen_down and pad.prediction is not None


def test_undo_redo_and_clear_show_what_they_bring_back(pad):
    stroke(pad, *ONE)
    stroke(pad, (90, 90))
    for act, count in (pad.undo, 1), (pad.clear, 0), (pad.undo, 1), (pad.redo, 0):
        act()
        assert len(pad.sketch.strokes) == count
        assert f'data-strokes="{count}"' in pad._answer.value
        np.testing.assert_array_equal(pad.canvas, rasterize(pad.sketch.strokes))


def test_examples_differ_from_press_to_press(pad):
    pad.example(4)
    first = pad.sketch.strokes
    pad.example(4)
    assert first and pad.sketch.strokes != first


@pytest.mark.parametrize(
    "key, shift, control, left",
    [
        ("z", False, True, 1),
        ("Z", True, True, 2),  # redo, with nothing to redo
        ("y", False, True, 2),
        ("z", False, False, 2),
        ("Delete", False, False, 0),
        ("x", False, False, 2),
    ],
)
def test_keys_do_what_the_screen_says(pad, key, shift, control, left):
    stroke(pad, (50, 50))
    stroke(pad, (90, 90))
    pad.key(key, shift, control)
    assert len(pad.sketch.strokes) == left


def test_tab_leaves_the_canvas_also_where_no_script_can_run(pad, monkeypatch):
    sent = []
    monkeypatch.setattr(pad._surface._canvas, "send", sent.append)
    pad.key("Tab", False, False)
    assert sent == [{"do": "blur"}]


def test_a_replay_shows_ever_more_ink_and_stops_for_the_pen(pad, monkeypatch):
    frames = []
    monkeypatch.setattr(pad_module, "FRAME_MS", 0)

    async def watch():
        pad.example(5)
        show, drawing = pad._surface.show, pad.sketch.strokes
        pad._surface.show = lambda strokes, brush: (
            frames.append(sum(map(len, strokes))),
            show(strokes, brush),
        )
        pad.replay()
        while pad._film is not None:
            await asyncio.sleep(0)
        total = sum(map(len, drawing))
        assert frames == sorted(frames) and frames[0] == 0 and frames[-1] == total
        pad.replay()
        await asyncio.sleep(0)
        pad.feed("down", (10, 10))
        assert pad._film is None and frames[-1] == total
        count = len(frames)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(frames) == count and len(pad.sketch.strokes) == len(drawing) + 1

    asyncio.run(watch())


def test_without_an_event_loop_a_replay_ends_on_the_drawing_itself(pad):
    def seen():
        return re.sub('data-update="[0-9]+"', "", pad._answer.value)

    pad.example(5)
    before = seen()
    pad.replay()
    assert seen() == before and pad._film is None


# --- seeing ---------------------------------------------------------------------------


def test_the_answer_has_ten_bars_and_numbers_for_those_who_want_them(pad):
    stroke(pad, *ONE)
    html = pad._answer.value
    rows = re.findall(r"<li.*?</li>", html, re.DOTALL)
    heights = [float(high) for high in re.findall(r'style="height:([\d.]+)%"', html)]
    shares = pad.prediction.probabilities
    np.testing.assert_allclose(heights, 100 * shares, atol=0.051)
    best = [digit for digit, row in enumerate(rows) if 'class="best"' in row]
    assert len(rows) == 10 and best == [shares.argmax()] == [1]
    assert "+20.00" not in html and " ms " not in html
    assert "float32" not in pad._stages.value
    pad._numbers.value = True
    assert "+20.00" in pad._answer.value and "0.5 ms" in pad._answer.value
    mean = to_input(pad.canvas).mean()
    assert f"-0.42 … 2.82<br>mean {mean:.2f}" in pad._stages.value


@pytest.mark.parametrize(
    "logits, label, state, words",
    [
        ([9, 0, 0, 0], 0, "sure", "Sure"),
        ([1, 0.9, 0, 0], 0, "unsure", "0, or 1?"),
        ([9, 0, 0, 0], None, "refused", "No answer</strong><br>It would say 0."),
        ([np.nan] * 4, None, "refused", "No answer</strong></p>"),
    ],
)
def test_sure_unsure_and_refused_differ_in_shape_and_word(
    pad, classifier, logits, label, state, words
):
    class Says(Brightness):
        def __call__(self, canvas):
            full = np.array([*logits, *[min(logits) - 3] * 6], np.float32)
            reason = "" if label is not None else "nothing like a digit"
            said = super().__call__(canvas)
            return replace(said, logits=full, label=label, reason=reason)

    pad.classifier = Says()
    stroke(pad, *ONE)
    html = pad._answer.value
    assert re.findall(r'class="answer (\w+)"', html) == [state]
    assert words in html and ("nothing like a digit" in html) == (label is None)
    assert ("nan" not in html) and ('class="bars"' in html) == np.isfinite(logits[0])
    pad.save(2)
    assert pad.journal.report().confusion[2, 10 if label is None else 0] == 1


def test_the_step_that_an_alarm_accuses_is_marked_and_named_in_a_sentence(pad):
    pad._switch.value = "faulty"
    stroke(pad, *ONE)
    accused = re.findall(r'class="accused"><span class="verb">(\w+)', pad._stages.value)
    assert accused == ["invert"] and "invert, suspected" in pad._stages.value
    (alarm,) = pad.faulty.alarms
    sentence = getattr(alarm, "sentence", str(alarm))
    assert f'<p class="alarm">{sentence}</p>' in pad._answer.value


def test_the_first_filters_are_shown_to_who_looks_inside():
    classifier = Classifier(build("DigitCNN").eval())
    pad = Pad(classifier)
    stroke(pad, *ONE)
    assert pad._inside.value == ""
    pad._open.value = True
    data = re.search(r'src="[^,]+,([^"]+)"', pad._inside.value)[1]
    picture = np.array(Image.open(BytesIO(b64decode(data))))
    with torch.inference_mode():
        input = torch.from_numpy(pad.prediction.stages[-1].image)[None, None]
        maps = torch.nn.Sequential(*classifier.model.children())[:4](input)[0]
    assert len(maps) == 32 and picture.shape == (4 * 16, 8 * 16)
    expected = ((maps / maps.max()).sqrt() * 255).byte().numpy()
    np.testing.assert_array_equal(picture[1:15, 17:31], expected[1])
    pad.clear()
    assert pad._inside.value == ""


def test_the_stages_are_shown_as_they_are(pad):
    stroke(pad, *ONE)
    stages = trace(pad.canvas, MNIST_PIPELINE)
    shown = pictures(pad)
    verbs = ["cut to the ink", "fit into 20 × 20", "centre by mass", "normalise"]
    assert list(shown) == verbs
    for stage, verb in zip(stages[2:], verbs[1:], strict=True):  # the first is shrunk
        np.testing.assert_array_equal(shown[verb], as_grey(stage.image))


def test_a_faint_picture_stays_faint(classifier):
    def fade(image):
        return image // 2

    pad = Pad(classifier, fault=(*MNIST_PIPELINE[:-1], fade, *MNIST_PIPELINE[-1:]))
    pad._switch.value = "faulty"
    stroke(pad, *ONE)
    assert pictures(pad)["fade"].max() == 127


def test_the_switch_shows_the_same_strokes_through_the_fault(pad):
    stroke(pad, *ONE)
    pad._switch.value = "faulty"
    assert labels(pad) == [("faulty", "?")]
    assert "No answer" in pad._answer.value
    assert pad._answer.value.count('class="alarm"') == 1, "a reason is said once"
    pad._switch.value = "both"
    assert labels(pad) == [("correct", "1"), ("faulty", "?")]
    assert len(re.findall("<img", pad._stages.value)) == 4 + 5
    pad._switch.value = "correct"
    assert labels(pad) == [("correct", "1")] and pad.faulty is None


def test_what_a_network_says_is_text_and_not_html(pad, classifier):
    class Scripts(Brightness):
        def __call__(self, canvas):
            said = super().__call__(canvas)
            return replace(said, label=None, reason="<script>1</script>")

    pad.classifier = Scripts()
    stroke(pad, *ONE)
    assert "<script>" not in pad._answer.value
    assert "&lt;script&gt;" in pad._answer.value


def test_a_pad_without_a_fault_has_no_switch(classifier):
    for fault, words in (None, 0), (FAULT, 1):
        path = Pad(classifier, fault=fault).widget.children[1].children[2]
        assert len(path.children[0].children) == words


def test_a_real_network_answers_as_if_called_directly():
    torch.manual_seed(0)
    classifier = Classifier(build("FastCNN").eval())
    pad = Pad(classifier, fault=FAULT)
    pad._switch.value = "both"
    for digit in range(10):
        pad.example(digit)
        direct = classifier(rasterize(pad.sketch.strokes))
        wrong = classifier.with_pipeline(FAULT)(rasterize(pad.sketch.strokes))
        np.testing.assert_array_equal(pad.prediction.logits, direct.logits)
        np.testing.assert_array_equal(pad.faulty.logits, wrong.logits)
        assert labels(pad) == [
            ("correct", str(direct.label)),
            ("faulty", str(wrong.label)),
        ]


def test_live_answers_are_few_and_the_last_one_is_of_all_the_ink(
    pad, classifier, monkeypatch
):
    monkeypatch.setattr(pad_module, "LIVE_MS", 0)

    async def draw():
        pad.feed("down", (20, 20))
        for x in range(20, 260):
            pad.feed("move", (x, 0.8 * x))
            if x % 40 == 0:  # the pen rests
                while pad._waiting:
                    await asyncio.sleep(0)
                newest = rasterize(pad.sketch.strokes)
                np.testing.assert_array_equal(classifier.asked[-1], newest)
        assert len(classifier.asked) == 6, "once a rest, not once a move"
        pad.feed("up", (271, 201))
        assert len(classifier.asked) == 7, "the end of a stroke asks at once"
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(classifier.asked) == 7, "and what was planned is dropped"
        np.testing.assert_array_equal(
            classifier.asked[-1], rasterize(pad.sketch.strokes)
        )

    asyncio.run(draw())


# --- what goes wrong ------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"not a network", "a folder"])
def test_without_a_network_it_draws_shows_stages_and_says_what_to_do(tmp_path, content):
    path = tmp_path / "best_model.pt"
    if content == "a folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    pad = Pad(path, fault=FAULT, journal=Journal(tmp_path / "j"))
    assert "best_model.pt" in pad._answer.value
    stroke(pad, *ONE)
    pad._switch.value = "both"
    assert "best_model.pt" in pad._answer.value and "invert" in pictures(pad)
    pad.save(1)
    assert "Kept as a 1" in status(pad)


@pytest.mark.parametrize("error", [KeyError("model"), AttributeError("x"), EOFError()])
def test_whatever_a_strangers_checkpoint_raises_the_pad_opens(monkeypatch, error):
    def load(path):
        raise error

    monkeypatch.setattr(Classifier, "load", load)
    pad = Pad("best_model.pt")
    assert type(error).__name__ in pad._answer.value
    assert "best_model.pt" in pad._answer.value
    stroke(pad, *ONE)
    assert len(pictures(pad)) == 4


def test_a_network_that_raises_is_seen_and_drawing_goes_on(pad, classifier, caplog):
    stroke(pad, *ONE)
    assert labels(pad) == [("correct", "1")]

    def fail(canvas):
        raise RuntimeError("weights <b>lost</b>")

    pad.classifier = fail
    stroke(pad, (40, 40), (240, 40))
    assert "RuntimeError: weights &lt;b&gt;lost" in status(pad)
    assert labels(pad) == [("correct", "")], "an old answer must not stay"
    assert "Traceback" in caplog.text and pictures(pad) == {}
    pad.save(7)
    assert "RuntimeError" in status(pad) and len(pad.journal) == 0
    pad.classifier = classifier
    stroke(pad, (40, 90), (240, 90))
    assert len(pad.sketch.strokes) == 3 and labels(pad) == [("correct", "1")]
    assert "RuntimeError" not in status(pad)


def test_a_drawing_that_cannot_be_drawn_is_refused_and_the_old_one_stays(pad, caplog):
    stroke(pad, *ONE)
    before = pad.sketch.strokes
    pad.draw([np.array([[np.nan, 1]])])
    assert "ValueError" in status(pad) and pad.sketch.strokes is before
    assert labels(pad) == [("correct", "1")]
    pad.save(1)
    assert "Kept as a 1" in status(pad) and len(pad.journal.drawings()) == 1


def test_a_failing_canvas_does_not_lose_the_stroke(pad, monkeypatch, caplog):
    pad.feed("down", (10, 10))
    monkeypatch.setattr(pad._surface, "line", lambda *_: 1 / 0)
    pad.feed("move", (20, 20))
    assert "ZeroDivisionError" in status(pad)
    pad.feed("up", (30, 30))
    assert pad.sketch.strokes == [[(10, 10), (20, 20), (30, 30)]]
    assert f'data-strokes="{1}"' in pad._answer.value


def test_threads_that_draw_and_switch_at_once_end_in_one_true_picture(pad):
    def draw(y):
        for x in range(10, 200, 10):
            pad.feed("down", (x, y))
            pad.feed("up", (x, y))

    def switch():
        for path in ("both", "faulty", "correct") * 5:
            pad._switch.value = path

    jobs = [threading.Thread(target=draw, args=(y,)) for y in (50, 150)]
    jobs.append(threading.Thread(target=switch))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sum(map(len, pad.sketch.strokes)) >= 38
    seen = pad._answer.value, pad._stages.value
    pad._updates -= 1
    pad._update()
    assert seen == (pad._answer.value, pad._stages.value)


def test_two_pads_do_not_share_a_drawing(pad, classifier):
    other = Pad(classifier)
    stroke(pad, (50, 50))
    assert other.sketch.strokes == [] and labels(other) == [("correct", "")]
    other.draw(pad.sketch.strokes)  # but one can be copied
    stroke(pad, (90, 90))
    assert other.sketch.strokes == pad.sketch.strokes[:1]


# --- remembering ----------------------------------------------------------------------


def test_a_label_keeps_strokes_answer_and_checkpoint(pad):
    stroke(pad, *ONE)
    pad.save(1)
    assert "Kept as a 1" in status(pad) and "had 1 right" in status(pad)
    back = pad.journal.drawings()
    np.testing.assert_array_equal(back.strokes[0][0], pad.sketch.strokes[0])
    with sqlite3.connect(pad.journal.path) as connection:
        row = connection.execute("SELECT predicted, checkpoint_sha256 FROM drawings")
        assert row.fetchone() == (1, Brightness.sha256)
    connection.close()


def test_a_second_label_corrects_the_first_and_a_new_drawing_is_new(pad):
    stroke(pad, *ONE)
    pad.save(7)
    assert "It said 1: you found one." in status(pad)
    pad.save(1)
    assert "found" not in status(pad)
    pad.undo()
    pad.redo()  # the same strokes, but another moment
    pad.redo()  # nothing happens
    pad.save(1)
    pad.save(2)
    assert pad.journal.drawings().labels.tolist() == [1, 2]
    stroke(pad, (40, 40))
    pad.save(4)
    pad.replay()
    pad.save(5)
    pad._brush.value = 30
    pad.save(6)
    assert pad.journal.drawings().labels.tolist() == [1, 2, 5, 6]
    pad.journal.path.unlink()  # a row that is gone is said once
    pad.save(7)
    pad.save(7)
    assert pad.journal.drawings().labels.tolist() == [7]


def test_nothing_is_kept_of_an_empty_canvas_or_without_a_journal(pad, classifier):
    pad.save(3)
    assert "no drawing" in status(pad) and len(pad.journal) == 0
    other = Pad(classifier)
    stroke(other, *ONE)
    other.save(3)
    assert "no journal" in status(other)


@pytest.mark.parametrize("trouble", ["locked", "corrupt", "version"])
def test_a_journal_in_trouble_is_said_and_drawing_goes_on(
    pad, monkeypatch, caplog, trouble
):
    monkeypatch.setattr("mnistlab.journal.PATIENCE_S", 0.01)
    stroke(pad, *ONE)
    pad.save(1)
    other = sqlite3.connect(pad.journal.path)
    if trouble == "locked":
        other.execute("BEGIN IMMEDIATE")
    elif trouble == "version":
        other.execute("PRAGMA user_version = 9")
    else:
        other.close()
        pad.journal.path.write_bytes(b"no journal" * 1000)
    pad.save(2)
    assert "JournalError" in status(pad) and "What to do" in status(pad)
    other.close()
    stroke(pad, (40, 40))
    assert labels(pad) == [("correct", "1")]


def test_a_pad_built_anew_goes_on_from_the_draft(classifier, tmp_path):
    draft = tmp_path / "new" / "draft.json"
    first = Pad(classifier, draft=draft)
    stroke(first, *ONE)
    first._brush.value = 26
    stroke(first, (100, 60), (220, 220))
    first.feed("down", (9, 9))  # under the pen: not yet kept
    again = Pad(classifier, draft=draft)
    assert again.sketch.strokes == first.sketch.strokes[:2]
    assert again.sketch.brush_px == again._brush.value == 26
    assert again.prediction is not None
    again.undo()
    assert len(Pad(classifier, draft=draft).sketch.strokes) == 1
    again.clear()
    assert Pad(classifier, draft=draft).sketch.strokes == []


@pytest.mark.parametrize("act", ["replay", "redo", "undo", "example", "clear", "save"])
def test_a_stroke_that_something_else_ends_is_in_the_draft(classifier, tmp_path, act):
    pad = Pad(classifier, draft=tmp_path / "draft.json")
    pad.feed("down", (60, 60))
    pad.feed("move", (60, 220))
    getattr(pad, act)(*[3] * (act in ("example", "save")))
    pad.feed("up", (60, 220))
    kept = Pad(classifier, draft=tmp_path / "draft.json").sketch.strokes
    assert kept == pad.sketch.strokes
    assert f'data-strokes="{len(kept)}"' in pad._answer.value


def test_a_draft_in_trouble_is_said_and_drawing_goes_on(classifier, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert "holds no drawing" in status(Pad(classifier, draft=tmp_path / "file"))
    pad = Pad(classifier, draft=tmp_path / "file" / "draft.json")
    stroke(pad, *ONE)
    assert "Error" in status(pad) and labels(pad) == [("correct", "1")]


# --- the surface ----------------------------------------------------------------------


@pytest.fixture
def canvas():
    """A surface's ipycanvas, to which a page's messages can be handed."""
    heard = []
    surface = CanvasSurface(
        CANVAS_PX,
        lambda *event: heard.append(event),
        lambda *key: heard.append(("key", *key)),
        lambda: heard.append("ready"),
    )

    def receive(**content):
        surface._canvas._handle_frontend_event(None, content, [])
        return heard[-1]

    return receive


def test_the_surface_reports_pen_keys_and_pages_in_the_drawings_pixels(canvas):
    assert canvas(event="mouse_down", x=2, y=4) == ("down", (1, 2))
    assert canvas(event="mouse_move", x=2, y=5) == ("move", (1, 2.5))
    assert canvas(event="mouse_up", x=2, y=6) == ("up", (1, 3))
    assert canvas(event="mouse_out", x=2, y=8) == ("up", (1, 4))
    one, two = {"x": 20, "y": 20}, {"x": 180, "y": 180}
    assert canvas(event="touch_start", touches=[one]) == ("down", (10, 10))
    together = canvas(event="touch_move", touches=[one, two])
    assert together == ("move", (10, 10), (90, 90))
    assert canvas(event="touch_end", touches=[two]) == ("up",)
    assert canvas(event="touch_cancel", touches=[]) == ("up",)
    assert canvas(event="client_ready") == "ready"
    key = {"event": "key_down", "key": "z", "shift_key": False}
    assert canvas(**key, ctrl_key=True, meta_key=False) == ("key", "z", False, True)
    assert canvas(**key, ctrl_key=False, meta_key=True) == ("key", "z", False, True)


def test_a_page_that_connects_is_sent_the_whole_drawing_after_a_detour(
    pad, monkeypatch
):
    """ipycanvas #322: only a change of canvas tells a new page which one is meant."""
    pad.example(3)
    sent = []
    manager = pad._surface._canvas._canvas_manager
    monkeypatch.setattr(
        manager, "_send_custom", lambda commands, buffers=(): sent.append(commands)
    )
    pad._surface._canvas._handle_frontend_event(None, {"event": "client_ready"}, [])
    (commands,) = sent
    switch = pad_module.Canvas.__init__.__globals__["COMMANDS"]["switchCanvas"]
    canvases = [command[1] for command in commands if command[0] == switch]
    assert canvases == [
        [f"IPY_MODEL_{pad._surface._spare.model_id}"],
        [f"IPY_MODEL_{pad._surface._canvas.model_id}"],
    ]
    assert not manager._caching


def test_a_pad_shows_as_text_where_widgets_cannot(pad):
    assert pad._repr_mimebundle_()["text/plain"] == repr(pad)
    assert "draw" in repr(pad)


# --- in agreement ---------------------------------------------------------------------


class Mirror:
    """What a page would show: the surface's commands, as strokes."""

    def __init__(self, pad):
        self.strokes = []
        pad._surface.show, pad._surface.dot, pad._surface.line = (
            lambda strokes, brush_px: self.strokes.__init__(map(list, strokes)),
            lambda point, brush_px: self.strokes.append([point]),
            lambda points: self.strokes[-1].extend(points[1:]),
        )


def test_a_thousand_random_sequences_leave_everything_in_agreement(
    tmp_path, monkeypatch, caplog
):
    rng = np.random.default_rng(0)
    caplog.set_level("CRITICAL")
    monkeypatch.setattr(pad_module, "LIVE_MS", 0)
    monkeypatch.setattr(pad_module, "FRAME_MS", 0)
    monkeypatch.setattr(pad_module, "FRAMES", 3)
    monkeypatch.setattr("os.fsync", lambda file: None)
    dot = np.zeros((8, 8), np.uint8)
    monkeypatch.setattr(pad_module, "as_grey", lambda image: dot)
    draft, network = tmp_path / "draft.json", Brightness()

    def broken(canvas):
        raise RuntimeError("for now")

    def spot():
        return tuple(
            rng.choice([rng.uniform(-50, 330), 9, np.nan], 2, p=[0.8, 0.1, 0.1])
        )

    def some_event(pad):
        """One of the things that happen to a pad."""
        moves = [spot() for _ in range(rng.integers(1, 4))]
        yield from [lambda: pad.feed("down", spot()), lambda: pad.feed("up")] * 2
        yield from [lambda: pad.feed("move", *moves)] * 4
        yield from [pad.undo, pad.redo, pad.clear, pad.replay, pad._page_connected]
        yield lambda: pad.example(int(rng.integers(10)))
        yield lambda: pad.draw([[[np.nan, 1]]])
        yield lambda: pad.key("z", False, True)
        yield lambda: setattr(pad._switch, "value", rng.choice(["correct", "both"]))
        yield lambda: setattr(pad._brush, "value", int(rng.integers(6, 41)))
        yield lambda: setattr(pad, "classifier", rng.choice([network, broken]))
        yield from [lambda: pad.save(int(rng.integers(10)))] * 2

    async def draw(pad, mirror):
        kept = len(pad.journal)
        for _ in range(rng.integers(3, 14)):
            events = list(some_event(pad))
            act = events[rng.integers(len(events))]
            before = pad._row
            act()
            if "Kept as a" in status(pad) and pad._row is not None:
                drawings = pad.journal.drawings()
                kept += pad._row != before and before is None
                assert checked(drawings.strokes[-1]) == pad.sketch.strokes
            for _ in range(rng.integers(3)):
                await asyncio.sleep(0)
        pad.classifier = network
        pad.feed("up")
        while pad._waiting or pad._film is not None:
            await asyncio.sleep(0)
        if pad.prediction is None:  # what was broken has been mended
            pad._update()
        strokes, canvas = pad.sketch.strokes, pad.canvas
        np.testing.assert_array_equal(canvas, rasterize(strokes, pad.sketch.brush_px))
        np.testing.assert_array_equal(
            canvas, rasterize(mirror.strokes, pad.sketch.brush_px)
        )
        assert (pad.prediction is None) == (not strokes)
        if strokes:
            np.testing.assert_array_equal(network.asked[-1], canvas)
        assert f'data-strokes="{len(strokes)}"' in pad._answer.value
        assert "data-pen" not in pad._answer.value
        again = Sketch(draft)
        assert (again.strokes, again.trouble) == (strokes, "")
        assert again.brush_px == pad.sketch.brush_px
        assert len(pad.journal) == kept and pad.journal.report().skipped == ()

    async def many():
        for number in range(1000):
            if number % 50 == 0:
                journal = Journal(tmp_path / f"{number}.sqlite")
                pad = Pad(network, fault=FAULT, journal=journal, draft=draft)
                mirror = Mirror(pad)
                pad._page_connected()
            await draw(pad, mirror)

    asyncio.run(many())
