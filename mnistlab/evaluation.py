"""How good a network is, and where it fails: accuracy is a fraction in code."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from mnistlab.data import Digits
from mnistlab.preprocess import normalize


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; each layer's own mode is put back."""
    training = [module for module in model.modules() if module.training]
    if training:  # asking is quicker than model.eval()
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def predict_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits float32 (N, 10) of images (N, 28, 28): uint8, or float32 normalised."""
    device, outputs = next(model.parameters()).device, []
    with eval_mode(model):
        for start in range(0, len(images), 125):
            batch = images[start : start + 125]
            batch = batch if batch.dtype == np.float32 else normalize(batch)
            inputs = torch.from_numpy(batch)[:, None].to(device)  # (B, 1, 28, 28)
            outputs.append(model(inputs).float().cpu().numpy())
    return np.concatenate(outputs)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (..., 10) of logits (..., 10)."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Report:
    """What one network made of N images; everything follows from the logits."""

    logits: np.ndarray = field(repr=False)  # float32 (N, 10)
    labels: np.ndarray = field(repr=False)  # int64 (N,)
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits)

    @property
    def predictions(self) -> np.ndarray:
        return self.logits.argmax(1)

    @property
    def correct(self) -> np.ndarray:  # bool (N,)
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats; that of guessing is ln 10."""
        chosen = self.probabilities[np.arange(len(self)), self.labels]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    @property
    def confidence(self) -> float:
        """Mean probability of the predicted class."""
        return float(self.probabilities.max(1).mean())

    @property
    def confusion(self) -> np.ndarray:
        """int64 (10, 10): row = label, column = prediction."""
        pairs = 10 * self.labels + self.predictions
        return np.bincount(pairs, minlength=100).reshape(10, 10)

    @property
    def per_class(self) -> np.ndarray:
        """Accuracy of each class, float (10,); nan where there are no samples."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 15 equal bins (Guo et al. 2017)."""
        confidence = self.probabilities.max(1)
        bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
        gaps = np.bincount(bins, self.correct - confidence, minlength=15)
        return float(np.abs(gaps).sum() / len(self))

    def worst(self, k: int) -> np.ndarray:
        """Indices of at most k mistakes, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.probabilities[wrong].max(1), kind="stable")][:k]

    @property
    def summary(self) -> dict[str, object]:
        """The figures that a model card keeps."""
        accuracy = round(self.accuracy, 5)
        return {"accuracy": accuracy, "n": len(self), "source": self.source}

    def __str__(self) -> str:
        shares = [f"{digit}: {share:.1%}" for digit, share in enumerate(self.per_class)]
        return (
            f"{self.accuracy:.2%} of {len(self):,} ({self.source}), loss "
            f"{self.loss:.3f}, calibration error {self.calibration_error:.3f}\n"
        ) + "  ".join(shares).replace("nan%", "no samples")


def evaluate(model: nn.Module, digits: Digits) -> Report:
    """A Report on all of `digits`, in evaluation mode."""
    if not len(digits):
        raise ValueError("there are no images to evaluate on.")
    return Report(predict_logits(model, digits.images), digits.labels, digits.source)
