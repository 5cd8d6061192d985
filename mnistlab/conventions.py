"""What a network wants: which ink, scale and turn of its digits, and which shape.

Nothing in a file of weights says so. MNIST's own images, shown in every convention, do.
"""

from dataclasses import dataclass
from itertools import product
from math import comb

import numpy as np
import torch

from mnistlab.evaluation import eval_mode
from mnistlab.preprocess import MEAN, STD

N_SCREEN = 50  # images that go through all conventions
CERTAIN = 0.01  # what chance does as rarely is not by chance

# These expressions are run as they are printed.
MNISTS, PER_IMAGE = "MNIST's mean and deviation", "standardised per image"
SCALES = {  # pixels x (N, 28, 28), 0..1 -> values
    "0..1": "x",
    MNISTS: f"(x - {MEAN}) / {STD}",
    "-1..1": "2 * x - 1",
    "0..255": "255 * x",
    PER_IMAGE: "(x - x.mean((1, 2), keepdims=True)) / "
    "(x.std((1, 2), keepdims=True) + 1e-6)",
}
TURNS = {
    "upright": "x",
    "transposed": "x.swapaxes(1, 2)",
    "mirrored": "x[:, :, ::-1]",
    "upside down": "x[:, ::-1, ::-1]",
    "flipped top to bottom": "x[:, ::-1]",
    "turned left": "np.rot90(x, 1, (1, 2))",
    "turned right": "np.rot90(x, 3, (1, 2))",
    "turned and mirrored": "x[:, ::-1, ::-1].swapaxes(1, 2)",
}
SHAPES = {
    "(N, 1, 28, 28)": "x[:, None]",
    "(N, 784)": "x.reshape(-1, 784)",
    "(N, 28, 28)": "x",
    "(N, 3, 28, 28)": "np.stack([x, x, x], 1)",
    "(N, 1, 32, 32)": "np.pad(x[:, None], 2, 'edge')[2:-2, 2:-2]",
    "(N, 3, 32, 32)": "np.pad(np.stack([x, x, x], 1), 2, 'edge')[2:-2, 2:-2]",
    "(N, 28, 28, 1)": "x[..., None]",
}


def calculate(x: np.ndarray, *expressions: str) -> np.ndarray:
    """What expressions of x make of it, one after the other."""
    for expression in expressions:
        x = eval(expression, {"np": np, "x": x})  # ours, never somebody's
    return x


def turn_of(*turns: str) -> str:
    """The one turn that several make, one after the other."""
    corners = np.arange(4).reshape(1, 2, 2)
    found = calculate(corners, *map(TURNS.get, turns))
    return next(t for t in TURNS if (calculate(corners, TURNS[t]) == found).all())


def back(turn: str) -> str:
    """What undoes a turn: any of them, four times, is none."""
    return turn_of(turn, turn, turn)


@dataclass(frozen=True)
class Convention:
    """How a network wants its digits."""

    ink: str = "light"  # or "dark"
    scale: str = MNISTS
    turn: str = "upright"

    @property
    def lines(self) -> list[str]:
        """From pixels 0..1, ink 1, to values."""
        return ["1 - x"] * (self.ink == "dark") + [SCALES[self.scale], TURNS[self.turn]]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Pixels (N, 28, 28), 0..1, ink 1, as values, float32."""
        return calculate(x, *self.lines).astype(np.float32)

    def values(self, paper=0.0, ink=1.0, share=1.0) -> np.ndarray:
        """Those of paper and ink; standardised per image: those of a usual image."""
        pair = calculate(np.array([paper, ink]), *self.lines[:-2], f"{share} * x")
        if self.scale == PER_IMAGE:
            return (pair - (MEAN if self.ink == "light" else 1 - MEAN)) / STD
        return calculate(pair, SCALES[self.scale])

    def undo(self, x: np.ndarray) -> np.ndarray:
        """Values (N, 28, 28) back to pixels, float32, ink 1 on paper 0."""
        paper, ink = self.values()
        if self.scale == PER_IMAGE:
            ends = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
            paper, ink = ends if self.ink == "light" else ends[::-1]
        x = (x - paper) / (ink - paper + 1e-9)  # an image may be blank
        return calculate(x, TURNS[back(self.turn)]).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.ink} ink, {self.scale}, {self.turn}"


class Unusable(ValueError):
    """A network that cannot be examined; the message says why."""


class Scores:
    """A network that was given a common face: `shape`, a key of SHAPES, is its own.

    Raises Unusable for one that takes no known shape or gives no ten scores.
    """

    def __init__(self, network: torch.nn.Module, pixels: np.ndarray):
        self.network, said = network, {}
        floats = [t for t in network.state_dict().values() if t.is_floating_point()]
        self.like = (floats or [torch.zeros(1)])[0]  # its dtype and device
        for self.shape in SHAPES:
            try:
                out = self.raw(calculate(Convention()(pixels), SHAPES[self.shape]))
                if out.ndim == 2 and len(out) == len(pixels) and out.shape[1] >= 10:
                    break
                said[f"gave {out.shape} for {len(pixels)} pictures"] = 1
            except Exception as error:  # any: it is somebody else's code
                said[f"{error!r:.200}"] = 1
        else:
            raise Unusable(
                f"the network takes none of {', '.join(SHAPES)} and gives ten or more "
                f"scores for each picture. It said: {'; '.join(list(said)[:3])}"
            )
        self.classes, broken = out.shape[1], (~np.isfinite(out)).mean()
        if broken:
            raise Unusable(f"{broken:.0%} of the network's scores are not numbers: its "
                           "weights are broken, or its training diverged.")  # fmt: skip
        if self.classes in (26, 27):
            raise Unusable(f"the network has {self.classes} outputs, those of EMNIST's "
                           "letters: it knows no digits.")  # fmt: skip

    def raw(self, inputs: np.ndarray, as_it_came=False) -> np.ndarray:
        """Its scores, (N, 10 or more), in evaluation mode or as it came."""
        with torch.no_grad() if as_it_came else eval_mode(self.network):
            out = self.network(torch.tensor(inputs).to(self.like))
        out = out[0] if isinstance(out, tuple | list) else out
        return np.asarray(out.detach().float().cpu() if torch.is_tensor(out) else out)

    def __call__(self, values: np.ndarray, size=100, as_it_came=False) -> np.ndarray:
        """The digits, int (N,), that it reads in float (N, 28, 28), `size` at a time.

        -1: it raises, or there is no picture, only NaN.
        """
        x = calculate(np.nan_to_num(values).astype(np.float32), SHAPES[self.shape])
        parts = np.split(x, range(size, len(x), size))
        try:
            scores = np.concatenate([self.raw(part, as_it_came) for part in parts])
        except Exception:  # any: it is somebody else's code, and dislikes the values
            return np.full(len(x), -1)
        return np.where(np.isnan(values[:, 0, 0]), -1, scores[:, :10].argmax(1))


def sign_test(before: np.ndarray, after: np.ndarray) -> float:
    """How likely chance mends so many and breaks so few: McNemar, exact, one-sided.

    before, after: bool (N,), whether the same pictures are read right.
    """
    mended, broken = int((after & ~before).sum()), int((before & ~after).sum())
    n = mended + broken
    return sum(comb(n, k) for k in range(mended, n + 1)) / 2**n


def wanted(scores: Scores, pixels, labels) -> tuple[list[Convention], np.ndarray]:
    """The conventions that a paired test cannot tell from the best, the best first.

    Also the accuracy with each. A few images go through all, the rest through those
    that are left. The plain best would shut out the true one in one case of six.
    """
    left = [Convention(*way) for way in product(("light", "dark"), SCALES, TURNS)]
    for n, chance in ((N_SCREEN, 0.001), (len(pixels), CERTAIN)):
        right = [scores(way(pixels[:n])) == labels[:n] for way in left]
        order = np.argsort([-each.mean() for each in right], kind="stable")
        keep = [i for i in order if sign_test(right[i], right[order[0]]) > chance]
        left = [left[i] for i in keep]
    return left, np.array([right[i].mean() for i in keep])
