"""The pad in a real browser: headless Chromium, on the web page and in JupyterLab.

Nothing here sleeps and no picture decides: a test waits for text, or counts pixels.
"""

import os
import signal

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

pad_page = pytest.importorskip("pad_page", reason="no playwright", exc_type=ImportError)

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


# --- drawing --------------------------------------------------------------------------


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


def test_a_right_click_leaves_a_dot_and_no_pen_that_sticks(page):
    page.page.mouse.click(*page.to_page(60, 60), button="right")
    page.page.keyboard.press("Escape")  # away with a menu
    page.page.mouse.move(*page.to_page(200, 60), steps=10)
    page.draw((140, 140), (140, 200))
    page.wait_for_strokes(2)
    page.wait_for_ink(500)
    assert page.pixel(60, 60) == 255
    assert [page.pixel(x, 60) for x in (100, 140, 200)] == [0, 0, 0]


def test_a_stroke_that_leaves_the_canvas_ends_there(page):
    page.page.mouse.move(*page.to_page(140, 140))
    page.page.mouse.down()
    page.page.mouse.move(*page.to_page(140, -60), steps=10)
    page.wait_for_strokes(1)
    page.page.mouse.move(*page.to_page(60, 140), steps=10)
    page.page.mouse.up()
    page.draw((200, 200))
    page.wait_for_strokes(2)
    page.wait_for_ink(1000)
    assert page.pixel(100, 140) == 0


def test_a_canvas_that_is_cut_off_stays_where_it_is_under_the_pen(page):
    whole = page.page.viewport_size
    page.page.evaluate("() => document.activeElement.blur()")
    top = page.canvas.bounding_box()["y"]
    page.page.set_viewport_size({**whole, "height": round(top) + 150})
    top = page.canvas.bounding_box()["y"]
    page.draw((60, 40), (220, 40))
    page.wait_for_strokes(1)
    assert page.canvas.bounding_box()["y"] == top
    page.wait_for_ink(2000)
    assert page.pixel(140, 40) == 255
    page.page.set_viewport_size(whole)


def test_undo_redo_and_clear_by_button_and_by_key(page):
    page.draw((60, 60), (200, 60))
    page.draw((60, 200), (200, 200))
    page.wait_for_strokes(2)
    page.press("Undo")
    page.wait_for_strokes(1)
    page.press("Redo")
    page.wait_for_strokes(2)
    page.canvas.press("Control+z")
    page.wait_for_strokes(1)
    page.canvas.press("Control+Shift+z")
    page.wait_for_strokes(2)
    page.canvas.press("Delete")
    page.wait_for_strokes(0)
    page.wait_for_ink(0, "===")
    page.canvas.press("Control+z")
    page.wait_for_strokes(2)
    page.wait_for_ink(4000)


def test_a_wider_brush_redraws_what_is_there(page):
    page.draw((60, 140), (220, 140))
    page.wait_for_strokes(1)
    page.wait_for_ink(2500)
    thin = page.ink()
    slider = page.page.get_by_role("slider").first
    slider.press("End")
    page.wait_for_ink(1.8 * thin)
    slider.press("Home")
    page.wait_for_ink(0.6 * thin, "<")
    for _ in range(12):
        slider.press("ArrowRight")
    page.wait_for_ink(0.97 * thin)
    page.wait_for_ink(1.03 * thin, "<")


def test_tab_and_escape_leave_the_canvas(page):
    focus = "name => document.activeElement.textContent.trim() === name"
    for key, next_one in ("Tab", "Undo"), ("Escape", None), ("Shift+Tab", None):
        page.canvas.focus()
        page.page.keyboard.press(key)
        if next_one:
            page.wait_for(focus, next_one)
        else:
            page.wait_for("() => document.activeElement.tagName !== 'CANVAS'")


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
    # JupyterLab looks now and then which kernels there are.
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
            page.press(path)
            page.draw((60, 60), (220, 60 * count))
            page.wait_for_strokes(count)
            page.page.wait_for_selector(f'.answer[data-path="{path}"]')
        page.press("Undo")
        page.wait_for_strokes(3)
        page.press("4", ".mnistlab-digits >> nth=1")
        page.page.wait_for_selector(".kept")
        page.page.context.close()
    assert len(Journal(tmp_path / "journal.sqlite").drawings().strokes[0]) == 3
    threads = set((tmp_path / "threads").read_text().split())
    assert (threads == {"MainThread"}) == (comms == "disabled"), threads


# --- seeing ---------------------------------------------------------------------------


def test_the_switch_shows_both_paths_and_the_inverted_pictures(page):
    page.draw((140, 40), (140, 240))
    page.wait_for_strokes(1)
    page.press("both")
    page.page.wait_for_selector('.answer[data-path="faulty"]')
    page.page.wait_for_selector('.answer[data-path="correct"]')
    page.page.wait_for_selector('.stages img[alt="invert"]')
    assert page.page.locator(".answers").first.locator("td.bar").count() == 20
    page.press("faulty")
    page.page.wait_for_selector('.answer[data-path="correct"]', state="detached")


def test_an_example_is_drawn_for_who_cannot(page):
    page.press("8", ".mnistlab-digits")
    page.wait_for_ink(3000)
    page.page.wait_for_selector('.answers:not([data-strokes="0"])')


def test_a_drawing_in_the_browser_is_answered_as_if_called_directly(page):
    torch.manual_seed(0)
    classifier = Classifier(build("FastCNN").eval())
    box = page.page.get_by_label("raw logits").first
    box.check()
    for strokes in some_drawings():
        sent = page.replay(strokes)
        said = page.page.locator(".answer").first.locator("tr td:last-child")
        logits = np.array(said.all_text_contents(), float)
        direct = classifier(rasterize([np.array(stroke) for stroke in sent]))
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
    const canvas = document.querySelector(".mnistlab-canvas canvas");
    const look = () => {{
        window.leastInk = Math.min(window.leastInk, ({pad_page.PadPage.INK})(canvas));
        requestAnimationFrame(look);
    }};
    window.leastInk = Infinity;
    look();
}}"""


# --- remembering, and what goes wrong -------------------------------------------------


def test_a_label_lands_in_the_journal(page, server):
    journal = Journal(server[2] / "journal.sqlite")
    before = len(journal)
    sent = page.replay(handwrite(4, seed=3))
    page.page.locator(".mnistlab-digits").nth(1).get_by_role("button", name="4").click()
    page.page.wait_for_selector(".kept")
    assert len(journal) == before + 1
    back = journal.drawings()
    assert back.labels[-1] == 4
    for kept, pen in zip(back.strokes[-1], sent, strict=True):
        np.testing.assert_allclose(kept, pen)


def test_on_a_phone_nothing_sticks_out(server, browser):
    kind, address, _ = server
    if kind == "lab":
        pytest.skip("JupyterLab's own page is not made for a phone")
    size = {"width": 390, "height": 844}
    phone = pad_page.PadPage(browser, kind, address, viewport=size, is_mobile=True)
    phone.press("both")
    phone.press("3", ".mnistlab-digits")
    phone.page.wait_for_selector('.stages img[alt="invert"]')
    right = "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
    assert phone.page.locator(".mnistlab-pad *").evaluate_all(right) <= 390
    phone.page.context.close()


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


def test_a_dead_kernel_is_said(page):
    banner = page.page.locator(".dead").first
    assert not banner.is_visible()
    page.page.mouse.move(0, 0)  # the banner moves the canvas, under the mouse even
    os.kill(page.kernel, signal.SIGKILL)
    banner.wait_for(state="visible")
    assert "stopped" in banner.text_content()
