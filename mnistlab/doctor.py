"""Somebody else's network, input code and pictures: what it wants, gets, and needs.

1. MNIST's own images go through every convention: what does the network want?
2. MNIST's digits, drawn as your pictures are, go through `to_input`; what comes out
   is compared with what known ways to spoil a digit make of it.
3. Repairs are tried on these probes, whose answers are known, and on your pictures.
   The one that is printed is run as it is printed.

From a shell: python -m mnistlab.doctor my_app.py:model my_app.py:preprocess pictures/
It imports, and so runs, your file, unpickles nothing by itself, and writes doctor.html.
With 'none' for preprocess it writes one.
"""

import copy
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from mnistlab import data, preprocess
from mnistlab.checks import CAUSES, Reference
from mnistlab.conventions import (
    CERTAIN,
    SCALES,
    SHAPES,
    TURNS,
    Convention,
    Scores,
    Unusable,
    back,
    calculate,
    sign_test,
    turn_of,
    wanted,
)
from mnistlab.evaluation import eval_mode
from mnistlab.faults import FAULTS, invert
from mnistlab.pictures import Picture, gather
from mnistlab.preprocess import MEAN, MNIST_PIPELINE, STD
from mnistlab.synthetic import hand_images

N_WANTED, N_PROBES, N_COMPARED = 400, 200, 32
SECONDS = 10.0  # that to_input may take for the probes; then it gets fewer
LOSS = 0.02  # a finding costs more, and by chance only once in a hundred
NOISY = 0.05  # deviation of the paper's pixels, as a share of ink - paper
FITS = 0.75  # mean correlation from which on two sets of pictures are the same
MISTAKES = "normalised twice", "not divided by 255", "sign flipped"
EMNIST = {36: "digits and letters", 47: "balanced classes", 62: "classes"}
CAUSES = CAUSES | {"turn": "The digit is turned or mirrored, or its axes are in "
                   "another order than in the training images."}  # fmt: skip

# --- what to_input makes of a picture, and the way to spoil a digit that fits it ----

FRAME = CROP, FIT, CENTER = MNIST_PIPELINE[:-1]


def nearest_20x20(image):  # as Pillow's
    size = FIT(image).shape[::-1]
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST_EXACT)


def center_of_box(image):
    return np.pad(image, [((28 - n) // 2, (29 - n) // 2) for n in image.shape])


def scramble(image):  # (28, 28, 3) taken for (3, 28, 28)
    return np.repeat(image, 3).reshape(3, 28, 28).mean(0)


WAYS = {  # from a canvas to (28, 28), 0..255, and the alarm that it is; "" is right
    "": (FRAME, ""),
    "the whole canvas resized": ([preprocess.resize_28x28], "placement"),
    "stretched to the box": ([CROP, preprocess.resize_28x28], "placement"),
    "centred by its box": ([CROP, FIT, center_of_box], "placement"),
    "inverted before the crop": ([invert, *FRAME], "polarity"),
    "inverted after the crop": ([CROP, FIT, invert, CENTER], "polarity"),
    "shrunk without smoothing": ([CROP, nearest_20x20, CENTER], "ink"),
    "axes in the wrong order": ([*FRAME, scramble], "turn"),
    "half size": ([*FRAME, FAULTS["half size"][0]], "placement"),
}
for _fault in "blurred", "thick pen", "thin pen":
    WAYS[_fault] = [*FRAME, FAULTS[_fault][0]], "ink"


@dataclass(frozen=True)
class Fit:
    """What was done to a digit: the known way that comes nearest to what came out."""

    way: str  # a key of WAYS
    turn: str
    shift: list[int]  # rows, columns
    r: float  # mean correlation of what came out with what this way gives
    paper: float  # its value, and that of ink
    ink: float
    noise: float  # on the paper, as a share of ink - paper


def explain(x: np.ndarray, canvases: list[np.ndarray]) -> Fit | None:
    """The way, turn, shift and the two values that give x, float (N, 28, 28).

    None where most of x is blank, or nothing in it hangs on the picture.
    """
    there = np.flatnonzero(~np.isnan(x[:, 0, 0]))
    x, fits = x[there].astype(np.float32), []
    flat = np.ptp(x, (1, 2)) < 1e-6 * np.maximum(1, abs(x).max((1, 2)))
    alike = len(x) > 4 and x.std(0).mean() < 0.2 * max(x.std(), 1e-9)
    if not len(x) or flat.mean() > 0.5 or alike:
        return None
    around = np.pad(x, ((0, 0), (8, 8), (8, 8)), "wrap")
    for way, (steps, _) in WAYS.items():
        made = np.stack([preprocess.to_input(canvases[i], steps) for i in there])
        for turn in TURNS:
            z = calculate(made, TURNS[turn]).astype(np.float32) / 255
            pairs = zip(around, z, strict=True)  # r: (17, 17), by shift
            r = [cv2.matchTemplate(*pair, cv2.TM_CCOEFF_NORMED) for pair in pairs]
            r = abs(np.mean(r, 0))
            at = np.unravel_index(r.argmax(), r.shape)
            at = (8, 8) if r[8, 8] > r[at] - 0.02 else at
            simple = 0.02 * (way == "") + 0.01 * (turn == "upright")
            fits.append((r[at] + simple, r[at], way, turn, np.subtract(at, 8), z))
    _, r, way, turn, shift, z = max(fits, key=lambda fit: fit[0])
    z = np.roll(z, shift, (1, 2))
    lines = [np.polyfit(z[i].ravel(), x[i].ravel(), 1) for i in range(len(x))]
    slopes, levels = np.transpose(lines)[..., None, None]
    slope, level = np.median(slopes).item(), np.median(levels).item()
    paper = cv2.dilate(z.transpose(1, 2, 0), np.ones((5, 5))) < 0.02
    rest = (x - slopes * z - levels)[paper.transpose(2, 0, 1)]
    noise = rest.std() / max(abs(slope), 1e-9) if rest.size else 0.0
    if noise < NOISY:  # a line through a way that fits less well is too flat
        level, slope = level + slope * (1 - 1 / r) * z.mean(), slope / r
    return Fit(way, turn, shift.tolist(), r, level, level + slope, noise)


def name_values(fit: Fit, want: Convention, contrast=1.0) -> tuple[str, str]:
    """What is wrong with the values of paper and ink, and the alarm that it is.

    contrast: how far your ink is from your paper, 0..1; blue on white is not black.
    """
    right, found, off = want.values(), np.array([fit.paper, fit.ink]), {}
    known = {
        "sign flipped": -right,
        "inverted, half contrast": want.values(0.5, 0),
        "not divided by 255": want.values(share=255),
        "divided by 255 twice": want.values(share=1 / 255),
        "normalised twice": (right - MEAN) / STD,
    }
    for ink, scale in product(("light", "dark"), SCALES):
        words = [f"scaled to {scale}, the network wants {want.scale}"]
        words = ["inverted"] * (ink != want.ink) + words * (scale != want.scale)
        known[", and ".join(words)] = Convention(ink, scale).values()
    for (name, (low, high)), share in product(known.items(), (1.0, contrast)):
        error = abs(found - [low, low + share * (high - low)]).max()
        off[name] = min(error / abs(share * (high - low)), off.get(name, 9))
    best = min(off, key=lambda name: (round(off[name], 6), len(name)))
    if off[best] < 0.08:
        return best, "polarity" if best.startswith("inverted") else "range"
    paper, ink = (found - right[0]) / (right[1] - right[0])
    if paper > ink:
        return "inverted, and with other contrast", "polarity"
    if not 0.02 < ink - paper < 1.5 or paper < -0.2:
        return f"values from {fit.paper:.3g} to {fit.ink:.3g}", "range"
    return ("grey paper", "background") if paper > 0.08 else ("faint ink", "ink")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, and in words."""

    name: str
    words: str
    behind: tuple[str, ...] = ()  # expressions that mend what to_input gives, if any do


def departures(fit: Fit, want: Convention, contrast=1.0, photo=False) -> list[Finding]:
    """Where a fit differs from what the network wants."""
    found, noisy, right = [], fit.noise > NOISY, want.values()
    values, alarm = name_values(fit, want, contrast)

    def add(true, name, seen, alarm, *behind):
        if true:
            found.append(Finding(name, f"{seen}. {CAUSES[alarm]}", behind))

    seen = f"The paper varies, by {fit.noise:.0%} of the ink's strength"
    add(noisy, "uneven paper" if photo else "noise", seen, "background")
    cut_off = noisy and alarm in ("background", "ink")  # the noise below black
    rescale = f"(x - {fit.paper:.5g}) / {fit.ink - fit.paper:.6g}".replace("- -", "+ ")
    seen = "Paper is {:.3g} and ink {:.3g}, the network wants {:.3g} and {:.3g}"
    seen, behind = seen.format(fit.paper, fit.ink, *right), [rescale, *want.lines[:-1]]
    add(values and not cut_off, values, seen, alarm, *behind)
    seen = f"Digits come out {fit.turn}, the network wants them {want.turn}"
    behind = TURNS[turn_of(back(fit.turn), want.turn)]
    add(fit.turn != want.turn, turn_of(fit.turn, back(want.turn)), seen, "turn", behind)
    add(fit.way, fit.way, f"Digits come out like this: {fit.way}", WAYS[fit.way][1])
    seen = "Digits lie {:+d} rows and {:+d} columns from MNIST's place"
    add(max(map(abs, fit.shift)) > 1, "shifted", seen.format(*fit.shift), "placement")
    return found


# --- the repair, as code ------------------------------------------------------------


def as_image(out) -> np.ndarray:
    """What to_input returned as float (28, 28); ValueError if it is no picture."""
    out = np.asarray(out.detach().cpu() if torch.is_tensor(out) else out)
    image = np.squeeze(out)
    if image.ndim == 3 and 3 in image.shape[::2]:
        image = image.mean(0 if image.shape[0] == 3 else 2)
    if image.ndim == 1:
        image = image.reshape(round(image.size**0.5), -1)  # raises unless a square's
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError(f"it gave {out.shape}, which is not one picture, or NaN")
    image = image[2:-2, 2:-2] if image.shape == (32, 32) else image
    return cv2.resize(image.astype(float), (28, 28))


TAKEN = {  # as what to_input may take a file
    "paths": lambda path: path,
    "paths as text": str,
    "PIL images": lambda path: Image.open(path).copy(),
    "grey arrays": lambda path: np.array(Image.open(path).convert("L")),
    "arrays in colour": lambda path: np.array(Image.open(path).convert("RGB")),
}
IMPORTS = {  # what the printed lines may need
    "as_image": "from mnistlab.doctor import as_image",
    "Picture(": "from mnistlab.pictures import Picture",
    "read_photo": "from mnistlab.photo import read_photo",
    "load_picture": "from mnistlab.preprocess import load_picture",
    "framed": "from mnistlab.preprocess import MNIST_PIPELINE\n"
    "from mnistlab.preprocess import to_input as framed",
}


def write(lines: list[str], scores: Scores) -> str:
    """The repair as code, a new to_input; `lines` make x, (1, 28, 28)."""
    last = f"torch.tensor({SHAPES[scores.shape]}.copy(), dtype={scores.like.dtype})"
    lines = [line for line in lines if line != "x = x"]
    body = "".join(f"    {line}\n" for line in [*lines, f"return {last}"])
    needed = [line for name, line in IMPORTS.items() if name in body]
    needed = "\n".join(["import numpy as np\nimport torch", *needed])
    return f"{needed}\n\n\ndef mended(picture):\n{body}"


# --- the examination ----------------------------------------------------------------


def examine(network, to_input=None, pictures=(), labels=None):
    """Which step between a picture and a network breaks it, and what mends it.

    network: a torch.nn.Module, or any callable from a batch to scores (N, 10 or
    more). to_input: from one picture, as given, to the network's input; None asks how
    to write it. pictures: a folder, or paths, PIL images or arrays; labels: one each,
    None where unknown. Files are opened for a to_input that takes no paths. Returns a
    Report; leaves the network as it was. Raises ValueError for no pictures and
    impossible labels; all else is said in the report.
    """
    report = Report(*gather(pictures, labels))
    if not isinstance(network, torch.nn.Module):
        network, function = torch.nn.Module().eval(), network
        network.forward = function
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(network.load_state_dict, copy.deepcopy(network.state_dict()))
        stack.enter_context(torch.random.fork_rng())
        folder = Path(stack.enter_context(TemporaryDirectory()))
        try:
            report.look_at_network(network)
            if report.pictures:
                report.look_at_input(to_input, folder)
                report.mend(*report.compare(folder))
        except Unusable as error:
            report.verdict = str(error)
            report.findings = (Finding("network", str(error)),)
    return report


def through(function, sources, taken, least: int | None = None):
    """Somebody's to_input, called with care: float (n, 28, 28), and complaints.

    It gets what `taken` makes of a source. The images are NaN where it raised or gave
    no picture. Once SECONDS are over it stops, but not before the source `least`.
    """
    x, said = np.full((len(sources), 28, 28), np.nan), []
    stop = time.perf_counter() + SECONDS
    for i, source in enumerate(sources if function else ()):
        if least and i >= least and time.perf_counter() > stop:
            return x[:i], said
        given = taken(source)
        try:
            x[i] = as_image(function(given))
        except Exception as error:  # any: it is somebody else's code
            said.append(f"{error!r:.200}")
        if isinstance(source, np.ndarray) and not np.array_equal(given, source):
            said.append("it changes the array that it is given; let it take a copy")
    return x, said


class Report:
    """What was found, and on what it rests. In a notebook it is a page."""

    def __init__(self, pictures: list[Picture], left_out: list[str]):
        self.pictures = pictures
        self.verdict = "No picture could be read, so none was examined."
        self.findings: tuple[Finding, ...] = ()  # the first is the one to mend first
        self.wants: list[Convention] = []  # that the network reads equally well
        self.accuracies = np.zeros(0)  # with each of them
        self.network, self.source = "takes nothing that I know", ""  # whose digits
        self.trials = self.answers = pd.DataFrame()  # of repairs; for each picture
        self.code, self.mended = "", None  # def mended(picture): ...; and it, run
        self.taken = copy.deepcopy  # of a picture, for to_input; it may change it
        self.images: list = []  # each picture: given, seen, seen if mended
        self.notes: list[str] = []
        n = len(left_out)
        self.note(left_out, f"{n} of {n + len(pictures)} pictures are left out: "
                  + "; ".join(left_out[:5]))  # fmt: skip

    def note(self, true, text: str) -> None:
        self.notes += [text] * bool(true)

    @property
    def finding(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    def __repr__(self) -> str:
        said = [self.verdict, *(f"- {f.name}: {f.words}" for f in self.findings)]
        return "\n".join([*said, *(f"note: {n}" for n in self.notes), "", self.code])

    def _repr_html_(self) -> str:
        """A page that needs no other file."""
        return TEMPLATES.get_template("doctor.html").render(report=self)

    def look_at_network(self, network) -> None:
        """Step 1: what it takes, gives and wants; whether it is in training mode."""
        digits = data.load().test
        digits = digits.balanced(min(N_WANTED + N_PROBES, len(digits)))
        self.source, n = digits.source, len(digits) - N_PROBES
        probes = data.join(digits.take(np.arange(n, len(digits))),
                           hand_images(N_PROBES // 2, seed=0))  # fmt: skip
        self.probes = probes.take(np.random.default_rng(0).permutation(len(probes)))
        self.pixels, labels = digits.images[:n] / np.float32(255), digits.labels[:n]
        self.scores = scores = Scores(network, self.pixels[:7])
        self.wants, self.accuracies = wanted(scores, self.pixels, labels)
        best, x = self.accuracies.max(), self.wants[0](self.pixels)
        answers = scores(x)
        self.network = f"takes {scores.shape} and gives {scores.classes} scores"
        if best < 0.3:
            same = f": its answer is always {answers[0]}" * (len(set(answers)) == 1)
            raise Unusable(f"this network has not learnt MNIST: in its best convention "
                           f"it reads {best:.0%} of {n} images{same}.")  # fmt: skip
        known = EMNIST.get(scores.classes, "classes")
        self.note(scores.classes > 10, f"the network has {scores.classes} outputs, as "
                  f"many as EMNIST's {known}; the first ten are digits")  # fmt: skip
        self.note(best < 0.9, f"the network reads only {best:.0%} of MNIST")
        alone = scores(x, size=1, as_it_came=True) == labels
        right = answers == labels
        words = (
            f"as it is, the network reads {alone.mean():.0%} of single images, in "
            f"evaluation mode {right.mean():.0%}: it is in training mode; call eval()"
        )
        harm = sign_test(alone, right) < CERTAIN
        self.findings += (Finding("training mode", words),) * bool(harm)
        trains = any(module.training for module in network.modules())
        self.note(trains and not harm, words)

    def look_at_input(self, function, folder: Path) -> None:
        """Step 2: what to_input makes of the pictures, and of probes drawn like them.

        What is kept of them comes in one order: the k pictures, then the probes.
        """
        own, k = self.pictures, len(self.pictures)
        self.function, self.k, labels = function, k, [p.label for p in own]
        self.styles = own + [own[i % min(k, 20)] for i in range(len(self.probes))]
        self.canvases, self.sources = [p.canvas for p in own], [p.source for p in own]
        for style, image in zip(self.styles[k:], self.probes.images, strict=True):
            self.canvases.append(style.place(image))
            path = folder / f"{len(self.sources)}"
            self.sources.append(style.draw(self.canvases[-1], path))
        if function and all(isinstance(p.source, str | Path) for p in own):
            self.open_files()
        self.x, said = through(function, self.sources, self.taken, k + N_COMPARED)
        del self.sources[len(self.x) :], self.canvases[len(self.x) :]
        self.truth = np.array([*labels, *self.probes.labels], float)[: len(self.x)]
        self.note(k < 5, f"{k} readable pictures are too few to show anything: the "
                  "evidence is that of the probes")  # fmt: skip
        self.note(k > 1 and {labels[0]} == {*labels} != {None},
                  f"all pictures are of the digit {labels[0]}")  # fmt: skip
        if function:
            self.check_contract(said)

    def open_files(self) -> None:
        """Many a to_input takes no path: find out what it does take."""
        for kind, taken in TAKEN.items():
            x, _ = through(self.function, self.sources[:3], taken)
            if not np.isnan(x).all():
                self.note(kind != "paths", f"to_input takes no paths: it gets {kind}")
                self.taken = taken
                return

    def check_contract(self, said: list[str]) -> None:
        """What is wrong with to_input as a function, whatever the picture."""
        n, like, shape, found = len(self.x), self.scores.like, self.scores.shape, {}
        counts = {text: said.count(text) for text in said}
        said = [f"to_input: {text} ({m} of {n} times)" for text, m in counts.items()]
        self.notes += said
        there = ~np.isnan(self.x[:, 0, 0])
        if there.mean() < 0.5:
            found["raises"] = "; ".join(said)
        again, _ = through(self.function, self.sources[-3:], self.taken)
        if not np.array_equal(again, self.x[-3:], equal_nan=True):
            found["random"] = "to_input gives other numbers when it is called again"
        out = torch.zeros(0)
        try:
            if there.any():
                out = self.function(self.taken(self.sources[there.argmax()]))
                out = torch.as_tensor(out).to(like.device)
                alone = out.ndim == shape.count(",")  # without the N of its shape
                with eval_mode(self.scores.network):
                    self.scores.network(out[None] if alone else out)
        except Exception as error:  # any: it is somebody else's code
            found["dtype" if out.dtype != like.dtype else "shape"] = (
                f"to_input gives {out.dtype} {tuple(out.shape)}, which the network "
                f"refuses ({error!r:.200}); it takes {like.dtype} {shape}"
            ).replace("torch.", "")
        self.findings += tuple(Finding(*item) for item in found.items())

    def compare(self, folder: Path) -> tuple:
        """What the network wants, what was done to the probes, and how these differ."""
        pairs = zip(self.wants, self.accuracies, strict=True)
        best = [want for want, share in pairs if share > self.accuracies.max() - 0.005]
        ink = [np.quantile(picture.canvas, 0.999) for picture in self.pictures]
        contrast = float(np.median(ink)) / 255
        photo = any(picture.is_photo for picture in self.pictures)
        some = np.s_[self.k : self.k + N_COMPARED]
        x, canvases, styles = self.x[some], self.canvases[some], self.styles[some]
        fit, ways, want = explain(x, canvases), [], best[0]
        if fit:
            want = min(best, key=lambda want: len(departures(fit, want, contrast)))
            noisy = fit.noise > NOISY and fit.r > 0.6  # noise lowers a correlation
            if fit.r > FITS or noisy:
                ways = departures(fit, want, contrast, photo)
        elif not np.isnan(x).all():
            words = f"What comes out is empty, or always the same. {CAUSES['blank']}"
            ways = [Finding("blank", words)]
        coloured = all(np.ptp(style.pen[:3]) > 60 for style in styles)
        if coloured and (ways or fit and fit.r <= FITS):
            drawn = []
            for i, style in enumerate(styles):
                white = style.pen[:3].mean() > style.paper[..., :3].mean()
                pen = np.array([255 * white] * 3 + [255])
                drawn.append(style.draw(canvases[i], folder / f"grey{i}", pen))
            other = explain(through(self.function, drawn, self.taken)[0], canvases)
            if other and other.r > FITS and not departures(other, want):
                words = f"It would be right if your ink had no colour. {CAUSES['ink']}"
                ways = [Finding("the ink's colour", words)]
        return want, fit, ways

    def mend(self, want: Convention, fit: Fit | None, ways: list[Finding]) -> None:
        """Step 3: try repairs, print one and run it, say what it rests on."""
        k, name = self.k, "as printed"
        made, codes = {"nothing": self.x}, {picture.code for picture in self.pictures}
        code = codes.pop() if len(codes) == 1 else "Picture(picture).canvas"
        lines = [f"canvas = {code}  # ink 255 on paper 0",
                 "x = framed(canvas, MNIST_PIPELINE[:-1])[None]",
                 "x = x / max(x.max(), 1)  # ink that is faint or coloured, too, is 1",
                 *(f"x = {line}" for line in want.lines)]  # fmt: skip
        if fit:
            frames = [preprocess.to_input(canvas, FRAME) for canvas in self.canvases]
            as_theirs = f"{fit.paper} + {fit.ink - fit.paper} * x", TURNS[fit.turn]
            framed = calculate(np.stack(frames) / 255, *as_theirs)
            for way in ways:
                x = calculate(self.x, *way.behind) if way.behind else framed
                made[f"mend: {way.name}"] = x
            if fit.r > FITS and all(way.behind for way in ways):  # theirs may stay
                lines = ["x = as_image(to_input(picture))[None]  # to_input: yours"]
                lines += [f"x = {line}" for way in ways for line in way.behind]
        code = write(lines, self.scores)
        names = {"to_input": self.function}
        exec(code, names)  # our own lines, not somebody's
        mended = names["mended"]
        made[name], _ = through(mended, self.sources, self.taken)
        answers = pd.DataFrame({repair: self.scores(x) for repair, x in made.items()})
        right = answers.eq(self.truth, axis=0)  # bool (n, repairs)
        probes, yours = right[k:], right[:k][self.truth[:k] >= 0]
        table, was = pd.DataFrame({"probes": probes.mean()}), yours["nothing"]
        if len(yours):
            table["yours"] = yours.mean()
            table["mends"], table["breaks"] = yours[~was].sum(), (~yours[was]).sum()
            chance = yours.apply(lambda now: sign_test(was, now))
            table["by chance"] = (chance * (len(ways) + 1)).clip(upper=1)
        self.trials = table.rename_axis("repair").reset_index()
        gain, on = table["probes"], []
        ways = sorted(ways, key=lambda way: -gain.get(f"mend: {way.name}", 0))

        certain = sign_test(probes["nothing"], probes[name]) < CERTAIN
        if certain and gain[name] - gain["nothing"] > LOSS:
            on.append("on the probes")
        if len(yours) >= 5 and table["by chance"][name] < 0.05:
            on.append("on your pictures")
        if not on and ways and ways[0].name in MISTAKES:  # nobody does these on purpose
            on.append("by the numbers that come out, though it costs little")
        reads = f"{gain['nothing']:.0%} of {len(probes)} probes are read"
        if not self.function:
            self.verdict = f"With these lines it reads {gain[name]:.0%} of the probes."
        elif on or self.findings:
            unknown = Finding("unknown", "No step that I know explains it")
            ways = ways or [unknown] * (not self.findings)
            self.findings += tuple(ways) * bool(on)
            shown = f" Shown {' and '.join(on)}." * bool(on)
            self.verdict = (f"{self.finding.name}: {reads}, with the repair "
                            f"{gain[name]:.0%}.{shown}")  # fmt: skip
        else:
            self.notes += [f"harmless for this network: {way.words}" for way in ways]
            self.verdict = f"No fault found: {reads}, without it {gain[name]:.0%}."
            if (~was).sum() > 0.2 * len(yours):
                self.verdict += (f" But {(~was).sum()} of your {len(yours)} pictures "
                                 "are misread; why I cannot tell: a dozen more would "
                                 "do.")  # fmt: skip
            name = "nothing"
        if name != "nothing":
            self.code, self.mended = code, mended
        labels = ["" if p.label is None else p.label for p in self.pictures]
        columns = {"picture": [p.name for p in self.pictures], "label": labels}
        usual = Reference.measured_on(Convention()(self.pixels), np.zeros((1, 10)), "")
        self.images = [[p.small for p in self.pictures]]
        for when, repair in ("now", "nothing"), ("mended", name):
            pixels = want.undo(np.nan_to_num(made[repair][:k]))
            rings = pd.DataFrame(usual.outside(Convention()(pixels)))
            columns[when] = answers[repair][:k]
            columns[f"alarms {when}"] = rings.dot(rings.columns + " ").str.strip()
            grey = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
            self.images.append(grey)
        self.answers = pd.DataFrame(columns).replace(-1, "")


# --- the page, and the command ------------------------------------------------------


TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
TEMPLATES.filters["png"] = preprocess.as_uri

run_file = cache(run_path)  # once, although the network and to_input are in it


def load_name(place: str):
    """What my_app.py:model names. It imports, and so runs, my_app.py."""
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise SystemExit(f"{place}: expected a file and a name in it, my_app.py:model")
    sys.path.insert(0, str(Path(file).resolve().parent))
    names = run_file(file)
    if name not in names:
        raise SystemExit(f"{file} has no {name!r} at its top level.")
    return names[name]


def main(arguments: list[str]) -> None:
    if len(arguments) != 3:
        raise SystemExit(__doc__)
    network = load_name(arguments[0])
    function = None if arguments[1] == "none" else load_name(arguments[1])
    try:
        report = examine(network, function, arguments[2])
    except ValueError as error:
        raise SystemExit(f"{arguments[2]}: {error}") from error
    head = "<!doctype html><meta charset='utf-8'><title>The doctor</title>"
    data.write_atomically(Path("doctor.html"), (head + report._repr_html_()).encode())
    print(f"{report}\nThe page is doctor.html")


if __name__ == "__main__":
    main(sys.argv[1:])
