"""What the training images look like, and alarms for an input that does not.

The statistics are plain pixel counts, so that a reader can check them by eye.
They are measured on the input as the network gets it, with the normalisation
undone, where every image of MNIST lies in 0..1, ink 1 on paper 0.
"""

from dataclasses import dataclass

import numpy as np

from mnistlab.preprocess import INK, Stage, denormalize, ring

# statistic -> the alarm that rings where it leaves its bounds
STATISTICS = {
    "peak": "blank",
    "lowest": "range",
    "highest": "range",
    "border": "polarity",
    "paper": "background",
    "ink": "ink",
    "pen_px": "ink",
    "side_px": "frame",
    "center_x": "frame",
    "center_y": "frame",
}
CAUSES = {
    "blank": "nothing was drawn, or the ink was lost on the way: black on transparent, "
    "or divided by 255 twice",
    "range": "not scaled like the training images: not divided by 255, normalised "
    "twice or with other constants, or its sign turned",
    "polarity": "dark ink on bright paper: an inversion too many, or one missing",
    "background": "the paper is not black: grey paper, noise, or not normalised",
    "ink": "more or less ink than any training digit: a very thick or thin pen, "
    "low contrast, or a scribble",
    "frame": "not as large or not where MNIST has its digits: the whole canvas "
    "resized, not centred, or stretched",
}
SERIOUS = ("blank", "range", "polarity", "background")  # answers mean nothing then


@dataclass(frozen=True)
class Alarm:
    """A statistic outside the bounds that the training images set."""

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

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.statistic} is {self.value:.3g} at {self.stage}, "
            f"training images have {self.low:.3g} to {self.high:.3g} "
            f"({CAUSES[self.name]})"
        )


class InputAlarm(ValueError):
    """An input contradicts the training images; the message says how."""


@np.errstate(invalid="ignore", over="ignore")  # what is no number rings an alarm
def measure(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of normalised inputs, float32 (N, 28, 28): each float (N,).

    peak, lowest, highest: of the pixels; border: mean of the outer ring; paper:
    mean of the four corners; ink: mean of all pixels; pen_px: width of the pen,
    estimated as twice the ink's area over its outline; side_px: longer side of
    the box around the ink; center_x, center_y: centre of mass, from 0 to 27.
    """
    if len(inputs) > 1000:  # pieces that fit the processor's cache: 4 times faster
        parts = [measure(inputs[i : i + 1000]) for i in range(0, len(inputs), 1000)]
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
    pixels = denormalize(inputs.reshape(-1, 28, 28))
    clipped = pixels.clip(0, 1)
    inked = pixels >= INK / 255
    mass = np.maximum(clipped.sum((1, 2)), 1e-6)
    position = np.arange(28, dtype=np.float32)
    outline = sum(np.abs(np.diff(clipped, axis=axis)).sum((1, 2)) for axis in (1, 2))
    sides = [inked.any(axis) for axis in (1, 2)]  # bool (N, 28) each
    spans = [
        np.where(side.any(1), 28 - side.argmax(1) - side[:, ::-1].argmax(1), 0)
        for side in sides
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


@dataclass(frozen=True)
class Drift:
    """A window of inputs against the training images, in standard errors."""

    n: int
    mean: float
    energy: float

    LIMIT = 3.29  # two-sided, one window in a thousand by chance

    @property
    def alarm(self) -> bool:
        return max(abs(self.mean), abs(self.energy)) > self.LIMIT

    def __str__(self) -> str:
        verdict = "unlike the training images" if self.alarm else "no drift"
        return (
            f"{verdict}: over {self.n} drawings the mean is {self.mean:+.1f} and the "
            f"energy {self.energy:+.1f} standard errors off (limit {self.LIMIT})"
        )


@dataclass(frozen=True)
class Reference:
    """What the training images look like; travels with the checkpoint."""

    bounds: dict[str, tuple[float, float]]  # of each statistic
    mean: tuple[float, float]  # of an input's mean: average, standard deviation
    energy: tuple[float, float]  # of -log sum exp(logits), likewise
    n: int
    source: str

    @classmethod
    def measured_on(
        cls, inputs: np.ndarray, logits: np.ndarray, source: str
    ) -> "Reference":
        """Set bounds from normalised inputs float32 (N, 28, 28) and their logits.

        Sizes, centres and ink may be as extreme as all but one in a thousand
        training images. Values, border and paper are the same for all of them,
        so their bounds stand apart from the most extreme one.
        """
        found = measure(inputs)
        bounds = {
            name: tuple(np.quantile(found[name], [0.0005, 0.9995]).tolist())
            for name in ("ink", "pen_px", "side_px", "center_x", "center_y")
        }
        # Inverted images have a border of 1 - border: the threshold lies between.
        bounds["border"] = (0.0, 0.5)
        bounds["paper"] = (-0.02, float(found["paper"].max()) + 0.02)
        bounds["lowest"] = (float(found["lowest"].min()) - 0.01, 1.0)
        bounds["highest"] = (0.0, float(found["highest"].max()) + 0.01)
        bounds["peak"] = (INK / 255, 1e9)  # JSON has no infinity
        means, energies = inputs.mean((1, 2)), energy(logits)
        return cls(
            {name: bounds[name] for name in STATISTICS},
            (float(means.mean()), float(means.std())),
            (float(energies.mean()), float(energies.std())),
            len(inputs),
            source,
        )

    @classmethod
    def from_card(cls, card: dict) -> "Reference":
        """The reference in a checkpoint's card, where it is kept as a dict."""
        bounds = {name: tuple(pair) for name, pair in card.get("bounds", {}).items()}
        if set(bounds) != set(STATISTICS) or set(card) != set(cls.__annotations__):
            raise ValueError(
                f"the reference knows {sorted(bounds)} and {sorted(card)}, this "
                f"version of the checks {sorted(STATISTICS)} and "
                f"{sorted(cls.__annotations__)}. Train the checkpoint anew."
            )
        pairs = {name: tuple(card[name]) for name in ("mean", "energy")}
        return cls(**{**card, **pairs, "bounds": bounds})

    def outside(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Which alarms ring for inputs (N, 28, 28): name -> bool (N,)."""
        found, rings = measure(inputs), {}
        for statistic, name in STATISTICS.items():
            low, high = self.bounds[statistic]
            values = found[statistic]
            wrong = ~((values >= low) & (values <= high))  # NaN is outside
            rings[name] = rings.get(name, False) | wrong
        return rings

    def check(self, stages: tuple[Stage, ...]) -> tuple[Alarm, ...]:
        """The alarms of one drawing on its way, the serious ones first.

        The input is held against every bound. Before that, each stage that still
        has the shape of the canvas is looked at for bright paper, so that an
        inversion is found where it happens, also if a crop hides it later.
        """
        alarms = []
        low, high = self.bounds["border"]
        for stage in stages[:-1]:
            border = ring(stage.image).mean() / 255
            if stage.image.shape == stages[0].image.shape and border > high:
                alarms.append(
                    Alarm("polarity", "border", float(border), low, high, stage.name)
                )
                break
        final = stages[-1]
        found = measure(final.image)
        for statistic, name in STATISTICS.items():
            (value,), (low, high) = found[statistic], self.bounds[statistic]
            if not low <= value <= high and name not in [a.name for a in alarms]:
                alarms.append(
                    Alarm(name, statistic, float(value), low, high, final.name)
                )
        return tuple(sorted(alarms, key=lambda alarm: list(CAUSES).index(alarm.name)))

    def require(self, stages: tuple[Stage, ...]) -> None:
        """Raise InputAlarm, with every alarm in words, if a serious one rings."""
        alarms = self.check(stages)
        if any(alarm.serious for alarm in alarms):
            raise InputAlarm("\n".join(map(str, alarms)))

    def drift(self, means: np.ndarray, energies: np.ndarray) -> Drift | None:
        """Compare a window of inputs: their means (n,) and energies (n,).

        None for fewer than five, which say nothing.
        """
        n = len(means)
        if n < 5:
            return None
        errors = [
            (float(np.mean(values)) - average) / (deviation / n**0.5)
            for values, (average, deviation) in (
                (means, self.mean),
                (energies, self.energy),
            )
        ]
        return Drift(n, *errors)


def energy(logits: np.ndarray) -> np.ndarray:
    """-log sum exp of logits (..., 10): low where a network is sure (Liu 2020)."""
    peak = logits.max(-1)
    return -peak - np.log(np.exp(logits - peak[..., None]).sum(-1))
