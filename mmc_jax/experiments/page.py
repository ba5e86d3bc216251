"""The page of an experiment, made of its stored cells alone, as HTML and Markdown."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from mmc_jax.experiments.distances import distances_section
from mmc_jax.experiments.kinds import KINDS
from mmc_jax.experiments.origin import origin_section
from mmc_jax.experiments.plan import Plan
from mmc_jax.experiments.tables import accuracy_sections, transformations_section
from mmc_jax.experiments.transfers import transfer_sections
from mmc_jax.experiments.view import View, describe_missing, results
from mmc_jax.report import Code, Section, Text, write_markdown, write_page
from mmc_jax.report.page import Block

SECTIONS: dict[str, Callable[[View], list[Section]]] = {
    "distances": lambda view: [distances_section(view)],
    "transformations": lambda view: [transformations_section(view)],
    "transfer": transfer_sections,
}
"""Word in an experiment's `more` -> its sections; a kind's own need no line here."""

_MOST_NAMED = 8
_TRIAL = (
    "A trial: models that were hardly trained, few images, short attacks. It shows that"
    " everything runs; its numbers mean nothing."
)
_MIXED = (
    "Cells are of splits of several sizes, at the end of this page: do not compare"
    " them. The command there measures anew what is not of the data at hand."
)
_HOW = (
    "The attacks of the paper take a fixed number of fixed steps, and judge their"
    " last iterate, whatever came before it. On MMC and its variants they follow the"
    " paper's adaptive objective, the distance to the own center (or, targeted, to"
    " the target's); on other models cross-entropy, and SPSA the margin. Accuracy is"
    " always that of the true label. They are not the strongest attacks, so the"
    " worst case, image by image, over all attacks on that image stands beside them:"
    " AutoAttack, on distance logits our multi-targeted attack after it, and all"
    " others that are stored of the same weights and radius."
)


def write_pages(plan: Plan, out: pathlib.Path) -> list[pathlib.Path]:
    """Write `<experiment>.html` and `<experiment>.md` from what is stored.

    Args:
      plan: the whole experiment, whatever part of it was run.
      out: where results lie.

    Returns:
      The paths.

    Raises:
      ValueError: for a damaged cell; it names the file.
    """
    folder = plan.folder(out)
    view = View(plan, folder)
    sections = [
        _reading(view),
        *(accuracy_sections(view) if plan.columns else []),
        *(section for name in plan.more for section in _more(view, name)),
        origin_section(view),
    ]
    lead = f"Pang et al., ICLR 2020: {plan.paper}. Scale {plan.scale}: {plan.about}."
    title = f"{plan.title}: {plan.dataset}"
    lead = f"{_TRIAL} {lead}" if plan.is_trial else lead
    return [
        write(
            folder / f"{plan.experiment}.{suffix}",
            title=title,
            sections=sections,
            lead=lead,
        )
        for suffix, write in (("html", write_page), ("md", write_markdown))
    ]


def _more(view: View, name: str) -> list[Section]:
    if name in SECTIONS:
        return SECTIONS[name](view)
    section, found = KINDS[name].section, results(view, name)
    return [section(found)] if section is not None and found else []


def _reading(view: View) -> Section:
    """Return how to read the numbers, what is missing, and what was left out."""
    plan, blocks = view.plan, list[Block]()
    if plan.is_trial:
        blocks.append(Text(_TRIAL, is_warning=True))
    if any(cell["data"]["is_subset"] for cell in view.cells.values()):
        part = f"Of {plan.dataset} only a part was at hand: this is no result on it."
        blocks.append(Text(part, is_warning=True))
    if len({tuple(cell["data"]["sizes"].items()) for cell in view.cells.values()}) > 1:
        blocks.append(Text(_MIXED, is_warning=True))
    if plan.columns:
        blocks.append(Text(_HOW))
    blocks += [
        Text(f"{label} is not here: {reason}, which {plan.dataset} does not have.")
        for label, reason in plan.left_out.items()
    ]
    if view.missing:
        names = [describe_missing(wanted) for wanted in view.missing]
        more = len(names) - _MOST_NAMED
        shown = "; ".join(names[:_MOST_NAMED])
        shown += f"; and {more} more" if more > 0 else ""
        text = (
            f"{len(names)} of {len(plan.wanted)} measurements are missing ({shown})."
            " This makes them:"
        )
        blocks += [Text(text, is_warning=True), Code(plan.command)]
    return Section("How to read this", blocks)
