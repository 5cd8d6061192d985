"""Every picture; each function shows its figure and returns None.

Digits are always drawn in grey, ink bright on dark paper. A colour map that turns
that round makes an inverted digit look like a digit, and hides the fault of this
story. The limits are fixed, too: stretched to its own range, a picture of 0..1
looks like one of 0..255, and a faint one like a bold one.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mnistlab.evaluation import Report
from mnistlab.preprocess import Stage, as_grey
from mnistlab.training import History

DARK, MID = "#1a1a1a", "#3b6fb6"  # told apart in grey, too
Panels = Mapping[str, Mapping[str, str]]
CELL = {"ha": "center", "va": "center", "fontsize": 8}
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
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


def _axes(rows: int, columns: int, width: float, height: float, **more) -> np.ndarray:
    """The axes (rows, columns) of a new figure, so many inches wide and high."""
    size = width, height
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **more)[1]


def _shade(values: np.ndarray, most: float, width: float, height: float, **more):
    """Axes with a table of cells, dark for `most` and light for 0."""
    ((ax,),) = _axes(1, 1, width, height)
    ax.imshow(values, cmap="Greys", vmin=0, vmax=most, **more)
    ax.grid(False)
    return ax


def _scale(label: str) -> int:
    """Fractions are shown as per cent where the label says "%" or "points"."""
    return 100 if "%" in label or "points" in label else 1


def _draw_digit(ax, image: np.ndarray) -> None:
    """One picture, uint8 or normalised: black is paper and white is ink, always."""
    ax.imshow(as_grey(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
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
    axes = _axes(rows, columns, columns, rows * height)
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        _draw_digit(ax, image)
        if i < len(titles):
            ax.set_title(titles[i], fontsize=8)
    plt.show()


def show_stages(traces: Mapping[str, Sequence[Stage]]) -> None:
    """One row for each trace, one picture for each stage, range and mean below."""
    rows, columns = len(traces), max(len(stages) for stages in traces.values())
    axes = _axes(rows, columns, columns * 1.75, rows * 2.35)
    for row, (name, stages) in zip(axes, traces.items(), strict=True):
        for ax in row[len(stages) :]:
            ax.axis("off")
        for ax, stage in zip(row, stages, strict=False):
            _draw_digit(ax, stage.image)
            ax.set_title(stage.name, fontsize=9)
            text = "{low:.4g} … {high:.3g}\nmean {mean:.3g}, border {border:.3g}"
            ax.set_xlabel(text.format(**stage.numbers), fontsize=8)
        row[0].set_ylabel(name, fontsize=10)
    plt.show()


def show_history(history: History) -> None:
    """Loss and accuracy of training and validation images, epoch by epoch."""
    epochs = range(1, len(history.train_loss) + 1)
    ((left, right),) = _axes(1, 2, 8, 3)
    for split, name in {"train": "training", "validation": "validation"}.items():
        left.plot(epochs, getattr(history, f"{split}_loss"), label=f"{name} images")
        right.plot(epochs, np.multiply(getattr(history, f"{split}_accuracy"), 100))
    left.set(xlabel="epoch", ylabel="cross-entropy", xticks=epochs)
    right.set(xlabel="epoch", ylabel="accuracy, %", xticks=epochs)
    best, side = history.best_epoch, history.best_epoch == len(epochs)
    right.axvline(best, color="#999999", lw=1, zorder=0)
    look = {"color": "#666666", "ha": "right" if side else "left"}
    right.text(best, 0.03, " best", **look, transform=right.get_xaxis_transform())
    left.legend()
    plt.show()


def show_confusion(report: Report) -> None:
    """Rows are labels, columns predictions; only the mistakes are shaded."""
    confusion = report.confusion
    mistakes = confusion - np.diag(confusion.diagonal())
    ax = _shade(mistakes, 1.6 * max(1, mistakes.max()), 4.6, 4.4)
    ax.set(xlabel="predicted", ylabel="label", xticks=range(10), yticks=range(10))
    ax.set_title(f"{report.source}, n = {len(report):,}", fontsize=10)
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            color = DARK if row != column else "#888888"
            ax.text(column, row, f"{count}", color=color, **CELL)
    plt.show()


def show_reliability(reports: Mapping[str, Report]) -> None:
    """Mean confidence against accuracy in 15 bins, per cent; a line for each report.

    On the diagonal what is claimed holds. ECE: the expected calibration error.
    """
    ((ax,),) = _axes(1, 1, 4.6, 4.2)
    ax.axline((0, 0), (100, 100), color="#999999", lw=1)
    for name, report in reports.items():
        claims = pd.DataFrame({"confidence": report.probabilities.max(1)})
        claims["correct"] = report.correct
        bins = 100 * claims.groupby(np.ceil(15 * claims["confidence"])).mean()
        label = f"{name}: ECE {100 * report.calibration_error:.1f} points"
        ax.plot(bins["confidence"], bins["correct"], label=label, ms=4)
    ax.set(xlabel="confidence, %", ylabel="accuracy, %")
    ax.legend(loc="best", fontsize=9)
    plt.show()


def show_shares(shares: np.ndarray, ylabel: str, title: str = "") -> None:
    """One bar for each of the ten classes, in per cent; nan is "no samples"."""
    ((ax,),) = _axes(1, 1, 6, 2.6)
    percent = np.multiply(shares, 100)
    ax.bar(range(10), np.nan_to_num(percent), color=MID)
    for digit, value in enumerate(percent):
        text = "no samples" if np.isnan(value) else f"{value:.1f}"
        ax.text(digit, np.nan_to_num(value), text, ha="center", va="bottom", fontsize=8)
    ax.set(xticks=range(10), xlabel="digit", ylabel=ylabel, title=title)
    ax.margins(y=0.15)
    ax.grid(axis="x", visible=False)
    plt.show()


def show_bands(table: pd.DataFrame, x: str, panels: Panels, log: bool = False) -> None:
    """Curves over repeated runs: their mean, in a band from lowest to highest.

    One panel for each y label, in it one curve for each {name: column of the table}.
    """
    (axes,) = _axes(1, len(panels), 4.1 * len(panels), 3.1)
    runs = table.groupby(x)
    for ax, (ylabel, curves) in zip(axes, panels.items(), strict=True):
        for name, column in curves.items():
            band = _scale(ylabel) * runs[column].agg(["mean", "min", "max"])
            (line,) = ax.plot(band.index, band["mean"], label=name, ms=4)
            look = {"color": line.get_color(), "alpha": 0.2, "lw": 0}
            ax.fill_between(band.index, band["min"], band["max"], **look)
        ax.set(xlabel=x.replace("_", " "), ylabel=ylabel)
        if log:
            ax.set_xscale("log")
        if len(curves) > 1:
            ax.legend()
    n = " to ".join(map(str, sorted({runs.size().min(), runs.size().max()})))
    title = f"mean and range of {n} seeds"
    axes[0].figure.suptitle(title, fontsize=9, color="#666666")
    plt.show()


def show_dots(table: pd.DataFrame, by: str, panels: Panels) -> None:
    """Every run a hollow mark, the mean of its group a full one.

    One row for each value of the column `by`, from top to bottom in their order; one
    panel for each x label, in it one mark for each {name: column of the table}.
    """
    groups = list(dict.fromkeys(table[by]))
    size = 1.6 + 3.4 * len(panels), 1.1 + 0.3 * len(groups)
    (axes,) = _axes(1, len(panels), *size, sharey=True)
    for ax, (xlabel, marks) in zip(axes, panels.items(), strict=True):
        styles = plt.rcParams["axes.prop_cycle"]
        for style, (name, column) in zip(styles, marks.items(), strict=False):
            look = {"marker": style["marker"], "color": style["color"], "ls": "none"}
            values = _scale(xlabel) * table[column]
            rows = [groups.index(group) for group in table[by]]
            ax.plot(values, rows, **look, fillstyle="none", ms=5, alpha=0.7)
            means = values.groupby(table[by]).mean()[groups]
            ax.plot(means, range(len(groups)), **look, ms=7, label=name)
        ax.set(xlabel=xlabel, yticks=range(len(groups)), yticklabels=groups)
        ax.locator_params(axis="x", nbins=5)
        if len(marks) > 1:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    axes[0].invert_yaxis()
    plt.show()


def show_matrix(
    shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> None:
    """Shares (rows, columns) as per cent in the cells of a table, shaded by them.

    0 and 100 say none and all, 1 and 99 what is near them; nan is an empty cell.
    """
    shares = np.asarray(shares, dtype=float)
    height, width = shares.shape
    size = 2.0 + 0.55 * width, 1.1 + 0.24 * height
    ax = _shade(shares, 1.25, *size, aspect="auto")
    ax.set(yticks=range(height), yticklabels=rows)
    ax.set_title(title, fontsize=10)
    ax.set_xticks(range(width), columns, rotation=40, ha="left")
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            percent = min(max(round(100 * share), share > 0), 99 + (share == 1))
            color = "white" if share > 0.6 else DARK
            ax.text(column, row, f"{percent:d}", color=color, **CELL)
    plt.show()
