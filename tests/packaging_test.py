"""What is installed: the wheel, the declared needs, the import, the set-up."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import mmc_jax

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOO_HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "torch")
# Import names that differ from the names that packages are installed by.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "jaxlib": "jax",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
}
# tensorflow-datasets decodes images with pillow, and does not declare it.
_NEEDED_BY_OTHERS = {"pillow"}


def _run(command, **kwargs) -> subprocess.CompletedProcess[str]:
    kwargs = {"capture_output": True, "text": True, "timeout": 300} | kwargs
    return subprocess.run(command, stdin=subprocess.DEVNULL, **kwargs)


def _copy_checkout(target: pathlib.Path) -> pathlib.Path:
    """Copy what is committed, without what was built in it."""
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "runs", "results", "*.egg-info", "__pycache__"
    )
    return shutil.copytree(_ROOT, target, ignore=ignored)


def test_import_is_light():
    loaded = _run(
        [sys.executable, "-c", "import sys, mmc_jax; print(*sys.modules, sep='\\n')"],
        cwd=_ROOT,
        check=True,
    ).stdout.split()
    assert "mmc_jax" in loaded
    assert set(loaded).isdisjoint(_TOO_HEAVY)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = _copy_checkout(folder / "checkout")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-qq"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(checkout)]
    built = _run(command)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_whole_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    contents = {name for name in names if ".dist-info/" not in name}
    package = _ROOT / "mmc_jax"
    templates = list(package.glob("report/templates/*"))
    sources = [*package.rglob("*.py"), package / "py.typed", *templates]
    assert len(templates) == 3
    assert contents == {path.relative_to(_ROOT).as_posix() for path in sources}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert f"\nVersion: {mmc_jax.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    assert extras == {"tf", "test", "dev", "cuda", "tpu", "bench"}


def test_citation_names_this_version():
    text = (_ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {mmc_jax.__version__}\n" in text


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements() -> dict[str, set[str]]:
    """Return the packages that setup.py asks for, by extra ("" is the core)."""
    found: dict[str, set[str]] = {"": set()}
    for text in importlib.metadata.requires("mmc_jax") or []:
        extra = re.search(r"extra == ['\"](\w+)['\"]", text)
        name = _normalise(re.match(r"[\w.-]+", text)[0])
        found.setdefault(extra[1] if extra else "", set()).add(name)
    return found


def _imported(*folders: str) -> set[str]:
    """Return the distributions that the files in some folders import."""
    names = set()
    for folder in folders:
        for path in (_ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module.split(".")[0])
    ours = {"mmc_jax", "configs", "launch", "tests", "benchmarks"}
    third_party = names - set(sys.stdlib_module_names) - ours
    return {_normalise(_DISTRIBUTIONS.get(name, name)) for name in third_party}


def test_everything_imported_is_declared():
    core, extras = _requirements()[""], _requirements()
    used = _imported("mmc_jax", "configs", "launch")
    assert used - core <= {"tensorflow"}
    assert _imported("tests") <= core | extras["test"]


def test_everything_declared_is_imported():
    used = _imported("mmc_jax", "configs", "launch")
    assert _requirements()[""] - used <= _NEEDED_BY_OTHERS


def _pins() -> dict[str, str]:
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    stripped = (line.split("#")[0].split(";")[0].strip() for line in lines)
    return dict(
        (_normalise(name), version)
        for name, version in (line.split("==") for line in stripped if line)
    )


def test_constraints_pin_everything_that_setup_asks_for():
    """Whatever an extra brings in, too: follow the requirements of requirements."""
    pins = _pins()
    asked = set().union(*_requirements().values())
    unvisited, seen = sorted(asked), set()
    while unvisited:
        name = unvisited.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # Of an extra that is not installed here.
        plain = (need for need in needs if ";" not in need)
        unvisited += [_normalise(re.match(r"[\w.-]+", need)[0]) for need in plain]
    assert seen - set(pins) == set()


def test_environment_is_the_pinned_one():
    """The versions in use are those in constraints.txt, or its numbers mean nothing."""
    pins = _pins()
    installed = {
        _normalise(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
    }
    jax_family = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy")
    assert {n: installed[n] for n in jax_family} == {n: pins[n] for n in jax_family}


def _make_setup(checkout: pathlib.Path, python: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "MAKEFLAGS"}
    command = ["make", "-C", str(checkout), "setup", f"PYTHON={python}"]
    return _run(command, env=environment)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy to set up in, since each of these set-ups is meant to fail."""
    return _copy_checkout(tmp_path_factory.mktemp("set_up") / "checkout")


def test_set_up_without_venv_names_the_system_package(checkout, tmp_path):
    """As on Debian without python3-venv: a standard library without ensurepip."""
    major_minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = tmp_path / sys.platlibdir / f"python{major_minor}"
    library.mkdir(parents=True)
    for path in pathlib.Path(sysconfig.get_path("stdlib")).iterdir():
        if path.name not in ("ensurepip", "site-packages"):
            (library / path.name).symlink_to(path)
    python = tmp_path / "python3"
    base = sys._base_executable
    python.write_text(f'#!/bin/sh\nPYTHONHOME={tmp_path} exec {base} "$@"\n')
    python.chmod(0o755)
    failed = _make_setup(checkout, str(python))
    assert failed.returncode != 0
    assert f"sudo apt install python{major_minor}-venv" in failed.stderr
    assert not (checkout / ".venv").exists()


def test_set_up_with_an_old_python_says_which_is_needed(checkout, tmp_path):
    python = tmp_path / "python3"
    python.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -c "
        '"import sys; sys.version_info = (3, 9, 1); $*"\n'
    )
    python.chmod(0o755)
    failed = _make_setup(checkout, str(python))
    assert failed.returncode != 0
    assert "needs Python 3.11 or newer" in failed.stderr
    assert "is 3.9" in failed.stderr


def test_set_up_without_python_says_so(checkout):
    failed = _make_setup(checkout, "no-such-python")
    assert failed.returncode != 0
    assert "There is no no-such-python here" in failed.stdout + failed.stderr


def test_ci_runs_make_test_and_nothing_else():
    script = _ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = script.read_text().splitlines()
    assert commands[:2] == ["#!/usr/bin/env bash", "set -euo pipefail"]
    assert [line for line in commands[2:] if not line.startswith("cd ")] == [
        "make test"
    ]


@pytest.mark.verify
def test_installs_into_a_clean_environment(tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    checkout = _copy_checkout(tmp_path / "checkout")
    constraints = ["-c", str(_ROOT / "constraints.txt")]
    command = [python, "-m", "pip", "install", "-qq", *constraints, checkout]
    installed = _run(command, timeout=1200)
    assert installed.returncode == 0, installed.stderr
    code = "import mmc_jax, sys; print(mmc_jax.__file__)"
    found = _run([python, "-c", code], cwd=tmp_path, check=True).stdout.strip()
    assert pathlib.Path(found).is_relative_to(environment)
