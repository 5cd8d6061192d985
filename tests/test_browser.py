"""The pad in a real browser: headless Chromium, on the web page and in JupyterLab.

Nothing here sleeps and no picture decides: a test waits for text, or counts pixels.
"""

import os
import re
import signal
from contextlib import contextmanager

import nbformat
import numpy as np
import pytest
import torch

from mnistlab.classifier import Classifier
from mnistlab.data import data_folder
from mnistlab.journal import Journal
from mnistlab.models import build
from mnistlab.pendigits import PENS_FILE, load_pens
from mnistlab.strokes import place, rasterize
from mnistlab.synthetic import handwrite

pytest.importorskip("playwright", exc_type=ImportError)
import pad_page  # noqa: E402

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


@pytest.fixture(scope="module", params=["app", "lab"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    cells = [nbformat.v4.new_code_cell(pad_page.NOTEBOOK + "pad")]
    cells += [nbformat.v4.new_code_cell("pad")]  # a second view of it
    pad_page.write_notebook(folder / "pad.ipynb", cells)
    with pad_page.serve(request.param, folder) as address:
        yield request.param, address, folder


@pytest.fixture(scope="module")
def open_page(server, browser):
    """One page for all tests of a host: opening it takes longer than they do."""
    kind, address, folder = server
    page = pad_page.PadPage(browser, kind, address, has_touch=True)
    page.kernel = int((folder / "kernel.pid").read_text())
    yield page
    page.page.context.close()


@pytest.fixture
def page(open_page):
    open_page.reset()
    yield open_page
    assert open_page.errors == [], "an exception in the page's own scripts"
    assert open_page.foreign == [], "something was loaded from elsewhere"


# --- the pen --------------------------------------------------------------------------


def test_the_mouse_leaves_ink_where_it_was_and_an_answer(page):
    assert page.label() == ""
    page.draw((140, 40), (140, 240))
    page.wait_for_strokes(1)
    assert page.label() in set("0123456789?")
    page.wait_for_ink(3000)
    assert [page.pixel(140, y) for y in (40, 140, 240)] == [255] * 3
    assert [page.pixel(x, 140) for x in (125, 155)] == [0, 0]


def test_a_finger_draws_and_a_second_one_ends_the_stroke(page):
    page.touch("touchStart", (60, 60))
    page.touch("touchMove", (100, 100))
    page.touch("touchStart", (100, 100), (200, 200))
    page.touch("touchMove", (240, 100), (200, 240))
    page.touch("touchEnd")
    page.wait_for_strokes(1)
    page.wait_for_ink(500)
    assert page.pixel(80, 80) == 255
    assert page.pixel(170, 100) == page.pixel(200, 220) == 0


def test_a_pen_draws(page):
    page.pen((60, 60), (140, 100), (220, 60))
    page.wait_for_strokes(1)
    page.wait_for_ink(2000)
    assert page.pixel(100, 80) == 255


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
    dots = [(60, 60), (200, 60), (60, 200), (200, 200)]
    assert [page.pixel(*at) for at in dots] == [0] * 4
    assert page.sheet_is_clear()


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
    assert [page.pixel(*at) for at in [(140, 60), (66, 130), (50, 200)]] == [255] * 3
    assert page.pixel(200, 200) == 0


def test_a_canvas_that_is_cut_off_stays_where_it_is_under_the_pen(page):
    whole = page.page.viewport_size
    page.page.evaluate("() => document.activeElement.blur()")
    height = round(page.canvas.bounding_box()["y"]) + 150
    page.page.set_viewport_size({**whole, "height": height})
    top = page.canvas.bounding_box()["y"]
    mouse = page.page.mouse
    try:
        mouse.move(*page.to_page(60, 40))
        mouse.down()
        mouse.move(*page.to_page(220, 40), steps=4)
        mouse.up()
        page.wait_for_strokes(1)
        assert page.canvas.bounding_box()["y"] == top
        page.wait_for_ink(2000)
        assert page.pixel(140, 40) == 255
    finally:
        page.page.set_viewport_size(whole)


def test_a_switch_in_the_middle_of_a_stroke_does_not_end_it(page):
    page.touch("touchStart", (40, 60))
    page.touch("touchMove", (100, 60))
    for control in page.page.get_by_label("both"), page.page.get_by_label("Numbers"):
        control.first.evaluate("one => one.click()")  # the other hand, the keyboard
    page.page.get_by_role("button", name="Replay").first.evaluate("one => one.click()")
    page.page.wait_for_selector('.answer[data-path="faulty"]')
    page.touch("touchMove", (220, 60))
    page.touch("touchEnd")
    page.wait_for_strokes(1)
    page.wait_for_ink(2000)
    assert page.pixel(200, 60) == 255
    page.page.get_by_label("Numbers").first.uncheck()


def test_a_thousand_moves_at_once_are_worked_off_together(page):
    angle = np.linspace(0, 40, 5000)
    spiral = 140 + 3 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    page.replay([spiral])
    seconds = page.page.evaluate("() => performance.now()") / 1000
    page.replay([spiral])
    seconds = page.page.evaluate("() => performance.now()") / 1000 - seconds
    assert seconds < 3, "a queue of single moves took 20"
    assert page.pixel(*spiral[-1].round()) == 255


def test_undo_redo_and_clear_by_button_and_by_key(page):
    page.draw((60, 60), (200, 60))
    page.draw((60, 200), (200, 200))
    page.wait_for_strokes(2)
    page.press("Undo")
    page.wait_for_strokes(1)
    page.press("Redo")
    page.wait_for_strokes(2)
    keys = ("Control+z", 1), ("Control+Shift+z", 2), ("Delete", 0), ("Control+z", 2)
    for key, count in keys:
        page.sheet.press(key)
        page.wait_for_strokes(count)
        page.wait_for_ink(1900 * count - 1)
        page.wait_for_ink(3500 * count + 1, "<")


def test_a_wider_brush_redraws_what_is_there(page):
    page.draw((60, 140), (220, 140))
    page.wait_for_strokes(1)
    page.wait_for_ink(2500)
    thin = page.ink()
    slider = page.page.get_by_role("slider", name="Brush").first
    slider.press("End")
    page.wait_for_ink(1.8 * thin)
    slider.press("Home")
    page.wait_for_ink(0.6 * thin, "<")
    for _ in range(12):
        slider.press("ArrowRight")
    page.wait_for_ink(0.97 * thin)
    page.wait_for_ink(1.03 * thin, "<")


def test_the_keyboard_is_not_trapped_on_the_canvas(page):
    page.sheet.focus()
    page.page.keyboard.press("Tab")
    page.wait_for("() => document.activeElement.textContent.trim() === 'Undo'")
    page.page.keyboard.press("Shift+Tab")
    page.wait_for("() => document.activeElement.className === 'mnistlab-sheet'")


def test_two_views_of_one_pad_show_one_drawing(page):
    page.draw((60, 60), (220, 220))
    page.wait_for_ink(2000)
    page.wait_for_ink(2000, view=1)
    page.wait_for(
        "() => document.querySelectorAll('.answers[data-strokes=\"1\"]').length == 2"
    )


def test_while_one_draws_the_page_asks_the_server_for_nothing(page):
    asked = []
    page.page.on("request", lambda request: asked.append(request.url))
    page.replay(handwrite(5, seed=1))
    # The page asks now and then how its kernel is.
    assert [url for url in asked if "://" in url and "/api/" not in url] == []


NOTE_THREADS = """
import threading
_update = Pad._update
def noted(self, *strokes):
    with open("threads", "a") as file:
        print(threading.current_thread().name, file=file)
    return _update(self, *strokes)
Pad._update = noted
"""


@pytest.mark.parametrize("comms", ["disabled", "perCommTarget"])
def test_whatever_thread_jupyterlab_calls_on_the_pad_is_right(browser, tmp_path, comms):
    source = pad_page.NOTEBOOK.replace("torch.manual", NOTE_THREADS + "torch.manual")
    cells = [nbformat.v4.new_code_cell(source + "pad")]
    pad_page.write_notebook(tmp_path / "pad.ipynb", cells)
    with pad_page.serve("lab", tmp_path, comms=comms) as address:
        page = pad_page.PadPage(browser, "lab", address)
        for count in range(1, 5):
            path = "correct" if count % 2 else "faulty"
            page.page.get_by_label(path).first.check()
            page.draw((60, 60), (220, 60 * count))
            page.wait_for_strokes(count)
            page.page.wait_for_selector(f'.answer[data-path="{path}"]')
        page.press("Undo")
        page.wait_for_strokes(3)
        page.press("4", ".mnistlab-seen .mnistlab-digits")
        page.page.wait_for_selector(".kept")
        page.page.context.close()
    assert len(Journal(tmp_path / "journal.sqlite").drawings().strokes[0]) == 3
    threads = set((tmp_path / "threads").read_text().split())
    assert (threads == {"MainThread"}) == (comms == "disabled"), threads


# --- seeing ---------------------------------------------------------------------------


def test_the_switch_shows_both_paths_and_accuses_the_step(page):
    page.draw((140, 40), (140, 240))
    page.wait_for_strokes(1)
    page.page.get_by_label("both").first.check()
    page.page.wait_for_selector('.answer[data-path="faulty"]')
    page.page.wait_for_selector('.answer[data-path="correct"]')
    assert page.page.locator(".answers").first.locator(".bars li").count() == 20
    page.page.wait_for_selector('.way img[alt^="invert"]')
    page.page.get_by_label("faulty").first.check()
    page.page.wait_for_selector('.answer[data-path="correct"]', state="detached")


def test_an_example_is_drawn_for_who_cannot(page):
    page.press("8", ".mnistlab-more")
    page.wait_for_ink(3000)
    page.page.wait_for_selector('.answers:not([data-strokes="0"])')


def test_a_drawing_in_the_browser_is_answered_as_if_called_directly(page):
    torch.manual_seed(0)
    classifier = Classifier(build("FastCNN").eval())
    box = page.page.get_by_label("Numbers").first
    box.check()
    for strokes in some_drawings():
        page.replay(strokes)
        said = page.page.locator(".answer").first.locator("tr td:last-child")
        logits = np.array(said.all_text_contents(), float)
        direct = classifier(rasterize(strokes))
        np.testing.assert_allclose(logits, direct.logits, atol=0.0051)
        assert page.label() == str(direct.label)
    box.uncheck()


def some_drawings():
    """Recorded pens where they are at hand, and the scripted hand anywhere."""
    yield from (handwrite(digit, seed=1) for digit in range(10))
    if (data_folder() / "pendigits" / PENS_FILE).exists():
        pens = load_pens()
        for row in np.random.default_rng(0).choice(len(pens), 20, replace=False):
            yield place(pens.strokes[row], 190)


def test_a_replay_ends_on_the_drawing_itself(page):
    for x in 60, 140, 220:
        page.draw((x, 60), (x, 220))
    page.wait_for_strokes(3)
    page.wait_for_ink(6000)
    whole = page.ink()
    page.page.evaluate(LEAST_INK)
    page.press("Replay")
    page.wait_for("whole => window.leastInk < 0.5 * whole", whole)
    page.wait_for_ink(0.98 * whole)
    page.wait_for_strokes(3)


# How little ink the canvas has had since, looked at in every frame.
LEAST_INK = f"""() => {{
    const canvas = document.querySelector("{pad_page.KERNELS}");
    const look = () => {{
        window.leastInk = Math.min(window.leastInk, ({pad_page.PadPage.INK})(canvas));
        requestAnimationFrame(look);
    }};
    window.leastInk = Infinity;
    look();
}}"""


# --- remembering, and what goes wrong -------------------------------------------------


def test_a_label_lands_in_the_journal_and_is_confirmed_beside_its_button(page, server):
    journal = Journal(server[2] / "journal.sqlite")
    before = len(journal)
    drawn = [[(60, 40), (50.5, 150), (210, 150)], [(160, 60), (150, 240)]]
    page.replay(drawn)
    page.press("4", ".mnistlab-seen")
    page.page.wait_for_selector(".kept")
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
    page.press("3", ".mnistlab-seen .mnistlab-digits")
    page.page.wait_for_selector(".mnistlab-says .hint")
    for key in "Delete", "Control+z", "Control+y", "z", "Tab":
        page.sheet.press(key)
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate("() => !window.late")


@contextmanager
def frozen(page):
    """A kernel that hears nothing: busy with something else, for all the page knows."""
    os.kill(page.kernel, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(page.kernel, signal.SIGCONT)


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
        page.wait_for("() => document.querySelector('.mnistlab-late .answers')")
        assert "busy" in word.text_content()
        now = [one.bounding_box() for one in places]
        assert now == before, "the word pushed what one wants to press"
    page.wait_for_strokes(3)
    page.wait_for_ink(7500)
    page.wait_for("() => !document.querySelector('.mnistlab-late')")
    assert word.text_content() == "" and page.sheet_is_clear()


def test_on_a_narrow_screen_canvas_and_answer_are_seen_together(server, browser):
    kind, address, _ = server
    if kind == "lab":
        pytest.skip("JupyterLab's own page is not made for a phone")
    size = {"width": 390, "height": 844}
    how = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    phone = pad_page.PadPage(browser, kind, address, viewport=size, **how)
    right = "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
    everything = phone.page.locator(".mnistlab-pad *:not(.mnistlab-spoken)")
    try:
        canvas = phone.canvas.bounding_box()
        assert canvas["width"] > 320 and canvas["y"] < 250
        assert phone.canvas.evaluate("one => one.width") >= 1.5 * canvas["width"]
        phone.page.mouse.wheel(0, 60)
        phone.press("Clear")
        for at in range(24):  # a scribble on a page that was scrolled
            point = 60 + 150 * (at % 2), 40 + 8 * at
            phone.touch("touchMove" if at else "touchStart", point)
        phone.touch("touchEnd")
        phone.wait_for_strokes(1)
        kept = [phone.pixel(135, 44 + 8 * at) for at in range(23)]
        assert kept == [255] * 23
        phone.press("3", ".mnistlab-more")
        phone.page.wait_for_selector(".verdict strong")
        bars = phone.page.locator(".bars").first.bounding_box()
        assert bars["y"] + bars["height"] < 844
        phone.page.get_by_label("both").first.check()
        phone.page.wait_for_selector('.way img[alt^="invert"]')
        for width in 390, 240:
            phone.page.set_viewport_size({**size, "width": width})
            assert everything.evaluate_all(right) <= width
    finally:
        phone.page.context.close()


LOOKS = [
    {},
    {"color_scheme": "dark"},
    {"forced_colors": "active"},
    {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
]


@pytest.mark.parametrize("how", LOOKS, ids=["light", "dark", "forced", "phone"])
def test_everybody_can_read_and_reach_it(server, browser, how):
    kind, address, _ = server
    if kind == "lab":
        pytest.skip("the same page, and opening it takes long")
    seen = pad_page.PadPage(browser, kind, address, **how)
    try:
        seen.page.get_by_label("both").first.check()
        seen.page.get_by_label("Numbers").first.check()
        seen.page.get_by_label("Look inside").first.check()
        seen.press("3", ".mnistlab-more")
        seen.page.wait_for_selector(".inside")
        seen.press("3", ".mnistlab-seen .mnistlab-digits")
        seen.page.wait_for_selector(".kept")
        pad = seen.page.locator(".mnistlab-pad").first
        roles = "button|slider|radio|checkbox|img|radiogroup|table|figure"
        tree = pad.aria_snapshot()
        nameless = re.findall(rf"^ *- (?:{roles})(?: *$|:| \[).*", tree, re.MULTILINE)
        assert nameless == [], tree
        for name in "Canvas", "Brush", "Undo", "It was a", "Write me a", "Pipeline":
            assert f'"{name}' in tree
        assert re.search(r'radio "both" \[checked\]', tree)
        spoken = pad.locator(".mnistlab-spoken[role=status]").text_content()
        assert "correct" in spoken and "faulty" in spoken
        assert pad.locator(".mnistlab-says[role=status] .kept").count() == 1
        assert pad.locator(".mnistlab-word[role=alert]").count() == 1
        faults = pad.evaluate(ACCESSIBLE)
        assert faults == []
        if how.get("color_scheme") == "dark":
            paper = "one => getComputedStyle(one).backgroundColor"
            for one in seen.page.locator("body"), pad:
                assert max(map(int, re.findall(r"\d+", one.evaluate(paper)))) < 60
    finally:
        seen.page.context.close()


# WCAG 2.2 AA, where it can be measured: contrast of text 4.5 (3 where it is large), of
# bars and of the edges of controls 3, targets of 24 x 24 pixels.
ACCESSIBLE = """pad => {
    const faults = [], page = document.createElement("canvas").getContext("2d");
    const rgba = colour => {
        page.clearRect(0, 0, 1, 1);
        page.fillStyle = colour;
        page.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = page.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const behind = one => {
        for (; one; one = one.parentElement) {
            const colour = rgba(getComputedStyle(one).backgroundColor);
            if (colour[3] > 0.99) return colour;
        }
        return rgba("Canvas");
    };
    const light = colour => colour.slice(0, 3).map(v => v / 255).map(
        v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
    ).reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
    const contrast = (a, b) => {
        const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
    const check = (one, colour, back, least, what) => {
        let opacity = 1;
        for (let up = one; up; up = up.parentElement)
            opacity *= getComputedStyle(up).opacity;
        const seen = colour.map((v, at) => opacity * v + (1 - opacity) * back[at]);
        const found = contrast(seen, back);
        if (found < least)
            faults.push([what, found.toFixed(2), one.className, one.textContent]);
    };
    for (const one of pad.querySelectorAll("*:not(style, script, canvas)")) {
        const style = getComputedStyle(one), box = one.getBoundingClientRect();
        if (!box.width || !box.height || style.visibility === "hidden") continue;
        const own = [...one.childNodes].some(
            node => node.nodeType === 3 && node.data.trim());
        if (own && style.clipPath === "none" && box.width > 1) {
            const large = parseFloat(style.fontSize) >= 24
                || (parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 600);
            check(one, rgba(style.color), behind(one), large ? 3 : 4.5, "text");
        }
        if (one.matches(".bars i"))
            check(one, rgba(style.backgroundColor), behind(one.parentNode), 3, "bar");
        const edge = rgba(style.borderBottomColor);
        if (one.matches("button, .mnistlab-canvas, .widget-radio-box"))
            check(one, edge, behind(one.parentNode), 3, "edge");
        if (one.matches("button, summary, label:has(input), .mnistlab-sheet"))
            if (box.width < 24 || box.height < 24)
                faults.push(`${one.textContent} is ${box.width} x ${box.height}`);
    }
    return faults;
}"""


def test_every_tab_has_a_drawing_of_its_own(server, browser):
    kind, address, _ = server
    if kind == "lab":
        pytest.skip("one notebook, one kernel, one pad")
    tabs = [pad_page.PadPage(browser, kind, address) for _ in range(2)]
    try:
        for count, tab in enumerate(tabs, 1):
            for x in range(count):
                tab.draw((60 + 90 * x, 60), (60 + 90 * x, 220))
            tab.wait_for_strokes(count)
        for count, tab in enumerate(tabs, 1):
            tab.page.reload()
            tab.wait_until_painted()
            tab.wait_for_strokes(count)
    finally:
        for tab in tabs:
            tab.page.context.close()


def test_a_reload_brings_the_drawing_back(page, server):
    page.draw((60, 60), (220, 220))
    page.wait_for_strokes(1)
    page.wait_for_ink(2000)
    before = page.ink()
    if page.kind == "lab":
        page.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.page.reload()
    page.wait_until_painted()
    page.kernel = int((server[2] / "kernel.pid").read_text())  # the web page: a new one
    page.wait_for_ink(0.98 * before)
    page.draw((220, 60), (60, 220))
    page.wait_for_strokes(2)
    page.wait_for_ink(1.5 * before)
    page.press("Undo")
    page.press("Undo")
    page.wait_for_strokes(0)


def test_a_dead_kernel_is_named_and_what_was_drawn_is_kept(page, server):
    os.kill(page.kernel, signal.SIGKILL)
    page.draw((60, 60), (220, 60))
    word = page.page.locator(".mnistlab-word", has_text="kernel").first
    word.wait_for(timeout=60 * pad_page.SECONDS)
    page.wait_for(
        """() => /stopped|restarted/.test(
            document.querySelector(".mnistlab-word").textContent)"""
    )
    assert page.ink(layer=".mnistlab-sheet") > 2000
    if page.kind == "app":
        page.page.reload()
        page.wait_until_painted()
        page.wait_for_strokes(1)
        page.wait_for_ink(2000)


def test_a_dead_server_is_named(browser, tmp_path):
    source = pad_page.NOTEBOOK + "pad"
    pad_page.write_notebook(tmp_path / "pad.ipynb", [nbformat.v4.new_code_cell(source)])
    with pad_page.serve("app", tmp_path) as address:
        page = pad_page.PadPage(browser, "app", address)
        page.draw((60, 60), (220, 60))
        page.wait_for_strokes(1)
        place = page.canvas.bounding_box()
    page.draw((60, 160), (220, 160))
    page.page.locator(".mnistlab-word", has_text="server has stopped").wait_for()
    assert "kernel" not in page.page.locator(".mnistlab-word").text_content()
    assert page.ink(layer=".mnistlab-sheet") > 2000
    assert page.canvas.bounding_box() == place
    page.page.context.close()


def test_the_pad_has_its_place_from_the_first_frame_on(browser, tmp_path):
    cells = [nbformat.v4.new_code_cell(pad_page.NOTEBOOK + "pad")]
    pad_page.write_notebook(tmp_path / "pad.ipynb", cells)
    with pad_page.serve("lab", tmp_path) as address:
        page = pad_page.PadPage(browser, "lab", address, script=MOVES)
        eight = page.page.locator(".mnistlab-more button", has_text="8")
        eight.evaluate("one => one.click()")  # from afar: a mouse would scroll there
        page.wait_for_ink(3000)
        moved = page.page.evaluate("() => window.moves")
        assert len(moved) == 1, "top of the canvas and height of the pad, each time new"
        page.page.context.close()


MOVES = """
    window.moves = [];
    const look = () => {
        const canvas = document.querySelector(".mnistlab-canvas canvas");
        const whole = canvas?.closest(".mnistlab-pad").getBoundingClientRect().height;
        const now = [canvas?.getBoundingClientRect().top, whole].join();
        if (canvas && now !== moves.at(-1)) moves.push(now);
        requestAnimationFrame(look);
    };
    look();
"""
