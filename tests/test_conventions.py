"""What a network wants of its digits, found by asking it."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from mnistlab.conventions import (
    PER_IMAGE,
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


def test_the_sign_test_is_scipys():
    for mended, broken in (10, 0), (7, 1), (3, 3), (0, 4):
        before = np.array([False] * mended + [True] * broken + [True, False])
        after = np.array([True] * mended + [False] * broken + [True, False])
        known = binomtest(mended, mended + broken, alternative="greater").pvalue
        assert sign_test(before, after) == pytest.approx(known)


def test_a_convention_can_be_undone(digits):
    pixels = digits.images[:5] / 255
    pixels /= pixels.max((1, 2), keepdims=True)  # per image, contrast is lost
    for way in product(("light", "dark"), SCALES, TURNS):
        convention = Convention(*way)
        undone = convention.undo(convention(pixels))
        assert np.abs(undone - pixels).max() < 1e-3 and undone.dtype == np.float32


def test_the_values_of_paper_and_ink_are_those_of_an_image(digits):
    pixels = digits.images[:50] / 255
    for scale, ink in product(SCALES, ("light", "dark")):
        x, values = Convention(ink, scale)(pixels), Convention(ink, scale).values()
        seen = x[pixels == 0].mean(), x[pixels == 1].mean()
        assert np.allclose(values, seen, atol=0.6 if scale == PER_IMAGE else 1e-4)
    assert Convention("dark", "0..1").values(0.5, 0, 255).tolist() == [127.5, 255]


def test_turns_are_made_one_after_the_other_and_undone(digits):
    x = digits.images[:1]
    for one in TURNS:
        assert turn_of(one, back(one)) == "upright"
        for other in TURNS:
            both = calculate(x, TURNS[one], TURNS[other])
            assert np.array_equal(calculate(x, TURNS[turn_of(one, other)]), both)


@pytest.mark.parametrize(
    "truth",
    [
        Convention("light", "0..1", "upright"),
        Convention("dark", "0..255", "transposed"),
        Convention("dark", PER_IMAGE, "turned left"),
    ],
    ids=str,
)
def test_what_a_network_wants_is_found(learn, sample, truth):
    digits = sample.test.balanced(400)
    pixels = digits.images / 255
    wants, shares = wanted(Scores(learn(truth), pixels[:5]), pixels, digits.labels)
    assert truth in wants and shares.max() - 0.06 < shares.min() <= shares[0]
    assert {(want.ink, want.turn) for want in wants} == {(truth.ink, truth.turn)}


def says(answer):
    """A network that answers whatever it is told to."""
    network = nn.Module()
    network.forward = answer
    return network


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_kinds_of_scores_are_found(learn, sample, shape):
    layer = learn().double()

    def picky(x):
        if x.shape != calculate(np.zeros((len(x), 28, 28)), SHAPES[shape]).shape:
            raise RuntimeError(f"got {tuple(x.shape)}")
        x = x[..., 2:-2, 2:-2] if 32 in x.shape else x
        x = x[:, :1] if 3 in x.shape else x
        return layer(x.reshape(len(x), 784)).softmax(1).numpy(), "and the attention"

    network, digits = says(picky), sample.test.balanced(50)
    network.layer = layer  # it wants float64
    scores, x = Scores(network, digits.images / 255), digits.images / 255
    assert scores.shape == shape and scores.classes == 10
    values = Convention()(x).astype(float)
    assert (scores(values) == digits.labels).mean() > 0.6  # the sample teaches less
    values[3] = np.nan
    assert (scores(values, size=7) == -1).tolist() == [i == 3 for i in range(50)]


def broken(x):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "answer, said",
    [
        (broken, "out of order"),
        (lambda x: torch.zeros(len(x), 3), r"gave \(7, 3\) for 7 pictures"),
        (lambda x: torch.zeros(1, 10), r"gave \(1, 10\)"),
        (lambda x: torch.full((len(x), 10), torch.nan), "100% of the network's scores"),
        (lambda x: torch.zeros(len(x), 26), "EMNIST's letters"),
    ],
)
def test_a_network_without_ten_scores_is_unusable(answer, said):
    with pytest.raises(Unusable, match=said):
        Scores(says(answer), np.zeros((7, 28, 28)))


def test_a_network_that_dislikes_the_values_has_no_answer(learn):
    layer = learn()
    scores = Scores(says(lambda x: broken(x) if x.max() > 100 else layer(x)),
                    np.zeros((7, 28, 28)))  # fmt: skip
    assert set(scores(np.full((3, 28, 28), 255.0))) == {-1}
