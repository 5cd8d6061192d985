"""Many small trainings: a grid in, a tidy table out; joblib remembers and runs them.

A run computes in one thread, here or in a worker. So processes do not fight
over cores, and the numbers are the same, bit for bit, wherever on one machine
it is done.
"""

import inspect
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mnistlab import data as data_module
from mnistlab import evaluation, models, preprocess, training
from mnistlab.checkpoint import ARTIFACTS
from mnistlab.data import Data, Digits

FIT = {k: v for k, v in training.fit.__kwdefaults__.items() if k != "progress"}
# n_train None: all images. watch: how many validation images fit looks at after
# each epoch; it keeps the best weights then, and the last ones if it looks at none.
DEFAULTS = {"n_train": None, "watch": 0, **FIT}
_alone = threading.Lock()  # torch's random generator belongs to the whole process


class RunsFailed(RuntimeError):
    """Some runs failed, and are named; `table` holds the others."""

    table: pd.DataFrame


def run_grid(
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    data: Data | str = "auto",
    *,
    also: Mapping[str, Digits] | None = None,
    test: bool = False,
    measure: int = 5000,
    n_jobs: int | None = None,
    memory: Path | None = ARTIFACTS / "runs",
    progress: bool = True,
) -> pd.DataFrame:
    """Train every combination of a grid; one row for each, in the grid's order.

    grid: settings, each with a value or a list of values; or a list of such grids.
    Settings are "network", its arguments, "n_train" (that many training images, equally
    many of each class, drawn by the seed), "watch" and whatever `fit` takes. data:
    Data, or what data.load takes. Columns: the settings, n_train, parameters, seconds,
    best_epoch, stopped; gap (train minus validation accuracy); train_accuracy, loss,
    confidence, calibration_error and per_class, and so on for validation, each set of
    `also`, and test where asked for; epoch_*, one entry an epoch: by_epoch unfolds
    them. At most `measure` images of train and validation are measured.

    n_jobs: so many processes; None: what surrounds the call, as
    `joblib.parallel_config(backend="dask")`, else only this one. Finished runs are
    remembered in the folder `memory`, which every worker must see, by settings, data
    and code; what is damaged there is done again. Raises ValueError before anything
    runs if a network or setting is unknown or the images do not suffice; RunsFailed,
    when all others are done, if a run fails.
    """
    also = dict(also or {})
    if taken := {"train", "validation", "test"} & set(also):
        raise ValueError(f"also={sorted(taken)}: these sets are measured by that name.")
    data = data_module.load(data) if isinstance(data, str) else data
    runs, asked, several = [], {"network": None}, list | tuple | range | np.ndarray
    for part in [grid] if isinstance(grid, Mapping) else grid:
        asked |= part
        lists = [v if isinstance(v, several) else [v] for v in part.values()]
        combinations = (zip(part, values, strict=True) for values in product(*lists))
        runs += [_checked(dict(run), data) for run in combinations]
    keys = [joblib.hash(run) for run in runs]
    rest = joblib.hash([data, list(also.items())]), data, also, test, measure
    jobs = {key: (run, *rest) for key, run in zip(keys, runs, strict=True)}
    outcomes = _outcomes(jobs, _remembering(memory) if memory else train_one, n_jobs)
    done = dict(tqdm(outcomes, "runs", len(jobs), disable=not progress))
    failed = {key: done.pop(key) for key in jobs if isinstance(done[key], str)}
    table = pd.DataFrame(
        {name: _plain(run.get(name)) for name in asked} | done[key]
        for key, run in zip(keys, runs, strict=True)
        if key in done
    )
    if failed:
        named = [f"{_name(jobs[k][0])}: {e.splitlines()[0]}" for k, e in failed.items()]
        words = f"{len(failed)} of {len(jobs)} runs failed; `table` holds the others. "
        error = RunsFailed(words + "; ".join(named))
        error.add_note("The first of them: " + next(iter(failed.values())))
        error.table = table
        raise error
    return table


def by_epoch(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each run and epoch that was watched: epoch_* unfolded, "epoch"."""
    if "watch" not in table:
        raise ValueError('no run was watched; put "watch", some images, into the grid.')
    columns = [name for name in table if name.startswith("epoch_")]
    long = table[table["watch"] > 0].explode(columns)
    long[columns] = long[columns].astype(float)
    return long.assign(epoch=long.groupby(level=0).cumcount() + 1)


def _checked(run: dict[str, Any], data: Data) -> dict[str, Any]:
    """The run with every default filled in; ValueError if it cannot be done."""
    network = run.get("network")
    if network not in models.NETWORKS:
        models.build(network)  # raises, and names the networks that there are
    parameters = inspect.signature(models.NETWORKS[network]).parameters
    defaults = {**DEFAULTS, **{name: p.default for name, p in parameters.items()}}
    if unknown := ", ".join(sorted(set(run) - {"network", *defaults})):
        known = f"{network} has {', '.join(defaults)}"
        raise ValueError(f"{_name(run)}: no setting {unknown}; {known}.")
    run = {"network": network, **defaults, **run}
    run |= {k: v.item() for k, v in run.items() if isinstance(v, np.generic)}
    if run["patience"] and not run["watch"]:
        raise ValueError(f"{_name(run)}: patience needs watch, images to look at.")
    counts = _subset(data.train, run).counts
    if not counts.all():
        missing = f"there is no {counts.argmin()} among the training images."
        raise ValueError(f"{_name(run)}: {missing}")
    if not (augment := run["augment"]):
        return run
    called = getattr(augment, "__qualname__", "<")  # no name: a partial, an object
    if "<" in called or augment.__module__ == "__main__":
        raise ValueError(
            f"augment={augment} cannot travel to a worker. Write it as a function in a "
            "module of its own and import it."
        )
    return {**run, "source": inspect.getsource(augment)}


def _subset(train: Digits, run: Mapping[str, Any]) -> Digits:
    n = run["n_train"]
    return train if n in (None, len(train)) else train.balanced(n, run["seed"])


def _remembering(memory: Path) -> Callable:
    """train_one with a memory of its own for each version of what it depends on.

    joblib looks at train_one's own lines only, and forgets everything if they change.
    """
    rooms = (data_module, preprocess, models, evaluation, training)
    files = [Path(file) for file in (__file__, *(room.__file__ for room in rooms))]
    code = joblib.hash([torch.__version__, *(file.read_bytes() for file in files)])
    folder = Path(memory).absolute() / code
    try:  # Compressed for the checksum: an altered bit is noticed, the run done again.
        kept = joblib.Memory(folder, verbose=0, compress=("gzip", 3))
        data_module.write_atomically(folder / "can-be-written", code.encode())
    except OSError as error:
        print(f"runs are only returned, not remembered: {error}")
        return train_one
    return kept.cache(train_one, ignore=["data", "also"])


def _dask(**settings):
    """joblib's Dask backend; on its own it waits forever for a worker that died."""
    from joblib._dask import DaskDistributedBackend

    class Dask(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs):  # of 1, joblib would do it in this process
            return max(2, super().effective_n_jobs(n_jobs))

        def submit(self, func, callback=None):
            def tell(future):
                if error := future.exception():
                    callback(error)

            future = super().submit(func, callback)
            future.add_done_callback(tell)
            return future

    return Dask(**{"wait_for_workers_timeout": 60, **settings})  # one may restart


joblib.register_parallel_backend("dask", _dask)


def _outcomes(jobs: dict, train: Callable, n_jobs: int | None) -> Iterator:
    """(key, row or error in words), as runs finish.

    When a worker dies joblib gives up everything. The first run that was not done is
    then tried alone: it is the one that kills, or out of the way. The others go on.
    """
    left, alone = dict(jobs), False
    while left:
        workers = joblib.Parallel(
            n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs"
        )
        keys = list(left)[: 1 if alone else None]
        tasks = (joblib.delayed(_attempt)(train, key, *left[key]) for key in keys)
        try:
            for key, outcome in workers(tasks):
                del left[key]
                yield key, outcome
            alone = False
        except Exception as error:
            alone = len(keys) > 1
            if not alone:  # this one kills, or there is no worker at all
                del left[keys[0]]
                yield keys[0], repr(error)


def _attempt(train: Callable, key: str, *job) -> tuple[str, dict[str, Any] | str]:
    try:
        return key, train(*job)
    except Exception as error:  # whatever a run can raise: run_grid reports it
        return key, f"{error!r}\n{traceback.format_exc()}"


def train_one(run, data_hash, data, also, test, measure) -> dict[str, Any]:
    """One run of run_grid, in this process: numbers, text and tuples by name.

    It is remembered by data_hash instead of data and also, which are large.
    """
    threads, settings = torch.get_num_threads(), {name: run[name] for name in FIT}
    own = {k: v for k, v in run.items() if k not in {"network", "source", *DEFAULTS}}
    with _alone, torch.random.fork_rng(devices=[]):
        train = _subset(data.train, run)
        some = np.random.default_rng(run["seed"]).permutation(len(train))
        watched = data.validation.take(slice(run["watch"])) if run["watch"] else None
        sets = {
            "train": train.take(some[:measure]),
            "validation": data.validation.take(slice(measure)),
            **({"test": data.test} if test else {}),
            **also,
        }
        torch.set_num_threads(1)
        try:
            torch.manual_seed(run["seed"])
            model = models.build(run["network"], **own)
            history = training.fit(model, train, watched, **settings, progress=False)
            if history.stopped == "interrupted":  # half a training is no result
                raise KeyboardInterrupt
            reports = {n: evaluation.evaluate(model, d) for n, d in sets.items()}
        finally:
            torch.set_num_threads(threads)
    row = {"n_train": len(train), "parameters": model.parameter_count}
    row["gap"] = evaluation.gap(reports["train"], reports["validation"])
    for name, report in reports.items():
        for figure in ("accuracy", "loss", "confidence", "calibration_error"):
            row[f"{name}_{figure}"] = getattr(report, figure)
        row[f"{name}_per_class"] = tuple(report.per_class.tolist())
    for name, value in vars(history).items():
        row[f"epoch_{name}" if isinstance(value, tuple) else name] = value
    return row


def _plain(value: Any) -> Any:
    return value.__qualname__ if callable(value) else value


def _name(run: Mapping[str, Any]) -> str:
    """A run in words: what differs from the defaults."""
    said = {k: v for k, v in run.items() if DEFAULTS.get(k) != v or k == "seed"}
    parts = [f"{k}={_plain(v)}" for k, v in said.items() if k != "source"]
    return ", ".join(parts).replace("network=", "", 1)
