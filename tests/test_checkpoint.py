"""What checkpoint promises: what was saved comes back, or nothing does."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mnistlab import checkpoint
from mnistlab.checkpoint import CheckpointError, load, save
from mnistlab.evaluation import evaluate, predict_logits
from mnistlab.models import NETWORKS, build
from mnistlab.preprocess import MEAN, STD
from mnistlab.training import History


def new(name="Linear", seed=0, **arguments):
    torch.manual_seed(seed)
    return build(name, **arguments)


def same(a, b) -> bool:
    """Whether two checkpoints hold the same, bit for bit."""
    one, other = ({**c.model.state_dict(), **c.golden} for c in (a, b))
    alike = a.card == b.card and a.sha256 == b.sha256 and one.keys() == other.keys()
    return alike and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "first" / "model.pt"


@pytest.fixture
def saved(path):
    golden = {"canvases": torch.arange(200, dtype=torch.uint8).reshape(2, 10, 10)}
    return save(path, new(), golden=golden, seed=7)


# --- there and back -----------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_bit_for_bit(path, digits, name):
    model = new(name).train()
    model(torch.randn(8, 1, 28, 28))  # so that batch norm has seen something
    saved, back = save(path, model), load(path)
    assert same(saved, back)
    assert back.card["network"] == name
    assert back.card["parameters"] == model.parameter_count
    assert not any(module.training for module in back.model.modules())
    np.testing.assert_array_equal(
        predict_logits(back.model, digits.images), predict_logits(model, digits.images)
    )


def test_the_card_tells_where_a_network_comes_from(path, digits):
    model = new("MLP", hidden=32)
    save(
        path,
        model,
        arguments={"hidden": 32},
        history=History(validation_accuracy=(0.5, 0.75), best_epoch=2),
        tests={"mnist": evaluate(model, digits)},
        seed=np.int64(3),
        bands=np.array([0.25, 0.5]),
    )
    card = load(path).card
    assert card == json.loads(path.with_suffix(".json").read_text())
    assert card["normalization"] == {"mean": MEAN, "std": STD}
    assert card["history"]["validation_accuracy"] == [0.5, 0.75]
    assert card["tests"] == {"mnist": evaluate(model, digits).summary}
    assert (card["seed"], card["bands"]) == (3, [0.25, 0.5])
    assert card["versions"]["torch"] == torch.__version__


def test_the_hash_sees_card_names_types_and_shapes_in_any_order():
    a, b, hash_of = torch.zeros(2, 3), torch.ones(2), checkpoint._sha256
    others = {"a": a, "c": b}, {"a": a.reshape(3, 2), "b": b}, {"a": a.int(), "b": b}
    hashes = {hash_of({"a": a, "b": b}, text) for text in ("card", "another")}
    hashes |= {hash_of(other, "card") for other in others}
    assert len(hashes) == 5 and hash_of({"b": b, "a": a}, "card") in hashes


# --- files that cannot be trusted ---------------------------------------------------


def refused(path, match):
    """Loading raises CheckpointError and leaves the file as it is."""
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"(?s){path.name}.*{match}"):
        load(path)
    assert path.read_bytes() == before


def test_a_missing_file_names_who_makes_it(path):
    with pytest.raises(FileNotFoundError, match="no model.pt in .*Notebook 01.*make"):
        load(path)


def torch_file(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_what_is_no_whole_checkpoint_is_refused(path, saved):
    whole, nothing = path.read_bytes(), pickle.dumps({"weights": 1}, protocol=2)
    others = torch_file(new().state_dict()), torch_file(torch.zeros(3)), nothing
    pages = b"", b"<!DOCTYPE html>", b"J\x01", bytes(10_000)
    for content in (*pages, *others, whole[: len(whole) // 3], whole[:-9]):
        path.write_bytes(content)
        refused(path, f"{len(content):,} bytes, cannot be read.*train it anew")


def test_one_altered_bit_in_what_was_saved_is_noticed(path, saved):
    whole = path.read_bytes()
    for found in (
        saved.model[1].weight.detach().numpy().tobytes(),
        saved.golden["canvases"].numpy().tobytes(),
        b'"seed": 7',
        saved.sha256.encode(),
    ):
        assert whole.count(found) == 1
        content = bytearray(whole)
        content[content.index(found) + len(found) - 1] ^= 1
        path.write_bytes(content)
        refused(path, "Take it from git again")


def test_a_hostile_pickle_is_refused_and_not_run(path, saved, tmp_path):
    trace = tmp_path / "it ran"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"weights": Hostile(), "golden": {}, "card": "{}", "sha256": ""}, path)
    refused(path, "UnpicklingError")
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the control: it is indeed hostile
    assert trace.exists()


def forge(path, weights=None, **change):
    """A true hash over a card or weights that a stranger wrote."""
    content = torch.load(path, weights_only=True)
    content["weights"] |= weights or {}
    card = content["card"] = json.dumps({**json.loads(content["card"]), **change})
    tensors = {**content["weights"], **content["golden"]}
    torch.save({**content, "sha256": checkpoint._sha256(tensors, card)}, path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"network": "MLP"}, "Missing key.*4.weight"),
        ({"network": None}, "no network None"),
        ({"arguments": {"width": 3}}, "Linear cannot be built with {'width': 3}"),
        ({"normalization": {"mean": 0.5}}, f"0.5.*mean {MEAN}, std {STD}.*Train it"),
        ({"weights": {"1.bias": torch.zeros(11)}}, "size mismatch"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(path, saved, change, match):
    forge(path)
    load(path)  # the forgery itself is good
    forge(path, **change)
    refused(path, f"does not fit.*{match}")


# --- saving -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, name, card, match",
    [
        (new("MLP", hidden=32), "model.pt", {}, "expected the arguments"),  # unsaid
        (new(), "model.pt", {"folder": Path()}, "Path cannot go into a checkpoint"),
        (new(), "model.json", {}, "is where the card goes"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(
    path, saved, model, name, card, match
):
    with pytest.raises((CheckpointError, TypeError), match=match):
        save(path.with_name(name), model, **card)
    assert same(load(path), saved)
    assert json.loads(path.with_suffix(".json").read_text()) == saved.card


WRITER = """
import resource, signal, sys
from mnistlab import checkpoint, models

model, length = models.build("Linear"), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
checkpoint.save(sys.argv[1], model)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of Unix")
def test_a_kill_in_the_middle_of_saving_leaves_the_old_checkpoint(path, saved):
    """The kernel kills who writes on at a set length."""
    half = str(path.stat().st_size // 2)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", WRITER, path, half], cwd=root)
    assert done.returncode < 0 and same(load(path), saved)
