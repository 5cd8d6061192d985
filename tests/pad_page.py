"""A headless browser with the drawing pad in it, in JupyterLab or on the web page.

test_browser and bench_pad share it. Nothing of the user's own Jupyter settings is read
or written.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from nbformat import v4, write

from mnistlab.strokes import CANVAS_PX

REPOSITORY = Path(__file__).parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
TOKEN = "a-token-of-the-tests"
KERNELS = ".mnistlab-canvas canvas:not(.mnistlab-sheet)"  # the kernel paints it
SECONDS = 1000  # Playwright counts milliseconds
NOTEBOOK = """\
from mnistlab.classifier import Classifier
from mnistlab.faults import invert
from mnistlab.journal import Journal
from mnistlab.pad import Pad
from mnistlab.preprocess import MNIST_PIPELINE
fault = (invert, *MNIST_PIPELINE)
journal = Journal("journal.sqlite")
pad = Pad(Classifier.load(), fault=fault, journal=journal, draft="draft.json")
pad"""
IDLE = """() => {
    const notebook = window.jupyterapp?.shell?.currentWidget;
    const kernel = notebook?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === "connected" && kernel?.status === "idle";
}"""


def write_notebook(folder, *sources):
    notebook = v4.new_notebook(cells=[v4.new_code_cell(text) for text in sources])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    write(notebook, folder / "pad.ipynb")


def write_setting(folder, plugin, name, said):
    """What JupyterLab, served from this folder, finds as its user's setting."""
    user = folder / "jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    user.mkdir(parents=True, exist_ok=True)
    (user / f"{plugin}.jupyterlab-settings").write_text(json.dumps({name: said}))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(kind, folder, *options, token=TOKEN, port=None):
    """Serve folder/pad.ipynb by tools/serve.py; yield its address."""
    settings, port = folder / "jupyter", port or free_port()
    write_setting(folder, "notification", "fetchNews", "false")  # not even asked
    own = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR".split()
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY))
    environment |= dict.fromkeys(own, str(settings))
    script = REPOSITORY / "tools" / "serve.py"
    command = [sys.executable, script, kind, f"--port={port}", "--no-browser", *options]
    if kind == "lab":
        command += [f"--IdentityProvider.token={token}"]
        command += [f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]
        command += ["--LabApp.expose_app_in_browser=True"]
        address = f"http://127.0.0.1:{port}/doc/tree/pad.ipynb?token={token}&reset"
    else:
        # A context that a test closes says no goodbye, so its kernel stays a while.
        command += ["--pages=30"] * (not any("--pages" in one for one in options))
        command += [f"--token={token}"] * (token is not None)
        command += [folder / "pad.ipynb"]
        address = f"http://127.0.0.1:{port}/?token={token}"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(
        command, env=environment, cwd=folder, start_new_session=True, **pipe
    )
    log = []
    reader = threading.Thread(target=log.extend, args=(process.stdout,))
    watchdog = threading.Timer(120, process.kill)  # seconds without an address
    watchdog.start()
    try:
        for line in process.stdout:
            log.append(line)
            if f":{port}/" in line:
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(log))
        watchdog.cancel()
        reader.start()
        yield address if token else line.strip()
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait()
        if reader.ident:
            reader.join()
        process.stdout.close()


@contextmanager
def chromium():
    """A headless browser; its pages live in contexts of their own."""
    from playwright.sync_api import sync_playwright  # not needed to serve a page

    with sync_playwright() as playwright:
        launch, how = playwright.chromium.launch, ["--no-sandbox"]
        yield launch(executable_path=CHROMIUM, args=how)


class PadPage:
    """A page with the pad, and a hand that draws on it; closed by leaving it."""

    def __init__(self, browser, kind, address, script="", **context):
        self.kind = kind
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(40 * SECONDS)
        self._devtools = self.page.context.new_cdp_session(self.page)
        self.errors, self.answered = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda reply: self.answered.append(reply.url))
        self.page.add_init_script(script)
        self.page.goto(address)
        if kind == "lab":
            self.page.wait_for_function(IDLE)
            run = "jupyterapp.commands.execute('notebook:run-all-cells')"
            self.page.evaluate(f"() => {{ {run}; }}")
        self.wait_until_painted()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.context.close()

    @property
    def canvas(self):
        return self.page.locator(KERNELS).first

    @property
    def sheet(self):
        """What lies over it and takes the pen and the keyboard."""
        return self.page.locator(".mnistlab-sheet").first

    def wait_until_painted(self):
        """The kernel has answered and the canvas is black: it can be drawn on."""
        self.page.wait_for_selector(".mnistlab-sheet")
        self.wait_for(
            """() => document.querySelector(".mnistlab-canvas canvas")
                .getContext("2d").getImageData(0, 0, 9, 9).data[3] === 255"""
        )

    def reload(self):
        if self.kind == "lab":
            self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        self.page.reload()
        self.wait_until_painted()

    def wait_for(self, script, argument=None):
        self.page.wait_for_function(script, arg=argument)

    def wait_for_strokes(self, count):
        """The answer in the page is that of `count` finished strokes."""
        self.page.wait_for_selector(f'.answers[data-strokes="{count}"]')

    def press(self, name, group=".mnistlab-pad"):
        place = self.page.locator(group).first
        place.get_by_role("button", name=name, exact=True).first.click()

    def label_as(self, digit):
        self.press(f"{digit}", ".mnistlab-seen .mnistlab-digits")

    def reset(self):
        self.page.emulate_media(color_scheme="light", forced_colors="none")
        self.page.locator(".mnistlab-pad").first.evaluate(self.RESET)
        self.wait_for_strokes(0)
        self.wait_for_ink(0, "===")
        self.canvas.scroll_into_view_if_needed()

    # By no mouse: each of these moves what is below it, and a click might miss.
    RESET = """pad => {
        pad.querySelectorAll("[type=checkbox]:checked").forEach(box => box.click());
        pad.querySelector("[type=radio]")?.click();
        pad.querySelectorAll(".mnistlab-tools button")[2].click();
    }"""

    def to_page(self, x, y):
        box = self.canvas.bounding_box()
        scale = box["width"] / CANVAS_PX
        return box["x"] + x * scale, box["y"] + y * scale

    def draw(self, *points):
        """With the mouse, in canvas pixels."""
        self.canvas.scroll_into_view_if_needed()
        mouse = self.page.mouse
        mouse.move(*self.to_page(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.to_page(*point), steps=4)
        mouse.up()

    def label(self):
        return self.page.locator(".answer").first.get_attribute("data-label")

    INK = """canvas => {
        const {width, height} = canvas;
        const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        let white = 0;
        for (let at = 0; at < pixels.length; at += 4) white += pixels[at] > 127;
        return white * (280 / width) ** 2;
    }"""

    def ink(self, layer=KERNELS):
        """How many pixels of the drawing are white, in the kernel's own canvas."""
        return self.page.locator(layer).first.evaluate(self.INK)

    def wait_for_ink(self, count, comparison=">", view=0, layer=KERNELS):
        found = f"({self.INK})(document.querySelectorAll('{layer}')[{view}])"
        self.wait_for(f"() => {found} {comparison} {count}")

    def wait_for_a_clear_sheet(self):
        self.wait_for_ink(0, "===", layer=".mnistlab-sheet")

    PIXELS = """(canvas, places) => places.map(place => {
        const [x, y] = place.map(one => one * canvas.width / 280);
        return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0] > 127;
    })"""

    def pixels(self, *places):
        """Whether there is ink at these places."""
        return self.canvas.evaluate(self.PIXELS, places)

    def wait_for_pixels(self, *places):
        canvas = f"document.querySelector('{KERNELS}')"
        self.wait_for(
            f"places => ({self.PIXELS})({canvas}, places).every(Boolean)", places
        )

    def touch(self, kind, *points):
        touches = [dict(zip("xy", self.to_page(*p), strict=True)) for p in points]
        said = {"type": kind, "touchPoints": touches}
        self._devtools.send("Input.dispatchTouchEvent", said)

    def pen(self, *points):
        """With a stylus, in canvas pixels."""
        kinds = ["Pressed", *["Moved"] * (len(points) - 1), "Released"]
        how = {"pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1}
        for kind, point in zip(kinds, [*points, points[-1]], strict=True):
            x, y = self.to_page(*point)
            said = {"type": f"mouse{kind}", "x": x, "y": y, **how}
            self._devtools.send("Input.dispatchMouseEvent", said)

    STRIKE = """(sheet, strokes) => {
        const box = sheet.getBoundingClientRect(), scale = box.width / 280;
        const options = {bubbles: true, isPrimary: true, pointerId: 1, buttons: 1};
        const fire = (type, [x, y]) => sheet.dispatchEvent(new PointerEvent(type, {
            clientX: box.left + x * scale, clientY: box.top + y * scale, ...options}));
        for (const points of strokes) {
            fire("pointerdown", points[0]);
            points.slice(1).forEach(point => fire("pointermove", point));
            fire("pointerup", points.at(-1));
        }
    }"""

    def strike(self, strokes):
        """Send a drawing from within the page, all at once."""
        self.sheet.evaluate(self.STRIKE, [np.asarray(s).tolist() for s in strokes])

    def replay(self, strokes):
        """Clear, send a drawing, and wait for its answer."""
        answers = self.page.locator(".answers").first
        before = int(answers.get_attribute("data-update"))
        self.sheet.press("Delete")
        self.strike(strokes)
        self.wait_for(
            """([before, count]) => {
                const seen = document.querySelector(".answers").dataset;
                return seen.strokes == count && +seen.update > before;
            }""",
            [before, len(strokes)],
        )
