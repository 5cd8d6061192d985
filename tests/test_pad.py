"""The pad's logic, without a browser: events go in by hand, HTML comes out."""

import asyncio
import re
import sqlite3
import threading

import numpy as np
import pytest
import torch

from mnistlab import pad as pad_module
from mnistlab.checks import Alarm
from mnistlab.classifier import Classifier, Prediction
from mnistlab.journal import Journal
from mnistlab.models import build
from mnistlab.pad import CanvasSurface, Pad
from mnistlab.preprocess import MNIST_PIPELINE, run, trace
from mnistlab.strokes import CANVAS_PX, rasterize


def invert(image):
    return 255 - image


BUG = (invert, *MNIST_PIPELINE)


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
    return Pad(classifier, bug=BUG, journal=Journal(tmp_path / "journal.sqlite"))


def stroke(pad, *points):
    """Put the pen down at the first point, draw through the others, lift it."""
    pad.feed("down", *points[0])
    for point in points[1:]:
        pad.feed("move", *point)
    pad.feed("up", *points[-1])


def labels(pad):
    return re.findall(r'data-path="(\w+)" data-label="(.?)"', pad._answer.value)


def status(pad):
    return re.sub("<[^>]+>", "", pad._status.value)


def pictures(pad):
    return re.findall(r'<img alt="([^"]+)"', pad._stages.value)


# --- drawing --------------------------------------------------------------------------


def test_a_blank_pad_asks_for_a_digit_and_no_network(pad, classifier):
    assert "Draw a digit" in pad._answer.value
    assert labels(pad) == [("correct", "")]
    assert classifier.asked == [] and pictures(pad) == []


def test_strokes_are_what_the_pen_did_and_pixels_are_pillows(pad, classifier):
    stroke(pad, (140, 40), (141.5, 100), (140, 240))
    stroke(pad, (60, 60))
    assert pad.strokes == [[(140, 40), (141.5, 100), (140, 240)], [(60, 60)]]
    np.testing.assert_array_equal(pad.canvas, rasterize(pad.strokes))
    np.testing.assert_array_equal(classifier.asked[-1], pad.canvas)
    assert labels(pad) == [("correct", "1")]


def test_moving_without_a_pen_down_draws_nothing(pad):
    for kind in ("move", "up", "out"):
        pad.feed(kind, 100, 100)
    assert pad.strokes == []


def test_a_stroke_that_leaves_the_canvas_ends_at_its_edge(pad):
    pad.feed("down", 200, 100)
    pad.feed("out", 900, -5)
    pad.feed("move", 150, 150)  # back again, the button still held
    assert pad.strokes == [[(200, 100), (CANVAS_PX, 0)]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_place_that_is_no_number_is_never_drawn(pad, bad):
    pad.feed("down", bad, 10)
    assert pad.strokes == []
    pad.feed("down", 10, 10)
    pad.feed("move", 10, bad)
    assert pad.strokes == [[(10, 10)]]
    pad.feed("up", bad, bad)
    assert pad._stroke is None and pad.prediction is not None


def test_a_mouse_up_that_was_lost_does_not_join_two_strokes(pad):
    pad.feed("down", 10, 10)
    pad.feed("down", 200, 200)
    assert pad.strokes == [[(10, 10)], [(200, 200)]]


def test_undo_and_redo_walk_through_every_drawing(pad):
    stroke(pad, (50, 50), (60, 200))
    stroke(pad, (150, 50), (160, 200))
    pad.clear()
    pad.example(3)
    seen = [pad.strokes]
    for _ in range(4):
        pad.undo()
        seen.append(pad.strokes)
    assert [len(drawing) for drawing in seen[1:]] == [0, 2, 1, 0]
    pad.undo()  # nothing before the beginning
    for expected in reversed(seen[:-1]):
        pad.redo()
        assert pad.strokes == expected
    np.testing.assert_array_equal(pad.canvas, rasterize(pad.strokes))
    pad.redo()
    assert pad.strokes == seen[0]


def test_a_new_stroke_forgets_what_could_be_redone(pad):
    stroke(pad, (50, 50))
    pad.undo()
    stroke(pad, (90, 90))
    pad.redo()
    assert pad.strokes == [[(90, 90)]]


def test_the_brush_redraws_what_is_there(pad):
    stroke(pad, (140, 40), (140, 240))
    thin = pad.canvas.sum()
    pad._brush.value = 36
    np.testing.assert_array_equal(pad.canvas, rasterize(pad.strokes, 36))
    assert pad.canvas.sum() > 1.8 * thin


def test_examples_differ_from_press_to_press(pad):
    pad.example(4)
    first = pad.strokes
    pad.example(4)
    assert first and pad.strokes != first


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
    assert len(pad.strokes) == left


@pytest.mark.parametrize(
    "key, shift, act", [("Tab", False, "focus"), ("Tab", True, "blur")]
)
def test_tab_leaves_the_canvas(pad, monkeypatch, key, shift, act):
    sent = []
    for widget in (pad._tools[0], pad._surface._canvas):
        monkeypatch.setattr(widget, "send", lambda message, **_: sent.append(message))
    pad.key(key, shift, False)
    assert sent == [{"do": act}]


def test_a_replay_ends_on_the_drawing_itself(pad):
    pad.example(5)
    before = pad._answer.value
    pad.replay()  # without an event loop it has only its last picture
    assert re.sub('data-update="[0-9]+"', "", pad._answer.value) == re.sub(
        'data-update="[0-9]+"', "", before
    )
    assert pad._film is None


def test_a_replay_shows_ever_more_ink_and_stops_for_the_pen(pad, monkeypatch):
    frames = []
    monkeypatch.setattr(pad_module, "FRAME_MS", 0)

    async def watch():
        pad.example(5)
        show = pad._surface.show
        pad._surface.show = lambda strokes, brush: (
            frames.append(sum(map(len, strokes))),
            show(strokes, brush),
        )
        pad.replay()
        while pad._film is not None:
            await asyncio.sleep(0)
        total = sum(map(len, pad.strokes))
        assert frames == sorted(frames) and frames[0] == 0 and frames[-1] == total
        pad.replay()
        pad.feed("down", 10, 10)
        assert pad._film is None and frames[-1] == total

    asyncio.run(watch())


# --- seeing ---------------------------------------------------------------------------


def test_the_answer_has_ten_bars_a_marker_and_the_top_three(pad):
    stroke(pad, (140, 40), (140, 240))
    html = pad._answer.value
    assert html.count('<td class="bar">') == 10 and html.count("◂") == 1
    assert "then 9:" in html and "8:" in html
    assert "ms from pixels to answer" in html
    assert "+20.00" not in html
    pad._logits.value = True
    assert "+20.00" in pad._answer.value


def test_the_stages_are_shown_with_range_and_mean(pad):
    stroke(pad, (140, 40), (140, 240))
    names = ["original", *(step.__name__.replace("_", " ") for step in MNIST_PIPELINE)]
    assert pictures(pad) == names
    mean = run(pad.canvas).mean()
    assert f"-0.42 … 2.82<br>mean {mean:.2f}" in pad._stages.value


def test_the_switch_shows_the_same_strokes_through_the_bug(pad):
    stroke(pad, (140, 40), (140, 240))
    pad._switch.value = "inverted"
    assert labels(pad) == [("inverted", "?")]
    assert "polarity" in pad._answer.value and "no answer" in pad._answer.value
    pad._switch.value = "both"
    assert labels(pad) == [("correct", "1"), ("inverted", "?")]
    assert pictures(pad).count("original") == 2 and "invert" in pictures(pad)
    pad._switch.value = "correct"
    assert labels(pad) == [("correct", "1")] and pad.faulty is None


def test_a_reason_is_said_once(pad):
    pad._switch.value = "inverted"
    stroke(pad, (140, 40), (140, 240))
    assert pad._answer.value.count('class="alarm"') == 1


def test_a_pad_without_a_bug_has_no_switch(classifier):
    assert pad_module.ToggleButtons not in map(type, widgets_of(Pad(classifier).widget))
    assert pad_module.ToggleButtons in map(
        type, widgets_of(Pad(classifier, bug=BUG).widget)
    )


def widgets_of(box):
    for child in getattr(box, "children", ()):
        yield child
        yield from widgets_of(child)


def test_a_real_network_answers_as_if_called_directly():
    torch.manual_seed(0)
    classifier = Classifier(build("FastCNN").eval())
    pad = Pad(classifier, bug=BUG)
    pad._switch.value = "both"
    for digit in range(10):
        pad.example(digit)
        direct = classifier(rasterize(pad.strokes))
        np.testing.assert_array_equal(pad.prediction.logits, direct.logits)
        wrong = classifier.with_pipeline(BUG)(rasterize(pad.strokes))
        assert labels(pad) == [
            ("correct", str(direct.label)),
            ("inverted", str(wrong.label)),
        ]


def test_live_answers_are_few_and_the_last_one_is_of_all_the_ink(
    pad, classifier, monkeypatch
):
    monkeypatch.setattr(pad_module, "LIVE_MS", 0)

    async def draw():
        pad.feed("down", 20, 20)
        for x in range(20, 260):
            pad.feed("move", x, 0.8 * x)
            if x % 40 == 0:  # the pen rests
                while pad._waiting:
                    await asyncio.sleep(0)
                newest = rasterize(pad.strokes)
                np.testing.assert_array_equal(classifier.asked[-1], newest)
        assert len(classifier.asked) == 6, "once a rest, not once a move"
        pad.feed("up", 271, 201)
        assert len(classifier.asked) == 7, "the end of a stroke asks at once"
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(classifier.asked) == 7, "and what was planned is dropped"
        np.testing.assert_array_equal(classifier.asked[-1], rasterize(pad.strokes))

    asyncio.run(draw())


def test_moves_plan_one_answer_and_not_a_queue(pad, monkeypatch):
    planned = []
    monkeypatch.setattr(
        pad_module, "_later", lambda *what: planned.append(what) or True
    )
    pad.feed("down", 20, 20)
    for x in range(20, 200):
        pad.feed("move", x, x)
    assert len(planned) == 1
    pad._update_live()
    pad.feed("move", 200, 100)
    assert len(planned) == 2


# --- what goes wrong ------------------------------------------------------------------


def test_without_a_checkpoint_it_draws_shows_stages_and_says_what_to_do(tmp_path):
    pad = Pad(tmp_path / "best_model.pt", bug=BUG, journal=Journal(tmp_path / "j"))
    assert "best_model.pt" in pad._answer.value
    stroke(pad, (140, 40), (140, 240))
    pad._switch.value = "both"
    assert "best_model.pt" in pad._answer.value and "invert" in pictures(pad)
    pad.save(1)
    assert "Kept as a 1" in status(pad)


def test_a_file_that_is_no_checkpoint_is_said_on_the_pad(tmp_path):
    (tmp_path / "best_model.pt").write_bytes(b"not a network")
    pad = Pad(tmp_path / "best_model.pt")
    stroke(pad, (140, 40), (140, 240))
    assert "best_model.pt" in pad._answer.value and len(pictures(pad)) == 5


def test_a_network_that_raises_is_seen_and_drawing_goes_on(pad, classifier, caplog):
    stroke(pad, (140, 40), (140, 240))
    assert labels(pad) == [("correct", "1")]

    def fail(canvas):
        raise RuntimeError("weights <b>lost</b>")

    pad.classifier = fail
    stroke(pad, (40, 40), (240, 40))
    assert "RuntimeError: weights &lt;b&gt;lost" in status(pad)
    assert labels(pad) == [("correct", "")], "an old answer must not stay"
    assert "Traceback" in caplog.text
    pad.classifier = classifier
    stroke(pad, (40, 90), (240, 90))
    assert len(pad.strokes) == 3 and labels(pad) == [("correct", "1")]
    assert "RuntimeError" not in status(pad)


def test_a_failing_canvas_does_not_lose_the_stroke(pad, monkeypatch, caplog):
    pad.feed("down", 10, 10)
    monkeypatch.setattr(pad._surface, "line", lambda *_: 1 / 0)
    pad.feed("move", 20, 20)
    assert "ZeroDivisionError" in status(pad)
    pad.feed("up", 30, 30)
    assert pad.strokes == [[(10, 10), (20, 20), (30, 30)]]


def test_threads_that_draw_and_switch_at_once_end_in_one_true_picture(pad):
    def draw(y):
        for x in range(10, 200, 10):
            pad.feed("down", x, y)
            pad.feed("up", x, y)

    def switch():
        for path in ("both", "inverted", "correct") * 5:
            pad._switch.value = path

    jobs = [threading.Thread(target=draw, args=(y,)) for y in (50, 150)]
    jobs.append(threading.Thread(target=switch))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sum(map(len, pad.strokes)) >= 38
    seen = pad._answer.value, pad._stages.value
    pad._updates -= 1
    pad._update()
    assert seen == (pad._answer.value, pad._stages.value)


def test_two_pads_do_not_share_a_drawing(pad, classifier):
    other = Pad(classifier)
    stroke(pad, (50, 50))
    assert other.strokes == [] and labels(other) == [("correct", "")]
    other.draw(pad.strokes)  # but one can be copied
    stroke(pad, (90, 90))
    assert other.strokes == pad.strokes[:1]


# --- remembering ----------------------------------------------------------------------


def test_a_label_keeps_strokes_answer_and_checkpoint(pad):
    stroke(pad, (140, 40), (140, 240))
    pad.save(1)
    assert "Kept as a 1" in status(pad) and "had 1 right" in status(pad)
    back = pad.journal.drawings()
    np.testing.assert_array_equal(back.strokes[0][0], pad.strokes[0])
    with sqlite3.connect(pad.journal.path) as connection:
        row = connection.execute("SELECT predicted, checkpoint_sha256 FROM drawings")
        assert row.fetchone() == (1, Brightness.sha256)
    connection.close()


def test_a_second_label_corrects_the_first_and_a_new_drawing_is_new(pad):
    stroke(pad, (140, 40), (140, 240))
    pad.save(7)
    pad.save(1)
    assert pad.journal.report().labelled == 1 and pad.journal.report().accuracy == 1
    stroke(pad, (40, 40))
    pad.save(4)
    assert pad.journal.drawings().labels.tolist() == [1, 4]
    pad.undo()
    pad.save(1)
    assert pad.journal.drawings().labels.tolist() == [1, 4, 1]


def test_nothing_is_kept_of_an_empty_canvas(pad):
    pad.save(3)
    assert "no drawing" in status(pad) and len(pad.journal) == 0


@pytest.mark.parametrize("trouble", ["locked", "corrupt", "version"])
def test_a_journal_in_trouble_is_said_and_drawing_goes_on(
    pad, monkeypatch, caplog, trouble
):
    monkeypatch.setattr("mnistlab.journal.PATIENCE_S", 0.01)
    stroke(pad, (140, 40), (140, 240))
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


@pytest.fixture
def draft(tmp_path):
    return tmp_path / "new" / "draft.json"


def test_a_pad_built_anew_goes_on_from_the_draft(classifier, draft):
    first = Pad(classifier, draft=draft)
    assert not draft.exists()  # nothing was drawn
    stroke(first, (60, 60), (60, 220))
    first._brush.value = 26
    stroke(first, (100, 60.5), (220, 220))
    first.feed("down", 9, 9)  # under the pen: not yet kept
    again = Pad(classifier, draft=draft)
    assert again.strokes == first.strokes[:2]
    assert again.brush_px == again._brush.value == 26
    assert again.prediction is not None
    again.undo()
    assert again.strokes == first.strokes[:1]
    assert Pad(classifier, draft=draft).strokes == first.strokes[:1]
    again.clear()
    assert Pad(classifier, draft=draft).strokes == []


def test_a_replay_does_not_touch_the_draft(classifier, draft, monkeypatch):
    pad = Pad(classifier, draft=draft)
    stroke(pad, (60, 60), (60, 220))
    before = draft.stat().st_mtime_ns, draft.stat().st_ino
    monkeypatch.setattr(pad_module, "_later", lambda *_: False)
    pad.replay()
    assert (draft.stat().st_mtime_ns, draft.stat().st_ino) == before


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"brush_px": 18}', '{"brush_px": 18, "strokes": [[[1, "a"]]]}']
    + [f'{{"brush_px": 18, "strokes": {bad}}}' for bad in ("[[[NaN, 1]]]", "[[]]", 3)]
    + ['{"brush_px": "x", "strokes": []}', "\x00\x01", '{"brush_px": Infinity}'],
)
def test_a_draft_that_is_none_is_said_and_stays_until_the_next_stroke(
    classifier, draft, text
):
    draft.parent.mkdir()
    draft.write_text(text)
    pad = Pad(classifier, draft=draft)
    assert pad.strokes == [] and "draft.json holds no drawing" in status(pad)
    assert draft.read_text() == text
    stroke(pad, (60, 60), (60, 220))
    assert Pad(classifier, draft=draft).strokes == pad.strokes


def test_a_draft_of_another_size_is_brought_onto_the_canvas(classifier, draft):
    draft.parent.mkdir()
    draft.write_text('{"brush_px": 900, "strokes": [[[-5, 10], [999, 10]]]}')
    pad = Pad(classifier, draft=draft)
    assert pad.strokes == [[(0, 10), (CANVAS_PX, 10)]] and pad.brush_px == 40


def test_a_draft_that_cannot_be_written_is_said_and_drawing_goes_on(
    classifier, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    pad = Pad(classifier, draft=tmp_path / "file" / "draft.json")
    stroke(pad, (60, 60), (60, 220))
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


def test_the_surface_reports_mouse_keys_and_pages(canvas):
    assert canvas(event="mouse_down", x=1, y=2) == ("down", 1, 2)
    assert canvas(event="mouse_move", x=1, y=3) == ("move", 1, 3)
    assert canvas(event="mouse_up", x=1, y=3) == ("up", 1, 3)
    assert canvas(event="mouse_out", x=1, y=3) == ("out", 1, 3)
    assert canvas(event="client_ready") == "ready"
    key = {"event": "key_down", "key": "z", "shift_key": False}
    assert canvas(**key, ctrl_key=True, meta_key=False) == ("key", "z", False, True)
    assert canvas(**key, ctrl_key=False, meta_key=True) == ("key", "z", False, True)


def test_a_second_finger_ends_the_stroke(canvas):
    one, two = {"x": 10, "y": 10}, {"x": 90, "y": 90}
    assert canvas(event="touch_start", touches=[one]) == ("down", 10, 10)
    assert canvas(event="touch_move", touches=[one]) == ("move", 10, 10)
    assert canvas(event="touch_start", touches=[one, two])[0] == "out"
    assert canvas(event="touch_move", touches=[one, two])[0] == "out"
    assert canvas(event="touch_end", touches=[two])[0] == "out"
    assert canvas(event="touch_cancel", touches=[])[0] == "out"


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


def test_closing_the_pad_stops_its_heart(classifier, monkeypatch):
    planned = []
    monkeypatch.setattr(pad_module, "_later", lambda *what: planned.append(what))
    pad = Pad(classifier, beat_s=2)
    assert [what[0] for what in planned] == [2000]
    assert "6 seconds" in pad._heart.value
    pad._heart.close()
    pad._beat(2, 1)
    assert len(planned) == 1
