"""Many small trainings: a grid in, a tidy table out; resumable, on any executor.

A run computes in one thread, here or in a worker. So processes do not fight
over cores, and the numbers are the same, bit for bit, wherever on one machine
it is done.
"""

import hashlib
import inspect
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mnistlab import data as data_module
from mnistlab import evaluation, models, preprocess, training
from mnistlab.checkpoint import ARTIFACTS
from mnistlab.data import Data, Digits, write_atomically

FIT = {
    name: parameter.default
    for name, parameter in inspect.signature(training.fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "progress"
}
# n_train None: all images. watch: how many validation images fit looks at after
# each epoch; it keeps the best weights then, and the last ones if it looks at none.
OWN = {"n_train": None, "watch": 0}
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
    executor: Executor | None = None,
    memory: Path | None = ARTIFACTS / "runs",
    progress: bool = True,
) -> pd.DataFrame:
    """Train every combination of a grid; one row for each, in the grid's order.

    grid: settings, each with a value or a list of values; or a list of such
    grids. Settings are "network", its arguments, "n_train" (that many training
    images, equally many of each class, drawn by the seed), "watch" and whatever
    `fit` takes. Columns: the settings, n_train, parameters, seconds, best_epoch,
    stopped; gap (train minus validation accuracy); and accuracy, loss, confidence,
    calibration_error and per_class of train, validation, each set of `also`, and
    of test only where asked for: train_accuracy and so on. At most `measure`
    images of train and validation are measured. The columns epoch_* hold one
    entry an epoch; by_epoch unfolds them.

    data: "auto", "mnist" or "sample" is loaded once in each process; Data go
    along with each run. executor: any of concurrent.futures, or Dask's
    client.get_executor(). Finished runs are remembered in the folder `memory`
    by settings, data and code; what is damaged there is done again.

    Raises ValueError before anything runs if a network or setting is unknown or
    the images do not suffice; RunsFailed, when all others are done, if a run fails.
    """
    also = also or {}
    if taken := {"train", "validation", "test"} & set(also):
        raise ValueError(f"also={sorted(taken)}: these sets are measured by that name.")
    here = _load(data) if isinstance(data, str) else data
    if isinstance(data, str):  # so that no worker decides otherwise
        data = "sample" if "sample" in here.source else "mnist"
    runs, asked = [], ["network"]
    for part in [grid] if isinstance(grid, Mapping) else grid:
        lists = [
            v if isinstance(v, list | tuple | range | np.ndarray) else [v]
            for v in part.values()
        ]
        asked += [name for name in part if name not in asked]
        for values in product(*lists):
            runs.append(_checked(dict(zip(part, values, strict=True)), here))
    rest = (data, _sha256(here), also, test, measure)
    common = [rest[1], list(also), _sha256(*also.values()), test, measure, _code()]
    keys = [_key([run, *common]) for run in runs]
    jobs, results, failed = dict(zip(keys, runs, strict=True)), {}, {}
    with tqdm(total=len(jobs), desc="runs", disable=not progress) as bar:
        if memory:
            found = {key: _recall(memory / f"{key}.json") for key in jobs}
            results = {key: result for key, result in found.items() if result}
            bar.update(len(results))
        todo = {key: (run, *rest) for key, run in jobs.items() if key not in results}
        for key, result in _outcomes(todo, executor):
            if isinstance(result, Exception):
                failed[key] = result
            else:
                results[key] = result
                memory = memory and _remember(memory / f"{key}.json", result)
            bar.update()
    table = pd.DataFrame(
        {**{name: _plain(run.get(name)) for name in asked}, **results[key]}
        for key, run in zip(keys, runs, strict=True)
        if key in results
    )
    if failed:
        error = RunsFailed(
            f"{len(failed)} of {len(jobs)} runs failed; `table` of this error holds "
            "the others. "
            + "; ".join(f"{_name(jobs[key])}: {why!r}" for key, why in failed.items())
        )
        error.table = table
        raise error from next(iter(failed.values()))
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
    defaults = {**OWN, **FIT, **{name: p.default for name, p in parameters.items()}}
    if unknown := set(run) - {"network", *defaults}:
        raise ValueError(
            f"{_name(run)}: no setting {', '.join(sorted(unknown))}; {network} has "
            f"{', '.join(defaults)}."
        )
    run = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in {**defaults, **run}.items()
    }
    augment = run["augment"]
    where = getattr(augment, "__module__", None), getattr(augment, "__qualname__", "<")
    if augment and (where[0] == "__main__" or "<" in where[1]):
        raise ValueError(
            f"augment={augment} cannot travel to a worker. Write it as a function in a "
            "module of its own and import it."
        )
    if run["patience"] and not run["watch"]:
        raise ValueError(f"{_name(run)}: patience needs watch, images to look at.")
    missing = _subset(data.train, run).counts == 0
    if missing.any():
        raise ValueError(
            f"{_name(run)}: there is no {missing.argmax()} among the training images."
        )
    return run


def _subset(train: Digits, run: Mapping[str, Any]) -> Digits:
    n = run["n_train"]
    if n is None or n == len(train):
        return train
    if not 1 <= n <= len(train):
        raise ValueError(
            f"n_train={n:,}; there are {len(train):,} training images ({train.source})."
        )
    return train.balanced(n, run["seed"])


def _outcomes(jobs: Mapping[str, tuple], executor: Executor | None) -> Iterator[tuple]:
    """(key, result or the exception that was raised), as runs finish."""
    if executor is None:
        for key, job in jobs.items():
            try:
                yield key, train_one(*job)
            except Exception as error:  # whatever a run can raise: run_grid reports it
                yield key, error
        return
    futures = {}
    try:
        for key, job in jobs.items():
            try:
                futures[executor.submit(train_one, *job)] = key
            except RuntimeError as error:  # a pool that was closed, or that has broken
                yield key, error
        for future in as_completed(futures):
            error = future.exception()
            # That of the interrupt key is no Exception: result() raises it here.
            failed = isinstance(error, Exception)
            yield futures[future], error if failed else future.result()
    finally:  # after the interrupt key, what has not begun never does
        for future in futures:
            future.cancel()


def train_one(
    run: Mapping[str, Any],
    data: Data | str,
    sha256: str,
    also: Mapping[str, Digits],
    test: bool,
    measure: int,
) -> dict[str, Any]:
    """One run of run_grid, in this process: numbers, text and tuples by name."""
    threads, settings = torch.get_num_threads(), {name: run[name] for name in FIT}
    own = {k: v for k, v in run.items() if k not in {"network", *OWN, *FIT}}
    with _alone, torch.random.fork_rng(devices=[]):
        data = _load(data) if isinstance(data, str) else data
        if _sha256(data) != sha256:
            raise ValueError(f"this worker's {data.source} is not the caller's.")
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
    row = {
        "n_train": len(train),
        "parameters": model.parameter_count,
        "gap": evaluation.gap(reports["train"], reports["validation"]),
    }
    for name, report in reports.items():
        for figure in ("accuracy", "loss", "confidence", "calibration_error"):
            row[f"{name}_{figure}"] = getattr(report, figure)
        row[f"{name}_per_class"] = tuple(report.per_class.tolist())
    for name, value in vars(history).items():
        row[f"epoch_{name}" if isinstance(value, tuple) else name] = value
    return row


@lru_cache(maxsize=1)  # once in each process
def _load(source: str) -> Data:
    return data_module.load(source)


def _sha256(*parts: Data | Digits) -> str:
    total = hashlib.sha256()
    for part in parts:
        for digits in [part] if isinstance(part, Digits) else vars(part).values():
            total.update(digits.sha256.encode())
    return total.hexdigest()


def _code() -> str:
    """Hash of the versions and the sources on which a run's numbers depend."""
    total = hashlib.sha256(torch.__version__.encode())
    modules = (data_module, preprocess, models, evaluation, training)
    for path in (__file__, *(module.__file__ for module in modules)):
        total.update(Path(path).read_bytes())
    return total.hexdigest()


def _plain(value: Any) -> Any:
    return value.__qualname__ if callable(value) else value


def _source(function: Any) -> list[str]:
    return [function.__module__, function.__qualname__, inspect.getsource(function)]


def _name(run: Mapping[str, Any]) -> str:
    """A run in words: what differs from the defaults."""
    said = {k: v for k, v in run.items() if {**OWN, **FIT}.get(k) != v or k == "seed"}
    parts = [f"{k}={_plain(v)}" for k, v in said.items() if k != "network"]
    return ", ".join([str(run.get("network")), *parts])


def _key(everything: list[Any]) -> str:
    text = json.dumps(everything, sort_keys=True, default=_source)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _recall(path: Path) -> dict[str, Any] | None:
    """What is remembered, if anything; damage is said, and counts as nothing."""
    try:
        checksum, text = path.read_text().split("\n", 1)
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"{path.parent.name}/{path.name} is damaged ({error}): done again")
        return None
    result = json.loads(text)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in result.items()}


def _remember(path: Path, result: Mapping[str, Any]) -> Path | None:
    """Write a result down; where that fails a line says so, and nothing is lost."""
    text = json.dumps(result)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{checksum}\n{text}".encode())
    except OSError as error:
        print(f"runs are only returned, not remembered, from here on: {error}")
        return None
    return path.parent
