"""Bugs to plant in the experiments and their pages, for `negative_controls`."""

from __future__ import annotations

from _negative_controls import Control

_EXPERIMENTS = "mmc_jax/experiments/"
_PAGE = "reproduce_page::test_the_page_says_what_the_cells_say"
_WORST = "reproduce_page::test_the_worst_case_counts_what_other_experiments_stored"

IN_EXPERIMENTS = (
    Control(
        "a cell is used again under changed settings",
        "ours",
        _EXPERIMENTS + "store.py",
        'content["identity"] == plan.identity(wanted)',
        'content["identity"].keys() == plan.identity(wanted).keys()',
        ("reproduce::test_a_cell_of_other_settings_does_not_count",),
    ),
    Control(
        "a cell of other data is used again",
        "ours",
        _EXPERIMENTS + "run.py",
        'return cell is not None and not splits.differences(cell["data"])',
        "return cell is not None",
        ("reproduce::test_only_what_is_missing_is_measured",),
    ),
    Control(
        "a model that is trained again goes on with the old one's journal",
        "ours",
        _EXPERIMENTS + "store.py",
        "given = [identity, models, sha256, source_sha256()]",
        "given = [identity, [*models], sha256, source_sha256()]",
        ("reproduce::test_journals_are_told_apart_and_go_with_their_cell",),
    ),
    Control(
        "what C&W does not break counts as distance 0",
        "the paper's table of distances",
        _EXPERIMENTS + "distances.py",
        "            d\n"
        '            for d, hit in zip(cell["distances"], cell["success"],'
        " strict=True)\n"
        "            if _is(hit)\n",
        "            d if _is(hit) else 0.0\n"
        '            for d, hit in zip(cell["distances"], cell["success"],'
        " strict=True)\n",
        (
            "reproduce_page::test_means_are_of_what_was_broken_and_medians_of_what_was_right",
        ),
    ),
    Control(
        "a mean over seeds leaves out the first",
        "ours",
        _EXPERIMENTS + "tables.py",
        'seeds_cell([share["value"] for share in shares])',
        'seeds_cell([share["value"] for share in shares[1:]])',
        (_PAGE,),
    ),
    Control(
        "seeds with the same accuracy count once",
        "ours",
        _EXPERIMENTS + "tables.py",
        'seeds_cell([share["value"] for share in shares])',
        'seeds_cell([*{share["value"] for share in shares}])',
        ("reproduce_page::test_seeds_that_agree_count_each",),
    ),
    Control(
        "the worst case leaves out other experiments' cells",
        "ours",
        _EXPERIMENTS + "view.py",
        "for other in self._stored(model, seed):",
        "for other in self.attacks(model, radius)[:0]:",
        (_WORST,),
    ),
    Control(
        "the worst case takes in attacks on other weights",
        "ours",
        _EXPERIMENTS + "view.py",
        '        and cell["models"] == other["models"]\n',
        "",
        (_WORST,),
    ),
    Control(
        "the worst case takes in attacks on other images",
        "ours",
        _EXPERIMENTS + "view.py",
        '        and _data_alike(cell["data"], other["data"])\n',
        "",
        (_WORST,),
    ),
    Control(
        "the worst case takes in attacks in another ball",
        "ours",
        _EXPERIMENTS + "view.py",
        '        and one["settings"]["epsilon"] == two["settings"]["epsilon"]\n',
        "",
        (_WORST,),
    ),
    Control(
        "seeds are compared on different images",
        "ours",
        _EXPERIMENTS + "view.py",
        "_share(left[: _shared(found)])",
        "_share(left)",
        (
            "reproduce_page::test_seeds_are_judged_on_the_images_that_all_of_them_attacked",
        ),
    ),
    Control(
        "noise breaks images of the worst case",
        "ours",
        _EXPERIMENTS + "view.py",
        'if record["rows"][name]["in_worst_case"]:',
        "if name in record['rows']:",
        ("reproduce_page::test_noise_is_in_no_worst_case",),
    ),
    Control(
        "the paper's numbers lose how certain they are",
        "ours",
        "mmc_jax/report/cells.py",
        "details=(certainty,), is_published=True",
        "is_published=True",
        (_PAGE,),
    ),
)
