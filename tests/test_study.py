"""Studies: what a row says, what is remembered, what fails, and on which workers."""

import errno
import json
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from mnistlab import study
from mnistlab.data import Data, Digits
from mnistlab.evaluation import evaluate
from mnistlab.models import build
from mnistlab.plots import show_bands, show_dots
from mnistlab.study import RunsFailed, by_epoch, run_grid
from mnistlab.training import fit, random_affine

plt.switch_backend("agg")
GRID = {"network": "Linear", "n_train": [20, 40], "seed": [0, 1], "epochs": 2}


@pytest.fixture(scope="module")
def tiny(write_digits):
    return Data(write_digits(60), write_digits(30, seed=1), write_digits(30, seed=2))


@pytest.fixture
def run(tiny, tmp_path):
    """run(grid, **more) -> table, on tiny data and a memory of its own."""

    def start(grid=GRID, data=tiny, **more):
        return run_grid(grid, data, **{"memory": tmp_path, "progress": False, **more})

    return start


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal to the last bit, but for the time it took."""
    one, other = (table.drop(columns="seconds") for table in (one, other))
    assert_frame_equal(one, other, check_exact=True)
    return True


def no_training(*_, **__):
    raise AssertionError("a network was trained")


def test_a_grid_becomes_one_row_for_each_combination_in_its_order(run):
    table = run()
    assert table["n_train"].tolist() == [20, 20, 40, 40]
    assert table["seed"].tolist() == [0, 1, 0, 1]
    assert set(table["parameters"]) == {7850}
    gap = table["train_accuracy"] - table["validation_accuracy"]
    assert np.allclose(table["gap"], gap, atol=0)
    assert all(len(shares) == 10 for shares in table["train_per_class"])


def test_grids_in_a_list_share_their_columns(run):
    table = run([GRID, {"network": "MLP", "hidden": 8, "epochs": 1, "lr": 0.001}])
    assert table["lr"].tolist() == [0.01] * 4 + [0.001]  # said where it is a default
    assert table["hidden"].isna().tolist() == [True] * 4 + [False]
    assert table["n_train"].iloc[-1] == 60  # all of them


def test_a_row_says_what_the_same_training_by_hand_gives(run, tiny):
    row = run({"network": "FastCNN", "seed": 3, "epochs": 1}, test=True).iloc[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = build("FastCNN")
    fit(model, tiny.train, epochs=1, seed=3, progress=False)
    torch.set_num_threads(threads)
    report = evaluate(model, tiny.test)
    assert row["test_accuracy"] == report.accuracy
    assert row["test_loss"] == pytest.approx(report.loss, rel=1e-4)
    assert row["test_confidence"] == pytest.approx(report.confidence, rel=1e-4)


def test_the_test_set_stays_closed_unless_it_is_asked_for(run):
    assert not [name for name in run() if name.startswith("test")]


def test_sets_of_ones_own_are_measured_too(run, write_digits):
    table = run(also={"drawings": write_digits(20, seed=5)})
    assert table["drawings_accuracy"].between(0, 1).all()


def test_watched_runs_unfold_into_one_row_an_epoch(run):
    table = run([GRID, {**GRID, "watch": 10, "augment": random_affine}])
    long = by_epoch(table)
    assert len(long) == 4 * 2 and long["epoch"].tolist() == [1, 2] * 4
    first = table[table["watch"] > 0].iloc[0]
    assert long["epoch_train_loss"].iloc[:2].tolist() == list(first["epoch_train_loss"])
    assert (
        table["augment"].fillna("none").tolist() == ["none"] * 4 + ["random_affine"] * 4
    )


def test_the_same_run_is_the_same_to_the_last_bit_wherever_it_is_done(run):
    grid = {"network": "MLP", "hidden": 16, "dropout": 0.5, "seed": [0, 1], "epochs": 2}
    threads = torch.get_num_threads()
    here = run(grid, memory=None)
    assert torch.get_num_threads() == threads
    assert here["train_loss"].nunique() == 2  # seeds differ
    with ThreadPoolExecutor(2) as pool:
        assert same(here, run(grid, memory=None, executor=pool))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert same(here, run(grid, memory=None, executor=pool))


def test_a_study_runs_on_a_dask_cluster_of_separate_processes(run, tmp_path):
    from dask.distributed import Client, LocalCluster

    with (
        # Dask leaves variables behind that would slow down every notebook after it.
        mock.patch.dict(os.environ),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        Client(cluster) as client,
    ):
        processes = set(client.run(os.getpid).values())
        assert len(processes) == 2 and os.getpid() not in processes
        there = run(executor=client.get_executor())
    assert same(there, run(memory=None))


def test_finished_runs_are_not_done_again(run, tiny, monkeypatch):
    first = run()
    monkeypatch.setattr(study, "train_one", no_training)
    assert_frame_equal(first, run(), check_exact=True)
    with pytest.raises(RunsFailed, match="4 of 8 runs failed") as failure:
        run({**GRID, "seed": [0, 1, 2, 3]})  # goes on where it stopped
    assert_frame_equal(first, failure.value.table, check_exact=True)
    others = Data(tiny.train, tiny.test, tiny.validation)
    for changed in (dict(data=others), dict(test=True), dict(measure=9)):
        with pytest.raises(RunsFailed, match="4 of 4"):
            run(**changed)
    monkeypatch.setattr(study, "_code", lambda: "another version")
    with pytest.raises(RunsFailed, match="4 of 4"):
        run()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"n_train": 20', '"n_train": 21'),
        lambda text: "",
        lambda text: "\0" * len(text),
    ],
)
def test_a_damaged_memory_is_noticed_and_done_again(run, tmp_path, capsys, damage):
    first = run()
    name = next(
        path
        for path in tmp_path.iterdir()
        if json.loads(path.read_text().split("\n")[1])["n_train"] == 20
    )
    name.write_text(damage(name.read_text()))
    capsys.readouterr()
    assert same(first, run())
    said = capsys.readouterr().out
    assert name.name in said and said.count("\n") == 1
    run()
    assert capsys.readouterr().out == ""  # mended


def test_a_full_disk_costs_only_the_memory(run, monkeypatch, tmp_path, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(study, "write_atomically", full)
    table = run()
    assert len(table) == 4 and not list(tmp_path.iterdir())
    assert capsys.readouterr().out.count("No space left") == 1


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"network": "Transformer"}, "there are Linear, MLP"),
        ({"seed": [0, 1]}, "no network None"),
        ({**GRID, "dropout": 0.5}, "Linear, .*no setting dropout"),
        ({**GRID, "learning_rate": 0.1}, "no setting learning_rate.*lr"),
        ({**GRID, "progress": True}, "no setting progress"),
        ({**GRID, "n_train": [20, 61]}, "n_train=61; there are 60"),
        ({**GRID, "n_train": 0}, "n_train=0"),
        ({**GRID, "n_train": 9}, "there is no . among"),
        ({**GRID, "patience": 2}, "patience needs watch"),
        ({**GRID, "augment": lambda batch, generator: batch}, "cannot travel"),
        ({**GRID, "augment": partial(random_affine, share=1.0)}, "cannot travel"),
    ],
)
def test_a_grid_that_cannot_be_done_is_refused_before_anything_runs(
    run, monkeypatch, grid, words
):
    monkeypatch.setattr(study, "train_one", no_training)
    with pytest.raises(ValueError, match=words):
        run(grid)


def test_a_class_missing_from_the_training_images_is_refused(run, tiny):
    without = tiny.train.take(tiny.train.labels != 4)
    with pytest.raises(ValueError, match="there is no 4"):
        run({"network": "Linear"}, Data(without, tiny.validation, tiny.test))


def test_a_run_that_fails_in_a_worker_is_named_and_the_others_kept(run, monkeypatch):
    grid = {**GRID, "n_train": 20, "lr": [0.01, 1e38]}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(RunsFailed, match=r"2 of 4.*lr=1e\+38, seed=1") as error:
            run(grid, executor=pool)
    assert "FloatingPointError" in str(error.value)
    assert error.value.table["lr"].tolist() == [0.01, 0.01]
    monkeypatch.setattr(study, "train_one", no_training)
    assert len(run({**grid, "lr": 0.01})) == 2  # they were remembered


def die(images, generator):
    os._exit(1)  # as a machine does that runs out of memory


def test_a_worker_that_dies_costs_only_what_was_not_finished(run):
    first = {**GRID, "n_train": 20, "seed": 0, "augment": [None, die, random_affine]}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(RunsFailed, match="2 of 3.*augment=die.*Broken") as error:
            run(first, executor=pool)
        assert error.value.table["augment"].tolist() == [None]
        with pytest.raises(RunsFailed, match="1 of 2.*seed=1.*Broken") as error:
            run({**GRID, "n_train": 20}, executor=pool)  # a broken pool stays broken
        assert error.value.table["seed"].tolist() == [0]
    assert len(run({**GRID, "n_train": 20})) == 2


def interrupt(images, generator):
    raise KeyboardInterrupt


@pytest.mark.parametrize("processes", [False, True])
def test_an_interrupted_run_is_no_result_and_is_done_again(run, processes):
    grid = {**GRID, "n_train": 20, "seed": 0}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(KeyboardInterrupt):
            augment = [None, interrupt, random_affine]
            run({**grid, "augment": augment}, executor=pool if processes else None)
    again = run({**grid, "augment": [None, random_affine]})
    assert again["stopped"].tolist() == ["all epochs done"] * 2


def test_a_function_that_was_edited_is_another_setting(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    gains = []
    for sign in "-+":
        (tmp_path / f"mine{ord(sign)}.py").write_text(
            f"def change(images, generator):\n    return {sign}images\n"
        )
        change = __import__(f"mine{ord(sign)}").change
        change.__module__ = "mine"
        gains += run({**GRID, "n_train": 20, "augment": change})["train_loss"].tolist()
    assert len(set(gains)) == 4
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_numpy_numbers_and_arrays_are_settings_like_any_other(run, monkeypatch):
    table = run()
    monkeypatch.setattr(study, "train_one", no_training)
    grid = {**GRID, "n_train": np.array([20, 40]), "seed": list(np.arange(2))}
    assert same(run(grid), table)


def test_sets_of_ones_own_cannot_take_the_name_of_another(run, write_digits):
    with pytest.raises(ValueError, match=r"also=\['test'\]"):
        run(also={"test": write_digits(10)}, test=True)


def test_epochs_that_nobody_watched_cannot_be_unfolded(run):
    with pytest.raises(ValueError, match="no run was watched"):
        by_epoch(run())


def test_a_worker_with_other_data_is_noticed(tiny):
    with pytest.raises(ValueError, match="not the caller's"):
        study.train_one({"seed": 0, **study.FIT}, tiny, "other", {}, False, 10)


def test_data_are_loaded_by_name(run):
    table = run({"network": "Linear", "epochs": 0.1}, "sample")
    assert table["n_train"].tolist() == [3500]


def test_digits_of_any_kind_change_the_memory(tiny):
    other = Digits(255 - tiny.train.images, tiny.train.labels, tiny.train.source)
    assert study._sha256(tiny.train) != study._sha256(other)


@pytest.fixture
def figure(monkeypatch):
    """figure() -> the axes of what was drawn last."""
    monkeypatch.setattr(plt, "show", lambda: None)
    yield lambda: plt.gcf().axes
    plt.close("all")


SMALL = pd.DataFrame(
    {"n": [10, 10, 20, 20], "name": list("bbaa"), "share": [0.1, 0.3, 0.5, 0.5]}
)


def test_bands_are_drawn_from_the_lowest_seed_to_the_highest(figure):
    assert show_bands(SMALL, "n", {"share, %": {"ours": "share"}}) is None
    (ax,) = figure()
    assert np.allclose(ax.lines[0].get_xydata(), [[10, 20], [20, 50]])
    band = ax.collections[0].get_paths()[0].vertices
    assert {(10, 10), (10, 30), (20, 50)} <= {tuple(np.round(v, 9)) for v in band}
    assert "2 seeds" in ax.figure.get_suptitle()


def test_dots_are_every_run_and_the_mean_of_each_group_in_their_order(figure):
    assert show_dots(SMALL, "name", {"share": {"ours": "share"}}) is None
    (ax,) = figure()
    runs, means = (line.get_xydata().tolist() for line in ax.lines)
    assert runs == [[0.1, 0], [0.3, 0], [0.5, 1], [0.5, 1]]
    assert np.allclose(means, [[0.2, 0], [0.5, 1]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert ax.yaxis_inverted()  # so the first is on top
