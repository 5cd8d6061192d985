"""How often the doctor is right: networks x faults, with and without labels.

    python tools/bench_doctor.py             # all of it: two hours on one core
    python tools/bench_doctor.py --share 0.1 # a tenth of the cells, drawn at random

Small networks of different conventions, trained on MNIST and kept in artifacts/runs,
stand behind apps that share no step with mnistlab and have one fault each. Drawings are
recorded pens of writers whom no network has seen, or the scripted hand. One row a cell
goes to artifacts/doctor.csv, from which notebook 07 takes its figures.
"""

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from mnistlab import data, doctor
from mnistlab.checkpoint import ARTIFACTS
from mnistlab.conventions import SCALES, SHAPES, TURNS, Convention, calculate
from mnistlab.faults import InTrainMode
from mnistlab.models import MLP, FastCNN, Linear, SimpleCNN
from mnistlab.pendigits import pens_or_hand
from mnistlab.strokes import random_place, rasterize

RUNS = ARTIFACTS / "runs" / "doctor"
ZERO_ONE, MNIST, MINUS_ONE, BYTES, PER_IMAGE = SCALES
IMAGES = "(N, 1, 28, 28)"
EXAMINED_WRITERS = 3, 11, 12, 22, 27  # of the recorded pens


# --- other people's networks --------------------------------------------------------


def fast(colours=1, outputs=10):
    network = FastCNN()
    network[0] = nn.Conv2d(colours, 16, 5, bias=False)
    network[-1] = nn.Linear(network[-1].in_features, outputs)
    return network


NETWORKS = {  # how it is built, what it was trained on, the shape it takes
    "linear": (Linear, Convention(), IMAGES),
    "MLP": (partial(MLP, 256), Convention(scale=ZERO_ONE), IMAGES),
    "MLP, bytes": (lambda: nn.Sequential(MLP(128), nn.LogSoftmax(1)),
                   Convention(scale=BYTES), IMAGES),
    "MLP, dark": (lambda: nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Dropout(0.2),
                                        nn.Linear(200, 10), nn.Softmax(1)),
                  Convention("dark", ZERO_ONE), "(N, 784)"),
    "CNN": (partial(SimpleCNN, 12), Convention(scale=MINUS_ONE), IMAGES),
    "CNN, per image": (partial(SimpleCNN, 12), Convention(scale=PER_IMAGE), IMAGES),
    "CNN, dark": (partial(SimpleCNN, 12), Convention("dark"), IMAGES),
    "batch norm": (FastCNN, Convention(), IMAGES),
    "batch norm, 0..1": (FastCNN, Convention(scale=ZERO_ONE), IMAGES),
    "transposed": (partial(fast, 1, 47), Convention(turn="transposed"), IMAGES),
    "transposed, dark": (FastCNN, Convention("dark", MINUS_ONE, "transposed"), IMAGES),
    "LeNet": (lambda: nn.Sequential(  # LeCun's of 1998, more or less
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 10)),
              Convention(), "(N, 1, 32, 32)"),
    "colour": (partial(fast, 3), Convention(scale=ZERO_ONE), "(N, 3, 28, 28)"),
    "rows": (lambda: nn.Sequential(nn.Conv1d(28, 64, 5), nn.ReLU(), nn.Flatten(),
                                   nn.Linear(64 * 24, 10)),
             Convention(scale=ZERO_ONE), "(N, 28, 28)"),
}  # fmt: skip


def network(name: str, train: data.Digits) -> nn.Module:
    """Trained for two epochs in its convention, or read from an earlier run."""
    build, convention, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, path = build(), RUNS / f"{name.replace(' ', '_')}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    x = calculate(convention(train.images / np.float32(255)), SHAPES[shape])
    x, target = torch.from_numpy(x.copy()), torch.from_numpy(train.labels)
    for _ in range(2 if len(train) > 10_000 else 8):
        for rows in torch.randperm(len(train)).split(64):
            out = model(x[rows])
            out = torch.log(out + 1e-9) if name == "MLP, dark" else out  # a softmax
            optimizer.zero_grad()
            nn.functional.cross_entropy(out, target[rows]).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 5e-4
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


# --- other people's apps ------------------------------------------------------------

KINDS = "canvas", "file", "paint", "transparent", "colour"


def drawn(strokes, kind: str, rng: np.random.Generator, path: Path):
    """A drawing as it reaches an app: an array, a picture, or a file."""
    side, pen = int(rng.integers(200, 321)), rng.uniform(8, 22)  # pixels
    large = random_place(strokes, rng, 0.4 * side, 0.75 * side, pen, side)
    canvas = rasterize(large, pen, side)
    if kind == "canvas":
        return canvas
    if kind == "transparent":
        return Image.fromarray(np.dstack([0 * canvas] * 3 + [canvas]))
    if kind == "colour":
        blue = [255 + canvas / 255 * (light - 255) for light in (30, 50, 215)]
        return np.dstack(blue).astype(np.uint8)
    picture = Image.fromarray(255 - canvas)
    if kind == "paint":
        return picture.convert("RGB")
    picture.save(path)
    return path


def grey(picture, fault: str) -> np.ndarray:
    """Read as it should be: float32 (H, W), ink high. Or not."""
    if getattr(picture, "ndim", 0) == 2:
        return picture.astype(np.float32)
    if getattr(picture, "ndim", 0) == 3 and fault == "wrong colour channel":
        return 255 - picture[..., 2].astype(np.float32)
    if isinstance(picture, np.ndarray):
        return 255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    picture = Image.open(picture) if isinstance(picture, Path) else picture
    if picture.mode == "RGBA" and fault != "transparent read as black":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return 255 - np.asarray(picture.convert("L"), np.float32)


def cropped(image: np.ndarray) -> np.ndarray:
    x, y, width, height = cv2.boundingRect((image > 50).astype(np.uint8))
    return image[y : y + height, x : x + width] if width else image


def framed(image: np.ndarray, how="BOX", by="mass") -> np.ndarray:
    """20 pixels, in proportion, in 28x28; how: one of Pillow's filters."""
    size = [max(1, round(20 * n / max(image.shape))) for n in image.shape[::-1]]
    image = Image.fromarray(image).resize(size, Image.Resampling[how])
    image = np.asarray(image).clip(0, 255)
    frame = np.pad(image, [((28 - n) // 2, (29 - n) // 2) for n in image.shape])
    if by == "mass":
        m = cv2.moments(frame)
        move = 14 - m["m01"] / (m["m00"] + 1e-9), 14 - m["m10"] / (m["m00"] + 1e-9)
        frame = np.roll(frame, np.round(move).astype(int), (0, 1))
    return frame


def resized(image, side=28):
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def noisy(image):
    seed = int(image.sum()) % 2**31  # the same picture, the same noise
    noise = np.random.default_rng(seed).normal(0, 75, (28, 28))
    return (image + noise).clip(0, 255)


HABITS = {  # image -> float32 (28, 28), in 0..255, ink high; two centre by the box
    "area, mass": lambda i: framed(cropped(i)),
    "bicubic, mass": lambda i: framed(cropped(i), "BICUBIC"),
    "Lanczos, box": lambda i: framed(cropped(i), "LANCZOS", "box"),
    "area, box": lambda i: framed(cropped(i), by="box"),
}
LAYOUTS = {  # in the place of a habit
    "canvas only resized": resized,
    "stretched": lambda i: resized(cropped(i)),
    "nearest neighbour": lambda i: framed(cropped(i), "NEAREST"),
    "inverted before the crop": lambda i: framed(cropped(255 - i)),
    "inverted after the crop": lambda i: framed(255 - cropped(i)),
}
PIXELS = {  # behind a habit
    "inverted": lambda i: 255 - i,
    "inverted, half contrast": lambda i: (255 - i) // 2,
    "transposed": lambda i: i.T,
    "mirrored": lambda i: i[:, ::-1],
    "upside down": lambda i: i[::-1, ::-1],
    "shifted": lambda i: np.roll(i, (5, -4), (0, 1)),
    "half size": lambda i: np.pad(resized(i, 14), 7),
    "thick pen": lambda i: cv2.dilate(i, np.ones((4, 4))),
    "thin pen": lambda i: cv2.erode(i, np.ones((3, 3))),
    "blurred": lambda i: cv2.GaussianBlur(i, (0, 0), 2),
    "grey paper": lambda i: 76 + 0.7 * i,
    "noise": noisy,
    "axes in the wrong order": lambda i: np.repeat(i, 3).reshape(3, 28, 28).mean(0),
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
PICTURES = {  # and the kind of pictures that it needs
    "transparent read as black": "transparent",
    "wrong colour channel": "colour",
}
TRAIN_MODE = "left in training mode"
FAULTS = (*PIXELS, *VALUES, *LAYOUTS, *PICTURES, TRAIN_MODE)
NAMES = {  # what else the doctor may call a fault; of VALUES, "… scaled to …", too
    "float64 in 0..255": ["dtype"],
    "divided by 255 twice": ["blank"],
    "canvas only resized": ["the whole canvas resized"],
    "stretched": ["stretched to the box"],
    "nearest neighbour": ["shrunk without smoothing"],
    "transparent read as black": ["blank", "raises"],
    "wrong colour channel": ["the ink's colour", "faint ink"],
    "inverted, half contrast": ["inverted, and with other contrast"],
    TRAIN_MODE: ["training mode"],
}
ALSO_INVERTED = {  # scale -> faults that are an inversion there
    MINUS_ONE: ["sign flipped"],
    PER_IMAGE: ["sign flipped", "inverted, half contrast"],
}


def app(name: str, habit: str, fault: str = ""):
    """A to_input as people write them, for the network of that name."""
    _, convention, shape = NETWORKS[name]

    def to_input(picture):
        image = LAYOUTS.get(fault, HABITS[habit])(grey(picture, fault))
        x = PIXELS.get(fault, lambda i: i)(image.astype(np.float32))[None] / 255
        x = 1 - x if convention.ink == "dark" else x
        values = VALUES.get(fault, lambda scale, x: scale(x))
        x = values(lambda x: calculate(x, SCALES[convention.scale]), x)
        x = torch.tensor(calculate(x, TURNS[convention.turn], SHAPES[shape]).copy())
        return x.double() if fault == "float64 in 0..255" else x.float()

    return to_input


# --- cells of the matrix ------------------------------------------------------------


@torch.no_grad()
def accuracy(model, function, pictures, labels) -> float:
    """Of a network behind some to_input; what raises is wrong."""
    right = 0
    for picture, label in zip(pictures, labels, strict=True):
        try:
            right += int(model(function(picture).float()).argmax()) == label
        except Exception:  # their app fails, and the user has no answer
            pass
    return right / len(labels)


def cell(models, pens, name, fault, habit, kind, n, labelled, seed) -> dict:
    """One patient: what the doctor says, against what was done to it."""
    model, rng = models[name], np.random.default_rng(seed)
    patient = InTrainMode(model) if fault == TRAIN_MODE else model
    rows = data.balanced_index(pens.labels, n + 200, seed)
    labels = pens.labels[rows].tolist()
    with TemporaryDirectory() as folder:
        pictures = [drawn(pens.strokes[row], kind, rng, Path(folder) / f"{i}.png")
                    for i, row in enumerate(rows)]  # fmt: skip
        bad, mine = app(name, habit, fault), labels[:n] if labelled else None
        started = time.process_time()
        report = doctor.examine(patient, bad, pictures[:n], mine)
        seconds, exam = time.process_time() - started, (pictures[n:], labels[n:])
        right = accuracy(model, app(name, "bicubic, mass"), *exam)
        harm = right - accuracy(patient, bad, *exam)
        mended = accuracy(model, report.mended or bad, *exam)
    named = report.finding.name if report.finding else ""
    hit = named in (fault, *NAMES.get(fault, ()))
    hit |= "scaled to" in named and fault in [*VALUES][1:]  # not the flipped sign
    scale = NETWORKS[name][1].scale
    hit |= named == "inverted" and fault in ALSO_INVERTED.get(scale, ())
    return {
        "network": name, "fault": fault, "habit": habit, "kind": kind, "n": n,
        "labelled": labelled, "named": named, "hit": hit, "seconds": round(seconds, 1),
        "right": right, "harm": harm, "mended": mended,
    }  # fmt: skip


def cells(share: float, seed: int) -> list[tuple]:
    """Every network with every fault, three ways to ask; and with none at all."""
    rng, todo = np.random.default_rng(seed), []
    asked = (20, True), (10, True), (20, False)
    for fault, name, way in product(("", *FAULTS), NETWORKS, asked):
        habit, kind = (str(rng.choice(each)) for each in (list(HABITS)[:2], KINDS))
        todo.append((name, fault, habit, PICTURES.get(fault, kind), *way))
    todo += [(name, "", habit, kind, 20, bool(rng.integers(2)))  # sound, of all kinds
             for name in NETWORKS for habit in HABITS for kind in KINDS]  # fmt: skip
    chosen = rng.permutation(len(todo))[: round(share * len(todo))]
    return [(*todo[i], i) for i in chosen]  # in any order: half a run is a sample


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """What is asked of it: how often the fault is named, and nothing else."""
    hurt, ill = table.harm > 0.02, table.fault != ""
    first, silent, sound = table[ill & hurt], table[ill & ~hurt], table[~ill]
    found = table[ill & (table.named != "")]
    parts = {
        "named first, 20 labelled": first.hit[(first.n == 20) & first.labelled],
        "named first, 10 labelled": first.hit[first.n == 10],
        "named first, 20 without labels": first.hit[~first.labelled],
        "costs <= 2 points: named, or nothing": silent.hit | (silent.named == ""),
        "mended to within 1 point": found.mended > found.right - 0.015,  # steps of 0.5
        "nothing found, sound pipeline": sound.named[~hurt] == "",
        "a habit that costs > 2 points is found": sound.named[hurt] != "",
    }
    return pd.DataFrame({name: {"share": part.mean(), "n": len(part)}
                         for name, part in parts.items()}).T  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the cells")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits, pens = data.load(), pens_or_hand(7000)
    pens = pens.take(np.flatnonzero(np.isin(pens.writers, EXAMINED_WRITERS)))
    models = {name: network(name, digits.train) for name in NETWORKS}
    data.load, rows = lambda: digits, []
    for todo in tqdm(cells(arguments.share, arguments.seed)):
        rows.append(cell(models, pens, *todo))
        table = pd.DataFrame(rows).round(4)
        table.to_csv(ARTIFACTS / "doctor.csv", index=False)
    print(shares(table).to_string(float_format="%.3f"))
    print(table[(table.fault != "") & (table.harm > 0.02) & ~table.hit].to_string())
    print(table[(table.fault == "") & (table.named != "")].to_string())


if __name__ == "__main__":
    main()
