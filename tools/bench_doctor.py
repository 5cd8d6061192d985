"""How often the doctor is right: networks x faults, with and without labels.

    python tools/bench_doctor.py             # all of it: about an hour on one core
    python tools/bench_doctor.py --share 0.1 # a tenth of the cells, drawn at random

Fourteen small networks of different conventions are trained on MNIST (kept in
artifacts/runs). Each gets an app written without mnistlab's own steps, by one of four
habits of framing a digit, and one fault in it. Drawings are recorded pens of writers
whom no network has seen, or the scripted hand. One row a cell goes to
artifacts/runs/doctor.csv.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from mnistlab import data, doctor
from mnistlab.checkpoint import ARTIFACTS
from mnistlab.doctor import SCALES, SHAPES, TURNS, Convention
from mnistlab.faults import InTrainMode
from mnistlab.models import MLP, FastCNN, Linear, SimpleCNN
from mnistlab.pendigits import TEST_WRITERS, pens_or_hand
from mnistlab.strokes import random_place, rasterize

RUNS = ARTIFACTS / "runs" / "doctor"
MNIST, ZERO_ONE, BYTES = "MNIST's mean and deviation", "0..1", "0..255"
MINUS_ONE, PER_IMAGE = "-1..1", "standardised per image"


# --- other people's networks --------------------------------------------------------


class Rows(nn.Module):
    """A recurrent network that reads an image row by row: (N, 28, 28)."""

    def __init__(self):
        super().__init__()
        self.memory = nn.GRU(28, 96, batch_first=True)
        self.answer = nn.Linear(96, 10)

    def forward(self, x):
        return self.answer(self.memory(x)[0][:, -1])


def lenet():
    """LeCun's of 1998, more or less: 32 x 32, tanh."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 10),
    )  # fmt: skip


def colour():
    network = FastCNN()
    network[0] = nn.Conv2d(3, 16, 5, bias=False)
    return network


def emnist():
    network = FastCNN()
    network[-1] = nn.Linear(128, 47)
    return network


def flat_softmax():
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Dropout(0.2),
                         nn.Linear(200, 10), nn.Softmax(1))  # fmt: skip


def log_mlp():
    return nn.Sequential(MLP(128), nn.LogSoftmax(1))


IMAGES = "(N, 1, 28, 28)"
NETWORKS = {  # how it is built, what it was trained on, the shape it takes
    "linear": (Linear, Convention("light", MNIST), IMAGES),
    "MLP": (partial(MLP, 256), Convention("light", ZERO_ONE), IMAGES),
    "MLP, bytes": (log_mlp, Convention("light", BYTES), IMAGES),
    "MLP, dark": (flat_softmax, Convention("dark", ZERO_ONE), "(N, 784)"),
    "CNN": (partial(SimpleCNN, 12), Convention("light", MINUS_ONE), IMAGES),
    "CNN, per image": (partial(SimpleCNN, 12), Convention("light", PER_IMAGE), IMAGES),
    "CNN, dark": (partial(SimpleCNN, 12), Convention("dark", MNIST), IMAGES),
    "batch norm": (FastCNN, Convention("light", MNIST), IMAGES),
    "batch norm, 0..1": (FastCNN, Convention("light", ZERO_ONE), IMAGES),
    "transposed": (emnist, Convention("light", MNIST, "transposed"), IMAGES),
    "transposed, dark": (FastCNN, Convention("dark", MINUS_ONE, "transposed"), IMAGES),
    "LeNet": (lenet, Convention("light", MNIST), "(N, 1, 32, 32)"),
    "colour": (colour, Convention("light", ZERO_ONE), "(N, 3, 28, 28)"),
    "rows": (Rows, Convention("light", ZERO_ONE), "(N, 28, 28)"),
}


def network(name: str, train: data.Digits, validation: data.Digits) -> nn.Module:
    """Trained for an epoch in its convention, or read from an earlier run."""
    build, convention, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    path = RUNS / f"{name.replace(' ', '_')}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(2 if len(train) > 10_000 else 8):
        model.train()
        for rows in torch.randperm(len(train)).split(64):
            x = SHAPES[shape][0](convention(train.images[rows.numpy()]))
            out = model(torch.from_numpy(np.ascontiguousarray(x)))
            if "softmax" in getattr(build, "__name__", ""):
                out = torch.log(out + 1e-9)
            target = torch.from_numpy(train.labels[rows.numpy()])
            loss = nn.functional.cross_entropy(out, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 5e-4
    model.eval()
    with torch.no_grad():
        x = SHAPES[shape][0](convention(validation.images[:2000]))
        found = model(torch.from_numpy(np.ascontiguousarray(x))).argmax(1).numpy()
    print(f"{name}: {(found == validation.labels[:2000]).mean():.1%}", flush=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


# --- other people's apps ------------------------------------------------------------

SIDE, PEN = (200, 321), (8, 22)  # pixels of a canvas, and of the brush on it
INKS = {"paint": (0, 0, 0), "transparent": (0, 0, 0), "colour": (30, 50, 215)}
KINDS = ("canvas", "file", *INKS)


def drawn(strokes, kind: str, rng: np.random.Generator, path: Path):
    """A drawing as it reaches an app: an array, a picture, or a file."""
    side, pen = int(rng.integers(*SIDE)), rng.uniform(*PEN)
    large = random_place(strokes, rng, 0.4 * side, 0.75 * side, pen, side)
    canvas = rasterize(large, pen, side)
    if kind == "canvas":
        return canvas
    if kind == "file":
        Image.fromarray(255 - canvas).save(path)
        return path
    if kind == "transparent":
        ink = np.zeros((*canvas.shape, 4), np.uint8)
        ink[..., 3] = canvas
        return Image.fromarray(ink)
    share = canvas[..., None] / 255
    rgb = (255 + share * (np.array(INKS[kind]) - 255)).astype(np.uint8)
    return rgb if kind == "colour" else Image.fromarray(rgb)


def grey(picture, fault: str) -> np.ndarray:
    """Read as it should be: float32 (H, W), ink high. Or not."""
    if isinstance(picture, Path):
        picture = Image.open(picture)
    if isinstance(picture, np.ndarray) and picture.ndim == 2:
        return picture.astype(np.float32)
    if isinstance(picture, np.ndarray):
        if fault == "wrong colour channel":
            return 255 - picture[..., 2].astype(np.float32)
        return 255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if picture.mode == "RGBA" and fault != "transparent read as black":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return 255 - np.asarray(picture.convert("L"), np.float32)


def cropped(image: np.ndarray) -> np.ndarray:
    ys, xs = np.where(image > 50)
    if not len(ys):
        return image
    return image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def shrunk(image: np.ndarray, side: int, how: int) -> np.ndarray:
    scale = side / max(image.shape)
    size = [max(1, round(n * scale)) for n in image.shape[::-1]]
    if how == cv2.INTER_AREA or how == cv2.INTER_NEAREST:
        return cv2.resize(image, size, interpolation=how)
    picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    return np.asarray(picture.resize(size, how), np.float32)


def framed(image: np.ndarray, by: str) -> np.ndarray:
    height, width = image.shape
    frame = np.zeros((28, 28), np.float32)
    top, left = (28 - height) // 2, (28 - width) // 2
    frame[top : top + height, left : left + width] = image
    if by == "mass":
        m = cv2.moments(frame)
        move = 14 - m["m10"] / (m["m00"] + 1e-9), 14 - m["m01"] / (m["m00"] + 1e-9)
        frame = np.roll(frame, (round(move[1]), round(move[0])), (0, 1))
    return frame


HABITS = {  # image -> float32 (28, 28); two of them centre by the box
    "area, mass": lambda i: framed(shrunk(cropped(i), 20, cv2.INTER_AREA), "mass"),
    "bicubic, mass": lambda i: framed(
        shrunk(cropped(i), 20, Image.Resampling.BICUBIC), "mass"),
    "Lanczos, box": lambda i: framed(
        shrunk(cropped(i), 20, Image.Resampling.LANCZOS), "box"),
    "area, box": lambda i: framed(shrunk(cropped(i), 20, cv2.INTER_AREA), "box"),
}  # fmt: skip


def _resized(image):
    return cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA)


def _shifted(image):
    return np.roll(image, (5, -4), (0, 1))


def _half(image):
    return np.pad(cv2.resize(image, (14, 14), interpolation=cv2.INTER_AREA), 7)


def _blurred(image):
    return cv2.GaussianBlur(image, (0, 0), 2)


def _thick(image):
    return cv2.dilate(image, np.ones((4, 4)))


def _thin(image):
    return cv2.erode(image, np.ones((3, 3)))


def _noisy(image):
    seed = int(image.sum()) % 2**31  # the same picture, the same noise
    noise = np.random.default_rng(seed).normal(0, 75, (28, 28))
    return (image + noise).clip(0, 255)


def _axes(image):  # (28, 28, 3) taken for (3, 28, 28)
    return np.stack([image] * 3, -1).reshape(3, 28, 28).mean(0)


LAYOUTS = {  # in the place of a habit
    "canvas only resized": _resized,
    "stretched": lambda i: _resized(cropped(i)),
    "nearest neighbour": lambda i: framed(
        shrunk(cropped(i), 20, cv2.INTER_NEAREST), "mass"),
    "inverted before the crop": lambda i: framed(
        shrunk(cropped(255 - i), 20, cv2.INTER_AREA), "mass"),
    "inverted after the crop": lambda i: framed(
        255 - shrunk(cropped(i), 20, cv2.INTER_AREA), "mass"),
}  # fmt: skip
PIXELS = {  # float32 (28, 28) in 0..255, ink high
    "inverted": lambda i: 255 - i,
    "inverted, half contrast": lambda i: (255 - i) // 2,
    "transposed": lambda i: i.T,
    "mirrored": lambda i: i[:, ::-1],
    "upside down": lambda i: i[::-1, ::-1],
    "shifted": _shifted,
    "half size": _half,
    "thick pen": _thick,
    "thin pen": _thin,
    "blurred": _blurred,
    "grey paper": lambda i: 76 + 0.7 * i,
    "noise": _noisy,
    "axes in the wrong order": _axes,
}
VALUES = {  # the scale, and pixels in 0..1 -> what the app hands over
    "sign flipped": lambda scale, x: -scale(x),
    "not divided by 255": lambda scale, x: scale(255 * x),
    "divided by 255 twice": lambda scale, x: scale(x / 255),
    "normalised twice": lambda scale, x: (scale(x) - 0.1307) / 0.3081,
    "left at 0..1": lambda scale, x: x,
    "normalised with 0.5, 0.5": lambda scale, x: 2 * x - 1,
    "float64 in 0..255": lambda scale, x: 255 * x,
}
PICTURES = ("transparent read as black", "wrong colour channel")
TRAIN_MODE = "left in training mode"
FAULTS = (*PIXELS, *VALUES, *LAYOUTS, *PICTURES, TRAIN_MODE)
SCALED = tuple(
    f"{inverted}scaled to {have}, the network wants {want}"
    for want in SCALES for have in SCALES for inverted in ("", "inverted, and ")
)  # fmt: skip
NAMES = {  # what the doctor may call a fault; by default the fault's own name
    "thick pen": ("thick pen", "a little thick"),
    "blurred": ("blurred", "a little blurred"),
    "left at 0..1": SCALED,
    "normalised with 0.5, 0.5": SCALED,
    "float64 in 0..255": ("dtype", *SCALED),
    "not divided by 255": ("not divided by 255", *SCALED),
    "divided by 255 twice": ("divided by 255 twice", "blank", *SCALED),
    "normalised twice": ("normalised twice", *SCALED),
    "canvas only resized": (
        "the whole canvas resized", "the whole canvas, without smoothing", "placement",
    ),
    "stretched": ("stretched to the box",),
    "nearest neighbour": ("shrunk without smoothing",),
    "transparent read as black": ("blank", "raises"),
    "wrong colour channel": ("faint ink", "the ink's colour"),
    "inverted, half contrast": (
        "inverted, half contrast", "inverted, and with other contrast",
    ),
    TRAIN_MODE: ("training mode",),
}  # fmt: skip


def app(convention: Convention, shape: str, habit: str, fault: str = ""):
    """A to_input as people write them."""
    scale = SCALES[convention.scale][0]

    def to_input(picture):
        image = LAYOUTS.get(fault, HABITS[habit])(grey(picture, fault))
        image = PIXELS.get(fault, lambda i: i)(image.astype(np.float32)) / 255
        image = 1 - image if convention.ink == "dark" else image
        values = VALUES.get(fault, lambda scale, x: scale(x))(scale, image[None])
        values = np.ascontiguousarray(TURNS[convention.turn][0](values))
        x = torch.from_numpy(np.ascontiguousarray(SHAPES[shape][0](values)))
        return x.double() if fault == "float64 in 0..255" else x.float()

    return to_input


# --- cells of the matrix ------------------------------------------------------------


def accuracy(model, function, pictures, labels) -> float:
    """Of a network behind some to_input; what raises is wrong."""
    right = 0
    for picture, label in zip(pictures, labels, strict=True):
        try:
            with torch.no_grad():
                right += int(model(function(picture).float()).argmax()) == label
        except Exception:  # their app fails, and the user has no answer
            pass
    return right / len(labels)


def cell(name, model, fault, habit, kind, n, labelled, seed, pens) -> dict:
    """One patient: what the doctor says, against what was done to it."""
    _, convention, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    rows = data.balanced_index(pens.labels, n + 200, seed)
    labels = pens.labels[rows].tolist()
    with tempfile.TemporaryDirectory() as folder:
        pictures = [drawn(pens.strokes[row], kind, rng, Path(folder) / f"{i}.png")
                    for i, row in enumerate(rows)]  # fmt: skip
        bad = app(convention, shape, habit, fault)
        patient = InTrainMode(model) if fault == TRAIN_MODE else model
        started = time.process_time()
        report = doctor.examine(patient, bad, pictures[:n],
                                labels[:n] if labelled else None, False)  # fmt: skip
        seconds = time.process_time() - started
        right = app(convention, shape, "bicubic, mass")
        exam = pictures[n:], labels[n:]
        with_right = accuracy(model, right, *exam)
        with_fault = accuracy(patient, bad, *exam)
        mended = report.mended or bad
        with_mended = accuracy(model, mended, *exam)
    named = report.finding.name if report.finding else ""
    same = {"sign flipped": "inverted"} if convention.scale == MINUS_ONE else {}
    remarks = " ".join(report.notes)
    return {
        "network": name, "fault": fault, "habit": habit, "kind": kind, "n": n,
        "labelled": labelled, "named": named, "right": with_right,
        "with fault": with_fault, "mended": with_mended, "seconds": seconds,
        "hit": named in (*NAMES.get(fault, (fault,)), same.get(fault)),
        "remarks": remarks,
    }  # fmt: skip


def cells(share: float, seed: int):
    """Every network with every fault, three ways to ask; and with none at all."""
    rng = np.random.default_rng(seed)
    mass, number = list(HABITS)[:2], 0
    for fault in ("", *FAULTS):
        for name in NETWORKS:
            for n, labelled in ((20, True), (10, True), (20, False)):
                number += 1
                kind = str(rng.choice(KINDS))
                habit = str(rng.choice(mass))
                kind = {"transparent read as black": "transparent",
                        "wrong colour channel": "colour"}.get(fault, kind)  # fmt: skip
                if rng.random() < share:
                    yield name, fault, habit, kind, n, labelled, number
    for name in NETWORKS:  # sound, in every habit and for every kind of picture
        for habit in HABITS:
            for kind in KINDS:
                number += 1
                if rng.random() < share:
                    yield name, "", habit, kind, 20, bool(number % 2), number


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """What issue and README ask: how often the fault is named, and nothing else."""
    harm = table["right"] - table["with fault"]
    ill, sound = table["fault"] != "", table["fault"] == ""
    asked = {
        "20 labelled": (table.n == 20) & table.labelled,
        "10 labelled": table.n == 10,
        "20 without labels": (table.n == 20) & ~table.labelled,
    }
    close = table["mended"] > table["right"] - 0.015  # 200 drawings: steps of 0.5
    rows = [
        ("named first, " + way, table[ill & (harm > 0.02) & which].hit)
        for way, which in asked.items()
    ]
    silent = table[ill & (harm <= 0.02)]
    rows += [
        ("fault costs <= 2 points: named, or nothing found",
         silent.hit | (silent.named == "")),
        ("mended to within 1 point", close[ill & (table.named != "")]),
        ("nothing found, sound pipeline", table[sound & (harm <= 0.02)].named == ""),
        ("a habit that costs > 2 points is found",
         table[sound & (harm > 0.02)].named != ""),
    ]  # fmt: skip
    return pd.DataFrame(
        [{"asked": name, "share": part.mean(), "n": len(part)} for name, part in rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the cells")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits, pens = data.load(), pens_or_hand(7000).of_writers(TEST_WRITERS)
    models = {n: network(n, digits.train, digits.validation) for n in NETWORKS}
    # what every examination of one network begins with is done once
    data.load, look, known = (lambda: digits), doctor.look_at_network, {}

    def look_once(report, model, modes):
        if isinstance(model, InTrainMode):
            return look(report, model, modes)
        if id(model) not in known:
            blank = doctor.Report()
            known[id(model)] = look(blank, model, modes), vars(blank)
        found, blank = known[id(model)]
        for name in ("wants", "accuracies", "network", "source"):
            setattr(report, name, blank[name])
        return found

    doctor.look_at_network = look_once
    rows, path = [], RUNS.with_suffix(".csv")
    for number, todo in enumerate(tqdm(list(cells(arguments.share, arguments.seed)))):
        name, *rest = todo
        rows.append(cell(name, models[name], *rest, pens))
        if number % 10 == 9:
            pd.DataFrame(rows).to_csv(path, index=False)
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False)
    hurt = table[(table.fault != "") & (table["right"] - table["with fault"] > 0.02)]
    matrix = hurt.pivot_table("hit", "fault", "network", "mean")
    matrix.to_csv(ARTIFACTS / "doctor.csv")  # what notebook 07 shows
    print((100 * matrix).round().to_string(na_rep="", float_format="%.0f"))
    print(shares(table).to_string(index=False, float_format="%.3f"))
    missed = table[(table.fault != "") & ~table.hit
                   & (table["right"] - table["with fault"] > 0.02)]  # fmt: skip
    print(missed.drop(columns="remarks").to_string())
    print(table[(table.fault == "") & (table.named != "")].to_string())


if __name__ == "__main__":
    main()
