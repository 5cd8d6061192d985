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

import nbformat
import numpy as np

from mnistlab.strokes import CANVAS_PX

REPOSITORY = Path(__file__).parents[1]
SERVE = REPOSITORY / "tools" / "serve.py"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
TOKEN = "a-token-of-the-tests"
KERNELS = ".mnistlab-canvas canvas:not(.mnistlab-sheet)"  # the kernel paints it
SECONDS = 1000  # Playwright counts milliseconds

# A pad with an untrained network: the same seed makes the same one in a test.
NOTEBOOK = """\
import os
import torch
from mnistlab.classifier import Classifier
from mnistlab.journal import Journal
from mnistlab.models import build
from mnistlab.pad import Pad
from mnistlab.preprocess import MNIST_PIPELINE
def invert(image):
    return 255 - image
with open("kernel.pid", "w") as file:
    file.write(str(os.getpid()))
torch.manual_seed(0)
classifier = Classifier(build("FastCNN").eval())
fault = (invert, *MNIST_PIPELINE)
journal = Journal("journal.sqlite")
pad = Pad(classifier, fault=fault, journal=journal, draft="draft.json")
"""
IDLE = """() => {
    const notebook = window.jupyterapp?.shell?.currentWidget;
    const kernel = notebook?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === "connected" && kernel?.status === "idle";
}"""


def write_notebook(path, cells):
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, path)


@contextmanager
def serve(kind, folder, *options, comms="perCommTarget", token=TOKEN):
    """Serve folder/pad.ipynb by tools/serve.py; yield its address.

    comms: JupyterLab's setting commsOverSubshells, by default its own default.
    """
    settings = folder / "jupyter"
    user = settings / "lab/user-settings/@jupyterlab/apputils-extension"
    user.mkdir(parents=True, exist_ok=True)
    (user / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    (user / "kernels-settings.jupyterlab-settings").write_text(
        json.dumps({"commsOverSubshells": comms})
    )
    names = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
    )
    environment = {
        **os.environ,
        **{name: str(settings) for name in names},
        "PYTHONPATH": str(REPOSITORY),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(SERVE), kind, f"--port={port}"]
    command += ["--no-browser", *options]
    if kind == "lab":
        command += [f"--IdentityProvider.token={token}"]
        command += [f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]
        command += ["--LabApp.expose_app_in_browser=True"]
        address = f"http://127.0.0.1:{port}/doc/tree/pad.ipynb?token={token}&reset"
    else:
        # A context that a test closes says no goodbye, so its kernel stays a while.
        command += ["--pages=30"] * (not any("--pages" in one for one in options))
        command += [f"--token={token}"] * (token is not None)
        command += [str(folder / "pad.ipynb")]
        address = f"http://127.0.0.1:{port}/?token={token}"
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = []
    reader = threading.Thread(target=log.extend, args=(process.stdout,))
    try:
        for line in process.stdout:
            log.append(line)
            if f"127.0.0.1:{port}" in line:
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(log))
        reader.start()
        yield address if token else line.strip()
    finally:
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
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


class PadPage:
    """A page with the pad, and a hand that draws on it."""

    def __init__(self, browser, kind, address, script="", **context):
        self.kind = kind
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(40 * SECONDS)
        self._devtools = self.page.context.new_cdp_session(self.page)
        self.errors, self.foreign = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", self._heard)
        self.page.add_init_script(script)
        self.page.goto(address)
        if kind == "lab":
            self.page.wait_for_function(IDLE)
            self.page.evaluate(
                "() => { jupyterapp.commands.execute('notebook:run-all-cells'); }"
            )
        self.wait_until_painted()

    def _heard(self, response):
        if "://127.0.0.1:" not in response.url and "://" in response.url:
            self.foreign.append(response.url)

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
            """() => {
                const canvas = document.querySelector(".mnistlab-canvas canvas");
                if (!canvas) return false;
                const pixels = canvas.getContext("2d").getImageData(0, 0, 9, 9).data;
                return pixels[3] === 255;
            }"""
        )

    def wait_for(self, script, argument=None):
        self.page.wait_for_function(script, arg=argument)

    def wait_for_strokes(self, count):
        """The answer in the page is that of `count` finished strokes."""
        self.page.wait_for_selector(f'.answers[data-strokes="{count}"]')

    def press(self, name, group=None):
        place = self.page.locator(group).first if group else self.page
        place.get_by_role("button", name=name, exact=True).first.click()

    def reset(self):
        self.page.get_by_label("correct").first.check()
        self.press("Clear")
        self.wait_for_strokes(0)
        self.wait_for_ink(0, "===")
        self.canvas.scroll_into_view_if_needed()

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

    def label(self, path="correct"):
        answer = self.page.locator(f'.answer[data-path="{path}"]').first
        return answer.get_attribute("data-label")

    INK = """canvas => {
        const {width, height} = canvas;
        const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        const white = pixels.filter((value, at) => at % 4 === 0 && value > 127).length;
        return white * (280 / width) ** 2;
    }"""

    def ink(self, view=0, layer=KERNELS):
        """How many pixels of the drawing are white, in the kernel's own canvas."""
        return self.page.locator(layer).nth(view).evaluate(self.INK)

    def wait_for_ink(self, count, comparison=">", view=0, layer=KERNELS):
        self.wait_for(
            f"""([view, count]) => {{
                const all = document.querySelectorAll("{layer}");
                return ({self.INK})(all[view]) {comparison} count;
            }}""",
            [view, count],
        )

    def sheet_is_clear(self):
        self.wait_for_ink(0, "===", layer=".mnistlab-sheet")
        return True

    def pixel(self, x, y):
        return self.canvas.evaluate(
            """(canvas, at) => {
                const [x, y] = at.map(one => one * canvas.width / 280);
                return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
            }""",
            [x, y],
        )

    def touch(self, kind, *points):
        touches = [dict(zip("xy", self.to_page(*p), strict=True)) for p in points]
        self._devtools.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches}
        )

    def pen(self, *points):
        """With a stylus, in canvas pixels."""
        kinds = ["mousePressed"] + ["mouseMoved"] * (len(points) - 1)
        for kind, point in zip(
            [*kinds, "mouseReleased"], [*points, points[-1]], strict=True
        ):
            where = dict(zip("xy", self.to_page(*point), strict=True))
            how = {"pointerType": "pen", "button": "left", "buttons": 1}
            where |= how | {"clickCount": int(kind != "mouseMoved")}
            self._devtools.send("Input.dispatchMouseEvent", {"type": kind, **where})

    REPLAY = """(sheet, strokes) => {
        const box = sheet.getBoundingClientRect(), scale = box.width / 280;
        const options = {bubbles: true, isPrimary: true, pointerId: 1, buttons: 1};
        sheet.dispatchEvent(new KeyboardEvent("keydown", {key: "Delete"}));
        const fire = (type, [x, y]) => sheet.dispatchEvent(new PointerEvent(type, {
            clientX: box.left + x * scale, clientY: box.top + y * scale, ...options}));
        for (const points of strokes) {
            fire("pointerdown", points[0]);
            points.slice(1).forEach(point => fire("pointermove", point));
            fire("pointerup", points.at(-1));
        }
    }"""

    def replay(self, strokes):
        """Clear, send a drawing from within the page, and wait for its answer."""
        answers = self.page.locator(".answers").first
        before = int(answers.get_attribute("data-update"))
        self.sheet.evaluate(self.REPLAY, [np.asarray(s).tolist() for s in strokes])
        self.wait_for(
            """([before, count]) => {
                const seen = document.querySelector(".answers").dataset;
                return seen.strokes == count && +seen.update > before;
            }""",
            [before, len(strokes)],
        )
