"""Pictures are looked at; what can be counted in them is counted here."""

from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mnistlab import plots
from mnistlab.evaluation import Report
from mnistlab.plots import show_bands, show_dots, show_matrix
from mnistlab.preprocess import MNIST_PIPELINE, normalize, trace

plt.switch_backend("agg")
SMALL = pd.DataFrame(
    {"n": [10, 10, 300, 300], "name": list("bbaa"), "share": [0.1, 0.3, 0.5, 0.5]}
)
LABELS = np.arange(100) % 10
LABELS[LABELS == 7] = 1
GUESSES = LABELS.copy()
GUESSES[np.flatnonzero(LABELS == 4)[:3]] = 9
# 100 certain answers: a 4 taken for a 9 three times, and no 7 at all.
REPORT = Report(100 * np.eye(10, dtype=np.float32)[GUESSES], LABELS, "a test")


def drawn(show, *arguments) -> list[plt.Axes]:
    """The axes of a picture; what shows one returns None, or it is shown twice."""
    plt.close("all")
    with mock.patch.object(plt, "show"):
        assert show(*arguments) is None
    return plt.gcf().axes


@pytest.mark.parametrize("prepare", [np.copy, normalize])
def test_digits_are_bright_ink_on_dark_paper_whatever_their_range(digits, prepare):
    faint = digits.images[0] // 4
    one, two, *rest = drawn(plots.show_digits, [prepare(faint)] * 2, ["a"], 5)
    (picture,) = one.images
    assert np.abs(picture.get_array() - faint.astype(float)).max() <= 1
    colors = picture.to_rgba(np.array([[0, 255]], dtype=np.uint8))[0, :, :3]
    assert np.allclose(colors, [[0] * 3, [1] * 3])  # black paper, white ink
    assert np.allclose(picture.cmap(picture.norm(faint.max()))[:3], faint.max() / 255)
    assert (one.get_title(), two.get_title()) == ("a", "")
    assert [ax.axison for ax in rest] == [False] * 3


def test_stages_stand_under_their_names_over_their_numbers(digits):
    stages = trace(digits.images[0], MNIST_PIPELINE)
    axes = drawn(plots.show_stages, {"long": stages, "short": stages[:1]})
    assert len(axes) == 2 * len(stages)
    for ax, stage in zip(axes, stages, strict=False):
        assert ax.get_title() == stage.name
        assert f"mean {stage.numbers['mean']:.3g}, border" in ax.get_xlabel()
    assert (axes[0].get_ylabel(), axes[len(stages)].get_ylabel()) == ("long", "short")
    assert axes[len(stages)].axison
    assert not any(ax.axison for ax in axes[len(stages) + 1 :])


def test_a_confusion_has_labels_downward_and_shades_the_mistakes():
    (ax,) = drawn(plots.show_confusion, REPORT)
    found = {text.get_position(): text.get_text() for text in ax.texts}
    assert (found[9, 4], found[4, 4], found[1, 1]) == ("3", "7", "20")
    assert not found[4, 9] and not found[7, 7]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "label")
    assert "a test, n = 100" in ax.get_title()
    shade = ax.images[0].get_array()
    assert shade[4, 9] == shade.max() == 3 and not shade.diagonal().any()


def test_a_reliability_line_is_what_is_claimed_against_what_holds():
    shrunk = REPORT.logits / np.where(np.arange(100) < 15, 1, 100)[:, None]
    unsure = Report(REPORT.logits / 100, REPORT.labels, "a test")
    mixed = Report(shrunk, REPORT.labels, "a test")  # 15 are too few for a point
    reports = {"sure": REPORT, "unsure": unsure, "mixed": mixed}
    (ax,) = drawn(plots.show_reliability, reports)
    _, sure, other, most = (line.get_xydata().ravel().tolist() for line in ax.lines)
    assert sure == pytest.approx([100, 97])
    assert other == pytest.approx([100 * unsure.confidence, 97])
    right = 100 * mixed.correct[15:].mean()
    assert most == pytest.approx([100 * unsure.confidence, right])
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named[0] == "sure: ECE 3.0 points"


def test_bands_are_drawn_from_the_lowest_seed_to_the_highest():
    (ax,) = drawn(show_bands, SMALL, "n", {"share, %": {"ours": "share"}}, True)
    assert np.allclose(ax.lines[0].get_xydata(), [[10, 20], [300, 50]])
    band = ax.collections[0].get_paths()[0].vertices
    assert {(10, 10), (10, 30), (300, 50)} <= {tuple(np.round(v, 9)) for v in band}
    assert "2 seeds" in ax.figure.get_suptitle()
    assert ax.get_xscale() == "log" and not len(ax.get_xticks(minor=True))
    named = {tick.get_text(): tick.get_position()[0] for tick in ax.get_xticklabels()}
    assert named == {"10": 10, "300": 300}  # the values, not powers of ten


def test_dots_are_every_run_and_the_mean_of_each_group_in_their_order():
    (ax,) = drawn(show_dots, SMALL, "name", {"share": {"ours": "share"}})
    runs, means = (line.get_xydata().tolist() for line in ax.lines)
    assert runs == [[0.1, 0], [0.3, 0], [0.5, 1], [0.5, 1]]
    assert np.allclose(means, [[0.2, 0], [0.5, 1]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert ax.yaxis_inverted()  # so the first is on top


def test_a_matrix_never_rounds_to_none_or_all_what_is_not():
    shares = [[0, 0.001, 0.5], [1, 0.999, np.nan]]
    (ax,) = drawn(show_matrix, shares, ["a", "b"], ["x", "y", "z"])
    assert [text.get_text() for text in ax.texts] == ["0", "1", "50", "100", "99"]
