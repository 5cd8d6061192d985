"""What holds for the package as a whole: who may import whom."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module imports only from those before it.
FLOORS = (
    *("data", "strokes"),
    *("preprocess", "synthetic", "pendigits", "models", "evaluation", "training"),
    *("checkpoint", "checks", "faults", "classifier", "study", "sketch", "journal"),
    *("photo", "conventions", "pictures", "doctor", "plots", "pad"),
)
# Heavy or awkward libraries are in one place each.
ONLY = {"matplotlib": "plots", "ipycanvas": "pad", "ipywidgets": "pad"}


def imported(source: str) -> set[str]:
    """Every module that a text imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "say mnistlab.x instead of .x"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_every_module_has_its_floor_and_imports_run_downward():
    modules = {path.stem for path in (ROOT / "mnistlab").glob("*.py")}
    assert modules == {"__init__", *FLOORS}
    for floor, module in enumerate(FLOORS):
        names = imported((ROOT / "mnistlab" / f"{module}.py").read_text())
        ours = {name.split(".")[1] for name in names if name.startswith("mnistlab.")}
        assert ours <= set(FLOORS[:floor]), f"{module} stands too low"
        for library, home in ONLY.items():
            uses = any(name.split(".")[0] == library for name in names)
            assert not uses or module == home, f"{library} belongs into {home}"


def test_the_ground_floor_needs_no_torch():
    modules = "import sys, mnistlab.data, mnistlab.strokes"
    program = f"{modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_openmp_is_told_to_wait_quietly_before_torch_comes():
    program = "import mnistlab, os; print(os.environ['OMP_WAIT_POLICY'])"
    for said, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=said, capture_output=True)
        assert done.stdout.decode().strip() == expected


def test_the_tests_have_no_network():
    for host in "192.0.2.1", "example.org":
        with pytest.raises(OSError, match="no network"):
            socket.create_connection((host, 80))
