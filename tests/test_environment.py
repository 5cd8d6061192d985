"""One list of dependencies, pyproject.toml's: the others follow it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {
    canonicalize_name(requirement.name): requirement
    for requirement in map(
        Requirement,
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"],
    )
}
# What conda-forge calls by another name.
CONDA_NAMES = {
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
    "playwright": "playwright-python",
}
BY_PIP = {"unlzw3", "opencv-python-headless", "axe-playwright-python"}


def test_conda_users_get_what_pyproject_asks_for():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, by_pip = environment["dependencies"]
    found = {r.name: r.specifier for r in map(Requirement, conda)}
    assert found.pop("python") == PROJECT["requires-python"]
    found.pop("pip")
    *packages, ourselves = by_pip["pip"]
    assert ourselves == "--editable ."
    assert {r.name for r in map(Requirement, packages)} == BY_PIP
    found.update({r.name: r.specifier for r in map(Requirement, packages)})
    expected = {CONDA_NAMES.get(n, n): r.specifier for n, r in REQUIREMENTS.items()}
    assert found == expected
    assert environment["channels"][0] == "conda-forge"


def test_constraints_pin_what_pyproject_asks_for_and_pyproject_only_floors():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)  # each one name==version
    assert len(pins) == len(lines)  # none twice
    pins = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    for name, requirement in REQUIREMENTS.items():
        assert name in pins and pins[name] in requirement.specifier, name
        assert [s.operator for s in requirement.specifier] == [">="], requirement
    # From there on it parses a grammar of web addresses, for 0.8 s, at every start of
    # JupyterLab, of the page and of each test process.
    assert pins["jsonschema"] < Version("4.25")


HOME = "/" + "home/ada"  # of nobody
# This file and one other name what they forbid.
EXEMPT = {"tests/test_environment.py", "tests/test_notebooks.py"}
FOREIGN = re.compile(
    r"/(home|root|tmp|work|Users)/|\b[A-Z]:\\\\?Users|pypi\.org|pythonhosted\.org"
    r"|artifactory|/simple/|(--extra)?-index-url(?!\s+https://download\.pytorch\.org/)"
)


def test_no_tracked_file_names_a_folder_of_this_machine_or_a_registry():
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if git.returncode:
        pytest.skip("this is not a git repository")
    tracked = git.stdout.decode().split("\0")
    names = [name for name in tracked if name and name not in EXEMPT]
    assert "mnistlab/data.py" in names and FOREIGN.search(f"open('{HOME}/x')")
    for name in names:
        if (ROOT / name).exists():
            found = FOREIGN.search((ROOT / name).read_bytes().decode("latin-1"))
            assert not found, f"{name} holds {found[0]!r}"
