"""Studies: what a row says, what is remembered, what fails, and on which workers."""

import errno
import importlib
import os
import re
from functools import partial
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from pandas.testing import assert_frame_equal

from mnistlab import data as data_module
from mnistlab import evaluation, models, preprocess, study, training
from mnistlab.data import Data
from mnistlab.evaluation import evaluate
from mnistlab.models import build
from mnistlab.study import RunsFailed, by_epoch, run_grid
from mnistlab.training import fit, random_affine

GRID = {"network": "Linear", "n_train": [20, 40], "seed": [0, 1], "epochs": 2}
ONE = {**GRID, "n_train": 20, "seed": 0}


@pytest.fixture(scope="module")
def tiny(write_digits):
    return Data(write_digits(60), write_digits(30, seed=1), write_digits(30, seed=2))


@pytest.fixture
def run(tiny, tmp_path):
    """run(grid, **more) -> table, on tiny data and a memory of its own."""

    def start(grid=GRID, data=tiny, **more):
        settings = {"memory": tmp_path / "runs", "progress": False, **more}
        return run_grid(grid, data, **settings)

    return start


@pytest.fixture
def no_training(monkeypatch):
    """no_training() -> from now on every training is an error."""

    def fail(*_, **__):
        raise AssertionError("a network was trained")

    return lambda: monkeypatch.setattr(training, "fit", fail)


@pytest.fixture
def workers():
    """Two processes, gone after the test."""
    yield 2
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal to the last bit, but for the time it took."""
    one, other = (table.drop(columns="seconds") for table in (one, other))
    assert_frame_equal(one, other, check_exact=True)
    return True


# --- what a row says ----------------------------------------------------------------


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


def test_the_test_set_stays_closed_and_sets_of_ones_own_are_measured(run, write_digits):
    table = run(also={"drawings": write_digits(20, seed=5)})
    assert not [name for name in table if name.startswith("test")]
    assert table["drawings_accuracy"].between(0, 1).all()


def test_watched_runs_unfold_into_one_row_an_epoch(run):
    table = run([GRID, {**GRID, "watch": 10, "augment": random_affine}])
    long = by_epoch(table)
    assert len(long) == 4 * 2 and long["epoch"].tolist() == [1, 2] * 4
    first = table[table["watch"] > 0].iloc[0]
    assert long["epoch_train_loss"].iloc[:2].tolist() == list(first["epoch_train_loss"])
    assert table["augment"].isna().tolist() == [True] * 4 + [False] * 4
    assert set(table["augment"].dropna()) == {"random_affine"}


def test_a_run_computes_in_one_thread_and_leaves_the_caller_s_state_alone(run):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        run({**ONE, "augment": note_threads}, memory=None)
        assert set(THREADS) == {1} and torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


THREADS = []


def note_threads(images, generator):
    THREADS.append(torch.get_num_threads())
    return images


def test_at_most_so_many_images_are_measured_at_random(run, tiny, monkeypatch):
    measured = []

    def spy(model, digits):
        measured.append(digits)
        return evaluate(model, digits)

    monkeypatch.setattr(evaluation, "evaluate", spy)
    run({"network": "Linear", "epochs": 1}, measure=9)
    train, validation = measured
    assert len(train) == len(validation) == 9
    assert not np.array_equal(train.images, tiny.train.images[:9])  # may be sorted
    assert np.array_equal(validation.images, tiny.validation.images[:9])


def test_the_seed_draws_the_training_images(run, monkeypatch):
    seen = []

    def spy(model, train, *rest, **settings):
        seen.append(train.sha256)
        return fit(model, train, *rest, **settings)

    monkeypatch.setattr(training, "fit", spy)
    run({**GRID, "n_train": 20})
    assert seen[0] != seen[1]


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"network": "Transformer"}, "there are Linear, MLP"),
        ({"seed": [0, 1]}, "no network None"),
        ({**GRID, "dropout": 0.5}, "Linear, .*no setting dropout"),
        ({**GRID, "learning_rate": 0.1}, "no setting learning_rate.*lr"),
        ({**GRID, "progress": True}, "no setting progress"),
        ({**GRID, "n_train": [20, 61]}, "61 balanced images.*Ask for fewer"),
        ({**GRID, "n_train": 0}, "n_train=0.*there is no 0"),
        ({**GRID, "patience": 2}, "patience needs watch"),
        ({**GRID, "augment": lambda batch, generator: batch}, "cannot travel"),
        ({**GRID, "augment": partial(random_affine, share=1.0)}, "cannot travel"),
    ],
)
def test_a_grid_that_cannot_be_done_is_refused_before_anything_runs(
    run, no_training, grid, words
):
    no_training()
    with pytest.raises(ValueError, match=words):
        run(grid)


def test_data_and_names_that_do_not_do_are_refused(run, tiny):
    without = tiny.train.take(tiny.train.labels != 4)
    with pytest.raises(ValueError, match="there is no 4"):
        run({"network": "Linear"}, Data(without, tiny.validation, tiny.test))
    with pytest.raises(ValueError, match=r"also=\['test'\]"):
        run(also={"test": tiny.test}, test=True)
    with pytest.raises(ValueError, match="'fashion'"):
        run(data="fashion")
    with pytest.raises(ValueError, match="no run was watched"):
        by_epoch(run(ONE))


# --- what is remembered -------------------------------------------------------------


def test_finished_runs_are_not_done_again(run, tiny, no_training):
    first = run()
    no_training()
    assert_frame_equal(first, run(), check_exact=True)
    grid = {**GRID, "n_train": np.array([20, 40]), "seed": list(np.arange(2))}
    assert_frame_equal(first, run(grid), check_exact=True)  # numbers like any other
    with pytest.raises(RunsFailed, match="4 of 8 runs failed") as failure:
        run({**GRID, "seed": [0, 1, 2, 3]})  # goes on where it stopped
    assert_frame_equal(first, failure.value.table, check_exact=True)
    others = Data(tiny.train, tiny.test, tiny.validation)
    for changed in (dict(data=others), dict(test=True), dict(measure=9)):
        with pytest.raises(RunsFailed, match="4 of 4"):
            run(**changed)
    with pytest.raises(RunsFailed, match="4 of 4"):
        run(also={"drawings": tiny.test})


@pytest.mark.parametrize(
    "room", [study, training, models, evaluation, preprocess, data_module]
)
def test_an_edit_of_the_code_is_not_answered_from_old_memory(
    run, no_training, tmp_path, monkeypatch, room
):
    first = run(ONE)
    no_training()
    with monkeypatch.context() as patch:
        edited = tmp_path / "edited.py"
        edited.write_text(Path(room.__file__).read_text() + "\n# edited")
        patch.setattr(room, "__file__", str(edited))
        with pytest.raises(RunsFailed, match="1 of 1"):
            run(ONE)
    assert_frame_equal(first, run(ONE), check_exact=True)  # and nothing is forgotten


def test_a_function_that_was_edited_is_another_setting(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    gains = []
    for change in "-images", "1.0 * images":
        text = f"def change(images, generator):\n    return {change}\n"
        (tmp_path / "mine.py").write_text(text)
        importlib.invalidate_caches()
        mine = importlib.import_module("mine")
        change = importlib.reload(mine).change
        gains += run({**GRID, "n_train": 20, "augment": change})["train_loss"].tolist()
    assert len(set(gains)) == 4
    assert len(list(tmp_path.rglob("output.pkl"))) == 4


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-20], lambda c: flip(c, len(c) // 2), lambda c: flip(c, len(c) - 12)],
    ids=["cut", "a bit in the middle", "a bit at the end"],
)
def test_a_damaged_memory_is_noticed_and_done_again(run, tmp_path, caplog, damage):
    first = run(ONE)
    (kept,) = tmp_path.rglob("output.pkl")
    kept.write_bytes(damage(kept.read_bytes()))
    assert same(first, run(ONE))
    assert "Exception while loading results" in caplog.text
    caplog.clear()
    assert same(first, run(ONE)) and not caplog.text  # mended


@pytest.mark.filterwarnings("ignore:Unable to cache")  # joblib says so by itself
@pytest.mark.parametrize("moment", ["from the start", "later"])
def test_a_full_disk_costs_only_the_memory(run, monkeypatch, capsys, tmp_path, moment):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = joblib._store_backends.StoreBackendMixin
    late = moment == "later"
    run(ONE, memory=tmp_path / "another")  # joblib has written train_one's code once
    broken = (store, "_concurrency_safe_write") if late else (os, "fsync")
    monkeypatch.setattr(*broken, full)
    assert len(run()) == 4
    told = "only returned, not remembered: .*No space left"
    assert len(re.findall(told, capsys.readouterr().out)) == (not late)
    assert not list((tmp_path / "runs").rglob("output.pkl"))


# --- what fails, and on which workers -----------------------------------------------


def die(images, generator):
    os._exit(1)  # as a machine does that runs out of memory


def test_workers_say_the_same_to_the_last_bit_and_one_that_dies_costs_its_own_run(
    run, workers, no_training
):
    good = {"network": "MLP", "hidden": 16, "dropout": 0.5, "seed": [0, 1], "epochs": 2}
    bad = [{**ONE, "augment": die}, {**ONE, "seed": [0, 1], "lr": 1e38}]
    here = run(good, memory=None)
    assert here["train_loss"].nunique() == 2  # seeds differ
    with pytest.raises(RunsFailed, match="3 of 5 runs failed") as caught:
        run([*bad, good], n_jobs=workers)
    words = str(caught.value)
    assert "augment=die, seed=0: TerminatedWorker" in words
    assert "lr=1e+38, seed=1: FloatingPointError" in words
    assert same(here, caught.value.table[[*here]])
    no_training()
    assert same(here, run(good))  # what a worker did is remembered here


def test_a_study_runs_on_dask_and_a_worker_that_dies_costs_its_own_run(run, tmp_path):
    import dask
    from dask.distributed import Client, LocalCluster

    with (
        # Dask leaves variables behind that would slow down every notebook after it.
        mock.patch.dict(os.environ),
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        processes = set(client.run(os.getpid).values())
        assert len(processes) == 2 and os.getpid() not in processes
        there = run()
        with pytest.raises(RunsFailed, match="1 of 3.*die, .*KilledWorker") as caught:
            run({**ONE, "augment": [None, die, random_affine]})
    done = caught.value.table["augment"].fillna("none")
    assert done.tolist() == ["none", "random_affine"]
    assert same(there, run(memory=None))


def interrupt(images, generator):
    raise KeyboardInterrupt


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_interrupted_run_is_no_result_and_is_done_again(run, workers, n_jobs):
    with pytest.raises(KeyboardInterrupt):
        run({**ONE, "augment": [None, interrupt, random_affine]}, n_jobs=n_jobs)
    again = run({**ONE, "augment": [None, random_affine]})
    assert again["stopped"].tolist() == ["all epochs done"] * 2


def test_without_any_worker_the_backend_s_own_error_is_said(run):
    with pytest.raises(ValueError, match="first create a Dask Client"):
        with joblib.parallel_config(backend="dask"):
            run()
