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
MAX_COLUMNS = 79
MAX_BYTES = 1_000_000
PRIVATE = re.compile(
    r"https?://|/(home|root|tmp|var|opt|usr|Users)/|\b[A-Z]:\\|ipykernel_\d|"
    r"\b0x[0-9a-fA-F]{6,}|" + re.escape(str(ROOT))
)


def texts(output) -> list[str]:
    """All that a reader sees of an output, but pictures."""
    data = output.get("data", {})
    found = [text for mime, text in data.items() if not mime.startswith("image/")]
    found += [output.get("text", ""), output.get("evalue", "")]
    found += output.get("traceback", [])
    return [str(text) for text in found]


def is_import(cell) -> bool:
    body = ast.parse(cell.source).body
    return bool(body) and all(isinstance(s, ast.Import | ast.ImportFrom) for s in body)


def problems(notebook, n_bytes: int = 0) -> list[str]:
    """Every rule that a notebook breaks, in words."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first, second = [*notebook.cells, None, None][:2]
    if not first or first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("the first cell is not a Markdown title")
    if not second or second.cell_type != "code" or not is_import(second):
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
        tags = set(cell.metadata.get("tags", []))
        unknown = sorted(tag for tag in tags - TAGS if not BAND.fullmatch(tag))
        if unknown:
            found.append(f"unknown tag {unknown}")
    for cell in code:
        lines, tags = cell.source.splitlines(), cell.metadata.get("tags", [])
        where = f"in the cell that begins {lines[0] if lines else ''!r}"
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in tags):
            found.append(f"an error without its tag, or the tag without one, {where}")
        if any(line.rstrip().endswith(";") for line in lines):
            found.append(f"a line ends with ; {where}")
        if any(len(line) > MAX_COLUMNS for line in lines):
            found.append(f"more than {MAX_COLUMNS} columns {where}")
        if cell is not second and re.search(r"(?m)^(import|from) ", cell.source):
            found.append(f"an import {where}")
        for output in cell.outputs:
            if output.get("name") == "stderr":
                found.append(f"something on stderr {where}")
            for text in texts(output):
                if match := PRIVATE.search(text):
                    found.append(f"a path or address, {match[0]!r}, {where}")
                if any(BAR.fullmatch(line) for line in text.splitlines()):
                    found.append(f"a progress bar that stands still {where}")
            if VIEW in output.get("data", {}):
                found.append(f"a view without its widget {where}")
    return found


# --- our notebooks ------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook, path.stat().st_size) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_named_by_a_number_and_a_noun(path):
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)*\.ipynb", path.name)


def test_no_code_hides_beside_the_notebooks():
    assert not list((ROOT / "notebooks").glob("*.py"))


# --- the rules can be broken --------------------------------------------------------


def good():
    """A small notebook that keeps every rule, tag and output included."""
    failing = [new_output("error", ename="ValueError", evalue="no ink", traceback=[])]
    cells = [
        new_markdown_cell("# 09 · A test"),
        new_code_cell("import numpy as np", execution_count=1),
        new_code_cell(
            "print(6 * 7)",
            execution_count=2,
            outputs=[new_output("stream", name="stdout", text="42\n")],
        ),
        new_code_cell(
            "raise ValueError('no ink')",
            execution_count=3,
            outputs=failing,
            metadata={"tags": ["raises-exception"]},
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_good_notebook_has_no_problems():
    notebook = good()
    nbformat.validate(notebook)
    assert problems(notebook, MAX_BYTES) == []


def show(notebook, text, **data):
    output = new_output("display_data", {"text/plain": text, **data})
    notebook.cells[2].outputs.append(output)


def stamp(notebook):
    notebook.cells[2].outputs = [new_output("stream", name="stderr", text="beware")]


SPOILT = [
    (lambda nb: nb.cells.pop(0), "title"),
    (lambda nb: nb.cells[0].update(source="No title"), "title"),
    (lambda nb: nb.cells[1].update(source="SEED = 0"), "not the imports"),
    (lambda nb: nb.cells[2].update(execution_count=None), "counts"),
    (lambda nb: nb.cells[2].update(execution_count=7), "counts"),
    (lambda nb: nb.cells[2].update(id=nb.cells[1].id), "same id"),
    (lambda nb: nb.metadata.kernelspec.update(name="conda-env"), "kernel"),
    (lambda nb: nb.metadata.update(widgets={}), "state of widgets"),
    (lambda nb: nb.cells[2].metadata.update(tags=["nbval-ignore-output"]), "tag"),
    (lambda nb: nb.cells[2].metadata.update(tags=["within a bit"]), "tag"),
    (lambda nb: nb.cells[3].metadata.update(tags=[]), "error without its tag"),
    (lambda nb: nb.cells[3].update(outputs=[]), "tag without one"),
    (lambda nb: nb.cells[2].update(source="plot();\nshow()"), "ends with ;"),
    (lambda nb: nb.cells[2].update(source="plot(); "), "ends with ;"),
    (lambda nb: nb.cells[2].update(source="x = 1  # " + "x" * 71), "79 columns"),
    (lambda nb: nb.cells[2].update(source="x = 1\nfrom os import path"), "an import"),
    (stamp, "stderr"),
    (lambda nb: show(nb, "saved as /home/ada/model.pt"), "path or address"),
    (lambda nb: show(nb, "/tmp/ipykernel_1/2.py: warning"), "path or address"),
    (lambda nb: show(nb, r"saved in C:\Users\ada"), "path or address"),
    (lambda nb: show(nb, f"written to {ROOT}"), "path or address"),
    (lambda nb: show(nb, "see https://example.org"), "path or address"),
    (lambda nb: show(nb, "<object at 0x7f3c1e2d4a90>"), "path or address"),
    (lambda nb: show(nb, "", **{"text/html": "<p>/root/x"}), "path or address"),
    (lambda nb: show(nb, "  0%|     | 0/469 [00:00<?, ?it/s]"), "progress bar"),
    (lambda nb: show(nb, "Pad()", **{VIEW: {"model_id": "1"}}), "view without"),
]


@pytest.mark.parametrize("spoil, expected", SPOILT)
def test_each_rule_notices_what_breaks_it(spoil, expected):
    notebook = good()
    spoil(notebook)
    assert any(expected in problem for problem in problems(notebook))


def test_a_notebook_that_is_too_large_is_noticed():
    assert "1,000,001 bytes" in problems(good(), MAX_BYTES + 1)[0]


# --- what a stored output and a new run may differ in -------------------------------


PATTERNS = dict(get_sanitize_patterns(SANITIZE.read_text()))


def sanitized(text: str) -> str:
    return read(text, PATTERNS)[0]


def output(text: str, *tags: str) -> Output:
    """An output as nbval compares it where the full data lie."""
    return Output(*read(text, PATTERNS), tags)


@pytest.mark.parametrize(
    "stored, run",
    [
        ("99.41 % of 10,000", "97.2 % of 1,000"),
        ("accuracy 0.9941, gap -0.2 points", "accuracy 1, gap 3.75 points"),
        ("Hardest is 9. It has 98 %.", "Hardest is 3. It has 91.4%."),
        ("at a rate of 1e-05", "at a rate of 0.004"),
        ("loss 0.032", "loss nan"),
        ("train    55,000 images\ntest      5,000", "train 3,500 images\ntest 500"),
        ("counts [5444 6179   12]", "counts [ 350  350 350]"),
        ("[5444 6179\n 5470]", "[350 350 350]"),
        ("60,000 of MNIST, 60,000 training images", "5 of 5,000-image MNIST sample"),
        (
            f"500 digits drawn from {pendigits.PENS_SOURCE}\n",
            f"500 digits drawn from {pendigits.HAND_SOURCE}\n",
        ),
        ("", "training:   0%|          | 0/469 [00:00<?, ?it/s]"),
        ("", "t10k-images-idx3-ubyte: 0.00B [00:00, ?B/s]"),
        ("done\n", "x: going on with 5,000 real MNIST images, those there.\ndone\n"),
        ("<Line at 0x7f3c1e2d4a90>", "<Line at 0x55d0aa>"),
        ("<td>0.99</td>", "<td>0.9</td>"),
    ],
)
def test_other_numbers_are_the_same_words(stored, run):
    assert sanitized(stored) == sanitized(run)


@pytest.mark.parametrize(
    "stored, run",
    [
        ("the label is 7", "the label was 7"),
        ("99 % of 10", "99 points of 10"),
        ("DigitCNN, 5 layers", "FastCNN, 5 layers"),
        ("no samples", "0.1"),
        ("3 classes, 4 images", "3 classes"),
        ("True", "False"),
        ("uint8 (28, 28)", "uint8 (1, 28, 28)"),
        ("the alarm rings", ""),
    ],
)
def test_other_words_are_a_difference(stored, run):
    assert sanitized(stored) != sanitized(run)


@pytest.mark.parametrize(
    "stored, run, tags",
    [
        ("99.61% of 10,000", "99.61% of 10,000", []),
        ("in 3.1 s: 99.61%", "in 12 s: 99.61%", []),
        ("gap -7.8 points", "gap -8.7 points", ["within 1"]),
        ("loss 0.410", "loss 0.43", ["within 10%"]),
        ("loss 0.0, epochs 20", "loss 0.4, epochs 21", ["within 0.5", "within 5%"]),
        ("x nan", "x nan", []),
    ],
)
def test_numbers_may_differ_by_the_stated_band(stored, run, tags):
    assert output(stored, *tags) == output(run, *tags)
    assert not output(stored, *tags) != output(run, *tags)


@pytest.mark.parametrize(
    "stored, run, tags",
    [
        ("99.61% of 10,000", "99.62% of 10,000", []),
        ("99.61% of 10,000", "99.61% of 1,000", []),
        ("12 ... 69,999", "0 ... 70,000", ["within 10%"]),
        ("gap -7.8 points", "gap +7.8 points", ["within 1"]),
        ("gap -7.8 points", "gap -8.9 points", ["within 1"]),
        ("loss 0.410", "loss 0.46", ["within 10%"]),
        ("loss nan", "loss 0.46", ["within 100%"]),
        ("loss 0.46", "loss nan", ["within 100%"]),
        ("[5423 6242]", "[5423 6243]", []),
        ("71% became 80%", "71% became 80 points", ["within 100%"]),
    ],
)
def test_other_numbers_are_a_difference_where_the_full_data_lie(stored, run, tags):
    assert output(stored, *tags) != output(run, *tags)
    assert not output(stored, *tags) == output(run, *tags)


def test_the_names_of_the_sources_are_those_of_the_package(sample_source):
    assert sanitized(f"n = 3 ({sample_source})") == "n = # (<digits>)"
    for source in pendigits.HAND_SOURCE, pendigits.PENS_SOURCE:
        assert sanitized(source) == "<pens>"


@pytest.fixture(params=["sample", "mnist"])
def sample_source(request):
    if request.param == "sample":
        return data.load("sample").source
    return request.getfixturevalue("mnist").source


# --- refreshing ---------------------------------------------------------------------


def test_tidying_takes_out_bars_views_and_folders_and_keeps_the_rest():
    notebook = good()
    show(notebook, "  0%|     | 0/9 [00:00<?, ?it/s]", **{VIEW: {"model_id": "1"}})
    show(notebook, "Pad(canvas=280)", **{VIEW: {"model_id": "2"}})
    trace = "File \x1b[32m/home/ada/lab/mnistlab/checks.py:12\x1b[39m, in check"
    notebook.cells[3].outputs[0].traceback = [trace]
    notebook.cells[2].metadata.update(execution={"iopub.status.idle": "now"})
    ids = [cell.id for cell in notebook.cells]
    tidy(notebook)
    nbformat.validate(notebook)
    assert problems(notebook) == []
    assert [output.data for output in notebook.cells[2].outputs[1:]] == [
        {"text/plain": ""},
        {"text/plain": "Pad(canvas=280)"},
    ]
    assert "mnistlab/checks.py:12" in notebook.cells[3].outputs[0].traceback[0]
    assert [cell.id for cell in notebook.cells] == ids
    assert notebook.cells[2].metadata == {}
    assert notebook.cells[3].metadata == {"tags": ["raises-exception"]}


@pytest.mark.parametrize("full", [True, False], ids=["full data", "offline"])
def test_a_refreshed_notebook_passes_and_an_edited_one_does_not(tmp_path, full):
    path, folder = tmp_path / "09_test.ipynb", tmp_path / "data"
    if full:  # only whether they are there is asked
        for name in (*data.MNIST_FILES, "../../pendigits/" + pendigits.PENS_FILE):
            file = folder / "MNIST" / "raw" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
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
    assert "images" in refreshed.cells[2].outputs[-1].text

    def failures():
        pytest_alone = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-q"]
        options = ["--rootdir", tmp_path, "-p", "tests.nbval_numbers", "--nbval"]
        more = ["--nbval-current-env", "-p", "no:cacheprovider", "--color=no"]
        done = subprocess.run(
            [*pytest_alone, *options, *more, f"--nbval-sanitize-with={SANITIZE}", path],
            cwd=ROOT,
            env={**os.environ, "MNISTLAB_DATA": str(folder)},
            capture_output=True,
            text=True,
        ).stdout
        summary = done.strip().splitlines()[-1]
        return int(re.search(r"(\d+) failed|$", summary)[1] or 0), done

    assert failures()[0] == 0
    stored = path.read_text()
    path.write_text(stored.replace("42 images", "43 images"))
    n, said = failures()
    assert n == full and ("43 stored, 42 now" in said) == full
    path.write_text(stored.replace("images\\n", "pictures\\n"))
    assert failures()[0] == 2
