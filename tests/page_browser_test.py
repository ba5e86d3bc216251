"""The page in a real browser: fits the screen, sorts, loads nothing, says nothing."""

from __future__ import annotations

import json
import pathlib

import pytest

from mmc_jax import report
from tests import chromium

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "results" / "quickstart"
_PHONE, _DESKTOP = (390, 844), (1280, 900)
_COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

pytestmark = [
    pytest.mark.verify,
    chromium.NEEDED,
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return the page of the quickstart's records, with a name that would attack it."""
    results = json.loads((_FOLDER / "results.json").read_text())
    hostile = (
        "<img src=x onerror='window.broken = 1'><script>window.broken = 2</script>"
    )
    models = results["models"] | {hostile: results["models"]["softmax"]}
    pictures = [
        report.Picture.from_file(_FOLDER / name, "a figure")
        for name in ("images_mmc.png", "features.png", "training.png")
    ]
    numbers = [10.0, None, 9.0, 20.0, 1e-05]
    rows = [
        [report.Cell(f"row {number}"), *_cells(value)]
        for number, value in zip((10, 9, 2, 1, 11), numbers, strict=True)
    ]
    sorting = report.Table("sorting", ("name", "value"), [rows, [rows[0]]])
    return report.write_record_page(
        tmp_path_factory.mktemp("page") / "report.html",
        models,
        title="Quickstart",
        curves=results["accuracy_vs_epsilon"],
        sections=[report.Section("Pictures", [*pictures, sorting])],
        command="python launch/quickstart.py " + "x" * 300,
    )


def _cells(value):
    missing = value is None
    return [report.MISSING if missing else report.Cell(f"{value:.2f}", value=value)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Return one tab for all tests."""
    with chromium.tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, path):
    """Return the tab, the page freshly loaded on a desktop."""
    browser.resize(*_DESKTOP)
    browser.prefer("light")
    browser.open(path)
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [_PHONE, _DESKTOP], ids=["phone", "desktop"])
def test_the_page_fits_its_screen(tab, path, tmp_path, size, scheme):
    tab.resize(*size)
    tab.prefer(scheme)
    tab.open(path)
    width = tab.run("document.documentElement.scrollWidth")
    assert width <= tab.run("window.innerWidth") == size[0]
    # What is wider scrolls in a box of its own, which the keyboard reaches.
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert tab.run(f"{boxes}.every(b => b.getBoundingClientRect().right <= {size[0]})")
    assert tab.run(f"{boxes}.every(b => b.tabIndex === 0)")
    is_wide = f"{boxes}.some(b => b.scrollWidth > b.clientWidth)"
    assert tab.run(is_wide)
    images = "[...document.images]"
    assert tab.run(f"{images}.length") == 4
    assert tab.run(f"{images}.every(i => i.complete && i.naturalWidth > 0)")
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    levels = [int(n) for n in background.strip("rgb()").split(",")]
    assert max(levels) < 60 if scheme == "dark" else min(levels) > 200
    shot = tmp_path / f"{size[0]}_{scheme}.png"
    shot.write_bytes(tab.screenshot())
    assert shot.stat().st_size > 50_000


def test_nothing_is_loaded_and_nothing_complains(tab):
    tab.run("document.querySelector('th button').click()")
    methods = [event.get("method") for event in tab.events]
    assert not [m for m in methods if m in _COMPLAINTS], tab.events
    asked = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert tab.run("typeof window.broken") == "undefined"


_TABLE = "document.querySelector('[aria-label=sorting] table')"


def _names(tab):
    rows = f"[...{_TABLE}.tBodies[0].rows].map(r => r.cells[0].innerText)"
    return tab.run(rows)


def _click(tab, column):
    tab.run(f"{_TABLE}.tHead.rows[0].cells[{column}].querySelector('button').click()")


def _sort_states(tab):
    heads = f"[...{_TABLE}.tHead.rows[0].cells]"
    return tab.run(f"{heads}.map(h => h.getAttribute('aria-sort'))")


def test_clicking_a_heading_sorts(tab):
    assert _names(tab) == ["row 10", "row 9", "row 2", "row 1", "row 11"]
    assert _sort_states(tab) == [None, None]
    _click(tab, 1)
    # By value, not by text; what is missing comes last, whichever way.
    assert _names(tab) == ["row 11", "row 2", "row 10", "row 1", "row 9"]
    assert _sort_states(tab) == [None, "ascending"]
    _click(tab, 1)
    assert _names(tab) == ["row 1", "row 10", "row 2", "row 11", "row 9"]
    assert _sort_states(tab) == [None, "descending"]
    _click(tab, 0)
    assert _names(tab) == ["row 1", "row 2", "row 9", "row 10", "row 11"]
    assert _sort_states(tab) == ["ascending", None]
    assert tab.run(f"{_TABLE}.tBodies[1].rows.length") == 1


def test_the_keyboard_sorts_too(tab):
    tab.run(f"{_TABLE}.tHead.rows[0].cells[0].querySelector('button').focus()")
    enter = dict(key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    tab.send("Input.dispatchKeyEvent", type="keyDown", **enter)
    tab.send("Input.dispatchKeyEvent", type="keyUp", **enter)
    assert _sort_states(tab) == ["ascending", None]


def test_the_page_prints(tab):
    tab.send("Emulation.setEmulatedMedia", media="print")
    tab.resize(718, 1000)  # A4 less its margins
    width = tab.run("document.documentElement.scrollWidth")
    shown = tab.run("getComputedStyle(document.querySelector('nav')).display")
    tab.send("Emulation.setEmulatedMedia", media="")
    assert (width, shown) == (718, "none")
    assert tab.print().startswith(b"%PDF")
