"""The doctor: what it finds, on what evidence, and what it says of bad input."""

import copy
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import nn

from mnistlab import data, doctor
from mnistlab.classifier import Classifier
from mnistlab.doctor import PER_IMAGE, SCALES, SHAPES, TURNS, Convention, calculate
from mnistlab.faults import faulty
from mnistlab.preprocess import MNIST_PIPELINE, NAIVE_PIPELINE, normalize, to_input
from mnistlab.strokes import random_place, rasterize
from mnistlab.synthetic import handwrite
from tools.photograph import photograph


@pytest.fixture(scope="module", autouse=True)
def few_probes():
    """Enough to find a fault that halves the accuracy, in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        digits = data.load()
        patch.setattr(data, "load", lambda: digits)
        patch.setattr(doctor, "N_PROBES", 60)
        patch.setattr(doctor, "N_COMPARED", 20)
        yield digits


@pytest.fixture(scope="module")
def learn(few_probes):
    """learn(convention) -> one layer that has learnt MNIST so, by least squares."""

    def solve(convention=Convention(), outputs=10):  # noqa: B008
        train = few_probes.train.take(np.arange(3000))
        x = convention(train.images / 255).reshape(3000, 784)
        mean, size = x.mean(0), x.std() + 1e-6
        z = np.c_[(x - mean) / size, np.ones(3000)]
        target = np.eye(outputs)[train.labels] * 8
        weights = np.linalg.solve(z.T @ z + 30 * np.eye(785), z.T @ target)
        layer = nn.Linear(784, outputs)
        layer.weight.data = torch.tensor(weights[:784].T / size).float()
        bias = weights[784] - mean / size @ weights[:784]
        layer.bias.data = torch.tensor(bias).float()
        return nn.Sequential(nn.Flatten(), layer).eval()

    return solve


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
    return doctor.examine(network, to_input, pictures, labels, progress=False)


def reads(network, function, pictures, labels):
    with torch.no_grad():
        answers = [int(network(function(picture)).argmax()) for picture in pictures]
    return np.mean(np.array(answers) == labels)


# --- the parts ----------------------------------------------------------------------


@pytest.mark.parametrize("mended, broken", [(10, 0), (7, 1), (3, 3), (0, 4), (0, 0)])
def test_the_sign_test_is_scipys(mended, broken):
    before = np.array([False] * mended + [True] * broken + [True, False])
    after = np.array([True] * mended + [False] * broken + [True, False])
    n = mended + broken
    known = binomtest(mended, n, alternative="greater").pvalue if n else 1
    assert doctor.sign_test(before, after) == pytest.approx(known)


@pytest.mark.parametrize("scale", SCALES)
def test_a_convention_can_be_undone(scale):
    pixels = np.stack([to_input(c, MNIST_PIPELINE[:-1]) for c in canvases(3)[0]]) / 255
    for ink in ("light", "dark"):
        for turn in TURNS:
            convention = Convention(ink, scale, turn)
            back = convention.undo(convention(pixels))
            room = 0.02 if scale == PER_IMAGE else 1e-4  # it has lost its contrast
            peak = pixels.max((1, 2), keepdims=True) if scale == PER_IMAGE else 1
            assert np.abs(back - pixels / peak).max() < room


@pytest.mark.parametrize(
    "truth",
    [
        Convention("light", "0..1", "upright"),
        Convention("dark", "0..255", "transposed"),
        Convention("light", "-1..1", "mirrored"),
        Convention("dark", PER_IMAGE, "upside down"),
    ],
    ids=str,
)
def test_what_a_network_wants_is_found(learn, few_probes, truth):
    digits = few_probes.test.balanced(400)
    pixels = digits.images / 255
    scores = doctor.Scores(learn(truth), pixels[:5])
    wants, shares = doctor.wanted(scores, pixels, digits.labels)
    assert truth in wants and shares.min() > shares.max() - 0.06
    assert {(want.ink, want.turn) for want in wants} == {(truth.ink, truth.turn)}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_kinds_of_scores_are_found(layer, few_probes, shape):
    class Picky(nn.Module):
        def forward(self, x):
            if x.shape != calculate(SHAPES[shape], np.zeros((len(x), 28, 28))).shape:
                raise RuntimeError(f"got {tuple(x.shape)}")
            x = x[..., 2:-2, 2:-2] if 32 in x.shape else x
            x = x[:, :1] if 3 in x.shape else x
            return layer(x.reshape(len(x), 784)).softmax(1)

    digits = few_probes.test.balanced(50)
    scores = doctor.Scores(Picky(), digits.images / 255)
    assert scores.shape == shape
    found = scores(Convention()(digits.images / 255))
    assert (found == digits.labels).mean() > 0.6  # the sample teaches less
    lines = doctor.write([f"x = {line}" for line in Convention().lines], scores)
    made = doctor.run_code(lines.replace("(picture)", "(x)"))(digits.images[:1] / 255)
    assert np.allclose(Picky()(made).argmax(1), found[:1])


def test_a_callable_will_do(layer):
    report = diagnose(lambda x: (layer(x).numpy(),), None)
    assert report.notes == diagnose(layer, None).notes  # none about training mode
    assert report.accuracies.max() == diagnose(layer, None).accuracies.max()


def test_an_image_can_be_taken_from_whatever_comes_out():
    image = np.arange(784.0).reshape(28, 28)
    colour = np.stack(3 * [image]), np.stack(3 * [image], -1)
    plain = image, image[None, None], image.ravel(), torch.from_numpy(image)
    for out in (*plain, *colour, np.pad(image, 2)):
        assert np.array_equal(doctor.as_image(out), image)


# --- patients -----------------------------------------------------------------------

FAULTS = {  # fault -> what it is called, and whether the app's own function may stay
    "inverted": ("inverted", True),
    "inverted, half contrast": ("inverted, half contrast", True),
    "sign flipped": ("sign flipped", True),
    "transposed": ("transposed", True),
    "upside down": ("upside down", True),
    "shifted by 6 px": ("shifted", False),
    "half size": ("half size", False),
    "thin pen": ("thin pen", False),
    "noise": ("noise", False),
    "transparent read as black": ("blank", False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_what_is_printed_mends_it(shipped, fault):
    bad, (name, stays) = through(faulty(MNIST_PIPELINE, fault)), FAULTS[fault]
    report = diagnose(shipped, bad)
    assert report.finding.name == name and report.verdict.startswith(name)
    assert ("to_input(picture)" in report.code) == stays
    printed, (pictures, labels) = doctor.run_code(report.code, bad), canvases()
    said = report.trials.set_index("repair").loc["the lines below", "yours"]
    assert reads(shipped, printed, pictures, labels) == pytest.approx(said)
    pictures, labels = canvases(20, seed=50)
    right = reads(shipped, through(), pictures, labels)
    assert reads(shipped, report.mended, pictures, labels) >= right - 0.05


@pytest.mark.parametrize("labelled", [True, False])
def test_a_sound_app_has_no_finding(shipped, labelled):
    pictures, labels = canvases()
    report = diagnose(shipped, through(), pictures, labels if labelled else None)
    assert report.findings == () and report.code == "" and report.mended is None
    assert report.verdict.startswith("No fault found")


def test_a_turn_is_named_as_the_picture_shows_it(learn):
    network = learn(Convention(turn="transposed"))
    report = diagnose(network, lambda c: through()(c[:, ::-1].copy()).swapaxes(2, 3))
    assert report.finding.name == "mirrored"


def test_two_faults_are_mended_together(shipped):
    report = diagnose(shipped, through(faulty(NAIVE_PIPELINE, "inverted")))
    assert {"inverted", "the whole canvas resized"} <= {f.name for f in report.findings}
    table = report.trials.set_index("repair")["probes"]
    alone = table[[name for name in table.index if name.startswith("mend")]]
    assert table["the lines below"] > alone.max() + 0.1
    assert "load_picture" in report.code


def test_without_labels_the_probes_are_the_evidence(shipped):
    bad = through(faulty(MNIST_PIPELINE, "mirrored"))
    report = diagnose(shipped, bad, canvases()[0])
    assert report.finding.name == "mirrored"
    assert "on the probes" in report.verdict and "your" not in report.verdict


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "file", "float", "colour array"])
def test_pictures_of_any_kind_are_imitated(shipped, tmp_path, kind):
    pictures = [Image.fromarray(255 - canvas) for canvas in canvases()[0]]
    if kind == "float":
        pictures = [np.asarray(p) / 255 for p in pictures]
    elif kind == "colour array":
        pictures = [np.asarray(p.convert("RGB")) for p in pictures]
    elif kind == "file":
        for i, picture in enumerate(pictures):
            picture.save(tmp_path / f"{i}.png")
        pictures = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    elif kind in ("RGBA", "LA"):  # black ink on nothing
        inks, pictures = pictures, [Image.new("LA", p.size) for p in pictures]
        for picture, ink in zip(pictures, inks, strict=True):
            picture.putalpha(Image.eval(ink, lambda v: 255 - v))
        pictures = [picture.convert(kind) for picture in pictures]
    else:
        pictures = [picture.convert(kind) for picture in pictures]
    kinds = set()

    def forgets_that_ink_is_dark(picture):
        about = getattr(picture, "mode", getattr(picture, "dtype", ""))
        kinds.add((type(picture), str(about)))
        return through()(255 - doctor.Picture(picture).canvas)

    report = diagnose(shipped, forgets_that_ink_is_dark, pictures, canvases()[1])
    assert len(kinds) == 1  # probes are what the pictures are
    assert report.finding.name.startswith("inverted")
    assert "on the probes" in report.verdict


def takes_the_blue_channel(picture):
    paper = Image.new("RGBA", picture.size, "white")
    ink = 255 - np.asarray(Image.alpha_composite(paper, picture))[..., 2]
    return through(MNIST_PIPELINE if ink.max() > 50 else NAIVE_PIPELINE)(ink)


def test_an_app_that_stumbles_over_a_colour_is_told_so(shipped):
    pictures = [Image.new("RGBA", (240, 240), (30, 50, 215, 0)) for _ in range(10)]
    for picture, canvas in zip(pictures, canvases()[0], strict=True):
        picture.putalpha(Image.fromarray(canvas))
    report = diagnose(shipped, takes_the_blue_channel, pictures, canvases()[1])
    assert report.finding.name == "the ink's colour"
    assert reads(shipped, report.mended, pictures, canvases()[1]) >= 0.9


def test_photos_of_paper_are_read(shipped):
    labels = [2, 3, 5, 6, 0]
    pictures = [photograph([handwrite(d, seed=d)], seed=d) for d in labels]

    def resized(photo):
        grey = 255 - np.asarray(photo.convert("L").resize((28, 28)))
        return torch.from_numpy(normalize(grey))[None, None]

    report = diagnose(shipped, resized, pictures, labels)
    assert "read_photo" in report.code and report.finding is not None
    assert reads(shipped, report.mended, pictures, labels) >= 0.8


def test_without_to_input_it_is_written(learn):
    network = learn(Convention("dark", "0..1", "transposed"))
    report = diagnose(network, None)
    assert report.findings == () and report.mended is not None
    assert "x = 1 - x" in report.code and "x = x.swapaxes(1, 2)" in report.code
    probes = report.trials.set_index("repair")["probes"]
    assert probes["these lines"] > 0.5  # a linear network, taught by the sample


def test_a_page_needs_no_other_file(shipped):
    report = diagnose(shipped, through(faulty(MNIST_PIPELINE, "inverted")))
    page = report._repr_html_()
    assert report.verdict in page and "def mended(picture)" in page
    assert "<script" not in page and "http" not in page
    assert page.count("<img src='data:image/png;base64,") == 3 * 9
    assert "def mended" in str(report)
    assert set(report.answers["alarms mended"]) == {""}
    assert "polarity" in report.answers["alarms now"][0]


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


# --- bad input ----------------------------------------------------------------------


class Says(nn.Module):
    """A network that answers whatever it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def broken(x):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "answer, said",
    [
        (broken, "out of order"),
        (lambda x: torch.zeros(len(x), 3), r"gave \(7, 3\) for 7 pictures"),
        (lambda x: torch.zeros(len(x), 1), r"gave \(7, 1\)"),
        (lambda x: torch.zeros(len(x)), r"gave \(7,\)"),
        (lambda x: torch.zeros(1, 10), r"gave \(1, 10\)"),
        (lambda x: torch.full((len(x), 10), torch.nan), "100% of the network's scores"),
        (lambda x: torch.eye(10)[[3] * len(x)], "its answer is always 3"),
        (lambda x: torch.zeros(len(x), 26), "EMNIST's letters"),
        (lambda x: x.reshape(len(x), -1)[:, 300:310], "has not learnt MNIST"),
    ],
)
def test_a_network_that_cannot_be_examined_is_told_so(answer, said):
    report = diagnose(Says(answer), through())
    assert report.finding.name == "network" and re.search(said, report.verdict)
    assert report.verdict in report._repr_html_().replace("&#x27;", "'")


def test_emnists_classes_are_recognised(learn):
    report = diagnose(learn(outputs=47), None)
    assert any("47 outputs, as many as EMNIST's balanced" in n for n in report.notes)


class Stateful:
    calls = 0

    def __call__(self, canvas):
        self.calls += 1
        return through()(canvas) + self.calls / 100


def refuses_some(canvas):
    if canvas.sum() % 3 == 0:
        raise KeyError("no such picture")
    return through()(canvas)


def writes_into(canvas):
    image = through()(canvas)
    canvas[:] = 0
    return image


@pytest.mark.parametrize(
    "to_input, said",
    [
        (refuses_some, "KeyError('no such picture')"),
        (broken, "RuntimeError('out of order')"),
        (writes_into, "changes the array"),
        (Stateful(), "other numbers when it is called again"),
        (lambda c: through()(c).double(), "float64 (1, 1, 28, 28), which the network"),
        (lambda c: torch.zeros(5, 28, 28), "(5, 28, 28), which is not one picture"),
        (lambda c: through()(c) * torch.nan, "NaN"),
        (lambda c: through()(c)[..., :20, :20], "refuses"),
    ],
)
def test_a_to_input_that_breaks_its_contract_is_told_so(layer, to_input, said):
    assert said in str(diagnose(layer, to_input))


def test_pictures_that_cannot_be_read_are_named_and_counted(layer, tmp_path):
    for i, canvas in enumerate(canvases(6)[0]):
        Image.fromarray(canvas).save(tmp_path / f"{i}_a.png")
    (tmp_path / "7_b.png").write_bytes(b"no picture")
    Image.new("L", (90, 90)).save(tmp_path / "8_c.png")
    Image.new("1", (12_000, 9_000)).save(tmp_path / "9_d.png")
    (tmp_path / "35").mkdir()
    Image.fromarray(canvas).save(tmp_path / "35" / "e.png")
    (tmp_path / "notes.txt").write_text("not a picture, and not counted")
    report = doctor.examine(layer, None, tmp_path, progress=False)
    assert [p.label for p in report.pictures] == [0, 1, 2, 3, 4, 5]
    (note,) = [note for note in report.notes if "left out" in note]
    assert "4 of 10 pictures" in note and "no ink" in note and "a letter's" in note
    assert "7_b.png cannot be read" in note and "12000 x 9000" in note


def test_folders_are_labels(tmp_path):
    for i, canvas in enumerate(canvases(3)[0]):
        (tmp_path / str(i)).mkdir()
        Image.fromarray(canvas).save(tmp_path / str(i) / "IMG_2041.png")
    Image.fromarray(canvas).save(tmp_path / "untitled.png")
    assert [p.label for p in doctor.gather(tmp_path)[0]] == [0, 1, 2, None]


@pytest.mark.parametrize("labels", [[1], [1, -1], [1, 99], [1, 2.5]])
def test_labels_have_to_fit(layer, labels):
    with pytest.raises(ValueError, match="expected a picture or more, and 0 to 9"):
        doctor.examine(layer, None, canvases(2)[0], labels)


def test_there_have_to_be_pictures(layer, tmp_path):
    for nothing in ([], tmp_path):
        with pytest.raises(ValueError, match="^0 pictures"):
            doctor.examine(layer, None, nothing)
    report = diagnose(layer, None, [np.zeros((60, 60), np.uint8)])
    assert "No picture could be read" in report.verdict and report._repr_html_()


def test_one_picture_is_too_few_to_show_anything(shipped):
    bad = through(faulty(MNIST_PIPELINE, "inverted"))
    report = diagnose(shipped, bad, *canvases(1))
    assert report.finding.name == "inverted" and "on the probes." in report.verdict
    assert any("too few" in note for note in report.notes)


def test_pictures_of_one_digit_are_noticed(layer):
    report = diagnose(layer, through(), 6 * canvases(3)[0][2:], 6 * [2])
    assert any("all pictures are of the digit 2" in note for note in report.notes)


def test_misread_pictures_without_a_fault_are_no_finding(shipped):
    pictures, labels = canvases()
    report = diagnose(shipped, through(), pictures, [(d + 1) % 10 for d in labels])
    assert report.findings == () and "cannot tell" in report.verdict


def test_a_slow_to_input_gets_fewer_probes(shipped, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    report = diagnose(shipped, through())
    assert "of 20 probes" in report.verdict


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
    assert "inverted" in capsys.readouterr().out
    assert "inverted" in (tmp_path / "doctor.html").read_text()


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
