"""What the README says is what the card says and what the code does.

Run as a script, it writes the card's figures into the README.
"""

import json
import re
from pathlib import Path

from PIL import Image
from test_doctor import APP

from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CARD = ROOT / "artifacts" / "best_model.json"
ROWS = {
    "mnist_test": "MNIST's test images",
    "pens_of_unseen_writers": "recorded pens, {n_writers} writers, each read by a "
    "network that has learnt from others",
    "pens_where_none_were_seen": "the same, read by a network that has seen no pens",
    "scripted_hand": "digits of the scripted hand, all its forms, warped",
    "pens_canvas_only_resized": "the pens, learnt, canvas only resized (the second "
    "bug)",
}
UNLEARNT = "never learnt, by the second row's networks | {n} | refused as no digit: "
UNLEARNT += "{share:.1%}, mean of the networks"
REFUSED = {
    "other marks": f"other marks, {UNLEARNT}",
    "mirrored digits": f"mirrored 3, 6 and 9, {UNLEARNT}",
    "digits of unseen writers": "the digits of the second row | {n_pens:,} | refused: "
    "{share:.1%}, for so the bound was chosen",
    "digits, no pens seen": "those of the third row | {n_pens:,} | refused: "
    "{share:.1%}",
}
BLOCK = re.compile(r"<!-- figures.*?-->\n(.*?)(?=Writers were)", re.DOTALL)


def table(card: dict) -> str:
    known = {**card["accuracies"], **card["estimated"]}
    rows = ["| scored on | n | right |", "| --- | ---: | ---: |"]
    refused, n = card["estimated"]["refused"], card["estimated"]["n_of_each_kind"]
    for name, text in ROWS.items():
        figures, right = known[name], "{accuracy:.2%}".format(**known[name])
        if "interval" in figures:
            low, high = figures["interval"]
            right += f" ({low:.2%} to {high:.2%}; worst writer {figures['worst']:.1%})"
        text = text.format(**figures)
        rows.append(f"| {text} | {figures['n']:,} | {right} |")
    n_pens = known["pens_of_unseen_writers"]["n"]
    for kind, text in REFUSED.items():
        rows.append(f"| {text.format(n=n, n_pens=n_pens, share=refused[kind])} |")
    return "\n" + "\n".join(rows) + "\n\n"


def test_the_figures_and_parameters_are_those_of_the_card():
    text, card = README.read_text(), json.loads(CARD.read_text())
    assert BLOCK.search(text)[1] == table(card)
    assert f"{card['parameters']:,} parameters" in text
    estimated = json.loads(CARD.with_name("estimate.json").read_text())
    assert estimated == card["estimated"]
    assert estimated["temperature"] == card["temperature"]
    for way in "pens_of_unseen_writers", "pens_where_none_were_seen":
        one, two = (other[way]["accuracy"] for other in estimated["other_seeds"])
        assert f"{one:.2%} and {two:.2%} in the" in text.replace("\n", " ")


def test_the_example_finds_the_fault_of_the_story(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    (tmp_path / "my_app.py").write_text(APP)
    (tmp_path / "my_pictures").mkdir()
    for digit in range(10):
        canvas = Image.fromarray(rasterize(handwrite(digit, seed=digit)))
        canvas.save(tmp_path / "my_pictures" / f"{digit}_1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exec(code, {})
    assert re.search(r"(?m)^inverted: ", capsys.readouterr().out)


def test_every_target_it_names_exists():
    named = set(re.findall(r"`?make ([a-z]+)", README.read_text())) - {"then"}
    there = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    assert {"lab", "test", "app", "bench", "model"} <= named <= set(there)


if __name__ == "__main__":
    text, card = README.read_text(), json.loads(CARD.read_text())
    start, end = BLOCK.search(text).span(1)
    README.write_text(text[:start] + table(card) + text[end:])
