"""How long a pad takes to open, and to answer a stroke, in a real browser.

To open: from the start of the server to the first answer, JupyterLab running all cells.
Then from the end of a stroke to its label in the page. Both hosts, with and without
tools/serve.py's connection, in turn, so that a busy moment does not meet one alone.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import pad_page  # noqa: E402

STROKES = 25  # measured in each of ROUNDS visits of each host and setting
ROUNDS = 2
WARM_UP = 5
STOCK = "jupyter_server.services.kernels.connection.channels"
STOCK += ".ZMQChannelsWebsocketConnection"

# One stroke in 20 moves at the pace of a hand; the clock starts as the button is
# released and stops at the first frame's script that finds the answer in the page.
STROKE = """([x0, y0, x1, y1, count]) => new Promise(done => {
    const sheet = document.querySelector(".mnistlab-sheet");
    const box = sheet.getBoundingClientRect(), moves = 20;
    const fire = (type, at) => sheet.dispatchEvent(new PointerEvent(type, {
        clientX: box.left + x0 + (x1 - x0) * at / moves, pointerId: 1, buttons: 1,
        clientY: box.top + y0 + (y1 - y0) * at / moves, isPrimary: true}));
    let at = 0;
    fire("pointerdown", 0);
    const timer = setInterval(() => {
        if (++at <= moves) return fire("pointermove", at);
        clearInterval(timer);
        const watch = new MutationObserver(() => {
            const seen = document.querySelector(".answers");
            if (seen?.dataset.strokes != count || "pen" in seen.dataset) return;
            watch.disconnect();
            done(performance.now() - started);
        });
        watch.observe(document.querySelector(".mnistlab-pad"),
                      {subtree: true, childList: true});
        const started = performance.now();
        fire("pointerup", moves);
    }, 16);
})"""


def visit(browser, kind, address, rng) -> list[float]:
    """Draw STROKES strokes on a pad opened anew; milliseconds for each."""
    page = pad_page.PadPage(browser, kind, address)
    took = []
    for number in range(WARM_UP + STROKES):
        if number % 4 == 0:
            page.reset()
        ends = rng.uniform(20, 260, 4).tolist()
        took.append(page.page.evaluate(STROKE, [*ends, number % 4 + 1]))
    page.page.context.close()
    return took[WARM_UP:]


def main() -> None:
    if not pad_page.CHROMIUM:
        raise SystemExit("no browser: install chromium or set CHROMIUM to its path")
    print("stroke end to label in the page, ms, headless Chromium on loopback")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, pad_page.chromium() as browser:
        folder = Path(name)
        pad_page.write_notebook(folder, pad_page.NOTEBOOK)
        for kind, app in ("app", "Voila"), ("lab", "ServerApp"):
            stock = f"--{app}.kernel_websocket_connection_class={STOCK}"
            settings = {"mnistlab's": [], "Jupyter's": [stock]}
            took, opened = {setting: [] for setting in settings}, []
            for _ in range(ROUNDS):
                for setting, options in settings.items():
                    started = time.perf_counter()
                    with pad_page.serve(kind, folder, *options) as address:
                        with pad_page.PadPage(browser, kind, address) as page:
                            page.replay([[(140, 40), (140, 240)]])
                        opened.append(time.perf_counter() - started)
                        took[setting] += visit(browser, kind, address, rng)
            span = f"{min(opened):.1f} to {max(opened):.1f} s, n {len(opened)}"
            print(f"{kind}  from the start to the first answer {span}")
            for setting, times in took.items():
                print(
                    f"{kind}  {setting:<9} connection  median {np.median(times):5.1f}  "
                    f"p99 {np.percentile(times, 99):5.1f}  n {len(times)}"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
