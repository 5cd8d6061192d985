"""Every picture; each function shows its figure and returns None.

Digits are always drawn in grey, ink bright on dark paper: a colour map that turns that
round makes an inverted digit look like a digit, and hides the fault of this story. The
limits are fixed, too: stretched to its own range, a picture of 0..1 looks like one of
0..255, and a faint one like a bold one.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mnistlab.evaluation import Report
from mnistlab.preprocess import Stage, as_grey

DARK, MID = "#1a1a1a", "#3b6fb6"  # told apart in grey, too
Panels = Mapping[str, Mapping[str, str]]  # {axis label: {name of a curve: column}}
CELL = {"ha": "center", "va": "center", "fontsize": 8}
STYLES = plt.cycler(
    color=[MID, DARK, "#d0632a", "#7a7a7a", "#6a3d9a", "#1b8a6b"],
    linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))],
    marker=["o", "s", "^", "D", "v", "P"],
)
plt.rc("axes", grid=True, axisbelow=True, prop_cycle=STYLES)
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", color="#e6e6e6")
plt.rc("legend", frameon=False)


def _axes(rows: int, columns: int, *size: float, **more) -> np.ndarray:
    """The axes (rows, columns) of a new figure, so many inches wide and high."""
    more |= {"figsize": size, "squeeze": False, "layout": "constrained"}
    return plt.subplots(rows, columns, **more)[1]


def _scale(label: str) -> int:
    """Fractions are shown as per cent where the label says "%" or "points"."""
    return 100 if "%" in label or "points" in label else 1


def _draw_digit(ax, image: np.ndarray | None, title: str | None, size: int):
    """One picture, uint8 or normalised: black is paper and white is ink, always."""
    if image is None:
        return ax.axis("off")
    ax.imshow(as_grey(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title or "", fontsize=size)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#999999")


def show_digits(images, titles: Sequence[str] = (), columns: int = 10) -> None:
    """Pictures in rows, uint8 (H, W) or normalised float32, with titles."""
    rows = -(-len(images) // columns)
    height = 1.0 + 0.17 * max((title.count("\n") + 1 for title in titles), default=0)
    axes = _axes(rows, columns, columns, rows * height)
    for ax, image, title in zip_longest(axes.flat, images, titles):
        _draw_digit(ax, image, title, 8)
    plt.show()


def show_stages(traces: Mapping[str, Sequence[Stage]]) -> None:
    """One row for each trace, one picture for each stage, range and mean below."""
    rows, columns = len(traces), max(map(len, traces.values()))
    axes = _axes(rows, columns, columns * 1.75, rows * 2.35)
    text = "{low:.4g} … {high:.3g}\nmean {mean:.3g}, border {border:.3g}"
    for row, (name, stages) in zip(axes, traces.items(), strict=True):
        row[0].set_ylabel(name, fontsize=10)
        for ax, stage in zip_longest(row, stages):
            _draw_digit(ax, stage and stage.image, stage and stage.name, 9)
            if stage:
                ax.set_xlabel(text.format(**stage.numbers), fontsize=8)
    plt.show()


def show_confusion(report: Report) -> None:
    """Rows are labels, columns predictions; only the mistakes are shaded."""
    mistakes = report.confusion - np.diag(report.confusion.diagonal())
    ((ax,),) = _axes(1, 1, 4.6, 4.4)
    ax.imshow(mistakes, cmap="Greys", vmin=0, vmax=1.6 * max(1, mistakes.max()))
    ax.grid(False)
    ax.set(xlabel="predicted", ylabel="label", xticks=range(10), yticks=range(10))
    ax.set_title(f"{report.source}, n = {len(report):,}", fontsize=10)
    for (row, column), count in np.ndenumerate(report.confusion):
        color = DARK if row != column else "#888888"
        ax.text(column, row, str(count or ""), color=color, **CELL)
    plt.show()


def show_reliability(reports: Mapping[str, Report]) -> None:
    """Accuracy of what is claimed with which confidence, in 15 bins; with the ECE.

    Bins with fewer than 20 answers are left out: there chance draws the line.
    """
    ((ax,),) = _axes(1, 1, 4.6, 4.2)
    ax.axline((0, 0), (100, 100), color="#999999", lw=1)
    for name, report in reports.items():
        claims = pd.Series(report.correct, report.probabilities.max(1)).reset_index()
        binned = claims.groupby(np.ceil(15 * claims["index"]))
        bins = 100 * binned.mean()[binned.size() >= 20]
        label = f"{name}: ECE {100 * report.calibration_error:.1f} points"
        ax.plot(bins["index"], bins[0], label=label, ms=4)
    ax.set(xlabel="confidence, %", ylabel="accuracy, %")
    ax.legend(fontsize=9)
    plt.show()


def show_bands(table: pd.DataFrame, x: str, panels: Panels, log: bool = False) -> None:
    """Curves over repeated runs: their mean, in a band from lowest to highest."""
    (axes,) = _axes(1, len(panels), 4.1 * len(panels), 3.1)
    runs = table.groupby(x)
    for ax, (ylabel, curves) in zip(axes, panels.items(), strict=True):
        for name, column in curves.items():
            band = _scale(ylabel) * runs[column].agg(["mean", "min", "max"])
            ax.plot(band["mean"], label=name, ms=4)
            ax.fill_between(band.index, band["min"], band["max"], alpha=0.2, lw=0)
        ax.set(xlabel=x.replace("_", " "), ylabel=ylabel)
        if log:  # with the values that there are instead of powers of ten
            ax.set_xscale("log")
            ax.set_xticks(band.index, map(str, band.index))
            ax.set_xticks([], minor=True)
        if len(curves) > 1:
            ax.legend()
    n = " to ".join(map(str, runs.size().agg(["min", "max"]).unique()))
    plt.suptitle(f"mean and range of {n} seeds", fontsize=9, color="#666666")
    plt.show()


def show_dots(table: pd.DataFrame, by: str, panels: Panels) -> None:
    """Every run a hollow mark, the mean of its group a full one; a row for each group.

    A group has one value in the column `by`; the first one is on top.
    """
    rows, groups = pd.factorize(table[by])
    size = 1.6 + 3.4 * len(panels), 1.1 + 0.3 * len(groups)
    (axes,) = _axes(1, len(panels), *size, sharey=True)
    for ax, (xlabel, marks) in zip(axes, panels.items(), strict=True):
        for style, (name, column) in zip(STYLES, marks.items(), strict=False):
            look = style | {"linestyle": "none"}
            values = _scale(xlabel) * table[column]
            ax.plot(values, rows, **look, fillstyle="none", ms=5, alpha=0.7)
            means = values.groupby(rows).mean()
            ax.plot(means, means.index, **look, ms=7, label=name)
        ax.set(xlabel=xlabel, yticks=range(len(groups)), yticklabels=groups)
        ax.locator_params(axis="x", nbins=5)
        if len(marks) > 1:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    axes[0].invert_yaxis()
    plt.show()


def show_matrix(shares, rows: Sequence, columns: Sequence, title: str = "") -> None:
    """Shares (rows, columns) in per cent; 0 says none, 100 all; nan is left empty."""
    height, width = np.shape(shares)
    ((ax,),) = _axes(1, 1, 2.0 + 0.55 * width, 1.1 + 0.24 * height)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1.25, aspect="auto")
    ax.grid(False)
    ax.set_yticks(range(height), rows)
    ax.set_title(title, fontsize=10)
    ax.set_xticks(range(width), columns, rotation=40, ha="left")
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            percent = min(max(round(100 * share), share > 0), 99 + (share == 1))
            color = "white" if share > 0.6 else DARK
            ax.text(column, row, f"{percent:d}", color=color, **CELL)
    plt.show()
