"""`fit`: one loop that a learner can read from top to bottom."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from mnistlab.data import Digits
from mnistlab.evaluation import evaluate
from mnistlab.preprocess import normalize


@dataclass(frozen=True)
class History:
    """What happened, one entry an epoch; losses are plain cross-entropy.

    Train figures are measured like the validation's: after the epoch, in
    evaluation mode, on as many random training images as there are to validate.
    """

    train_loss: tuple[float, ...] = ()
    train_accuracy: tuple[float, ...] = ()
    train_confidence: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    validation_accuracy: tuple[float, ...] = ()
    validation_confidence: tuple[float, ...] = ()
    best_epoch: int = 0  # counts from 1; 0 = none was measured
    seconds: float = 0.0  # of training, without the measuring
    stopped: str = "all epochs done"  # or why it ended earlier


def fit(
    model: nn.Module,
    train: Digits,
    validation: Digits | None = None,
    *,
    no_digit: np.ndarray | None = None,
    epochs: float = 3,
    batch_size: int = 128,
    optimizer: str = "adamw",
    lr: float = 0.01,
    schedule: str | None = "one-cycle",
    label_smoothing: float = 0.1,
    patience: int | None = None,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    bfloat16: bool | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `model` in place and leave it with its best weights.

    The defaults are the fast recipe: the whole data set in memory, AdamW with
    one learning-rate cycle (Smith 2018), label smoothing (Szegedy 2016). The
    classical one is optimizer="adam", lr=1e-3, schedule=None,
    label_smoothing=0. Best is the epoch with the highest validation accuracy;
    without `validation` the last weights are kept and nothing is measured.
    `epochs` may be a fraction. `patience` epochs without a new best end the
    training. `no_digit`, images uint8 (M, 28, 28), are learnt with the ten classes
    equally probable (outlier exposure, Hendrycks 2019); nothing is measured on
    them. `augment` gets a batch (B, 1, 28, 28) and a generator. bfloat16
    None: where the processor computes in it. The interrupt key ends training
    early, too. Same seed, machine and threads: the same weights, bit for bit.

    The seed rules the order of the images, dropout and augmentation; for the
    first weights call torch.manual_seed before the network is built. Raises
    FloatingPointError if the loss is no longer a number; the model then holds
    the best weights so far.
    """
    if not len(train) or (validation is not None and not len(validation)):
        raise ValueError("there are no images to train on, or to validate with.")
    above_0 = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    if min(*above_0.values(), 1 if patience is None else patience) <= 0:
        raise ValueError(f"{above_0}, patience={patience}; expected numbers above 0.")
    if optimizer not in OPTIMIZERS or schedule not in ("one-cycle", None):
        raise ValueError(
            f"optimizer={optimizer!r}, schedule={schedule!r}; expected one of "
            f"{list(OPTIMIZERS)} and 'one-cycle' or None."
        )
    device = next(model.parameters()).device
    images = train.images
    targets = F.one_hot(torch.from_numpy(train.labels), 10).float()
    if no_digit is not None:  # no answer is to be more probable than another
        images = np.concatenate([images, no_digit])
        targets = torch.cat([targets, torch.full((len(no_digit), 10), 0.1)])
    n_steps = max(1, round(epochs * math.ceil(len(images) / batch_size)))
    optim = OPTIMIZERS[optimizer](model.parameters(), lr=lr)
    cycle = torch.optim.lr_scheduler.LambdaLR(
        optim, lambda step: one_cycle(step / n_steps) if schedule else 1.0
    )
    cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    generator = torch.Generator().manual_seed(seed)
    bfloat16 = has_bfloat16() if bfloat16 is None else bfloat16
    if validation is not None:  # some data sets are sorted, so not the first ones
        some = np.random.default_rng(seed).permutation(len(train))[: len(validation)]
        measured = train.take(some), validation
    rows, step, seconds, stopped = [], 0, 0.0, "all epochs done"
    best_accuracy, best_weights, best_epoch = -1.0, None, 0

    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=n_steps, desc="training", leave=False, disable=not progress) as bar,
    ):
        torch.manual_seed(seed)  # dropout draws from the global generator
        try:
            while step < n_steps:
                started = time.perf_counter()
                model.train()
                order = torch.randperm(len(images), generator=generator)
                for chosen in order.split(batch_size)[: n_steps - step]:
                    batch = torch.from_numpy(normalize(images[chosen.numpy()]))[:, None]
                    batch, wanted = batch.to(device), targets[chosen].to(device)
                    if augment:
                        batch = augment(batch, generator)
                    with torch.autocast(device.type, torch.bfloat16, bfloat16):
                        logits = model(batch)  # (B, 10)
                        loss = cross_entropy(logits.float(), wanted)
                    if not math.isfinite(loss.item()):
                        kept = f"its best weights so far, of epoch {best_epoch}"
                        kept = kept if best_epoch else "no good weights: build it anew"
                        raise FloatingPointError(
                            f"the loss became {loss.item()} in step {step + 1} of "
                            f"{n_steps}. Lower the learning rate ({lr:g}), and look at "
                            f"the inputs' range. The model holds {kept}."
                        )
                    optim.zero_grad()
                    loss.backward()
                    optim.step()
                    cycle.step()
                    step += 1
                    bar.update()
                seconds += time.perf_counter() - started

                if validation is None:
                    continue
                reports = [evaluate(model, digits) for digits in measured]
                figures = [(r.loss, r.accuracy, r.confidence) for r in reports]
                rows.append(figures[0] + figures[1])
                if (accuracy := reports[1].accuracy) > best_accuracy:
                    best_weights = copy.deepcopy(model.state_dict())
                    best_accuracy, best_epoch = accuracy, len(rows)
                bar.set_postfix(validation=f"{accuracy:.2%}")
                if patience and len(rows) - best_epoch >= patience:
                    stopped = f"no better for {patience} epochs"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            if best_weights is not None:
                model.load_state_dict(best_weights)
            model.eval()
    columns = zip(*rows, strict=True) if rows else [()] * 6
    return History(*columns, best_epoch, seconds, stopped)


ADAMW = {"betas": (0.8, 0.95), "fused": True}


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum (Jordan 2024).

    A step moves a weight matrix, or filters as the rows of one, about as far in rare
    directions as in common ones. The last layer, biases and norms are AdamW's. FastCNN,
    in batches of 128, needed about a third fewer steps than with AdamW alone; batches
    of 512 learn as much from nearly as few images, and cost less.
    """

    def __init__(self, parameters, lr: float):
        parameters = list(parameters)
        super().__init__(parameters, lr, **ADAMW)
        *self.matrices, _ = [weight for weight in parameters if weight.ndim > 1]
        self.momenta = [torch.zeros_like(weight) for weight in self.matrices]

    @torch.no_grad()
    def step(self) -> None:
        rate = 20 * self.param_groups[0]["lr"]  # AdamW's steps are smaller
        for weight, momentum in zip(self.matrices, self.momenta, strict=True):
            momentum.mul_(0.6).add_(weight.grad)
            # A dead unit's would shrink for ever; below 1e-38 arithmetic is slow.
            momentum *= momentum.abs() > 1e-15
            weight.sub_(orthogonal(momentum.flatten(1)).view_as(weight), alpha=rate)
            weight.grad = None  # nothing is left for AdamW
        super().step()


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (m, n) with the same singular vectors, and values near 1 or much nearer.

    Two steps of the Newton-Schulz iteration with the coefficients of Jordan (2024);
    where m > n they are scaled by the root of m / n.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonal(matrix.T).T * (len(matrix) / matrix.shape[1]) ** 0.5
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(2):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (2.0315 * square @ square - 4.775 * square) @ matrix
    return matrix


OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, **ADAMW),
    "adam": partial(torch.optim.Adam, fused=True),
    "muon": Muon,
}


def one_cycle(progress: float, rise: float = 0.15) -> float:
    """Share of the peak learning rate: up to it at `rise`, down to 0 at 1."""
    return min((progress + 1e-3) / rise, (1 - progress) / (1 - rise))


def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 (AMX, or Arm's bf16).

    AVX-512's instructions alone are no help: on an AMD EPYC a step of FastCNN then
    takes four times as long as in float32.
    """
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("bf16"))


def random_affine(
    images: torch.Tensor,
    generator: torch.Generator,
    share: float = 0.5,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear: float = 0.1,
    shift_px: float = 2.0,
) -> torch.Tensor:
    """Turn, scale, shear and shift the first `share` of a batch at random.

    float32 (B, 1, 28, 28) normalised, in and out. Resampling blurs, so the rest
    stays untouched: a network that sees only blurred digits does worse on sharp
    ones.
    """
    n = int(len(images) * share)
    if n == 0:
        return images

    def uniform(limit):
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(degrees))
    sx, sy = 1 + uniform(scale), 1 + uniform(scale)
    slant, dx, dy = uniform(shear), uniform(shift_px / 14), uniform(shift_px / 14)
    cos, sin = torch.cos(angle), torch.sin(angle)
    top = [cos * sx, (slant * cos - sin) * sy, dx]
    bottom = [sin * sx, (slant * sin + cos) * sy, dy]
    matrix = torch.stack(top + bottom, 1).view(n, 2, 3).to(images.device)
    paper = images.amin()  # grid_sample pads with 0, so paper has to be 0 meanwhile
    grid = F.affine_grid(matrix, (n, 1, 28, 28), align_corners=False)
    moved = F.grid_sample(images[:n] - paper, grid, align_corners=False) + paper
    return torch.cat([moved, images[n:]])
