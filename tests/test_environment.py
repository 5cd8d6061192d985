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
BY_PIP = {"unlzw3", "opencv-python-headless"}  # older at conda-forge, or by parts


def conda_name(name: str) -> str:
    return CONDA_NAMES.get(name, name)


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
    expected = {conda_name(name): r.specifier for name, r in REQUIREMENTS.items()}
    assert found == expected
    assert environment["channels"][0] == "conda-forge"


def test_every_line_of_the_environment_says_what_it_is_for():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    start = lines.index("dependencies:") + 1
    for line in lines[start:]:
        if line.strip() not in ("- python>=3.11", "- pip:"):
            assert re.search(r"\S  # \S", line), line


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pattern = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)")
    matches = {line: pattern.fullmatch(line) for line in lines}
    assert not [line for line, match in matches.items() if not match]
    found = {canonicalize_name(m[1]): Version(m[2]) for m in matches.values()}
    assert len(found) == len(lines)  # none twice
    return found


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_constraints_pin_what_pyproject_asks_for(pins, name):
    assert name in pins, f"{name} has no line name==version"
    assert pins[name] in REQUIREMENTS[name].specifier


def test_every_dependency_has_a_floor_and_no_pin():
    for requirement in REQUIREMENTS.values():
        assert [s.operator for s in requirement.specifier] == [">="], requirement


# This file and one other name what they forbid.
EXEMPT = {"tests/test_environment.py", "tests/test_notebooks.py"}
FOREIGN = re.compile(
    r"/(home|root|tmp|work|Users)/|\b[A-Z]:\\\\?Users|pypi\.org|pythonhosted\.org"
    r"|artifactory|/simple/|(--extra)?-index-url(?!\s+https://download\.pytorch\.org/)"
)


def test_no_tracked_file_names_a_folder_of_this_machine_or_a_registry():
    listing = ["git", "ls-files", "-z"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        pytest.skip("this is not a git repository")
    names = [name for name in git.stdout.split("\0") if name and name not in EXEMPT]
    assert "mnistlab/data.py" in names
    for name in names:
        if (ROOT / name).exists():
            found = FOREIGN.search((ROOT / name).read_bytes().decode("latin-1"))
            assert not found, f"{name} holds {found[0]!r}"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("open('/home/ada/x')", True),
        (r"C:\Users\ada", True),
        ("pip install --index-url https://pypi.example/simple/ x", True),
        ("pip install x --index-url https://download.pytorch.org/whl/cpu", False),
        ("#!/usr/bin/env bash", False),
        ("src/home/x.py", True),
        ("at home/away", False),
    ],
)
def test_foreign_names_are_told_from_others(text, expected):
    assert bool(FOREIGN.search(text)) == expected
