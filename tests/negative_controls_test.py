"""The planted bugs and differences keep up with the code that they change."""

from __future__ import annotations

import ast
import importlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def negative_controls(monkeypatch):
    """Return the script as a module; its neighbours import each other by name."""
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    return importlib.import_module("negative_controls")


def test_every_difference_from_published_code_can_be_planted(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    differences = importlib.import_module("_differences")
    for difference in differences.DIFFERENCES:
        text = (_ROOT / difference.path).read_text()
        planted = differences.planted(difference, text)
        assert planted != text and ast.parse(planted)
        assert difference.setting in differences.SETTINGS
        with pytest.raises(ValueError, match=f"{difference.name}.*occurs 0 times"):
            differences.planted(difference, "")


def test_every_bug_can_be_planted_and_names_tests_that_exist(negative_controls):
    texts: dict[str, str] = {}
    names: dict[str, set[str]] = {}

    def read(path):
        return texts.setdefault(path, (_ROOT / path).read_text())

    def tests_of(path):
        if path not in names:
            body = ast.parse(read(path)).body
            names[path] = {f.name for f in body if isinstance(f, ast.FunctionDef)}
        return names[path]

    for control in negative_controls.CONTROLS:
        planted = negative_controls.plant(control, read(control.path))
        assert planted != read(control.path) and ast.parse(planted)
        for test in control.selection:
            path, _, name = test.partition("::")
            assert name.partition("[")[0] in tests_of(path), test
    controls = negative_controls.CONTROLS
    assert len({control.name for control in controls}) == len(controls) > 40


def test_a_bug_that_can_no_longer_be_planted_is_refused(negative_controls):
    control = negative_controls.CONTROLS[0]
    for text, count in (("", 0), (2 * control.old, 2)):
        with pytest.raises(ValueError, match=f"occurs {count} times in mmc_jax/.*once"):
            negative_controls.plant(control, text)
