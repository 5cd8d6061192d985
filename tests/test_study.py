"""Studies: what a row says, what is remembered, what fails, and on which workers."""

import importlib
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from pandas.testing import assert_frame_equal

from mnistlab import data as data_module
from mnistlab import evaluation, models, preprocess, training
from mnistlab.data import Data
from mnistlab.evaluation import evaluate
from mnistlab.models import build
from mnistlab.study import RunsFailed, run_grid, trained
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
        return run_grid(grid, data, **{"memory": tmp_path / "runs", **more})

    return start


@pytest.fixture
def fits():
    """Counts the trainings from now on."""
    with mock.patch.object(training, "fit", wraps=fit) as spy:
        yield spy


def same(one, other) -> bool:
    """Equal to the last bit, but for the time it took."""
    one, other = (table.drop(columns="seconds") for table in (one, other))
    assert_frame_equal(one, other, check_exact=True)
    return True


def test_a_row_says_what_the_same_training_by_hand_in_one_thread_gives(run, tiny):
    grid = {"network": "FastCNN", "seed": 3, "epochs": 1}
    threads, state, seen = torch.get_num_threads(), torch.get_rng_state(), []

    def spied(*arguments, **more):
        seen.append(torch.get_num_threads())
        return fit(*arguments, **more)

    torch.set_num_threads(2)
    with mock.patch.object(training, "fit", spied):
        row = run(grid, also={"drawings": tiny.test}).iloc[0]
    assert torch.equal(torch.get_rng_state(), state), "the caller's own"
    assert (seen, torch.get_num_threads()) == ([1], 2)
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = build("FastCNN")
    fit(model, tiny.train, epochs=1, seed=3, progress=False)
    torch.set_num_threads(threads)
    report = evaluate(model, tiny.test)
    assert row["drawings_accuracy"] == report.accuracy
    assert row["drawings_loss"] == pytest.approx(report.loss, rel=1e-4)
    assert row["drawings_confidence"] == pytest.approx(report.confidence, rel=1e-4)
    assert np.array_equal(row["drawings_per_class"], report.per_class)
    assert row["gap"] == row["train_accuracy"] - row["validation_accuracy"]


def test_one_training_is_remembered_and_is_the_same_as_by_hand(tiny, tmp_path, fits):
    settings = {"seed": 3, "epochs": 1, "width": 4}
    state = torch.get_rng_state()

    def weights(train=tiny.train, **more):
        more = {"memory": tmp_path, **settings, **more}
        return trained("FastCNN", train, **more).state_dict().values()

    first = weights()
    for again in weights(), weights(memory=None):
        assert all(map(torch.equal, first, again))
    assert torch.equal(torch.get_rng_state(), state), "the caller's own"
    assert fits.call_count == 2  # the first, and without a memory
    torch.manual_seed(3)
    model = build("FastCNN", width=4)
    fit(model, tiny.train, seed=3, epochs=1, progress=False)
    assert all(map(torch.equal, first, model.state_dict().values()))
    threads = torch.get_num_threads()
    for n, changed in enumerate(({"train": tiny.test}, {"seed": 4}, {"lr": 0.1}), 3):
        weights(**changed)
        assert fits.call_count == n
    torch.set_num_threads(threads + 1)
    weights()
    torch.set_num_threads(threads)
    assert fits.call_count == 6
    for setting in "n_train", "watch", "optimiser":  # run_grid has two of them
        with pytest.raises(ValueError, match=f"unexpected .*{setting}"):
            weights(**{setting: 9})


def test_grids_become_rows_in_their_order_that_share_their_columns(run):
    mlp = {"network": "MLP", "hidden": 8, "epochs": 1, "lr": 0.001, "watch": 10}
    table = run([GRID, {**mlp, "augment": random_affine}])
    assert table["n_train"].tolist() == [20, 20, 40, 40, 60]  # all of them
    assert table["seed"].iloc[:4].tolist() == [0, 1, 0, 1]
    assert table["lr"].tolist() == [0.01] * 4 + [0.001]  # said where it is a default
    assert table["hidden"].isna().tolist() == [True] * 4 + [False]
    assert table["augment"].dropna().tolist() == ["random_affine"]
    assert table["epoch_train_loss"].map(len).tolist() == [0] * 4 + [1]
    assert set(table["parameters"].iloc[:4]) == {7850}


def test_the_seed_draws_the_images_and_at_most_so_many_are_measured_at_random(
    run, tiny, fits
):
    with mock.patch.object(evaluation, "evaluate", wraps=evaluate) as spy:
        run({"network": "Linear", "epochs": 1}, measure=9)
    train, validation = (call.args[1].images for call in spy.call_args_list)
    assert len(train) == 9 and not np.array_equal(train, tiny.train.images[:9])
    assert np.array_equal(validation, tiny.validation.images[:9])
    run({**ONE, "seed": [0, 1]})
    one, other = (call.args[1].sha256 for call in fits.call_args_list[1:])
    assert one != other


REFUSED = [
    ({"network": "Transformer"}, {}, "there are Linear, MLP"),
    ({"seed": [0, 1]}, {}, "no network None"),
    ({**GRID, "learning_rate": 0.1}, {}, "unexpected .*learning_rate"),
    ({**GRID, "patience": 2}, {}, "patience needs watch"),
    ({**GRID, "augment": lambda batch, generator: batch}, {}, "of its own"),
    ({**GRID, "augment": partial(random_affine, share=1.0)}, {}, "of its own"),
    (GRID, {"also": {"validation": None}}, "also=.*validation"),
]


def test_what_cannot_be_done_is_refused_before_anything_runs(run, fits):
    for grid, more, words in REFUSED:
        with pytest.raises(ValueError, match=words):
            run([GRID, grid], **more)
    assert not fits.called


def test_finished_runs_are_not_done_again(run, tiny, fits):
    first = run()
    with mock.patch.object(joblib, "Parallel", side_effect=AssertionError):
        assert_frame_equal(first, run(), check_exact=True)  # and needs no worker
    assert fits.call_count == 4
    with pytest.raises(RunsFailed, match="61 balanced.*Ask for fewer") as failure:
        run({**GRID, "n_train": [20, 40, 61]})
    assert_frame_equal(first, failure.value.table, check_exact=True)
    assert fits.call_count == 4  # goes on where it stopped
    others = Data(tiny.train, tiny.test, tiny.validation)
    for changed in {"data": others}, {"measure": 9}, {"also": {"drawings": tiny.test}}:
        fits.reset_mock()
        run(**changed)
        assert fits.call_count == 4


def test_an_edit_of_the_code_is_not_answered_from_old_memory(
    run, fits, tmp_path, monkeypatch
):
    first, rooms = run(ONE), (training, models, evaluation, preprocess, data_module)
    for n, room in enumerate(rooms):
        with monkeypatch.context() as patch:
            edited = tmp_path / f"{room.__name__}.py"
            edited.write_text(Path(room.__file__).read_text() + "\n# edited")
            patch.setattr(room, "__file__", str(edited))
            run(ONE)
        assert fits.call_count == n + 2, room
    assert_frame_equal(first, run(ONE), check_exact=True)  # and nothing is forgotten


def test_a_function_that_was_edited_is_another_setting(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    losses = []
    for factor in -1, 1.0:  # of the module, not in the function's own lines
        text = "def change(images, generator):\n    return FACTOR * images\n"
        (tmp_path / "mine.py").write_text(f"FACTOR = {factor}\n{text}")
        importlib.invalidate_caches()
        mine = importlib.reload(importlib.import_module("mine"))
        losses += run({**ONE, "augment": mine.change})["train_loss"].tolist()
    assert len(set(losses)) == 2


def test_a_damaged_memory_is_noticed_and_done_again(run, tmp_path, fits):
    first = run(ONE)
    (path,) = tmp_path.rglob("output.pkl")
    content = path.read_bytes()
    middle = bytearray(content)
    middle[len(content) // 2] ^= 1
    for n, damaged in enumerate((middle, content[:-20])):
        path.write_bytes(damaged)
        for _ in range(2):  # the second time it is mended
            assert same(first, run(ONE)) and fits.call_count == n + 2


def interrupt(images, generator):
    raise KeyboardInterrupt


def test_an_interrupted_run_is_no_result_and_is_done_again(run):
    with pytest.raises(KeyboardInterrupt):
        run({**ONE, "augment": [None, interrupt, random_affine]})
    again = run({**ONE, "augment": [None, random_affine]})
    assert again["stopped"].tolist() == ["all epochs done"] * 2


def die(images, generator):
    os._exit(1)  # as a machine does that runs out of memory


@contextmanager
def processes(folder):
    """Two processes of joblib's own, gone afterwards."""
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def dask_workers(folder):
    dask, distributed = map(pytest.importorskip, ("dask", "dask.distributed"))
    place = {"dashboard_address": "127.0.0.1:0", "local_directory": folder}
    with (
        # Dask leaves variables behind that would slow down every notebook after it.
        mock.patch.dict(os.environ),
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **place) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask", wait_for_workers_timeout=60),
    ):
        yield


@pytest.mark.parametrize("workers", [processes, dask_workers])
def test_workers_say_the_same_to_the_last_bit_and_one_that_dies_costs_its_own_run(
    run, workers, tmp_path, fits
):
    good = {"network": "MLP", "hidden": 16, "dropout": 0.5, "seed": [0, 1], "epochs": 2}
    bad = [{**ONE, "augment": die}, {**ONE, "seed": [0, 1], "lr": 1e38}]
    here = run(good, memory=None)
    with workers(tmp_path / "dask"), pytest.raises(RunsFailed) as caught:
        run([*bad, good], n_jobs=2)
    words = str(caught.value)
    assert "3 of 5 runs failed" in words and "Worker" in words
    assert [words.count(w) for w in ("'die'", "'lr': 1e+38", "FloatingP")] == [1, 2, 2]
    assert same(here, caught.value.table[[*here]])
    assert same(here, run(good))  # what a worker did is remembered here
    assert fits.call_count == here["train_loss"].nunique() == 2
