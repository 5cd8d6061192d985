"""Safe, atomic, self-describing model files.

`name.pt` holds weights, card and golden inputs under one SHA-256; `name.json`
beside it is the card for people to read. Only the first is ever loaded, so a
kill between the two leaves a whole checkpoint, old or new.
"""

import hashlib
import io
import json
import platform
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from mnistlab.data import write_atomically
from mnistlab.models import Network, build
from mnistlab.preprocess import MEAN, STD

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


class CheckpointError(ValueError):
    """The file is no checkpoint that can be trusted; it was left as it is."""


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode, and what is known about it."""

    model: Network
    card: dict[str, Any]
    golden: dict[str, torch.Tensor]  # "canvases" uint8 (n, H, W), "logits" (n, 10)
    sha256: str


def save(
    path: Path, model: Network, *, arguments=None, golden=None, **card
) -> Checkpoint:
    """Write `path` (.pt) and its card (.json); an older pair survives a kill.

    `arguments`, a dict, are those the network was built with; `golden` is as in
    Checkpoint. `card` may hold reports, dataclasses, numpy values, lists, numbers,
    text. Returns what load() would, and raises it, too, before anything is written.
    """
    path, golden = Path(path), golden or {}
    if path.suffix == ".json":
        raise CheckpointError(f"{path} is where the card goes; expected model.pt, say.")
    weights = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    card = {
        "network": type(model).__name__,
        "arguments": arguments or {},
        "parameters": model.parameter_count,
        "normalization": {"mean": MEAN, "std": STD},
        **card,
        "versions": {**versions, "numpy": np.__version__, "pillow": PIL.__version__},
    }
    text = json.dumps(card, indent=1, default=_plain)
    kept = {"weights": weights, "golden": golden, "card": text}
    content = io.BytesIO()
    torch.save({**kept, "sha256": _sha256({**weights, **golden}, text)}, content)
    checkpoint = _read(content.getvalue(), path.name)  # before the old one goes
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    write_atomically(path.with_suffix(".json"), text.encode() + b"\n")
    return checkpoint


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint; the model comes in evaluation mode.

    Never runs code from the file. Raises FileNotFoundError if there is none, and
    CheckpointError if it is cut, altered, hostile, or made for other normalisation
    constants than this package's.
    """
    if not (path := Path(path)).exists():
        raise FileNotFoundError(
            f"there is no {path.name} in {path.parent}. Notebook 01 trains a network "
            "and saves it as my_model.pt; `make model` makes best_model.pt."
        )
    return _read(path.read_bytes(), path.name)


def _read(file: bytes, name: str) -> Checkpoint:
    again = "Take it from git again, or train it anew."
    try:
        content = torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
        weights, golden, text = (content[key] for key in ("weights", "golden", "card"))
        card, sha256 = json.loads(text), content["sha256"]
        intact = _sha256({**weights, **golden}, text) == sha256
    except Exception as error:  # torch's reader raises all sorts on a strange file
        raise CheckpointError(
            f"{name}, {len(file):,} bytes, cannot be read as a checkpoint of mnistlab "
            f"({type(error).__name__}). {again}"
        ) from error
    if not intact:
        raise CheckpointError(f"{name} is not what was saved: it was altered. {again}")
    try:
        if (constants := card["normalization"]) != {"mean": MEAN, "std": STD}:
            raise ValueError(f"{constants} is not mean {MEAN}, std {STD}, as here")
        model = build(card["network"], **card["arguments"])
        model.load_state_dict(weights)
    except Exception as error:  # and so do networks that a strange card asks for
        raise CheckpointError(
            f"the card of {name} does not fit its weights and this package; expected "
            f"the arguments that the network was built with. {error}. Train it anew."
        ) from error
    return Checkpoint(model.eval(), card, golden, sha256)


def _sha256(tensors: dict[str, torch.Tensor], text: str) -> str:
    """Hash of names, types, shapes and bytes, whatever the order of the dict."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return value.summary if hasattr(value, "summary") else asdict(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot go into a checkpoint's card.")
