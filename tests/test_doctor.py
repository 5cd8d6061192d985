"""The doctor: what it finds, on what evidence, and what it says of bad input."""

import copy
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mnistlab import data, doctor
from mnistlab.classifier import Classifier
from mnistlab.conventions import Convention
from mnistlab.faults import faulty
from mnistlab.preprocess import (
    MNIST_PIPELINE,
    NAIVE_PIPELINE,
    load_picture,
    normalize,
    to_input,
)
from mnistlab.strokes import random_place, rasterize
from mnistlab.synthetic import handwrite
from tools.photograph import photograph


@pytest.fixture(scope="module", autouse=True)
def few_probes(sample):
    """Enough to find a fault that halves the accuracy, in a third of the time."""
    known = {}  # what a network wants, which does not change

    def once(scores, *images, find=doctor.wanted):
        if scores.network not in known:
            known[scores.network] = find(scores, *images)
        return known[scores.network]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda: sample)
        patch.setattr(doctor, "wanted", once)
        patch.setattr(doctor, "N_WANTED", 200)
        patch.setattr(doctor, "N_PROBES", 60)
        patch.setattr(doctor, "N_COMPARED", 20)
        yield


@pytest.fixture(scope="module")
def layer(learn):
    return learn()


@pytest.fixture(scope="module")
def shipped():
    return Classifier.load().model


def canvases(n=10, seed=0):
    """White on black, uint8 (240, 240), anywhere; and their labels."""
    rng, labels = np.random.default_rng(seed), [i % 10 for i in range(n)]
    drawings = [handwrite(label, seed=seed + label) for label in labels]
    placed = [random_place(d, rng, 90, 160, 14, 240) for d in drawings]
    return [rasterize(drawing, 14, 240) for drawing in placed], labels


def through(pipeline=MNIST_PIPELINE):
    return lambda canvas: torch.tensor(to_input(canvas, pipeline).copy())[None, None]


def diagnose(network, to_input, pictures=None, labels=None):
    if pictures is None:
        pictures, labels = canvases()
    return doctor.examine(network, to_input, pictures, labels)


def reads(network, function, pictures, labels):
    answers = [int(network(function(picture)).argmax()) for picture in pictures]
    return np.mean(np.array(answers) == labels)


def test_an_image_can_be_taken_from_whatever_comes_out():
    image = np.arange(784.0).reshape(28, 28)
    colour = np.stack(3 * [image]), np.stack(3 * [image], -1)
    plain = image, image[None, None], image.ravel(), torch.from_numpy(image)
    for out in (*plain, *colour, np.pad(image, 2)):
        assert np.array_equal(doctor.as_image(out), image)


# --- patients -----------------------------------------------------------------------

STAYS = "inverted", "inverted, half contrast", "sign flipped", "transposed"
REPLACED = (
    "shifted by 6 px",
    "half size",
    "thin pen",
    "noise",
    "transparent read as black",
)
CALLED = {"shifted by 6 px": "shifted", "transparent read as black": "blank"}


@pytest.mark.parametrize("fault", [*STAYS, *REPLACED])
def test_a_fault_is_named_and_what_is_printed_mends_it(shipped, fault):
    bad, name = through(faulty(MNIST_PIPELINE, fault)), CALLED.get(fault, fault)
    report = diagnose(shipped, bad)
    assert report.finding.name == name and report.verdict.startswith(name)
    assert ("to_input(picture)" in report.code) == (fault in STAYS)
    names, (pictures, labels) = {"to_input": bad}, canvases()
    exec(report.code, names)
    printed = names["mended"]
    yours = report.trials.set_index("repair")["yours"]
    said = yours["as printed"]
    assert fault not in STAYS or yours[f"mend: {name}"] == said
    assert reads(shipped, printed, pictures, labels) == pytest.approx(said)
    pictures, labels = canvases(20, seed=50)
    right = reads(shipped, through(), pictures, labels)
    assert reads(shipped, report.mended, pictures, labels) >= right - 0.05


@pytest.mark.parametrize("labels", [canvases()[1], None])
def test_a_sound_app_has_no_finding(shipped, labels):
    report = diagnose(shipped, through(), canvases()[0], labels)
    assert report.findings == () and report.code == "" and report.mended is None
    assert report.verdict.startswith("No fault found")


def test_a_turn_is_named_as_the_picture_shows_it(learn):
    network = learn(Convention(turn="transposed"))
    report = diagnose(network, lambda c: through()(c[:, ::-1].copy()).swapaxes(2, 3))
    assert report.finding.name == "mirrored"


def test_two_faults_are_mended_together(shipped):
    report = diagnose(shipped, through(faulty(NAIVE_PIPELINE, "inverted")))
    names = [finding.name for finding in report.findings]
    assert names == ["inverted", "the whole canvas resized"]
    table = report.trials.set_index("repair")["probes"]
    alone = table[[name for name in table.index if name.startswith("mend")]]
    assert table["as printed"] > alone.max() + 0.1
    assert "load_picture" in report.code and report.code in str(report)
    assert set(report.answers["alarms mended"]) == {""}
    assert "polarity" in report.answers["alarms now"][0]


def takes_the_blue_channel(picture):
    paper = Image.new("RGBA", picture.size, "white")
    ink = 255 - np.asarray(Image.alpha_composite(paper, picture))[..., 2]
    return through(MNIST_PIPELINE if ink.max() > 50 else NAIVE_PIPELINE)(ink)


def in_blue(canvases):
    blue = np.full((240, 240, 3), (30, 50, 215), np.uint8)
    return [Image.fromarray(np.dstack([blue, canvas])) for canvas in canvases]


def test_what_is_faint_in_grey_is_no_fault_and_comes_out_at_full_strength(shipped):
    drawn, labels = canvases()
    pictures, bad = in_blue(drawn), through(faulty(MNIST_PIPELINE, "thick pen"))

    def of_grey(picture):
        return bad(load_picture(picture, ink="dark"))

    report = diagnose(shipped, of_grey, pictures, labels)
    assert [finding.name for finding in report.findings] == ["thick pen"]
    for picture in pictures:
        assert report.mended(picture).max().item() == pytest.approx(2.82, abs=0.01)


def test_an_app_that_stumbles_over_a_colour_is_told_so(shipped):
    drawn, labels = canvases()
    pictures = in_blue(drawn)
    report = diagnose(shipped, takes_the_blue_channel, pictures, labels)
    assert report.finding.name == "the ink's colour"
    assert reads(shipped, report.mended, pictures, labels) >= 0.9


def test_photos_of_paper_are_read(shipped):
    labels = [2, 3, 5, 6, 0]
    pictures = [photograph([handwrite(d, seed=d)], seed=d) for d in labels]

    def resized(photo):
        grey = 255 - np.asarray(photo.convert("L").resize((28, 28)))
        return torch.from_numpy(normalize(grey))[None, None]

    report = diagnose(shipped, resized, pictures, labels)
    assert "read_photo" in report.code and "- uneven paper:" in str(report)
    assert reads(shipped, report.mended, pictures, labels) >= 0.8


def test_without_to_input_it_is_written(learn):
    network = learn(Convention("dark", "0..1", "transposed"), outputs=47)
    report = diagnose(lambda x: (network(x).numpy(),), None)  # a callable will do
    assert report.findings == () and "training" not in str(report.notes)
    assert "47 outputs, as many as EMNIST's balanced" in str(report)
    assert "x = 1 - x" in report.code and "x = x.swapaxes(1, 2)" in report.code
    probes = report.trials.set_index("repair")["probes"]
    assert probes["as printed"] > 0.5  # a linear network, taught by the sample


def test_what_is_printed_has_the_shape_and_dtype_that_the_network_takes():
    scores = SimpleNamespace(shape="(N, 3, 32, 32)", like=torch.zeros(1).double())
    code = doctor.write(["x = np.ones((1, 28, 28))"], scores)
    exec(code, names := {})
    out = names["mended"](None)
    assert out.shape == (1, 3, 32, 32) and out.dtype == torch.float64


def test_the_examined_is_left_as_it_was(shipped):
    network = copy.deepcopy(shipped).train()
    network[1].eval()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def dice():
        return random.random(), np.random.random(), torch.rand(1).item()

    def throw():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    throw()
    expected, _ = dice(), throw()
    report = diagnose(network, lambda canvas: [dice(), through()(canvas)][1])
    assert dice() == expected
    assert "training mode" in " ".join([report.verdict, *report.notes])
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    "taken, said",
    [
        (lambda path: Image.open(path).convert("L"), None),
        (lambda picture: picture.convert("L"), "PIL images"),
        (lambda grey: np.ascontiguousarray(grey[5:, ::]), "grey arrays"),
        (lambda array: array[..., 2].astype(int), "arrays in colour"),
        (lambda path: Image.open("" + path).convert("L"), "paths as text"),
    ],
)
def test_files_are_opened_for_a_function_that_takes_no_paths(
    layer, tmp_path, taken, said
):
    for canvas, label in zip(*canvases(), strict=True):
        Image.fromarray(255 - canvas).convert("RGB").save(tmp_path / f"{label}_1.png")
    report = diagnose(
        layer,
        lambda picture: through()(255 - np.asarray(taken(picture), np.uint8)),
        tmp_path,
    )
    assert report.findings == ()
    notes = [note for note in report.notes if "takes no paths" in note]
    assert notes == ([f"to_input takes no paths: it gets {said}"] if said else [])


@pytest.mark.parametrize("dropout, said", [(0.97, "- training mode"), (0.0, "note")])
def test_a_network_that_was_left_in_training_mode_is_told_so(layer, dropout, said):
    report = diagnose(nn.Sequential(nn.Dropout(dropout), layer), through())
    assert f"{said}: as it is, the network reads" in str(report)


# --- bad input ----------------------------------------------------------------------


def broken(x):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda x: torch.eye(10)[[3] * len(x)], "its answer is always 3"),
        (lambda x: x.reshape(len(x), -1)[:, 300:310], "has not learnt MNIST"),
    ],
)
def test_a_network_that_cannot_be_examined_is_told_so(answer, said):
    report = diagnose(answer, through())
    assert report.finding.name == "network" and re.search(said, report.verdict)
    assert report.verdict in report._repr_html_().replace("&#39;", "'")


@pytest.mark.parametrize(
    "to_input, said",
    [
        (lambda c: through()(c) if c.sum() % 3 else {}["no"], "KeyError('no') ("),
        (broken, "- raises: to_input: RuntimeError('out of order') (100 of 100 times)"),
        (lambda c: [through()(c), c.fill(0)][0], "changes the array"),
        (lambda c: through()(c) + torch.rand(1), "gives other numbers when it is call"),
        (lambda c: through()(c).double(), "- dtype: to_input gives float64 (1, 1, 28,"),
        (lambda c: torch.zeros(5, 28, 28), "(5, 28, 28), which is not one picture"),
        (lambda c: through()(c) * torch.nan, "NaN"),
        (lambda c: through()(c)[..., :20, :20], "- shape: to_input gives float32"),
    ],
)
def test_a_to_input_that_breaks_its_contract_is_told_so(layer, to_input, said):
    assert said in str(diagnose(layer, to_input))


def test_pictures_that_cannot_be_read_are_counted(layer):
    nothing = np.zeros((60, 60), np.uint8)
    report = diagnose(layer, None, [nothing, *canvases(3)[0]])
    assert "1 of 4 pictures are left out: picture 1: there is no ink" in report.notes[0]
    report = diagnose(layer, None, [nothing])
    assert "No picture could be read" in report.verdict and report._repr_html_()


def test_one_picture_is_too_few_to_show_anything(shipped):
    bad = through(faulty(MNIST_PIPELINE, "inverted"))
    report = diagnose(shipped, bad, *canvases(1))
    assert report.finding.name == "inverted" and "on the probes." in report.verdict
    assert any("too few" in note for note in report.notes)


def test_misread_pictures_of_one_digit_are_no_finding(shipped, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 0.0)  # a slow to_input gets fewer probes
    report = diagnose(shipped, through(), 6 * canvases(3)[0][2:], 6 * [5])
    assert report.findings == () and "cannot tell" in report.verdict
    assert "of 20 probes" in report.verdict
    assert report.notes == ["all pictures are of the digit 5"]


# --- the command --------------------------------------------------------------------

APP = """
import numpy as np, torch
from PIL import Image
from mnistlab.classifier import Classifier
model = Classifier.load().model

def preprocess(path):
    image = 255 - np.asarray(Image.open(path).convert("L").resize((28, 28)))
    return torch.tensor((image / 255 - 0.1307) / 0.3081).float()[None, None]
"""


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_app.py").write_text(APP)
    (tmp_path / "pictures").mkdir()
    for canvas, label in zip(*canvases(), strict=True):
        Image.fromarray(canvas).save(tmp_path / "pictures" / f"{label}_1.png")
    doctor.main(["my_app.py:model", "my_app.py:preprocess", "pictures"])
    said, page = capsys.readouterr().out, (tmp_path / "doctor.html").read_text()
    assert said.split("\n")[0] in page and "inverted" in said
    assert "<script" not in page and "http" not in page  # it needs no other file
    assert "def mended(picture)" in page and page.count('<img src="data:') == 3 * 9


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "runs, your file"),
        (["no_app.py:model", "none", "."], "expected a file and a name"),
        (["my_app.py:net", "none", "."], "no 'net'"),
        (["my_app.py:model", "none", "."], "0 pictures"),
    ],
)
def test_the_command_says_what_it_needs(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_app.py").write_text("model = len\n")
    with pytest.raises(SystemExit, match=said):
        doctor.main(arguments)
