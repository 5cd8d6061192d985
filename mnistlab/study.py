"""Trainings that are remembered: one network, or a grid in and a tidy table out.

A run of a grid computes in one thread, so processes do not fight over cores, and its
numbers are the same, bit for bit, wherever on one machine it is done.
"""

import inspect
import threading
from itertools import product

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mnistlab import data, evaluation, models, preprocess, training
from mnistlab.checkpoint import ARTIFACTS

# n_train None: all images. watch: how many validation images fit looks at after
# each epoch; it keeps the best weights then, and the last ones if it looks at none.
FIT = {**training.fit.__kwdefaults__, "progress": False}
DEFAULTS = {"n_train": None, "watch": 0, **FIT}
ROOMS = data, preprocess, models, evaluation, training  # a run depends on them
FIGURES = "accuracy", "loss", "confidence", "calibration_error", "per_class"
_alone = threading.Lock()  # torch's random generator belongs to the whole process


def trained(
    network, digits, *, memory=ARTIFACTS / "runs", **settings
) -> torch.nn.Module:
    """A network by its name, built and fitted to Digits, or remembered from last time.

    settings: the network's arguments and what `fit` takes; the seed rules the first
    weights, too. memory: as of `run_grid`; the number of threads counts here, because
    it changes the last bits. Raises ValueError for a setting that nothing takes.
    """
    run = _whole({"network": network, **settings}, FIT)
    key = _hash(torch.get_num_threads(), digits)
    return _memory(memory).cache(_fit, ignore=["train"])(run, key, digits)[0]


class RunsFailed(RuntimeError):
    """Some runs failed, and are named; `table`, a DataFrame, holds the others."""


def run_grid(
    grid, data, *, also=None, measure=5000, n_jobs=None, memory=ARTIFACTS / "runs"
) -> pd.DataFrame:
    """Train every combination of a grid on Data; one row for each, in the grid's order.

    grid: settings, each with a value or a list of values; or a list of such grids.
    Settings are "network", its arguments, "n_train" (that many training images, equally
    many of each class, drawn by the seed), "watch" and whatever `fit` takes.
    also: Digits by name, to be measured, too; of train and validation at most `measure`
    images are. Columns: the settings, parameters, gap, each set's figures, and fit's
    History, in which epoch_* have one entry an epoch.
    n_jobs: so many processes; None: what surrounds the call, as
    `joblib.parallel_config(backend="dask")`, else only this one.
    memory: a folder that every worker sees; there finished runs are remembered by
    settings, data and code, and what is damaged is done again. None: nowhere.
    Raises ValueError before anything runs, RunsFailed when all other runs are done.
    """
    also, runs, asked = dict(also or {}), [], {"network": None}
    if taken := also.keys() & {"train", "validation"}:
        raise ValueError(f"also={taken}: these sets are measured by that name.")
    for part in [grid] if isinstance(grid, dict) else grid:
        asked |= part
        lists = [v if isinstance(v, list | range) else [v] for v in part.values()]
        runs += [_whole(dict(zip(part, run, strict=True))) for run in product(*lists)]
    key = _hash(data, also)
    jobs = [(run, measure, key, data, also) for run in runs]
    train = _memory(memory).cache(train_one, ignore=["data", "also"])
    outcomes = _outcomes(jobs, train, n_jobs)
    done, rows, failed = dict(tqdm(outcomes, "runs", len(jobs))), [], []
    for number, run in enumerate(runs):
        said = {k: getattr(run.get(k), "__qualname__", run.get(k)) for k in asked}
        (failed if "error" in done[number] else rows).append(said | done[number])
    if failed:
        error = RunsFailed(f"{len(failed)} of {len(runs)} runs failed: {failed}")
        error.table = pd.DataFrame(rows)
        raise error from failed[0]["error"]
    return pd.DataFrame(rows)


def _memory(folder) -> joblib.Memory:
    # Compressed for the checksum: an altered bit is noticed, and the run done again.
    return joblib.Memory(folder, verbose=0, compress=("gzip", 3))


def _hash(*depends) -> str:
    """Of these, and of the code that a training runs through."""
    return joblib.hash([torch.__version__, *map(inspect.getsource, ROOMS), *depends])


def _whole(run: dict, defaults=DEFAULTS) -> dict:
    """The run with every default, and augment's source; ValueError if it cannot be."""
    own = {k: v for k, v in run.items() if k not in {"network", *defaults}}
    with torch.device("meta"):  # built for nothing but the errors
        models.build(run.get("network"), **own)
    run = {**defaults, **run, "own": own}
    if run["patience"] and not run.get("watch"):
        raise ValueError("patience needs watch: validation images to look at.")
    if augment := run["augment"]:
        called = getattr(augment, "__qualname__", "<")  # no name: a partial, an object
        if "<" in called or augment.__module__ == "__main__":
            raise ValueError(f"augment={augment}; import it from a module of its own.")
        run["source"] = inspect.getsource(inspect.getmodule(augment))
    return run


def _dask(**settings):
    """joblib's Dask backend; on its own it waits forever for a worker that died."""
    from joblib._dask import DaskDistributedBackend

    class Dask(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs):  # of 1, joblib would do it in this process
            return max(2, super().effective_n_jobs(n_jobs))

        def submit(self, func, callback=None):
            future = super().submit(func, callback)
            future.add_done_callback(lambda f: (e := f.exception()) and callback(e))
            return future

    return Dask(**settings)


joblib.register_parallel_backend("dask", _dask)


def _outcomes(jobs: list, train, n_jobs: int | None):
    """(number of the job, row or error), as runs finish.

    When a worker dies joblib gives up everything. The first run that was not done is
    then tried alone: it is the one that kills, or out of the way. The others go on.
    """
    left, alone = dict(enumerate(jobs)), False
    for number, job in enumerate(jobs):  # what is remembered needs no worker
        if train.check_call_in_cache(*job):
            yield _attempt(train, number, left.pop(number))
    while left:
        workers = joblib.Parallel(n_jobs, return_as="generator_unordered", batch_size=1)
        now = list(left)[: 1 if alone else None]
        try:
            tasks = (joblib.delayed(_attempt)(train, n, left[n]) for n in now)
            for number, outcome in workers(tasks):
                del left[number]
                yield number, outcome
        except Exception as error:
            if alone:  # this one kills, or there is no worker at all
                del left[now[0]]
                yield now[0], {"error": error}
        alone = not alone


def _attempt(train, number: int, job: tuple) -> tuple[int, dict]:
    try:
        return number, train(*job)
    except Exception as error:  # whatever a run can raise: run_grid reports it
        return number, {"error": error}


def _fit(run, key, train, watched=None) -> tuple:
    """The model and fit's History. Remembered by the hash `key` instead of `train`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run["seed"])
        model = models.build(run["network"], **run["own"])
        history = training.fit(model, train, watched, **{k: run[k] for k in FIT})
    if history.stopped == "interrupted":  # half a training is no result
        raise KeyboardInterrupt
    return model, history


def train_one(run, measure, key, data, also) -> dict:
    """One run of run_grid, in this process: numbers, text and tuples by name.

    It is remembered by the hash `key` instead of data and also, which are large.
    """
    train, validation, seed = data.train, data.validation, run["seed"]
    if run["n_train"] not in (None, len(train)):
        train = train.balanced(run["n_train"], seed)
    some = np.random.default_rng(seed).permutation(len(train))[:measure]
    watched = validation.take(slice(run["watch"])) if run["watch"] else None
    measured = validation.take(slice(measure))
    sets = {"train": train.take(some), "validation": measured, **also}
    with _alone:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            model, history = _fit(run, key, train, watched)
            reports = {n: evaluation.evaluate(model, d) for n, d in sets.items()}
        finally:
            torch.set_num_threads(threads)
    gap = reports["train"].accuracy - reports["validation"].accuracy
    row = {"n_train": len(train), "parameters": model.parameter_count, "gap": gap}
    for name, report in reports.items():
        row |= {f"{name}_{figure}": getattr(report, figure) for figure in FIGURES}
    for name, value in vars(history).items():
        row[f"epoch_{name}" if isinstance(value, tuple) else name] = value
    return row
