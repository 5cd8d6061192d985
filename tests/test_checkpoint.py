"""What checkpoint promises: what was saved comes back, or nothing does."""

import errno
import json
import os
import pickle
import random
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

ADVICE = "Take it from git again, or train it anew"


def new(name="Linear", seed=0, **arguments):
    torch.manual_seed(seed)
    return build(name, **arguments)


def same(a, b) -> bool:
    """Whether two checkpoints hold the same, bit for bit."""
    tensors = [{**c.model.state_dict(), **c.golden} for c in (a, b)]
    return (
        a.card == b.card
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensor, tensors[1][n]) for n, tensor in tensors[0].items())
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.fixture
def saved(path):
    golden = {"canvases": torch.arange(200, dtype=torch.uint8).reshape(2, 10, 10)}
    return save(path, new(), golden=golden, seed=7)


# --- there and back -----------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_bit_for_bit(path, digits, name):
    model = new(name).train()
    model(torch.randn(8, 1, 28, 28))  # so that batch norm has seen something
    save(path, model)
    back = load(path)
    assert back.card["network"] == name
    assert back.card["parameters"] == model.parameter_count
    assert not any(module.training for module in back.model.modules())
    np.testing.assert_array_equal(
        predict_logits(back.model, digits.images), predict_logits(model, digits.images)
    )


def test_save_returns_what_load_gives(path, saved):
    assert same(saved, load(path)) and saved.sha256 == load(path).sha256
    assert saved.golden["canvases"].dtype == torch.uint8


def test_arguments_rebuild_the_network_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "artifacts" / "runs" / "model.pt"
    save(path, new("MLP", hidden=32, dropout=0.5), arguments={"hidden": 32})
    assert load(path).model[1].out_features == 32


def test_the_card_tells_where_a_network_comes_from(path, digits):
    model = new()
    save(
        path,
        model,
        data={"source": digits.source, "sha256": digits.sha256},
        history=History(validation_accuracy=(0.5, 0.75), best_epoch=2),
        test=evaluate(model, digits),
        seed=np.int64(3),
        bands=np.array([0.25, 0.5]),
    )
    card = load(path).card
    assert card == json.loads(path.with_suffix(".json").read_text())
    assert card["normalization"] == {"mean": MEAN, "std": STD}
    assert card["data"] == {"source": digits.source, "sha256": digits.sha256}
    assert card["history"]["validation_accuracy"] == [0.5, 0.75]
    assert card["test"] == evaluate(model, digits).summary
    assert (card["seed"], card["bands"]) == (3, [0.25, 0.5])
    assert card["versions"]["torch"] == torch.__version__
    assert len(card["weights_sha256"]) == 64


def test_the_hashes_see_weights_and_card(path):
    a, b, c = save(path, new()), save(path, new(seed=1)), save(path, new(), seed=1)
    assert len({a.sha256, b.sha256, c.sha256}) == 3
    assert a.card["weights_sha256"] == c.card["weights_sha256"]
    assert a.card["weights_sha256"] != b.card["weights_sha256"]


# --- files that cannot be trusted ---------------------------------------------------


def refused(path, match, **arguments):
    """Loading raises CheckpointError and leaves the file as it is."""
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"(?s){match}") as caught:
        load(path, **arguments)
    assert path.name in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["folder", "model.json"])
def test_a_folder_or_a_card_is_refused_and_left_as_it_is(tmp_path, saved, name):
    (tmp_path / "folder").mkdir()
    for call in (load, lambda path: save(path, new())):
        with pytest.raises(CheckpointError, match=f"{name} is a folder or a card"):
            call(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "model.json", "model.pt"]
    assert json.loads((tmp_path / "model.json").read_text()) == saved.card


def test_a_missing_file_names_who_makes_it(path):
    with pytest.raises(FileNotFoundError, match="no model.pt in .*Notebook 01.*make"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><title>Log in</title>",
        pickle.dumps({"weights": 1}, protocol=2),
        bytes(10_000),
        b"J\x01",
    ],
    ids=["empty", "web page", "pickle", "zeros", "J"],
)
def test_what_is_no_checkpoint_is_refused(path, content):
    path.write_bytes(content)
    refused(path, f"{len(content):,} bytes, cannot be read.*{ADVICE}")


def test_a_checkpoint_of_somebody_else_is_refused(path):
    torch.save(new().state_dict(), path)
    refused(path, f"cannot be read.*KeyError.*{ADVICE}")
    torch.save(torch.zeros(3), path)
    refused(path, "cannot be read")


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_cut_checkpoint_is_refused(path, saved, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, f"cannot be read.*{ADVICE}")


@pytest.mark.parametrize("part", ["weights", "golden", "card", "hash"])
def test_one_altered_bit_in_what_was_saved_is_noticed(path, saved, part):
    content = bytearray(path.read_bytes())
    found = {
        "weights": saved.model[1].weight.detach().numpy().tobytes(),
        "golden": saved.golden["canvases"].numpy().tobytes(),
        "card": b'"seed": 7',
        "hash": saved.sha256.encode(),
    }[part]
    assert content.count(found) == 1
    content[content.index(found) + len(found) - 1] ^= 1
    path.write_bytes(content)
    refused(path, ADVICE)


@pytest.mark.filterwarnings("ignore")  # torch may warn before we refuse
def test_one_altered_bit_anywhere_is_noticed_or_changes_nothing(path, saved):
    content, rng, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        altered = bytearray(content)
        altered[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(altered)
        try:
            assert same(load(path), saved)  # padding and dates of the archive
        except CheckpointError:
            noticed += 1
    assert noticed > 100


def test_a_hostile_pickle_is_refused_and_not_run(path, tmp_path):
    trace = tmp_path / "it ran"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"weights": Hostile(), "golden": {}, "card": "{}", "sha256": ""}, path)
    refused(path, f"UnpicklingError.*{ADVICE}")
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the control: it is indeed hostile
    assert trace.exists()


def forge(path, change=lambda card: card, weights=None):
    """A checkpoint with a true hash over a card or weights that a stranger wrote."""
    content = torch.load(path, weights_only=True)
    weights = content["weights"] if weights is None else weights
    card = json.dumps(change(json.loads(content["card"])))
    sha256 = checkpoint._sha256({**weights, **content["golden"]}, card)
    forged = {**content, "weights": weights, "card": card, "sha256": sha256}
    torch.save(forged, path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"network": "MLP"}, "do not fit MLP.*Missing key.*4.weight"),
        ({"network": ["Linear"]}, "do not fit"),
        ({"network": None}, "no network None"),
        ({"arguments": {"width": 3}}, r"Linear cannot be built with {'width': 3}"),
        ({"arguments": None}, "do not fit Linear with None"),
        ({"network": "MLP", "arguments": {"hidden": -3}}, "do not fit MLP"),
        ({"normalization": {"mean": 0.5}}, f"0.5.*mean {MEAN}, std {STD}.*Train it"),
        (lambda card: None, f"cannot be read.*{ADVICE}"),
        (lambda card: [], "normalised with None"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(path, saved, change, match):
    forge(path)
    assert same(load(path), saved)  # the forgery itself is good
    forge(path, change if callable(change) else lambda card: {**card, **change})
    refused(path, match)


def test_weights_of_another_shape_are_refused(path, saved):
    weights = dict(saved.model.state_dict())
    forge(path, weights={**weights, "1.bias": torch.zeros(11)})
    refused(path, "do not fit Linear.*size mismatch")


def test_the_hash_sees_names_types_and_shapes_in_any_order():
    a, b = torch.zeros(2, 3), torch.ones(2)
    hashes = [
        checkpoint._sha256(tensors)
        for tensors in (
            *({"a": a, "b": b}, {"a": a.reshape(3, 2), "b": b}),
            *({"a": a, "c": b}, {"a": a.view(torch.int32), "b": b}),
        )
    ]
    assert len(set(hashes)) == 4
    assert checkpoint._sha256({"b": b, "a": a}) == hashes[0]


# --- saving -------------------------------------------------------------------------


def test_what_could_not_be_loaded_again_is_not_saved(path, saved):
    with pytest.raises(CheckpointError, match="do not fit MLP with {}.*arguments"):
        save(path, new("MLP", hidden=32))  # without saying so
    with pytest.raises(TypeError, match="Path cannot go into a checkpoint's card"):
        save(path, new(), folder=Path())
    assert same(load(path), saved)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(path, saved, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(os.listdir(path.parent))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            save(path, new(seed=1))
    assert same(load(path), saved)
    assert sorted(os.listdir(path.parent)) == before == ["model.json", "model.pt"]


# One process imports torch and forks writers, which is quicker than many starts.
WRITERS = """
import os, random, resource, signal, sys, time
from pathlib import Path
from mnistlab import checkpoint, models

path, rng = Path(sys.argv[1]), random.Random(0)
new, old = (models.build("SimpleCNN") for _ in range(2))
known = [checkpoint.save(path, model).sha256 for model in (new, old)]
size = path.stat().st_size

def killed(writer):
    status = os.waitpid(writer, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status)

# The kernel kills who writes on at a set length: always in the middle of a file.
for length in 0, 1, size // 3, size - 1:
    if (writer := os.fork()) == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
        checkpoint.save(path, new)
        os._exit(0)
    assert killed(writer) == signal.SIGXFSZ
    assert checkpoint.load(path).sha256 == known[1]

# And kill -9 at any moment of saving again and again.
for _ in range(8):
    end, start = os.pipe()
    if (writer := os.fork()) == 0:
        while True:
            for model in new, old:
                checkpoint.save(path, model)
                os.write(start, b".")
    os.read(end, 1)
    until = time.perf_counter() + rng.uniform(0, 0.02)
    while time.perf_counter() < until:
        pass
    os.kill(writer, signal.SIGKILL)
    assert killed(writer) == signal.SIGKILL
    assert checkpoint.load(path).sha256 in known
    os.close(end), os.close(start)
print("survived")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_saving_leaves_the_old_or_the_new_checkpoint(path):
    result = subprocess.run(
        [sys.executable, "-c", WRITERS, path],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == "survived\n", result.stderr
    assert load(path).card["network"] == "SimpleCNN"
