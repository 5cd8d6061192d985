"""How the shipped network is made: `make model`, or python tools/make_model.py.

First it learns without any recorded pen: from MNIST, from what the scripted hand
writes in all its forms, and from drawings that are no digit, for which every
answer is to be equally probable. Then, shortly, from recorded pens, too. That
replaces artifacts/best_model.pt and best_model.json.

`--estimate` measures first how such a network reads a hand that it has not seen,
and writes artifacts/estimate.json, from which the card, the temperature and the
least spread of a digit's logits are taken. That trains four networks from each of
three seeds; all but two figures are those of the first.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from torch.nn import functional as F

from mnistlab import checkpoint, data
from mnistlab.checks import Reference, spread
from mnistlab.classifier import Classifier
from mnistlab.data import Data, Digits, join, write_atomically
from mnistlab.evaluation import Report, evaluate, predict_logits
from mnistlab.models import DigitCNN, Network
from mnistlab.pendigits import PenDigits, load_pens
from mnistlab.preprocess import MNIST_PIPELINE, NAIVE_PIPELINE, normalize
from mnistlab.synthetic import (
    NO_DIGIT,
    hand_images,
    no_digit_images,
    part,
    pen_images,
    rotation,
)
from mnistlab.training import fit, random_affine

BEST = checkpoint.ARTIFACTS / "best_model.pt"
ESTIMATE = checkpoint.ARTIFACTS / "estimate.json"
SETTINGS = {  # chosen without MNIST's test images
    "hand_digits": 60_000,
    "no_digits": 30_000,
    "epochs": 6,
    "lr": 0.004,
    "then_hand_digits": 10_000,
    "then_no_digits": 80_000,
    "then_pen_copies": 12,
    "then_other_forms": 0.2,
    "then_epochs": 3,
    "then_lr": 0.003,
    "digits_refused": 0.009,  # allowed, of unseen writers
}
LEARNT = {  # kinds of what is no digit, and how much of each
    "letters": 0.4,
    "marks": 0.15,
    "scribbles": 0.1,
    "lines": 0.05,
    "two digits": 0.13,
    "turned digits": 0.05,
    "pieces": 0.05,
    "scrambled digits": 0.07,
}
# The first stage is judged on these letters.
LEARNT_LATER = {**LEARNT, "other letters": 0.3, "more marks": 0.35, "glyphs": 0.2}
JUDGED = ("other letters", "other marks", "mirrored digits")
FOLDS, WRITERS, N_OF_A_KIND = 3, range(1, 31), 500
PARTS = 4  # in which digits of the hand, and what is no digit, are drawn
NOT_GOOD_AT = (
    "canvases that are only resized: see pens_canvas_only_resized",
    "forms of digits that neither MNIST, pendigits nor the scripted hand writes: see "
    "the worst writers in estimated",
    "marks and letters unlike those that it has learnt: see estimated, refused",
    "letters that look like a digit (o l I z Z s S b g q), which it is not to refuse",
    "mirrored digits, and pieces of digits: half of one often is another",
)


# --- what is no digit, beside the kinds that the notebooks show ----------------------


def lines(rng, digit_of):
    counts = rng.integers(2, 5, rng.integers(2, 5))
    return [rng.uniform(0, 100, (n, 2)) for n in counts]


def glyph(rng, digit_of):
    """A letter of no alphabet: two to four strokes of lines, corners and bows."""
    drawing = []
    for _ in range(rng.integers(2, 5)):
        points = rng.uniform(0, 100, (1, 2))
        if drawing and rng.random() < 0.75:  # it starts on a stroke that is there
            points = rng.choice(drawing[rng.integers(len(drawing))], 1)
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(2, 4)):
            bent = rng.normal(0, 2.5) * (rng.random() < 0.6)
            along = heading + np.linspace(0, bent, 12)
            step = np.stack([np.cos(along), np.sin(along)], 1) * rng.uniform(2, 9)
            points = np.concatenate([points, points[-1] + step.cumsum(0)])
            heading = along[-1] + rng.uniform(-2.6, 2.6) * (rng.random() < 0.7)
        drawing.append(points)
    width, height = np.ptp(np.concatenate(drawing), axis=0)
    if min(width, height) < 0.55 * max(width, height):  # it might pass for a 1
        return glyph(rng, digit_of)
    return drawing


def turned(rng, digit_of):
    turn = rotation(rng.uniform(1.25, 1.9) * rng.choice([-1, 1]))
    return [stroke @ turn for stroke in digit_of((2, 3, 4, 5, 7))[0]]


def piece(rng, digit_of):
    strokes, digit = digit_of((0, 2, 7))
    start, stop = {0: (0, 0.7), 2: (0.5, 1), 7: (0, 0.45)}[digit]
    return [part(strokes[0], start, stop)]


def scrambled(rng, digit_of):
    pieces = []
    for stroke in digit_of((0, 2, 3, 4, 5, 6, 8, 9))[0]:
        cut = rng.uniform(0.3, 0.7)
        for one in (part(stroke, 0, cut), part(stroke, cut, 1)):
            middle = one.mean(0)
            moved = (one - middle) @ rotation(rng.uniform(0.8, 5.4))
            pieces.append(moved + middle + rng.normal(0, 18, 2))
    return pieces


MORE = {"lines": lines, "glyphs": glyph, "turned digits": turned, "pieces": piece}
KINDS = NO_DIGIT | MORE | {"scrambled digits": scrambled}


def in_parts(draw, seed: int, parts: int = PARTS, **arguments) -> list:
    """What `draw` draws from several seeds; on as many cores as joblib is told."""
    calls = [joblib.delayed(draw)(seed=[seed, n], **arguments) for n in range(parts)]
    return joblib.Parallel()(calls)


def hand_in_parts(n: int, seed: int) -> Digits:
    return join(*in_parts(hand_images, seed, n=n // PARTS, wide=True))


def no_digits_in_parts(n: int, seed: int, kinds: dict) -> np.ndarray:
    settings = {"n": n // PARTS, "kinds": kinds, "known": KINDS}
    return np.concatenate(in_parts(no_digit_images, seed, **settings))


def learn(model: Network, train: Digits, no_digit, seed: int, stage="") -> Network:
    fit(
        model,
        train,
        no_digit=no_digit,
        epochs=SETTINGS[f"{stage}epochs"],
        lr=SETTINGS[f"{stage}lr"],
        augment=random_affine,
        bfloat16=False,  # the same on every machine, but for the last bits
        seed=seed,
    )
    return model


def without_pens(digits: Data, seed: int) -> Network:
    """The first stage: a network that has seen no recorded pen.

    It keeps its last weights. MNIST's validation images do not tell them from those of
    an epoch before, when the learning rate is still high; other hands do: of a seed's
    two equally good epochs, the last read 99.2 % of the pens, the fifth 98.4 %.
    """
    hand = hand_in_parts(SETTINGS["hand_digits"], seed + 1)
    others = no_digits_in_parts(SETTINGS["no_digits"], seed + 2, LEARNT)
    torch.manual_seed(seed)
    model = DigitCNN()
    return learn(model, join(digits.train, hand), others, seed)


def with_pens(start: Network, train: Digits, no_digit: np.ndarray, seed: int):
    """The second stage, on a copy of the first's network."""
    return learn(copy.deepcopy(start), train, no_digit, seed, "then_")


def for_second_stage(digits: Data, pens: PenDigits, seed: int):
    """Digits without pens, the pens' digits (copies in turn), and what is no digit."""
    settings = {"strength": 1.0, "other_forms": SETTINGS["then_other_forms"]}
    copies = SETTINGS["then_pen_copies"]
    return (
        join(digits.train, hand_in_parts(SETTINGS["then_hand_digits"], seed + 4)),
        join(*in_parts(pen_images, seed + 3, copies, pens=pens, **settings)),
        no_digits_in_parts(SETTINGS["then_no_digits"], seed + 5, LEARNT_LATER),
    )


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """By what to divide logits (N, 10) so that probabilities mean what they say.

    Temperature scaling (Guo et al. 2017): the one number that makes the labels of
    digits which were not learnt most probable. It changes no answer.
    """
    logits, labels = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    candidates = np.geomspace(0.1, 10, 461).tolist()  # 1 % apart
    return min(candidates, key=lambda t: float(F.cross_entropy(logits / t, labels)))


def divide_logits(model: Network, by: float) -> None:
    """Fold a temperature into the last layer, nn.Linear, of a network, in place.

    Raises ValueError unless it is a finite number above 0.
    """
    if not (math.isfinite(by) and by > 0):
        raise ValueError(f"the temperature is {by}; expected a finite number above 0.")
    with torch.no_grad():
        model[-1].weight /= by
        model[-1].bias /= by


def over_writers(report: Report, writers: np.ndarray) -> dict[str, object]:
    """Accuracy by writer, its mean, and a 95 % bootstrap interval over writers."""
    shares = {int(w): float(report.correct[writers == w].mean()) for w in WRITERS}
    values, rng = np.array(list(shares.values())), np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return {
        "accuracy": float(values.mean()),
        "interval": np.quantile(means, (0.025, 0.975)).tolist(),
        "worst": float(values.min()),
        "calibration_error": report.calibration_error,
        "n": len(report),
        "n_writers": len(values),
        "by_writer": shares,
    }


def estimate(seed: int = 0) -> dict:
    """How such networks read hands that they have not seen; MNIST's test stays shut.

    The first stage's network is examined on all writers; then three of the
    second stage, each on the ten writers that it has not seen.
    """
    digits, pens = data.load("mnist"), load_pens()
    common, pen_digits, no_digit = for_second_stage(digits, pens, seed)
    start = without_pens(digits, seed)
    drawn = pen_images(pens, seed + 10)
    kinds = {
        kind: no_digit_images(N_OF_A_KIND, seed + 11, {kind: 1.0}, pens, KINDS)
        for kind in dict.fromkeys([*LEARNT_LATER, *JUDGED])
    }
    order = np.random.default_rng(seed).permutation(len(WRITERS)) + 1
    logits = np.empty((len(drawn), 10), np.float32)
    others, on_mnist = {kind: [] for kind in kinds}, []
    for unseen in np.split(order, FOLDS):
        rows = np.isin(pens.writers, unseen)
        seen = pen_digits.take(np.tile(~rows, SETTINGS["then_pen_copies"]))
        model = with_pens(start, join(common, seen), no_digit, seed)
        logits[rows] = predict_logits(model, drawn.images[rows])
        on_mnist.append(predict_logits(model, digits.validation.images))
        for kind, images in kinds.items():
            others[kind].append(predict_logits(model, images))
    labels = digits.validation.labels
    by = temperature(
        np.concatenate([logits, *on_mnist]),
        np.concatenate([drawn.labels, *[labels] * FOLDS]),
    )
    least = float(np.quantile(spread(logits / by), SETTINGS["digits_refused"]))
    writers = [pens.writers == writer for writer in WRITERS]
    # The first stage's network, with a temperature of its own.
    by_start = temperature(predict_logits(start, digits.validation.images), labels)
    of_start = predict_logits(start, drawn.images) / by_start
    letters = predict_logits(start, kinds["other letters"]) / by_start

    def refused(logits):
        return float((spread(logits) < least).mean())

    return {
        "pens_of_unseen_writers": over_writers(
            Report(logits / by, drawn.labels, drawn.source), pens.writers
        ),
        "pens_where_none_were_seen": over_writers(
            Report(of_start, drawn.labels, drawn.source), pens.writers
        ),
        "calibration_error_before": Report(logits, drawn.labels, "").calibration_error,
        "temperature": by,
        "least_spread": least,
        "refused": {
            "digits of unseen writers": refused(logits / by),
            "... of the worst of them": max(refused(logits[w] / by) for w in writers),
            "digits, no pens seen": refused(of_start),
            "MNIST, validation": refused(np.concatenate(on_mnist) / by),
            **{kind: refused(np.concatenate(x) / by) for kind, x in others.items()},
            "other letters, not learnt": refused(letters),
        },
        "n_of_each_kind": N_OF_A_KIND,
        "networks": 1 + FOLDS,
        "settings": SETTINGS,
    }


def write_estimate(seeds=(0, 1, 2)) -> dict:
    """The first seed's estimate, and of the others what chance may change it by."""
    figures, *others = map(estimate, seeds)
    ways = "pens_of_unseen_writers", "pens_where_none_were_seen"
    figures["other_seeds"] = [{way: other[way] for way in ways} for other in others]
    write_atomically(ESTIMATE, json.dumps(figures, indent=1).encode() + b"\n")
    return figures


def make(path: Path = BEST, seed: int = 0) -> dict:
    """Train the shipped network, write it with its card, return the card.

    Needs the full MNIST and the recorded pens, and raises DataUnavailable without;
    FileNotFoundError without the estimate. MNIST's test images are opened here,
    once, at the end.
    """
    if not ESTIMATE.exists():
        raise FileNotFoundError(
            f"there is no {ESTIMATE.name} in {ESTIMATE.parent}, which holds the "
            "temperature and the least spread: run tools/make_model.py --estimate"
        )
    estimated = json.loads(ESTIMATE.read_text("utf-8"))
    started = time.perf_counter()
    digits, pens = data.load("mnist"), load_pens()
    print(f"{digits}\n{pens.source}: drawing them ...")
    common, pen_digits, no_digit = for_second_stage(digits, pens, seed)
    start = without_pens(digits, seed)
    learnt = join(common, pen_digits)
    model = with_pens(start, learnt, no_digit, seed)
    before = evaluate(model, digits.test)
    divide_logits(model, estimated["temperature"])
    reference = Reference.measured_on(
        normalize(learnt.images),
        predict_logits(model, learnt.images),
        learnt.source,
        estimated["least_spread"],
    )
    seconds = time.perf_counter() - started

    classifier = Classifier(model, reference)
    sets = {
        "mnist_test": digits.test,
        "scripted_hand": hand_images(3000, seed + 6),
        "pens_learnt": pen_images(pens, seed + 7),
        "pens_canvas_only_resized": pen_images(pens, seed + 8, pipeline=NAIVE_PIPELINE),
    }
    reports = {name: evaluate(model, part) for name, part in sets.items()}
    on_test = reports["mnist_test"]
    return checkpoint.save(
        path,
        model,
        golden=classifier.golden(),
        data={
            "source": learnt.source,
            "n": len(learnt),
            "train_sha256": learnt.sha256,
            "writers": list(WRITERS),
        },
        pipeline=[step.__name__ for step in MNIST_PIPELINE],
        seed=seed,
        settings=SETTINGS,
        minutes_on_this_machine=round(seconds / 60, 1),
        temperature=estimated["temperature"],
        estimated=estimated,
        accuracies=reports,
        calibration_error={
            "mnist_test_before": before.calibration_error,
            "mnist_test": on_test.calibration_error,
        },
        refused={
            "mnist_test": float(
                (spread(on_test.logits) < estimated["least_spread"]).mean()
            )
        },
        by_digit={"mnist_test": on_test.per_class.round(4)},
        false_alarms={
            name: {
                alarm: round(float(rings.mean()), 5)
                for alarm, rings in reference.outside(
                    normalize(sets[name].images)
                ).items()
            }
            for name in ("mnist_test", "pens_learnt")
        },
        not_good_at=NOT_GOOD_AT,
        reference=reference,
    ).card


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument(
        "--estimate", action="store_true", help="measure first, on unseen writers"
    )
    with joblib.parallel_config(n_jobs=-1):
        if arguments.parse_args().estimate:
            print(json.dumps(write_estimate(), indent=1))
        for name, figures in make()["accuracies"].items():
            print("{:<30} {accuracy:.2%} of {n:,}".format(name, **figures))
