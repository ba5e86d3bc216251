"""The page of an experiment: its numbers are those of the cells, by hand."""

from __future__ import annotations

from mmc_jax import experiments
from mmc_jax.evaluate import Share
from mmc_jax.experiments import tables, view
from mmc_jax.experiments.distances import distance_cell
from mmc_jax.report import Cell, Code, Picture, Section, Table, Text
from mmc_jax.report.markdown import write_markdown
from tests.reproduce_cases import SETTINGS, fill, make_plan, record

STRONGEST = dict(SETTINGS, mode="cascade")


def attacked_plan(**changes):
    """Return a plan with PGD and the strongest attack, of two seeds."""
    cells = [
        (("one",), seed, cell, kind, settings)
        for seed in (0, 1)
        for cell, kind, settings in (
            ("clean", "clean", {}),
            ("pgd_0.1", "attacks", SETTINGS),
            ("strongest_0.1", "attacks", STRONGEST),
        )
    ]
    return make_plan(cells, columns=("clean", "pgd"), **changes)


def attacked_results():
    """Return its results: each attack breaks an image that the others leave."""
    return {
        ("one", 0, "clean"): {"accuracy": Share(9, 10).to_dict()},
        ("one", 1, "clean"): {"accuracy": Share(8, 10).to_dict()},
        ("one", 0, "pgd_0.1"): record("11110", {"pgd": "01110"}),
        ("one", 1, "pgd_0.1"): record(
            "1111", {"pgd": "1111"}, findings=[("zero_gradient", "pgd", "is flat")]
        ),
        ("one", 0, "strongest_0.1"): record("1111", {"apgd": "1011"}, mode="cascade"),
        ("one", 1, "strongest_0.1"): record("1111", {"apgd": "1110"}, mode="cascade"),
    }


def test_where_nothing_was_measured_nothing_is_found_sound(tmp_path):
    plan = attacked_plan()
    _, markdown = experiments.write_pages(plan, tmp_path)
    assert "nothing to distrust" not in markdown.read_text()
    strongest = ("one", 0, "strongest_0.1")
    fill(plan, plan.folder(tmp_path), {strongest: attacked_results()[strongest]})
    experiments.write_pages(plan, tmp_path)
    assert "nothing to distrust" in markdown.read_text()


def test_cells_of_other_data_are_pointed_out(tmp_path):
    plan, results = attacked_plan(), attacked_results()
    fill(plan, plan.folder(tmp_path), results)
    _, markdown = experiments.write_pages(plan, tmp_path)
    warning = "splits of several sizes"
    assert warning not in markdown.read_text()
    clean = {key: results[key] for key in [("one", 0, "clean")]}
    part = dict(source="a source", sizes={"test": 3}, is_subset=False)
    fill(plan, plan.folder(tmp_path), clean, data=part)
    experiments.write_pages(plan, tmp_path)
    assert warning in markdown.read_text()


def test_the_page_says_what_the_cells_say(tmp_path):
    published = {"one": {"pgd 0.1": (0.321, "recalled")}}
    plan = attacked_plan(published=published)
    fill(plan, plan.folder(tmp_path), attacked_results())
    html, markdown = experiments.write_pages(plan, tmp_path)
    line = _line(markdown, "| One ")
    # By hand: clean 0.9, 0.8; PGD 3/5, 4/4; seed 0 loses image 0 to PGD and 1 to APGD.
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "One",
        "62.5 ± 17.7 2 seeds n 4",
        "85.0 ± 7.1 2 seeds n 10",
        "80.0 ± 28.3 2 seeds n 5, 4 !1",
        "32.1 recalled",
    ]
    assert "- !1 zero_gradient: One, pgd, seed 1: is flat" in markdown.read_text()
    assert "32.1" in html.read_text() and "are missing" not in html.read_text()


def _line(path, start):
    return next(line for line in path.read_text().split("\n") if line.startswith(start))


def test_the_worst_case_counts_what_other_experiments_stored(tmp_path):
    plan = attacked_plan()
    folder = plan.folder(tmp_path)
    fill(plan, folder, attacked_results())

    def left():
        return [s["count"] for s in view.View(plan, folder).worst_case("one", "0.1")]

    assert left() == [2, 3]
    more = make_plan([(("one",), 1, "spsa_0.1", "attacks", {**SETTINGS, "rows": {}})])
    found = {("one", 1, "spsa_0.1"): record("1111", {"spsa": "0011"})}
    fill(more, folder, found)
    assert left() == [2, 1]
    fill(more, folder, found, models={"one": "others"})
    assert left() == [2, 3], "attacks on other weights must not count"
    fill(more, folder, found, data=dict(source="a", sizes={"test": 9}, is_subset=False))
    assert left() == [2, 3], "attacks on other images must not count"
    fill(plan, folder, attacked_results(), data=_digested("ours"))
    for digest, expected in (("ours", [2, 1]), ("others", [2, 3])):
        fill(more, folder, found, data=_digested(digest))
        assert left() == expected, "as many, but other images, must not count"
    away = make_plan(
        [(("one",), 1, "spsa_0.1", "attacks", {**SETTINGS, "epsilon": "0.2"})]
    )
    fill(away, folder, found)
    assert left() == [2, 3], "attacks in another ball must not count"


def _digested(digest):
    return dict(source="a", sizes={"test": 4}, sha256={"test": digest})


def test_seeds_are_judged_on_the_images_that_all_of_them_attacked(tmp_path):
    plan, results = attacked_plan(), attacked_results()
    rows = {"apgd": "0111", "square": "1011"}
    results["one", 0, "strongest_0.1"] = record("1110", rows, mode="cascade")
    results["one", 1, "strongest_0.1"] = record("11", {"apgd": "10"}, mode="cascade")
    fill(plan, plan.folder(tmp_path), results)
    seen = view.View(plan, plan.folder(tmp_path))
    # PGD breaks image 0 of seed 0 too; of its four images the first two count.
    assert _counts(seen.worst_case("one", "0.1")) == [(0, 2), (1, 2)]
    left = seen.cascade("one", "0.1")
    assert _counts(left["clean"]) == [(2, 2), (2, 2)]
    assert _counts(left["apgd"]) == [(1, 2), (1, 2)]
    assert _counts(left["square"]) == [(0, 2)]


def _counts(shares):
    return [(share["count"], share["total"]) for share in shares]


def test_noise_is_in_no_worst_case():
    found = record("111", {"noise": "011", "pgd": "101"})
    found["rows"]["noise"]["in_worst_case"] = False
    left = view.images_left(found)
    assert [*left] == ["clean", "pgd"] and left["pgd"].tolist() == [True, False, True]


def test_seeds_that_agree_count_each():
    shares = [Share(count, 10).to_dict() for count in (9, 9, 6)]
    cell = tables.shares_cell(shares)
    assert cell.text == "80.0 ± 17.3" and cell.details[0] == "3 seeds"


def test_what_is_missing_is_said(tmp_path):
    plan = attacked_plan()
    fill(plan, plan.folder(tmp_path), {("one", 0, "clean"): _clean(9, 10)})
    _, markdown = experiments.write_pages(plan, tmp_path)
    text = markdown.read_text()
    assert "5 of 6 measurements are missing (one, seed 0: pgd_0.1; " in text
    assert f"```\n{plan.command}\n```" in text
    assert "| 90.0 [59.6, 98.2] n 10 | -   |" in text


def _clean(count, total):
    return {"accuracy": Share(count, total).to_dict()}


def test_the_page_has_no_times_and_one_form(tmp_path):
    """Cells of a run that was killed differ in their times alone."""
    plan = attacked_plan()
    pages = []
    for number, now in enumerate(("now", "later")):
        out = tmp_path / now
        fill(
            plan,
            plan.folder(out),
            attacked_results(),
            seconds=float(number),
            environment={"jax": "1", "time": now},
        )
        pages.append([p.read_bytes() for p in experiments.write_pages(plan, out)])
    assert pages[0] == pages[1]


def test_weights_that_differ_are_said(tmp_path):
    plan = attacked_plan()
    folder = plan.folder(tmp_path)
    fill(plan, folder, attacked_results())
    _, markdown = experiments.write_pages(plan, tmp_path)
    assert "trained again in between" not in markdown.read_text()
    fill(plan, folder, {("one", 1, "clean"): _clean(8, 10)}, models={"one": "another"})
    _, markdown = experiments.write_pages(plan, tmp_path)
    assert "Cells of One, seed 1, are of weights that differ" in markdown.read_text()


def test_what_is_left_after_each_attack_is_of_all_images(tmp_path):
    plan, results = attacked_plan(), attacked_results()
    strongest = record("1111", {"apgd": "1011", "square": "1001"}, mode="cascade")
    # Of the three that were left to it.
    strongest["rows"]["square"]["accuracy"] = Share(2, 3).to_dict()
    results["one", 0, "strongest_0.1"] = strongest
    fill(plan, plan.folder(tmp_path), results)
    _, markdown = experiments.write_pages(plan, tmp_path)
    text = markdown.read_text().split("What the strongest attack is made of")[1]
    line = next(line for line in text.splitlines() if line.startswith("| One "))
    assert line.split("|")[4].split()[0] == "50.0"


def test_the_strongest_attack_is_that_of_the_radius(tmp_path):
    settings = dict(SETTINGS, mode="cascade")
    radii = ("0.1", "0.2")
    cells = [
        (("one",), 0, f"strongest_{r}", "attacks", dict(settings, epsilon=r))
        for r in radii
    ]
    stored = {
        ("one", 0, f"strongest_{r}"): record("1111", {"a": left}, mode="cascade")
        for r, left in zip(radii, ("0111", "0001"), strict=True)
    }
    fill(make_plan(cells), tmp_path, stored)
    seen = view.View(make_plan([(("one",), 0, "clean", "clean", {})]), tmp_path)
    assert [seen.worst_case("one", r)[0]["count"] for r in radii] == [3, 1]


def test_noise_and_rotation_have_columns_of_their_own(tmp_path):
    settings = dict(SETTINGS, epsilon="0")
    cells = [(("one",), 0, "transformations", "attacks", settings)]
    plan = make_plan(cells, more=("transformations",))
    found = record("1111", {"noise": "0111", "rotation": "0001"})
    fill(plan, plan.folder(tmp_path), {("one", 0, "transformations"): found})
    _, markdown = experiments.write_pages(plan, tmp_path)
    text = markdown.read_text().split("## Noise and rotation")[1]
    line = next(line for line in text.splitlines() if line.startswith("| One "))
    assert [cell.split()[0] for cell in line.split("|")[3:5]] == ["75.0", "25.0"]


def test_means_are_of_what_was_broken_and_medians_of_what_was_right(tmp_path):
    settings = dict(attack={"name": "carlini_wagner"}, norm="l2", num_images=4)
    cells = [(("one",), s, "cw", "minimum_norm", settings) for s in (0, 1)]
    plan = make_plan(cells, more=("distances",))
    results = {
        ("one", 0, "cw"): _distances([0.0, 1.0, 3.0, None], "0111", "0110"),
        ("one", 1, "cw"): _distances([4.0, 0.0, 0.0, 0.0], "1000", "1000"),
    }
    fill(plan, plan.folder(tmp_path), results)
    _, markdown = experiments.write_pages(plan, tmp_path)
    # By hand: means 2 and 4 of the seeds, median of 1, 3, 4 and one that held.
    assert _line(markdown, "| One ").split("|")[2:4] == [
        " 3.000 ± 1.414 median 3.500 2 seeds n 4 ",
        " 1          ",
    ]
    cell = distance_cell([_distances([1.0, None, None], "111", "100")])
    assert cell.text == "1.000" and cell.details[0] == "median not reached"


def _distances(distances, clean_correct, success):
    return dict(distances=distances, clean_correct=clean_correct, success=success)


def test_markdown_has_every_block(tmp_path):
    table = Table("What", ("a", "b"), [[[Cell("x|y"), Cell("2", value=2.0)]]])
    blocks = [
        Text("Read."),
        Text("Beware.", is_warning=True),
        Code("python x"),
        table,
        Picture("a.svg", "A map", b'<svg width="1pt">'),
    ]
    sections = [Section("One", blocks), Section("None", [])]
    path = write_markdown(tmp_path / "a.md", title="T", sections=sections, lead="L")
    assert path.read_text() == (
        "# T\n\nL\n\n## One\n\nRead.\n\n**Beware.**\n\n```\npython x\n```\n\nWhat:\n\n"
        "| a    | b |\n|------|---|\n| x\\|y | 2 |\n\n*A map (in the HTML page)*\n"
    )


def test_transfer_names_the_weaker_attack(tmp_path):
    settings = dict(
        attack={"name": "pgd", "num_steps": 10}, epsilon="0.1", objectives={}
    )
    cells = [(("one", "other"), 0, "pgd-10_0.1", "transfer", settings)]
    plan = make_plan(cells, more=("transfer",))
    result = dict(
        clean=dict(one="1111", other="1110"),
        correct=dict(
            one=dict(one="0000", other="0110"), other=dict(one="1000", other="1110")
        ),
    )
    fill(plan, plan.folder(tmp_path), {("one+other", 0, "pgd-10_0.1"): result})
    _, markdown = experiments.write_pages(plan, tmp_path)
    row = _line(markdown, "| Other ").split("|")[2:4]
    assert [cell.split()[0] for cell in row] == ["25.0", "75.0"]
    assert _line(markdown, "| strongest ").split("|")[2].strip() == "-"
    strongest = [(("one",), 0, "strongest_0.1", "attacks", STRONGEST)]
    stored = {("one", 0, "strongest_0.1"): record("1111", {"apgd": "0001"})}
    stored["one", 0, "strongest_0.1"]["mode"] = "cascade"
    fill(make_plan(strongest), plan.folder(tmp_path), stored)
    _, markdown = experiments.write_pages(plan, tmp_path)
    assert _line(markdown, "| strongest ").split("|")[2].split()[0] == "25.0"
    assert (
        "black_box_stronger: Other, crafted on One, all seeds" in markdown.read_text()
    )
    assert "One, crafted on" not in markdown.read_text()
