"""Checkpoint, pipeline and checks in one callable: a drawing in, a Prediction out."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mnistlab import checkpoint
from mnistlab.checks import Alarm, Reference, spread
from mnistlab.evaluation import eval_mode, softmax
from mnistlab.preprocess import INK, MNIST_PIPELINE, Pipeline, Stage, trace
from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite

GOLDEN_TOLERANCE = 0.05  # logits; other processors and Pillows stay far below
FINITE = -3.4e38, 3.4e38  # float32


class GoldenError(checkpoint.CheckpointError):
    """Fixed drawings do not give the logits that were recorded when training."""


@dataclass(frozen=True)
class Prediction:
    """What the network made of one drawing, and whether to believe it."""

    label: int | None  # None where it abstains: reason says why
    reason: str
    logits: np.ndarray = field(repr=False)  # float32 (10,); nan on a blank canvas
    stages: tuple[Stage, ...] = field(repr=False)
    alarms: tuple[Alarm, ...]
    milliseconds: float

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (10,)"""
        return softmax(self.logits)

    @property
    def ranking(self) -> tuple[int, ...]:
        """The ten classes, the most probable first."""
        return tuple(np.argsort(-self.logits, kind="stable").tolist())


@dataclass(frozen=True)
class Classifier:
    """classifier(canvas) with uint8 (H, W), ink 255 on paper 0, is a Prediction."""

    model: nn.Module
    reference: Reference | None = None  # None: only blank and broken are refused
    pipeline: Pipeline = MNIST_PIPELINE
    sha256: str = ""  # of the checkpoint

    @classmethod
    def load(cls, path: Path = checkpoint.ARTIFACTS / "best_model.pt") -> "Classifier":
        """The classifier of a checkpoint, after its golden test; CheckpointError."""
        saved, reference = checkpoint.load(path), None
        try:
            if card := saved.card.get("reference"):
                reference = Reference.from_card(card)
        except ValueError as error:
            raise checkpoint.CheckpointError(f"{Path(path).name}: {error}") from error
        classifier = cls(saved.model, reference, sha256=saved.sha256)
        if saved.golden:
            classifier.test_golden(saved.golden)
        return classifier

    def with_pipeline(self, pipeline: Pipeline) -> "Classifier":
        return replace(self, pipeline=pipeline)

    def __call__(self, canvas: np.ndarray) -> Prediction:
        started = time.perf_counter()
        stages = trace(canvas, ())  # raises unless it is a canvas
        logits = np.full(10, np.nan, np.float32)
        if canvas.max() < INK:
            peak = float(canvas.max()) / 255
            alarms = (Alarm("blank", "peak", peak, INK / 255, 1.0, "original"),)
        else:
            stages = trace(canvas, self.pipeline)
            alarms = self.reference.check(stages) if self.reference else ()
            logits = self._logits(stages[-1].image)
            if not np.isfinite(logits).all():
                found = float(logits[~np.isfinite(logits)][0]), *FINITE
                alarms += (Alarm("logits", "logit", *found, "network"),)
            elif self.reference:
                found = float(spread(logits)), *self.reference.bounds["spread"]
                if found[0] < found[1]:
                    alarms += (Alarm("no digit", "spread", *found, "network"),)
            alarms = tuple(sorted(alarms, key=lambda alarm: not alarm.serious))
        # The one place where an answer is refused: a reason, and no label.
        reason = next((str(alarm) for alarm in alarms if alarm.serious), "")
        label = None if reason else int(logits.argmax())
        milliseconds = (time.perf_counter() - started) * 1000
        return Prediction(label, reason, logits, stages, alarms, milliseconds)

    def _logits(self, image: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(np.ascontiguousarray(image))[None, None]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for one picture, waking a second costs more
        try:
            with eval_mode(self.model):
                return self.model(inputs)[0].numpy()
        finally:
            torch.set_num_threads(threads)

    def golden(self) -> dict[str, torch.Tensor]:
        """Ten fixed drawings of the scripted hand and their logits, to be saved."""
        drawings = [handwrite(n, size_px=70, canvas_px=112) for n in range(10)]
        canvases = np.stack([rasterize(drawing, 8, 112) for drawing in drawings])
        logits = np.stack([self(canvas).logits for canvas in canvases])
        golden = {"canvases": canvases, "logits": logits}
        return {name: torch.from_numpy(values) for name, values in golden.items()}

    def test_golden(self, golden: dict[str, torch.Tensor]) -> None:
        """Raise GoldenError unless the recorded canvases give their logits.

        No statistic of pixels sees a transposed input, for instance.
        """
        found = [self(canvas).logits for canvas in golden["canvases"].numpy()]
        off = np.abs(np.stack(found) - golden["logits"].numpy()).max()
        if not off <= GOLDEN_TOLERANCE:
            steps = " > ".join(step.__name__ for step in self.pipeline)
            raise GoldenError(
                f"the recorded drawings give logits up to {off:.3g} away from theirs "
                f"({GOLDEN_TOLERANCE} is allowed): the network, or {steps}, is another."
            )
