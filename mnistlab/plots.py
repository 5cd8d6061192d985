"""Every picture. Digits are always grey with fixed limits: autoscaling is how
the bug of this story hides. Each function shows its figure and returns None."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from mnistlab.evaluation import Report
from mnistlab.preprocess import MEAN, STD, Stage
from mnistlab.training import History

DARK, MID, LIGHT = "#1a1a1a", "#3b6fb6", "#c9d4e3"  # told apart in grey, too
STYLE = {
    "figure.dpi": 100,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.size": 10,
    "axes.prop_cycle": plt.cycler(
        color=[MID, DARK, "#d0632a", "#7a7a7a", "#6a3d9a", "#1b8a6b"],
        linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))],
        marker=["o", "s", "^", "D", "v", "P"],
    ),
}
plt.rcParams.update(STYLE)


def _draw_digit(ax, image: np.ndarray) -> None:
    """One picture: uint8 on 0..255; float32 on what 0..255 normalises to."""
    low, high = (0, 255) if image.dtype == np.uint8 else (-MEAN / STD, (1 - MEAN) / STD)
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#999999")


def show_digits(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 10
) -> None:
    """Pictures in rows, uint8 (H, W) or normalised float32, with titles."""
    rows = -(-len(images) // columns)
    height = 1.0 + 0.17 * max((title.count("\n") + 1 for title in titles), default=0)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * 1.0, rows * height),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        _draw_digit(ax, image)
        if i < len(titles):
            ax.set_title(titles[i], fontsize=8)
    plt.show()


def show_stages(traces: Mapping[str, Sequence[Stage]]) -> None:
    """One row for each trace, one picture for each stage, range and mean below."""
    columns = max(len(stages) for stages in traces.values())
    fig, axes = plt.subplots(
        len(traces),
        columns,
        figsize=(columns * 1.75, len(traces) * 2.35),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, stages) in zip(axes, traces.items(), strict=True):
        for ax in row[len(stages) :]:
            ax.axis("off")
        for ax, stage in zip(row, stages, strict=False):
            numbers = stage.numbers
            _draw_digit(ax, stage.image)
            ax.set_title(stage.name, fontsize=9)
            ax.set_xlabel(
                "{low:.4g} … {high:.3g}\nmean {mean:.3g}, border {border:.3g}".format(
                    **numbers
                ),
                fontsize=8,
            )
        row[0].set_ylabel(name, fontsize=10)
    plt.show()


def show_history(history: History) -> None:
    """Loss and accuracy of training and validation images, epoch by epoch."""
    epochs = range(1, len(history.train_loss) + 1)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(epochs, history.train_loss, label="training images")
    left.plot(epochs, history.validation_loss, label="validation images")
    right.plot(epochs, np.multiply(history.train_accuracy, 100))
    right.plot(epochs, np.multiply(history.validation_accuracy, 100))
    left.set(xlabel="epoch", ylabel="cross-entropy", xticks=epochs)
    right.set(xlabel="epoch", ylabel="accuracy, %", xticks=epochs)
    right.axvline(history.best_epoch, color="#999999", lw=1, zorder=0)
    right.annotate(
        " best",
        (history.best_epoch, 0.03),
        xycoords=("data", "axes fraction"),
        ha="right" if history.best_epoch == len(epochs) else "left",
        color="#666666",
    )
    left.legend()
    plt.show()


def show_confusion(report: Report) -> None:
    """Rows are labels, columns predictions; only the mistakes are shaded."""
    confusion = report.confusion
    mistakes = confusion - np.diag(confusion.diagonal())
    fig, ax = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
    ax.imshow(mistakes, cmap="Greys", vmin=0, vmax=max(1, mistakes.max()) * 1.6)
    ax.set(
        xlabel="predicted",
        ylabel="label",
        xticks=range(10),
        yticks=range(10),
        title=f"{report.source}, n = {len(report):,}",
    )
    ax.title.set_fontsize(10)
    ax.grid(False)
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            ax.text(
                column,
                row,
                f"{count}",
                ha="center",
                va="center",
                fontsize=8,
                color=DARK if row != column else "#888888",
            )
    plt.show()


def show_shares(shares: np.ndarray, ylabel: str, title: str = "") -> None:
    """One bar for each of the ten classes, in per cent; nan is "no samples"."""
    fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
    percent = np.multiply(shares, 100)
    ax.bar(range(10), np.nan_to_num(percent), color=MID)
    for digit, value in enumerate(percent):
        text = "no samples" if np.isnan(value) else f"{value:.1f}"
        ax.text(digit, np.nan_to_num(value), text, ha="center", va="bottom", fontsize=8)
    ax.set(xticks=range(10), xlabel="digit", ylabel=ylabel, title=title)
    ax.margins(y=0.15)
    ax.grid(axis="x", visible=False)
    plt.show()
