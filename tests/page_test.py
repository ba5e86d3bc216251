"""A page says what the records say, loads nothing, and runs nothing but its own."""

from __future__ import annotations

import base64
import copy
import hashlib
import html.parser
import json
import pathlib
import re

import pytest

from mmc_jax import report
from mmc_jax.report.comparison import Note

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "results" / "quickstart"
_VOID = {"meta", "link", "img", "br"}
_HOSTILE = "<script>alert('a')</script>\"'><img src=https://example.org/a onerror=b>"


@pytest.fixture(scope="module")
def results():
    """Return what a run of the quickstart saved."""
    return json.loads((_FOLDER / "results.json").read_text())


class _Document(html.parser.HTMLParser):
    """The elements of a page, and its tables as rows of cells; strict on nesting."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self._rows: list[list[tuple[str, str | None]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, "")
        if tag in _VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(("", dict(attrs).get("data-value")))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "caption":
            self.tables[self.texts["caption"].strip()] = self._rows
        if tag in ("caption", "li"):
            self.texts[tag] += "\n"

    def handle_data(self, data):
        for tag in set(self._open):
            if tag == "caption" and self.texts[tag].endswith("\n"):
                self.texts[tag] = ""
            self.texts[tag] += data
        if "td" in self._open or "th" in self._open:
            text, value = self._rows[-1][-1]
            self._rows[-1][-1] = (text + data, value)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [a[name] for found, a in self.elements if found == tag and name in a]

    def table(self, start: str) -> dict[str, dict[str, tuple[str, float | None]]]:
        """Return row -> column -> (text, value) of the table with that caption."""
        captions = [name for name in self.tables if name.startswith(start)]
        found = self.tables[start if start in captions else captions[0]]
        header, *rows = found
        columns = [text for text, _ in header]
        return {
            " ".join(row[0][0].split()): {
                column: (" ".join(text.split()), None if v is None else float(v))
                for column, (text, v) in zip(columns, row, strict=True)
            }
            for row in rows
        }


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    """Return the page of the quickstart's records, with two of its figures."""
    pictures = [
        report.Picture.from_file(_FOLDER / name, f"the {name}")
        for name in ("images_mmc.png", "features.png", "nowhere.png")
    ]
    path = report.write_record_page(
        tmp_path_factory.mktemp("page") / "new" / "report.html",
        results["models"],
        title="Quickstart",
        curves=results["accuracy_vs_epsilon"],
        sections=[report.Section("Pictures", pictures)],
        command="python launch/quickstart.py --workdir='a b'",
    )
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return _Document(path)


def _share(plain):
    low, high = plain["interval_95"]
    text = f"{100 * plain['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return text, plain["value"]


def test_the_comparison_holds_every_accuracy_of_the_records(page, results):
    table = page.table("500 images, linf, epsilon 0.1")
    for model, record in results["models"].items():
        assert _share(record["clean"]) == table["clean"][model]
        assert _share(record["worst_case"]) == table["worst case"][model]
        for name, row in record["rows"].items():
            label = name if row["in_worst_case"] else f"{name} (no ball)"
            text, value = table[label][model]
            expected, accuracy = _share(row["accuracy"])
            assert text.startswith(expected) and value == accuracy
    assert table["strongest attack"]["softmax"] == ("39.6 by PGD, cross-entropy", 0.396)
    assert table["zero gradient, cross_entropy"]["MMC"] == ("88.8", 0.888)


def test_the_page_begins_with_the_worst_case(page, results):
    table = page.table("In short")
    assert list(page.tables)[0].startswith("In short")
    for model, record in results["models"].items():
        assert table[model]["worst case"] == _share(record["worst_case"])
        assert table[model]["clean"] == _share(record["clean"])
        assert table[model]["findings"][1] == len(record["findings"])
        rounded = _share(record["worst_case_8_bits"])
        assert table[model]["worst case on 8 bits"] == rounded


def test_what_an_old_record_does_not_say_is_left_out_or_missing(results, tmp_path):
    unsaid = {"worst_case_8_bits", "config"}
    models = {
        name: {fact: said for fact, said in record.items() if fact not in unsaid}
        for name, record in results["models"].items()
    }
    path = report.write_record_page(tmp_path / "old.html", models, title="old")
    page = _Document(path)
    assert "worst case on 8 bits" not in page.table("In short")["MMC"]
    settings = page.table("Seeds and settings")
    assert settings["seed of the training"]["all models"][0] == "not recorded"


def test_each_attack_has_its_counts_and_settings(page, results):
    for model, record in results["models"].items():
        table = page.table(f"{model}, in the order")
        for name, row in record["rows"].items():
            assert table[name]["accuracy, %"] == _share(row["accuracy"])
            assert table[name]["left so far, %"] == _share(row["running_accuracy"])
            assert table[name]["broken"][1] == row["num_broken"]
            assert table[name]["attacked"][1] == row["num_attacked"]
        settings = table["PGD, margin"]["settings"][0]
        assert "pgd: epsilon 0.1, step_size by its rule, num_steps 20" in settings
        targeted = record["rows"]["PGD, targeted margin"]["target_reached"]
        assert table["PGD, targeted margin"]["reached target, %"] == _share(targeted)


def test_the_curve_is_drawn_and_in_numbers(page, results):
    table = page.table("The same in numbers")
    for model, curve in results["accuracy_vs_epsilon"].items():
        for epsilon, value, interval in zip(*curve.values(), strict=True):
            found = table[f"{epsilon:.4g}"][model]
            assert found == _share({"value": value, "interval_95": interval})
    drawn = page.attributes("img", "src")[0]
    svg = base64.b64decode(drawn.removeprefix("data:image/svg+xml;base64,"))
    assert svg.count(b"<path") > 20


def test_bars_show_value_and_interval(page, results):
    bars = page.attributes("span", "style")
    share = results["models"]["MMC"]["worst_case"]
    low, high = share["interval_95"]
    expected = f"--low: {100 * low:.2f}%; --high: {100 * high:.2f}%; --at: 57.60%"
    assert share["value"] == 0.576 and expected in bars


def test_findings_are_there_in_words_and_marks_lead_to_them(page, results):
    notes = [f for r in results["models"].values() for f in r["findings"]]
    words = " ".join(page.texts["li"].split())
    assert len(notes) == 5
    assert all(note["message"] in words for note in notes)
    marked = page.table("500 images")["PGD, cross-entropy"]
    assert marked["MMC"][0].endswith(" !2 !3") and "!" not in marked["softmax"][0]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    marks = [href for href in page.attributes("a", "href") if "finding" in href]
    assert sorted(marks) == sorted(f"#finding-1-{n}" for n in range(1, 6))
    assert {href.removeprefix("#") for href in page.attributes("a", "href")} <= set(ids)


def test_every_figure_is_embedded_and_a_missing_one_is_named(page):
    _, images, features = page.attributes("img", "src")
    for source, name in ((images, "images_mmc.png"), (features, "features.png")):
        assert source.startswith("data:image/png;base64,")
        content = base64.b64decode(source.split(",")[1])
        assert content == (_FOLDER / name).read_bytes()
    assert "Missing: the figure nowhere.png" in page.texts["p"]
    # 1367 dots at 150 an inch.
    assert "--natural: 875px" in page.attributes("img", "style")


def test_command_seeds_and_versions_are_there(page, results):
    assert page.texts["code"] == "python launch/quickstart.py --workdir='a b'"
    environment = results["models"]["MMC"]["environment"]
    versions = page.table("Versions")
    for name in ("jax", "numpy", "python", "git_revision"):
        assert versions[name]["all models"][0] == environment[name]
    settings = page.table("Seeds and settings")
    assert settings["key of the attacks"]["all models"][0] == "[0, 0]"
    assert settings["seed of the training"]["all models"][0] == "0"
    apart = page.table("Seeds and settings, where models differ")
    assert apart["seconds"]["MMC"][0] == str(results["models"]["MMC"]["seconds"])


def test_what_a_record_holds_of_itself_is_shown(results, tmp_path):
    record = results["models"]["MMC"] | {
        "command": "python launch/evaluate.py --epsilon=0.1",
        "seed": 7,
        "config": {"seed": 3, "loss": {"name": "mmc"}},
        "sha256": {"images": "abc"},
        "worst_case_8_bits": results["models"]["softmax"]["worst_case"],
    }
    path = report.write_record_page(tmp_path / "a.html", {"m": record}, title="t")
    page = _Document(path)
    assert page.texts["code"] == record["command"]
    settings = page.table("Seeds and settings")
    assert settings["seed of the attacks"]["m"][0] == "7"
    assert settings["seed of the training"]["m"][0] == "3"
    assert settings["sha256 of images"]["m"][0] == "abc"
    assert page.table("Training")["loss.name"]["m"][0] == "mmc"
    short = page.table("In short")["m"]["worst case on 8 bits"]
    assert short == _share(record["worst_case_8_bits"])
    assert "Accuracy against epsilon" not in page.texts["h2"]


def test_what_does_not_apply_is_not_called_unrecorded(results, tmp_path):
    base = results["models"]["MMC"]
    configs = (
        {"attack": {}, "data": ""},
        {"attack": {"name": "pgd"}, "data": ""},
        None,
    )
    records = {f"m{n}": base | {"config": c} for n, c in enumerate(configs)}
    path = report.write_record_page(tmp_path / "a.html", records, title="t")
    table = _Document(path).table("Training")
    texts = [table["attack.name"][f"m{n}"][0] for n in range(3)]
    assert texts == ["-", "pgd", "not recorded"]
    assert table["data"]["m0"][0] == '""'


def test_an_interrupted_record_is_an_upper_bound(results, tmp_path):
    record = copy.deepcopy(results["models"]["softmax"])
    record["complete"] = record["rows"]["rotation"]["complete"] = False
    path = report.write_record_page(tmp_path / "a.html", {"m": record}, title="t")
    page = _Document(path)
    assert "The evaluation of m was interrupted" in page.texts["p"]
    worst = page.table("500 images")["worst case"]["m"][0]
    assert worst.startswith("at most 38.2") and worst.endswith("(unfinished)")
    assert "was not recorded" in page.texts["p"]
    assert "found nothing to distrust" in page.texts["p"]


def _sources(page):
    return [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]


def test_nothing_is_loaded(page):
    assert all(source.startswith(("data:", "#")) for source in _sources(page))
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", page.source)
    (policy,) = page.attributes("meta", "content")[:1]
    assert policy.startswith("default-src 'none'; img-src data:;")


def _check_script(page):
    """There is one script, the policy's, and no handler of events."""
    assert [tag for tag, _ in page.elements].count("script") == 1
    digest = hashlib.sha256(page.texts["script"].encode()).digest()
    policy = page.attributes("meta", "content")[0]
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]


def test_hostile_names_stay_text(results, tmp_path):
    record = copy.deepcopy(results["models"]["MMC"])
    record["rows"] = {_HOSTILE: record["rows"]["PGD, margin"]}
    record["rows"][_HOSTILE]["hyperparameters"] = {_HOSTILE: _HOSTILE}
    record["environment"] = {_HOSTILE: _HOSTILE}
    record["findings"] = [
        {"name": _HOSTILE, "row": _HOSTILE, "message": _HOSTILE, "numbers": {}}
    ]
    picture = report.Picture(
        "a.png", _HOSTILE, (_FOLDER / "images_mmc.png").read_bytes()
    )
    page = _Document(
        report.write_record_page(
            tmp_path / "a.html",
            {_HOSTILE: record},
            title=_HOSTILE,
            lead=_HOSTILE,
            sections=[report.Section(_HOSTILE, [picture, report.Text(_HOSTILE)])],
            command=f"</code></pre>{_HOSTILE}",
        )
    )
    _check_script(page)
    assert len(page.attributes("img", "src")) == 1
    assert all(source.startswith(("data:", "#")) for source in _sources(page))
    assert page.texts["title"] == page.texts["h1"] == _HOSTILE
    assert page.texts["code"] == f"</code></pre>{_HOSTILE}"
    assert page.texts["li"].count(_HOSTILE) == 5  # a section, and the finding
    assert _HOSTILE in page.table("500 images")[_HOSTILE]


def test_the_document_is_sound(page):
    _check_script(page)
    tags = [tag for tag, _ in page.elements]
    assert page.source.startswith("<!doctype html>\n")
    for only in ("html", "head", "body", "main", "h1", "title", "style"):
        assert tags.count(only) == 1
    assert page.attributes("html", "lang") == ["en"]
    assert len(page.attributes("th", "scope")) == tags.count("th")
    assert all(page.attributes("img", "alt")) and tags.count("img") == 3
    assert tags.count("caption") == tags.count("table") == len(page.tables)
    assert page.table("500 images")["clean"]  # every row fits its header


def test_the_same_content_is_the_same_page(results, tmp_path):
    pages = [
        report.write_page(
            tmp_path / name,
            title="t",
            sections=[report.curve_section(results["accuracy_vs_epsilon"])],
        )
        for name in ("a.html", "b.html")
    ]
    first, second = (path.read_bytes() for path in pages)
    assert first == second


def test_tables_hold_seeds_papers_and_the_strongest_attack(results, tmp_path):
    ours = report.seeds_cell([0.90, 0.96, 0.93])
    table = report.Table(
        "Table 1",
        ("loss", "ours", "the paper", "the strongest attack"),
        [
            [
                [
                    report.Cell("MMC"),
                    ours,
                    report.published_cell(0.56, "recalled"),
                    report.share_cell(results["models"]["MMC"]["worst_case"]),
                ],
                [
                    report.Cell("Center"),
                    report.MISSING,
                    report.published_cell(None, "not in the paper"),
                    report.seeds_cell([0.5]),
                ],
            ]
        ],
    )
    path = report.write_page(
        tmp_path / "a.html", title="t", sections=[report.Section("s", [table])]
    )
    page = _Document(path)
    found = page.table("Table 1")
    assert found["MMC"]["ours"] == ("93.0 ± 3.0 3 seeds", pytest.approx(0.93))
    assert found["MMC"]["the paper"] == ("56.0 recalled", 0.56)
    assert found["MMC"]["the strongest attack"][0] == "57.6 [53.2, 61.9]"
    assert found["Center"]["ours"] == ("-", None)
    assert found["Center"]["the paper"] == ("- not in the paper", None)
    assert found["Center"]["the strongest attack"] == ("50.0 1 seed", 0.5)
    assert page.attributes("td", "class").count("number published") == 2
    assert report.seeds_cell([]) == report.MISSING


def test_what_is_no_number_sorts_last_and_what_is_infinite_by_size(tmp_path):
    values = (0.5, float("nan"), float("inf"), -float("inf"), None)
    rows = [[report.Cell("a"), report.Cell("b", value=value)] for value in values]
    path = report.write_page(
        tmp_path / "a.html", title="t", sections=[report.Section("s", [_table(*rows)])]
    )
    found = [row[1][1] for row in _Document(path).tables["c"][1:]]
    assert found == ["0.5", None, "Infinity", "-Infinity", None]


def _table(*rows):
    return report.Table("c", ("a", "b"), [rows])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _table([report.Cell("x")]), "a row of 'c' has 1 cells under 2"),
        (lambda: report.Picture("a.gif", "c", b""), "a.gif is no picture for a page"),
        (lambda: report.Picture("a.svg", "c", b"<svg>").width, "width in points"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nothing_to_show_is_an_error_and_no_file(results, tmp_path):
    path = tmp_path / "a.html"
    empty = [report.Section("nothing", [])]
    with pytest.raises(ValueError, match="sections are empty"):
        report.write_page(path, title="t", sections=empty)
    with pytest.raises(ValueError, match="records are empty"):
        report.write_record_page(path, {}, title="t")
    with pytest.raises(ValueError, match="'m' is no record of an evaluation: it lacks"):
        report.write_record_page(path, {"m": {"rows": {}}}, title="t")
    whole = results["models"]["MMC"]
    for fact in ("findings", "environment", "num_classes"):
        part = {name: value for name, value in whole.items() if name != fact}
        with pytest.raises(ValueError, match=f"it lacks {fact}$"):
            report.write_record_page(path, {"m": part}, title="t")
    assert not list(tmp_path.iterdir())


def test_marks_of_two_sections_lead_to_their_own_findings(tmp_path):
    table = report.Table("c", ("a",), [[[report.Cell("x", findings=(1,))]]])
    found = report.Findings([Note(1, "flat_loss", "m", "it is flat")])
    section = report.Section("s", [table, found])
    path = report.write_page(tmp_path / "a.html", title="t", sections=[section] * 2)
    page = _Document(path)
    assert page.attributes("a", "href") == ["#finding-1-1", "#finding-2-1"]
    assert page.attributes("li", "id") == ["finding-1-1", "finding-2-1"]
    assert "flat loss" in page.texts["strong"]
