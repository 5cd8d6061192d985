"""What the training images look like, and alarms for an input that does not.

The statistics are plain pixel counts of the input as the network gets it, with the
normalisation undone: every image of MNIST lies in 0..1, ink 1 on paper 0.
"""

from dataclasses import dataclass

import numpy as np

from mnistlab.preprocess import INK, Stage, denormalize, ring

# Statistic -> the alarm that rings where it leaves its bounds.
STATISTICS = {"peak": "blank", "lowest": "range", "highest": "range"}
STATISTICS |= {"border": "polarity", "paper": "background", "ink": "ink"}
STATISTICS |= {"pen_px": "ink", "side_px": "placement"}
STATISTICS |= {"center_x": "placement", "center_y": "placement"}
STATISTICS |= {"spread": "no digit"}  # of the logits, not of the input
UNBOUNDED = 1e9  # JSON has no infinity
MEASURED = "ink", "pen_px", "side_px", "center_x", "center_y"  # the others are set
# Alarm -> what it says to a person: what is seen, and what it comes from.
CAUSES = {
    "blank": "There is no ink: nothing was drawn, or it was lost on the way (black "
    "on transparent, or divided by 255 twice).",
    "range": "The pixels have values that no training image has: not divided by 255, "
    "normalised twice or with other constants, or their sign turned.",
    "logits": "The network answers with what is no number: its weights are broken, "
    "or the values that it was given.",
    "polarity": "The paper is bright and the ink is dark. All training images are the "
    "other way round: an inversion too many, or one missing.",
    "background": "The paper is not black, as it is in all training images: it is "
    "grey or noisy, or the pixels were not normalised.",
    "no digit": "This is no digit, or none that can be told: the network's ten "
    "answers are closer together than for nearly every digit.",
    "ink": "There is more or less ink than in a training image: a very thick or thin "
    "pen, low contrast, or a scribble.",
    "placement": "The digit is not as large as MNIST's, or not where they are: the "
    "whole canvas resized, not centred, or stretched.",
}
SERIOUS = ("blank", "range", "logits", "polarity", "background", "no digit")


@dataclass(frozen=True)
class Alarm:
    """A statistic outside its bounds; as text: the cause and the numbers."""

    name: str  # a key of CAUSES
    statistic: str
    value: float
    low: float
    high: float
    stage: str  # where it was measured

    @property
    def serious(self) -> bool:
        """Whether the network's answer is not to be trusted, whatever it is."""
        return self.name in SERIOUS

    @property
    def sentence(self) -> str:
        """What it means, without the numbers."""
        return CAUSES[self.name]

    def __str__(self) -> str:
        is_measured = self.statistic in MEASURED
        source = "was measured on training images" if is_measured else "is allowed"
        bounds = f"{self.low:.3g} to {self.high:.3g}"
        if self.high == UNBOUNDED:
            bounds = f"{self.low:.3g} or more"
        elif self.low == -UNBOUNDED:
            bounds = f"at most {self.high:.3g}"
        return (
            f"{self.sentence} (the {self.statistic} is {self.value:.3g} at "
            f"{self.stage}; {bounds} {source})"
        )


class InputAlarm(ValueError):
    """An input contradicts the training images; the message says how."""


@np.errstate(invalid="ignore", over="ignore")  # what is no number rings an alarm
def measure(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of normalised inputs, float32 (N, 28, 28): each float (N,).

    border: mean of the outer ring; paper: of the corners; pen_px: width of the pen,
    twice the ink's area over its outline; side_px: longer side of the ink's box.
    """
    if len(inputs) > 1000:  # pieces that fit the processor's cache: 4 times faster
        parts = [measure(inputs[i : i + 1000]) for i in range(0, len(inputs), 1000)]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    pixels = denormalize(inputs)
    clipped = pixels.clip(0, 1)
    inked = pixels >= INK / 255
    mass = np.maximum(clipped.sum((1, 2)), 1e-6)
    position = np.arange(28, dtype=np.float32)
    outline = np.abs(clipped[:, 1:] - clipped[:, :-1]).sum((1, 2))
    outline += np.abs(clipped[..., 1:] - clipped[..., :-1]).sum((1, 2))
    spans = [
        np.where(side.any(1), 28 - side.argmax(1) - side[:, ::-1].argmax(1), 0)
        for side in (inked.any(1), inked.any(2))  # bool (N, 28) each
    ]
    highest = pixels.max((1, 2))
    return {
        "peak": highest,
        "lowest": pixels.min((1, 2)),
        "highest": highest,
        "border": ring(pixels).mean(1),
        "paper": pixels[:, ::27, ::27].mean((1, 2)),
        "ink": pixels.mean((1, 2)),
        "pen_px": 2 * mass / np.maximum(outline, 1e-6),
        "side_px": np.maximum(*spans),
        "center_x": clipped.sum(1) @ position / mass,
        "center_y": clipped.sum(2) @ position / mass,
    }


def spread(logits: np.ndarray) -> np.ndarray:
    """Standard deviation of logits (..., 10): small where no answer stands out.

    What is no digit was learnt with all answers equally probable: a spread of 0.
    """
    return logits.std(-1)


def energy(logits: np.ndarray) -> np.ndarray:
    """-log sum exp of logits (..., 10): low where a network is sure (Liu 2020)."""
    peak = logits.max(-1)
    return -peak - np.log(np.exp(logits - peak[..., None]).sum(-1))


@dataclass(frozen=True)
class Drift:
    """A window of inputs against the training images, in standard errors."""

    n: int
    mean: float
    energy: float
    LIMIT = 3.29  # two-sided, one window in a thousand by chance

    def __str__(self) -> str:
        is_far = max(abs(self.mean), abs(self.energy)) > self.LIMIT
        return (
            f"{'unlike the training images' if is_far else 'no drift'}: over {self.n} "
            f"drawings the mean is {self.mean:+.1f} and the energy {self.energy:+.1f} "
            f"standard errors off (limit {self.LIMIT})"
        )


@dataclass(frozen=True)
class Reference:
    """What the training images look like; travels on the checkpoint's card."""

    bounds: dict[str, list[float]]  # [low, high] of each statistic
    mean: list[float]  # of an input's mean: [average, standard deviation]
    energy: list[float]  # of the logits' energy, likewise
    n: int
    source: str

    @classmethod
    def measured_on(cls, inputs, logits, source: str, least_spread: float = 0.0):
        """From normalised inputs float32 (N, 28, 28) and their logits (N, 10).

        The MEASURED may be as extreme as all but one in a thousand of these images.
        Values and paper may be a little beyond the most extreme image; the border's
        bound is far from any image and from any inverted one. Below least_spread of the
        logits a drawing is no digit.
        """
        found = measure(inputs)
        bounds = {
            "peak": [INK / 255, UNBOUNDED],
            "spread": [least_spread, UNBOUNDED],
            "lowest": [float(found["lowest"].min()) - 0.01, 1.0],
            "highest": [0.0, float(found["highest"].max()) + 0.01],
            "border": [-UNBOUNDED, 0.5],
            "paper": [-0.02, float(found["paper"].max()) + 0.02],
        }
        for name in MEASURED:
            bounds[name] = np.quantile(found[name], [0.0005, 0.9995]).tolist()
        watched = inputs.mean((1, 2)), energy(logits)
        spreads = [[float(each.mean()), float(each.std())] for each in watched]
        return cls(bounds, *spreads, len(inputs), source)

    @classmethod
    def from_card(cls, card: dict):
        """From a checkpoint's card; ValueError for one of another version's checks."""
        if differ := sorted(set(card["bounds"]) ^ set(STATISTICS)):
            raise ValueError(
                f"the reference is not of this version of the checks: {differ} are "
                "only in one of them. Train the checkpoint anew."
            )
        if not np.isfinite([*card["bounds"].values()]).all():
            raise ValueError(f"{card['bounds']} are no bounds; expected finite numbers")
        return cls(**card)

    def outside(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Which alarms ring for inputs (N, 28, 28): name -> bool (N,)."""
        rings = {}
        for statistic, values in measure(inputs).items():
            low, high = self.bounds[statistic]
            wrong = ~((values >= low) & (values <= high))  # NaN is outside
            name = STATISTICS[statistic]
            rings[name] = rings.get(name, False) | wrong
        return rings

    def check(self, stages: tuple[Stage, ...]) -> tuple[Alarm, ...]:
        """The alarms of one drawing on its way, in the order of CAUSES.

        Each stage with the canvas's shape is held against the border's bounds, so that
        an inversion is found where it happens; the last one against all.
        """
        first, last = stages[0], stages[-1]
        found = [
            (stage.name, "border", ring(stage.image).clip(0).mean() / 255)
            for stage in stages[:-1]
            if stage.image.shape == first.image.shape
        ]
        for statistic, (value,) in measure(last.image[None]).items():
            found.append((last.name, statistic, value))
        alarms = {}
        for stage, statistic, value in found:
            name, (low, high) = STATISTICS[statistic], self.bounds[statistic]
            if name not in alarms and not low <= value <= high:
                alarms[name] = Alarm(name, statistic, float(value), low, high, stage)
        return tuple(alarms[name] for name in CAUSES if name in alarms)

    def require(self, stages: tuple[Stage, ...]) -> None:
        """Raise InputAlarm, with every alarm in words, if a serious one rings."""
        alarms = self.check(stages)
        if any(alarm.serious for alarm in alarms):
            raise InputAlarm("\n".join(map(str, alarms)))

    def drift(self, means: np.ndarray, energies: np.ndarray) -> Drift | None:
        """Of a window's means (n,) and energies (n,); None for fewer than five."""
        if (n := len(means)) < 5:
            return None
        average, deviation = np.transpose([self.mean, self.energy])  # (2,) each
        off = (np.mean([means, energies], axis=1) - average) / (deviation / n**0.5)
        return Drift(n, *off.tolist())
