"""Run notebooks from a fresh kernel and keep their outputs: `make notebooks`.

What changes from run to run or from machine to machine and says nothing to a reader
is left out; tests/test_notebooks.py refuses the rest.
"""

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

VIEW = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r".*\[\d+:\d\d(:\d\d)?[<,].*\]\s*")  # as in nbval_sanitize.cfg
FOLDERS = re.compile(r"[^\s'\"\x1b]*/(?=(mnistlab|site-packages|lib/python[\d.]+)/)")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Take out what only the machine or the moment has put in."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            # Without its live model a view is shown as an error. A bar is over, so
            # its text goes, too; the key stays, because nbval counts the keys.
            if data.pop(VIEW, None) and BAR.fullmatch(data["text/plain"]):
                data["text/plain"] = ""
            if output.output_type == "error":  # keep the reader's folders private
                output.traceback = [FOLDERS.sub("", s) for s in output.traceback]


def refresh(path: Path) -> float:
    """Execute a notebook in place; the seconds. A failing cell leaves it as it was."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        timeout=600,
    ).execute()
    seconds = time.perf_counter() - started
    tidy(notebook)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {refresh(Path(name)):.0f} s", flush=True)
