"""The pad in a real browser: headless Chromium, on the web page and in JupyterLab.

Nothing here sleeps and no picture decides: a test waits for text, or counts pixels.
"""

import os
import re
import signal
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from mnistlab.classifier import Classifier
from mnistlab.journal import Journal
from mnistlab.strokes import place, rasterize
from mnistlab.synthetic import NO_DIGIT, handwrite

pytest.importorskip("playwright", exc_type=ImportError)
import pad_page  # noqa: E402
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from pad_page import NOTEBOOK, SECONDS, PadPage, write_notebook, write_setting  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not pad_page.CHROMIUM and os.environ.get("MNISTLAB_REQUIRE_BROWSER") != "1",
        reason="no browser: install chromium or set CHROMIUM to its path",
    ),
]


@pytest.fixture(scope="module")
def browser():
    with pad_page.chromium() as found:
        yield found


on_app, on_lab = (
    pytest.mark.parametrize("server", [host], indirect=True) for host in ("app", "lab")
)


@pytest.fixture(scope="module", params=["app", "lab"])
def server(request, tmp_path_factory):
    """A host of the pad, for all tests: kind, folder, address."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    write_notebook(folder, NOTEBOOK, SECOND_VIEW)
    with pad_page.serve(kind, folder) as address:
        yield SimpleNamespace(kind=kind, folder=folder, address=address)


SECOND_VIEW = """\
import os
import threading
def note(_):
    with open("threads", "a") as file:
        print(threading.current_thread().name, file=file)
pad._answer.observe(note, "value")
pad.widget.add_class(f"pid-{os.getpid()}")
pad"""


@pytest.fixture(scope="module")
def open_page(server, browser):
    """One page for all tests of a host: opening it takes longer than they do."""
    with PadPage(browser, server.kind, server.address, MOVES, has_touch=True) as page:
        eight = page.page.locator(".mnistlab-more button", has_text="8").first
        eight.evaluate("one => one.click()")  # from afar: a mouse would scroll there
        page.wait_for_ink(3000)
        done = "const seen = moves; sessionStorage.moved = moves = ''; return seen;"
        page.heights = page.page.evaluate(f"() => {{ {done} }}")
        yield page


@pytest.fixture(scope="module")
def open_phone(server, browser):
    with PadPage(browser, server.kind, server.address, **PHONE) as phone:
        yield phone


MOVES = """
    window.moves = sessionStorage.moved ?? [];  // not once more after a reload
    const look = () => {
        if (!moves) return;
        const pad = document.querySelector(".mnistlab-pad");  // at first it is empty
        const now = pad?.getBoundingClientRect().height;
        if (now && now !== moves.at(-1)) moves.push(now);
        requestAnimationFrame(look);
    };
    look();
"""
PHONE = {
    "viewport": {"width": 390, "height": 844},
    **{"is_mobile": True, "has_touch": True, "device_scale_factor": 2},
}


def cleared(page):
    page.reset()
    yield page
    assert page.errors == [], "an exception in the page's own scripts"
    elsewhere = re.compile(r"\w+://(?!127\.0\.0\.1:)").match
    assert [*filter(elsewhere, page.answered)] == [], "loaded from elsewhere"


@pytest.fixture
def page(open_page):
    yield from cleared(open_page)


@pytest.fixture
def phone(open_phone):
    yield from cleared(open_phone)


# --- the pen --------------------------------------------------------------------------


def test_mouse_finger_and_pen_leave_ink_where_they_were_and_an_answer(page):
    page.draw((140, 40), (140, 240))
    page.pen((40, 200), (40, 240), (60, 240))
    page.touch("touchStart", (60, 60))
    page.touch("touchMove", (100, 100))
    page.touch("touchStart", (100, 100), (200, 200))  # a second finger ends the stroke
    page.touch("touchMove", (240, 100), (200, 240))
    page.touch("touchEnd")
    page.wait_for_strokes(3)
    assert page.label() in set("0123456789?")
    page.wait_for_ink(4000)
    drawn = (140, 40), (140, 140), (140, 240), (80, 80), (40, 220), (50, 240)
    page.wait_for_pixels(*drawn)
    assert not any(page.pixels((125, 140), (155, 140), (170, 100), (200, 220)))


def test_other_buttons_and_two_fingers_at_once_leave_nothing(page):
    for button in "right", "middle":
        page.page.mouse.click(*page.to_page(60, 60), button=button)
    page.page.keyboard.press("Escape")  # away with a menu
    page.page.mouse.move(*page.to_page(200, 60), steps=10)
    page.touch("touchStart", (60, 200), (200, 200))
    page.touch("touchMove", (61, 200), (201, 200))
    page.touch("touchEnd")
    page.draw((140, 140), (140, 200))
    page.wait_for_strokes(1)
    page.wait_for_ink(500)
    assert not any(page.pixels((60, 60), (200, 60), (60, 200), (200, 200)))
    page.wait_for_a_clear_sheet()


def test_the_pen_is_held_fast_outside_the_canvas_and_may_come_in(page):
    mouse = page.page.mouse
    mouse.move(*page.to_page(140, 140))
    mouse.down()
    mouse.move(*page.to_page(140, -60), steps=10)
    mouse.move(*page.to_page(60, 140), steps=10)  # back again, the button still held
    mouse.up()
    page.wait_for_strokes(1)
    mouse.move(*page.to_page(-8, 200))
    mouse.down()
    mouse.move(*page.to_page(100, 200), steps=10)
    mouse.move(*page.to_page(100, -8), steps=10)
    mouse.up()  # outside, where nobody would hear it
    mouse.move(*page.to_page(240, 240), steps=5)
    page.draw((240, 40))
    page.wait_for_strokes(3)
    page.wait_for_ink(3000)
    page.wait_for_pixels((140, 60), (66, 130), (50, 200), (240, 40))  # that is a dot
    assert page.pixels((200, 200)) == [False]


def test_a_canvas_that_is_cut_off_stays_where_it_is_under_the_pen(page):
    whole = page.page.viewport_size
    page.page.evaluate("() => document.activeElement.blur()")
    height = round(page.canvas.bounding_box()["y"]) + 150
    page.page.set_viewport_size({**whole, "height": height})
    top, mouse = page.canvas.bounding_box()["y"], page.page.mouse
    try:
        mouse.move(*page.to_page(60, 40))
        mouse.down()
        mouse.move(*page.to_page(220, 40), steps=4)
        mouse.up()
        page.wait_for_strokes(1)
        assert page.canvas.bounding_box()["y"] == top
        page.wait_for_ink(2000)
        page.wait_for_pixels((140, 40))
    finally:
        page.page.set_viewport_size(whole)


def test_a_stroke_is_answered_live_and_no_switch_ends_it(page):
    page.touch("touchStart", (40, 60))
    page.touch("touchMove", (100, 60))
    page.page.wait_for_selector(".answers[data-pen]")
    page.wait_for_ink(1000)
    replay = page.page.get_by_role("button", name="Replay")
    numbers = page.page.get_by_label("Numbers").first
    for control in page.page.get_by_label("both"), numbers, replay:
        control.first.evaluate("one => one.click()")  # the other hand, the keyboard
    page.page.wait_for_selector('.answer[data-path="faulty"]')
    page.touch("touchMove", (220, 60))
    page.touch("touchEnd")
    page.wait_for_strokes(1)
    page.wait_for_ink(2000)
    page.wait_for_pixels((200, 60))
    numbers.uncheck()


def test_a_live_answer_that_comes_late_is_not_taken_for_the_last(page):
    page.page.locator(".mnistlab-canvas").first.evaluate(
        """box => box.addEventListener("touchend", end => end.stopPropagation(),
            {capture: true, once: true})"""
    )  # the end of the stroke gets lost
    page.strike([[(60, 60), (140, 140), (220, 220)]])
    page.page.wait_for_selector(".answers[data-pen]")
    page.page.wait_for_selector(".mnistlab-late")
    assert page.ink(layer=".mnistlab-sheet") > 2000


def test_a_thousand_moves_at_once_are_worked_off_together(page):
    angle = np.linspace(0, 40, 5000)
    spiral = 140 + 3 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    page.replay([spiral])
    seconds = page.page.evaluate("() => performance.now()") / 1000
    page.answered.clear()
    page.replay([spiral])
    seconds = page.page.evaluate("() => performance.now()") / 1000 - seconds
    assert seconds < 3, "a queue of single moves took 20"
    page.wait_for_pixels(spiral[-1].round().tolist())
    # The page asks now and then how its kernel is, and while one draws nothing else.
    assert [url for url in page.answered if re.match("http(?!.*/api/)", url)] == []


def test_undo_redo_clear_and_replay_by_button_and_by_key_and_no_key_is_trapped(page):
    page.draw((60, 60), (200, 60))
    page.draw((60, 200), (200, 200))
    page.wait_for_strokes(2)
    page.press("Undo")
    page.wait_for_strokes(1)
    page.press("Redo")
    page.wait_for_strokes(2)
    page.page.evaluate(WATCH, page.canvas.element_handle())
    page.press("Replay")  # from nothing to all
    page.wait_for("() => Math.min(...seen) < 1000")
    page.wait_for_ink(3800)
    page.wait_for_strokes(2)
    keys = ("Control+z", 1), ("Control+Shift+z", 2), ("Delete", 0), ("Control+z", 2)
    for key, count in (*keys, ("Control+z", 1), ("z", 1), ("Control+y", 2)):
        page.sheet.press(key)
        page.wait_for_strokes(count)
        page.wait_for_ink(1900 * count - 1)
        page.wait_for_ink(3500 * count + 1, "<")
    page.page.keyboard.press("Tab")
    page.wait_for("() => document.activeElement.textContent.trim() === 'Undo'")
    page.page.keyboard.press("Shift+Tab")
    page.wait_for("() => document.activeElement.className === 'mnistlab-sheet'")


# How much ink there was at each answer: what comes and goes is not missed.
WATCH = f"""canvas => {{
    window.seen = [];
    new MutationObserver(() => seen.push(({PadPage.INK})(canvas))).observe(
        document.querySelector(".mnistlab-seen"), {{childList: true, subtree: true}});
}}"""


def test_a_wider_brush_redraws_what_is_there_in_every_view(page):
    page.draw((60, 140), (220, 140))
    page.wait_for_strokes(1)
    page.wait_for_ink(2500)
    thin = page.ink()
    slider = page.page.get_by_role("slider", name="Brush").first
    slider.press("End")
    page.wait_for_ink(1.8 * thin)
    page.wait_for_ink(1.8 * thin, view=1)
    slider.press("Home")
    page.wait_for_ink(0.6 * thin, "<")
    for _ in range(12):
        slider.press("ArrowRight")
    page.wait_for_ink(0.97 * thin)
    page.wait_for_ink(1.03 * thin, "<")
    both = "() => document.querySelectorAll('.answers[data-strokes=\"1\"]').length == 2"
    page.wait_for(both)


@pytest.fixture
def quiet_page(server, browser):
    """Another page of JupyterLab, whose widgets are called on the kernel's own thread.

    It runs all cells anew, so its pad is another one.
    """
    setting = "kernels-settings", "commsOverSubshells"
    write_setting(server.folder, *setting, "disabled")
    with PadPage(browser, server.kind, server.address) as page:
        write_setting(server.folder, *setting, "perCommTarget")  # the default
        page.reset()
        yield page


@on_lab
@pytest.mark.parametrize("where", ["page", "quiet_page"])
def test_whatever_thread_jupyterlab_calls_on_the_pad_is_right(server, request, where):
    page = request.getfixturevalue(where)
    noted = server.folder / "threads"
    noted.unlink()
    for count in range(1, 5):
        path = "correct" if count % 2 else "faulty"
        page.page.get_by_label(path).first.check()
        page.draw((60, 60), (220, 60 * count))
        page.wait_for_strokes(count)
        page.page.wait_for_selector(f'.answer[data-path="{path}"]')
    page.press("Undo")
    page.wait_for_strokes(3)
    page.label_as(4)
    page.page.wait_for_selector(".kept")
    assert len(Journal(server.folder / "journal.sqlite").drawings().strokes[-1]) == 3
    threads = set(noted.read_text().split())
    assert (threads == {"MainThread"}) == (where == "quiet_page"), threads


# --- seeing ---------------------------------------------------------------------------


def test_a_drawing_in_the_browser_is_answered_as_if_called_directly(page):
    classifier, box = Classifier.load(), page.page.get_by_label("Numbers").first
    box.check()
    for digit in range(10):
        strokes = handwrite(digit, seed=1)
        page.replay(strokes)
        said = page.page.locator(".answer").first.locator("tr td:last-child")
        logits = np.array(said.all_text_contents(), float)
        direct = classifier(rasterize(strokes))
        np.testing.assert_allclose(logits, direct.logits, atol=0.0051)
        assert page.label() == str("?" if direct.label is None else direct.label)
    box.uncheck()


def test_a_scribble_a_star_and_a_letter_are_no_digit(page):
    turn, rng = np.arange(6) * 4 * np.pi / 5, np.random.default_rng(0)
    drawings = {
        "a star": [np.stack([np.sin(turn), -np.cos(turn)], axis=1)],
        "the letter A": [
            np.array([(0, 9), (4, 0), (8, 9)]),
            np.array([(2, 5), (6, 5)]),
        ],
        "a scribble": NO_DIGIT["scribbles"](rng, None),
    }
    for name, drawing in drawings.items():
        page.replay(place(drawing, 190))
        assert page.label() == "?", name
        assert "no digit" in page.page.locator(".alarm").first.text_content(), name
    page.press("4", ".mnistlab-more")  # written for who cannot draw
    page.page.wait_for_selector('.answer[data-label="4"]')


# --- remembering, and what goes wrong -------------------------------------------------


def test_a_label_lands_in_the_journal_and_is_confirmed_beside_its_button(page, server):
    journal = Journal(server.folder / "journal.sqlite")
    before = len(journal)
    drawn = [[(60, 40), (50.5, 150), (210, 150)], [(160, 60), (150, 240)]]
    page.replay(drawn)
    pad = page.page.locator(".mnistlab-pad").first
    height = pad.bounding_box()["height"]
    for label in 9, 4:  # what is said of a find is longest: one of the two is one
        page.label_as(label)
        page.page.wait_for_selector(f".kept:has-text('Kept as a {label}')")
        assert pad.bounding_box()["height"] == height, "the confirmation has its place"
    assert len(journal) == before + 1
    back = journal.drawings()
    assert back.labels[-1] == 4
    for kept, pen in zip(back.strokes[-1], drawn, strict=True):
        np.testing.assert_allclose(kept, pen, atol=1e-6)
    button = page.page.locator(".mnistlab-seen button").first.bounding_box()
    kept = page.page.locator(".kept").first.bounding_box()
    assert abs(kept["y"] - button["y"]) < 120


def test_a_press_that_changes_nothing_is_answered_too(page):
    page.page.evaluate(
        """() => new MutationObserver(() => { window.late = true; }).observe(
            document.querySelector(".mnistlab-word"), {childList: true})"""
    )
    for name in "Undo", "Redo", "Clear", "Replay":
        page.press(name)
    page.label_as(3)
    page.page.wait_for_selector(".mnistlab-says .hint")
    for key in "Delete", "Control+z", "Control+y", "z", "Tab":
        page.sheet.press(key)
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate("() => !window.late")


def send(page, signal):
    """Send a signal to the kernel behind a page."""
    names = page.page.locator(".mnistlab-pad").first.get_attribute("class")
    os.kill(int(re.search(r"pid-(\d+)", names)[1]), signal)


@contextmanager
def frozen(page):
    """A kernel that hears nothing: busy with something else, for all the page knows."""
    send(page, signal.SIGSTOP)
    try:
        yield
    finally:
        send(page, signal.SIGCONT)


def test_a_busy_kernel_is_said_at_once_and_gets_what_was_drawn_meanwhile(page):
    page.draw((60, 60), (60, 220))
    page.wait_for_strokes(1)
    places = [page.canvas, page.page.locator(".mnistlab-seen button").first]
    before = [one.bounding_box() for one in places]
    with frozen(page):
        page.draw((140, 60), (140, 220))
        page.draw((220, 60), (220, 220))
        ink = page.ink(layer=".mnistlab-sheet")
        assert ink > 5000, "the pen's own trace needs no kernel"
        word = page.page.locator(".mnistlab-word").first
        page.page.wait_for_selector(".mnistlab-late .answers")
        faint = "getComputedStyle(document.querySelector('.answers')).opacity < 0.5"
        page.wait_for(f"() => {faint}")
        assert "busy" in word.text_content()
        now = [one.bounding_box() for one in places]
        assert now == before, "the word pushed what one wants to press"
    page.wait_for_strokes(3)
    page.wait_for_ink(7500)
    page.wait_for("() => !document.querySelector('.mnistlab-late')")
    assert word.text_content() == ""
    page.wait_for_a_clear_sheet()


@on_app
def test_on_a_narrow_screen_canvas_and_answer_are_seen_together(phone):
    canvas = phone.canvas.bounding_box()
    assert canvas["width"] > 320 and canvas["y"] < 250
    assert phone.canvas.evaluate("one => one.width") >= 1.5 * canvas["width"]
    phone.page.mouse.wheel(0, 60)
    phone.press("Clear")
    zigzag = [(60 + 150 * (at % 2), 40 + 8 * at) for at in range(24)]
    for at, point in enumerate(zigzag):  # a scribble on a page that was scrolled
        phone.touch("touchMove" if at else "touchStart", point)
    phone.touch("touchEnd")
    phone.wait_for_strokes(1)
    middles = [np.mean(pair, axis=0).tolist() for pair in pairwise(zigzag)]
    phone.wait_for_pixels(*middles)
    phone.press("3", ".mnistlab-more")
    bars = '.answer[data-label="3"] .bars'
    bars = phone.page.wait_for_selector(bars).bounding_box()
    assert bars["y"] + bars["height"] < 844
    pad = phone.page.locator(".mnistlab-pad").first
    height = pad.bounding_box()["height"]
    phone.label_as(3)
    phone.page.wait_for_selector(".kept")
    assert pad.bounding_box()["height"] == height, "the confirmation has its place"
    phone.page.get_by_label("both").first.check()
    phone.page.wait_for_selector('.way img[alt^="invert"]')
    for width in 390, 240:
        phone.page.set_viewport_size({"width": width, "height": 844})
        phone.wait_for(
            """width => [
                ...document.querySelectorAll(".mnistlab-pad :not(.mnistlab-spoken)")
            ].every(one => one.getBoundingClientRect().right <= width)""",
            width,
        )


LOOKS = {
    "light": ("page", {}),
    "dark": ("page", {"color_scheme": "dark"}),
    "forced": ("page", {"forced_colors": "active"}),
    "phone": ("phone", {}),
}


@on_app
@pytest.mark.parametrize("where, media", LOOKS.values(), ids=LOOKS)
def test_everybody_can_read_and_reach_it(server, request, where, media):
    seen = request.getfixturevalue(where)
    seen.page.emulate_media(**media)
    show_all(seen)
    pad = seen.page.locator(".mnistlab-pad").first
    spoken = pad.locator(".mnistlab-spoken[role=status]").text_content()
    assert "correct" in spoken and "faulty" in spoken
    assert pad.locator(".mnistlab-says[role=status] .kept").count() == 1
    assert pad.locator(".mnistlab-word[role=alert]").count() == 1
    if "color_scheme" in media:
        assert max(map(paper, [seen.page.locator("body"), pad])) < 60
    assert pad.evaluate(EDGES) == []
    if "forced_colors" not in media:  # the user's own: nothing to measure
        assert_no_violations(seen.page)


@on_lab
def test_everybody_can_read_it_in_jupyterlabs_dark_theme(page):
    dark = "'apputils:change-theme', {theme: 'JupyterLab Dark'}"
    page.page.evaluate(f"() => jupyterapp.commands.execute({dark})")
    page.wait_for("() => document.body.dataset.jpThemeLight === 'false'")
    show_all(page)
    pad = page.page.locator(".mnistlab-pad").first
    assert paper(pad) < 60 and pad.evaluate(EDGES) == []
    assert_no_violations(page.page, ".mnistlab-pad")


def show_all(seen):
    seen.press("3", ".mnistlab-more")
    invert = '.way img[alt^="invert"]'
    shown = {"both": invert, "Numbers": ".way small", "Look inside": ".inside"}
    for name, what in shown.items():
        seen.page.get_by_label(name).first.check()
        seen.page.wait_for_selector(what)  # and what is below it has moved
    seen.label_as(3)
    seen.page.wait_for_selector(".kept")


def paper(one):
    """How light its background is, 0 to 255."""
    colour = one.evaluate("one => getComputedStyle(one).backgroundColor")
    return max(map(int, re.findall(r"\d+", colour)))


def assert_no_violations(page, whose=None):
    rules = [
        f"wcag{version}{level}" for version in (2, 21, 22) for level in ("a", "aa")
    ]
    found = Axe().run(page, whose, {"runOnly": rules, "resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


# What axe does not measure: a contrast of 3 of bars and of the edges of controls, and
# 24 pixels of what is pressed where there is room around it.
EDGES = """pad => {
    const page = document.createElement("canvas").getContext("2d");
    const light = colour => {
        page.clearRect(0, 0, 1, 1);
        page.fillStyle = colour;
        page.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = page.getImageData(0, 0, 1, 1).data;
        const linear = [r, g, b].map(v => v / 255).map(
            v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return a && 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const style = one => getComputedStyle(one);
    const paper = light(style(pad).backgroundColor);
    const faint = colour => {
        const [low, high] = [light(colour), paper].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05) < 3;
    };
    const all = names => [...pad.querySelectorAll(names)];
    return [
        ...all(".bars .best i").map(one => [one.className, style(one).backgroundColor]),
        ...all("button, .mnistlab-canvas, .widget-radio-box").map(
            one => [one.className, style(one).borderBottomColor]),
    ].filter(([, colour]) => faint(colour)).concat(
        all("button, summary, label:has(input)").filter(one => one.offsetHeight < 24
        ).map(one => [one.textContent, one.offsetHeight]));
}"""


def test_a_reload_brings_the_drawing_back_and_not_that_of_another_tab(page, request):
    page.draw((60, 60), (220, 220))
    page.wait_for_strokes(1)
    page.wait_for_ink(2000)
    before = page.ink()
    if page.kind == "app":
        tab = request.getfixturevalue("phone")
        for count in 1, 2:
            tab.draw((90 * count, 60), (90 * count, 220))
            tab.wait_for_strokes(count)
    page.reload()
    page.wait_for_ink(0.98 * before)
    page.draw((220, 60), (60, 220))
    page.wait_for_strokes(2)
    page.wait_for_ink(1.5 * before)
    page.press("Undo")
    page.press("Undo")
    page.wait_for_strokes(0)


def test_a_dead_server_is_named_and_gets_what_was_drawn_when_it_is_back(
    browser, tmp_path
):
    write_notebook(tmp_path, NOTEBOOK)
    port = pad_page.free_port()
    with pad_page.serve("app", tmp_path, port=port) as address:
        page = PadPage(browser, "app", address)
        page.draw((60, 60), (220, 60))
        page.wait_for_strokes(1)
        page.wait_for_ink(2000)  # and then the draft is kept
        place = page.canvas.bounding_box()
    page.draw((60, 160), (220, 160))
    word = page.page.locator(".mnistlab-word", has_text="server has stopped").first
    word.wait_for()
    assert "kernel" not in word.text_content() and "reload" in word.text_content()
    assert page.ink(layer=".mnistlab-sheet") > 2000
    assert page.canvas.bounding_box() == place
    with page, pad_page.serve("app", tmp_path, port=port):
        page.reload()
        page.wait_for_strokes(2)
        page.wait_for_ink(4000)


def test_a_dead_kernel_is_named_and_what_was_drawn_is_kept(page):
    page.draw((60, 160), (220, 160))
    page.wait_for_strokes(1)  # no answer is on its way that might be taken for another
    page.page.wait_for_timeout(500)  # nor pictures: the server may go on saying "busy"
    send(page, signal.SIGKILL)
    page.draw((60, 60), (220, 60))
    word = page.page.locator(".mnistlab-word", has_text=re.compile("stopped|restarted"))
    word.first.wait_for(timeout=60 * SECONDS)
    assert "kernel" in word.first.text_content()
    assert page.ink(layer=".mnistlab-sheet") > 2000
    # Jupyter's own complaint, if anything was to be sent to the dead one.
    page.errors = [error for error in page.errors if error != "Cannot send"]
    if page.kind == "app":
        page.reload()
        page.wait_for_strokes(2)
        page.wait_for_ink(4000)


def test_the_pad_has_its_place_from_the_first_frame_on(open_page):
    assert len(open_page.heights) == 1, "the pad's height, each time that it is another"
