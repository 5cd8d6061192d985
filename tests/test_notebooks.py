"""The rules that every notebook keeps, and proof that each rule can be broken.

nbval compares what a run prints with what is stored. It cannot see a notebook that
was never run, a misspelt tag or a folder of somebody's machine: these tests do.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns

from mnistlab import data, pendigits
from tests.nbval_numbers import BAND, WORDS_VARY, Output, read
from tools.refresh_notebooks import BAR, VIEW, refresh, tidy

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"

TAGS = {
    WORDS_VARY,  # offline it may say something else; see nbval_numbers.py
    "raises-exception",  # the error is what it shows
    "page",  # a part of the web page, see tools/serve.py
}
MAX_BYTES = 1_000_000
SOURCE = {  # rule -> what breaks it in a cell
    "a line ends with ;": r";\s*$",
    "more than 79 columns": r"^.{80}",
    "an import": r"^(import|from) ",
}
OUTPUT = {  # rule -> what breaks it in what a reader sees, stream and types included
    "something on stderr": r"^stderr$",
    "a view without its widget": re.escape(VIEW),
    "a progress bar that stands still": rf"^{BAR.pattern}$",
    "a path or address": r"https?://|/(home|root|tmp|var|opt|usr|Users)/|\b[A-Z]:\\|"
    r"ipykernel_\d|\b0x[0-9a-fA-F]{6,}|" + re.escape(str(ROOT)),
}


def text_of(output) -> str:
    """All that a reader sees of an output, but pictures."""
    data = output.get("data", {})
    found = [text for mime, text in data.items() if not mime.startswith("image/")]
    found += [*data, *(output.get(key, "") for key in ("name", "text", "evalue"))]
    return "\n".join(map(str, found + output.get("traceback", [])))


def is_import(source: str) -> bool:
    body = ast.parse(source).body
    return bool(body) and all(isinstance(s, ast.Import | ast.ImportFrom) for s in body)


def problems(notebook, n_bytes: int = 0) -> list[str]:
    """Every rule that a notebook breaks, in words."""
    found = []
    first, second, *_ = *notebook.cells, *[new_markdown_cell()] * 2
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("the first cell is not a Markdown title")
    if second.cell_type != "code" or not is_import(second.source):
        found.append("the second cell is not the imports")
    if [cell.execution_count for cell in code] != [*range(1, len(code) + 1)]:
        found.append("the counts are not 1, 2, 3: run it from a fresh kernel")
    if len({cell.get("id") for cell in notebook.cells} - {None}) < len(notebook.cells):
        found.append("two cells have the same id, or one has none")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook.metadata:
        found.append("the state of widgets is stored")
    if n_bytes > MAX_BYTES:
        found.append(f"{n_bytes:,} bytes; expected at most {MAX_BYTES:,}")
    for cell in notebook.cells:
        for tag in set(cell.metadata.get("tags", [])) - TAGS:
            if not BAND.fullmatch(tag):
                found.append(f"unknown tag {tag!r}")
    for cell in code:
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in cell.metadata.get("tags", [])):
            found.append(f"an error without its tag, or the tag without one: {cell}")
        seen = "\n".join(map(text_of, cell.outputs))
        for rules, text in ((SOURCE, cell.source), (OUTPUT, seen)):
            for rule, pattern in rules.items():
                match = re.search(pattern, text, re.MULTILINE)
                if match and not (rule == "an import" and cell is second):
                    found.append(f"{rule}, {match[0]!r}, in {cell.source!r}")
    return found


# --- our notebooks ------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook, path.stat().st_size) == []
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)*\.ipynb", path.name)
    assert not [*path.parent.glob("*.py")]  # no code hides beside it


# --- the rules can be broken --------------------------------------------------------


def good():
    """A small notebook that keeps every rule, tag and output included."""
    failing = [new_output("error", ename="ValueError", evalue="no ink", traceback=[])]
    printed = [new_output("stream", name="stdout", text="42\n")]
    cells = [
        new_markdown_cell("# 09 · A test"),
        new_code_cell("import numpy as np", execution_count=1),
        new_code_cell("print(6 * 7)", execution_count=2, outputs=printed),
        new_code_cell("raise ValueError('no ink')", execution_count=3, outputs=failing),
    ]
    cells[3].metadata["tags"] = ["raises-exception"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_good_notebook_has_no_problems_unless_it_is_too_large():
    nbformat.validate(good())
    assert problems(good(), MAX_BYTES) == []
    assert "1,000,001 bytes" in problems(good(), MAX_BYTES + 1)[0]


def source(text):
    return lambda notebook: notebook.cells[2].update(source=text)


def tags(cell, *names):
    return lambda notebook: notebook.cells[cell].metadata.update(tags=names)


def shown(text, **data):
    output = new_output("display_data", {"text/plain": text, **data})
    return lambda notebook: notebook.cells[2].outputs.append(output)


SPOILT = [
    (lambda nb: nb.cells.pop(0), "title"),
    (lambda nb: nb.cells[0].update(source="No title"), "title"),
    (lambda nb: nb.cells[1].update(source="SEED = 0"), "not the imports"),
    (lambda nb: nb.cells[2].update(execution_count=None), "counts"),
    (lambda nb: nb.cells[2].update(id=nb.cells[1].id), "same id"),
    (lambda nb: nb.metadata.kernelspec.update(name="conda-env"), "kernel"),
    (lambda nb: nb.metadata.update(widgets={}), "state of widgets"),
    (tags(2, "nbval-ignore-output"), "tag"),
    (tags(2, "within a bit"), "tag"),
    (tags(3), "error without its tag"),
    (lambda nb: nb.cells[3].update(outputs=[]), "tag without one"),
    (source("plot();\nshow()"), "ends with ;"),
    (source("x = 1  # " + "x" * 71), "79 columns"),
    (source("x = 1\nfrom os import path"), "an import"),
    (lambda nb: nb.cells[2].outputs[0].update(name="stderr"), "stderr"),
    (shown("saved as /" + "home/ada/model.pt"), "path or address"),
    (shown("/" + "tmp/ipykernel_1/2.py: warning"), "path or address"),
    (shown(r"saved in C:\Users\ada"), "path or address"),
    (shown(f"written to {ROOT}"), "path or address"),
    (shown("see https://example.org"), "path or address"),
    (shown("<object at 0x7f3c1e2d4a90>"), "path or address"),
    (shown("", **{"text/html": "<p>/" + "root/x"}), "path or address"),
    (shown("  0%|     | 0/469 [00:00<?, ?it/s]"), "progress bar"),
    (shown("Pad()", **{VIEW: {"model_id": "1"}}), "view without"),
]


@pytest.mark.parametrize("spoil, expected", SPOILT)
def test_each_rule_notices_what_breaks_it(spoil, expected):
    notebook = good()
    spoil(notebook)
    assert any(expected in problem for problem in problems(notebook))


# --- what a stored output and a new run may differ in -------------------------------


PATTERNS = dict(get_sanitize_patterns(SANITIZE.read_text()))


def sanitized(text: str) -> str:
    return read(text, PATTERNS)[0]


@pytest.mark.parametrize(
    "stored, run, same",
    [
        ("99.41 % of 10,000", "97.2 % of 1,000", True),
        ("accuracy 0.9941, gap -0.2 points", "accuracy 1, gap 3.75 points", True),
        ("Hardest is 9. It has 98 %.", "Hardest is 3. It has 91.4%.", True),
        ("at a rate of 1e-05", "at a rate of 0.004", True),
        ("loss 0.032", "loss nan", True),
        ("train    55,000\ntest      5,000", "train 3,500\ntest 500", True),
        ("[5444 6179\n 5470   12]", "[ 350  350 350 3]", True),
        ("MNIST, 60,000 training images", "5,000-image MNIST sample", True),
        (f"from {pendigits.PENS_SOURCE}\n", f"from {pendigits.HAND_SOURCE}\n", True),
        ("", "training:   0%|          | 0/469 [00:00<?, ?it/s]", True),
        ("", "t10k-images-idx3-ubyte: 0.00B [00:00, ?B/s]", True),
        ("", "x: going on with 5,000 real MNIST images, those there.\n", True),
        ("<Line at 0x7f3c1e2d4a90>", "<Line at 0x55d0aa>", True),
        ("the label is 7", "the label was 7", False),
        ("no samples", "0.1", False),
        ("3 classes, 4 images", "3 classes", False),
        ("uint8 (28, 28)", "uint8 (1, 28, 28)", False),
        ("the alarm rings", "", False),
    ],
)
def test_offline_words_are_compared_and_numbers_are_not(stored, run, same):
    assert (sanitized(stored) == sanitized(run)) == same


@pytest.mark.parametrize(
    "stored, run, tags, same",
    [
        ("99.61% of 10,000", "99.61% of 10,000", [], True),
        ("in 3.1 s: 99.61%", "in 12 s: 99.61%", [], True),
        ("gap -7.8 points", "gap -8.7 points", ["within 1"], True),
        ("loss 0.410", "loss 0.43", ["within 10%"], True),
        ("loss 0.0, at 20", "loss 0.4, at 21", ["within 0.5", "within 5%"], True),
        ("x nan", "x nan", [], True),
        ("99.61% of 10,000", "99.62% of 10,000", [], False),
        ("99.61% of 10,000", "99.61% of 1,000", [], False),
        ("12 ... 69,999", "0 ... 70,000", ["within 10%"], False),
        ("gap -7.8 points", "gap +7.8 points", ["within 1"], False),
        ("gap -7.8 points", "gap -8.9 points", ["within 1"], False),
        ("loss 0.410", "loss 0.46", ["within 10%"], False),
        ("loss nan", "loss 0.46", ["within 100%"], False),
        ("loss 0.46", "loss nan", ["within 100%"], False),
        ("71% became 80%", "71% became 80 points", ["within 100%"], False),
    ],
)
def test_numbers_may_differ_by_the_stated_band(stored, run, tags, same):
    stored, run = (Output(*read(text, PATTERNS), tags) for text in (stored, run))
    assert (stored == run) is same
    assert (stored != run) is not same


def test_the_names_of_the_sources_are_those_of_the_package():
    for digits in data.load("sample"), data.load():
        assert sanitized(f"n = 3 ({digits.train.source})") == "n = # (<digits>)"
    for pens in pendigits.HAND_SOURCE, pendigits.PENS_SOURCE:
        assert sanitized(pens) == "<pens>"


# --- refreshing ---------------------------------------------------------------------


def test_tidying_takes_out_bars_views_and_folders_and_keeps_the_rest():
    notebook = good()
    view = {VIEW: {"model_id": "1"}}
    shown("  0%|     | 0/9 [00:00<?, ?it/s]", **view)(notebook)
    shown("Pad(canvas=280)", **view)(notebook)
    trace = "File \x1b[32m/home/ada/lab/mnistlab/checks.py:12\x1b[39m, in check"
    notebook.cells[3].outputs[0].traceback = [trace]
    notebook.cells[2].metadata.update(execution={"iopub.status.idle": "now"})
    ids = [cell.id for cell in notebook.cells]
    tidy(notebook)
    nbformat.validate(notebook)
    assert problems(notebook) == []
    _, _, printed, failed = notebook.cells
    left = [output.data["text/plain"] for output in printed.outputs[1:]]
    assert left == ["", "Pad(canvas=280)"]
    assert "mnistlab/checks.py:12" in failed.outputs[0].traceback[0]
    assert [cell.id for cell in notebook.cells] == ids
    assert (printed.metadata, failed.metadata) == ({}, {"tags": ["raises-exception"]})


@pytest.mark.parametrize("full", [True, False], ids=["full data", "offline"])
def test_a_refreshed_notebook_passes_and_an_edited_one_does_not(tmp_path, full):
    path, folder = tmp_path / "09_test.ipynb", tmp_path / "data"
    for name in (*data.MNIST_FILES, "../../pendigits/" + pendigits.PENS_FILE):
        file = folder / ("MNIST/raw" if full else "elsewhere") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # only whether they are there is asked
    notebook = good()
    notebook.cells[1].source = "from random import random\nfrom tqdm.auto import tqdm"
    notebook.cells[2].source = (
        "for _ in tqdm(range(3), desc='training', leave=False):\n"
        "    pass\n"
        "print(f'{random():.1%} of {10**random():,.0f} images')"
    )
    notebook.cells[2].metadata.tags = ["within 100"]
    notebook.cells.insert(3, new_code_cell("print(6 * 7, 'images')"))
    nbformat.write(notebook, path)
    refresh(path)
    refreshed = nbformat.read(path, as_version=4)
    assert problems(refreshed) == []
    stored = path.read_text()
    (tmp_path / "number.ipynb").write_text(stored.replace("42 images", "43 images"))
    (tmp_path / "words.ipynb").write_text(stored.replace("images\\n", "pictures\\n"))
    options = ["-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--color=no"]
    options += ["-p", "tests.nbval_numbers", "--nbval", "--nbval-current-env"]
    said = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}"]
        + [f"--nbval-sanitize-with={SANITIZE}", *sorted(tmp_path.glob("*.ipynb"))],
        cwd=ROOT,
        env={**os.environ, "MNISTLAB_DATA": str(folder)},
        capture_output=True,
        text=True,
    ).stdout
    failed = re.findall(r"FAILED \S*?(\w+)\.ipynb::", said)
    assert failed == ["number"] * full + ["words"] * 2, said
    assert ("43 stored, 42 now" in said) == full
