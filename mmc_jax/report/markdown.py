"""A page as Markdown: the same tables, texts and findings, for where HTML is not shown.

Pictures are left to the HTML page; their captions say that they are there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from mmc_jax.evaluate import inputs
from mmc_jax.report.cells import MARK, Table
from mmc_jax.report.page import Block, Code, Findings, Picture, Section, Text
from mmc_jax.report.style import Path
from mmc_jax.report.tables import grid


def write_markdown(
    path: Path, *, title: str, sections: Sequence[Section], lead: str = ""
) -> pathlib.Path:
    """Write what `write_page` makes HTML of as Markdown, whole or not at all.

    Args:
      path: the file to write; missing directories are made.
      title: of the page.
      sections: in order; those without a block are left out.
      lead: a paragraph under the title.

    Returns:
      The path.
    """
    parts = [f"# {title}", *([lead] if lead else [])]
    for section in sections:
        if section.blocks:
            parts.append(f"## {section.title}")
            parts += [_render(block) for block in section.blocks]
    inputs.write_text("\n\n".join(parts) + "\n", path)
    return pathlib.Path(path)


def _render(block: Block) -> str:
    match block:
        case Text():
            return f"**{block.text}**" if block.is_warning else block.text
        case Code():
            return f"```\n{block.text}\n```"
        case Picture():
            return f"*{block.caption} (in the HTML page)*"
        case Findings():
            return "\n".join(
                f"- {MARK}{note.number} {note.name}: {note.where}: {note.message}"
                for note in block.notes
            )
        case Table():
            return "\n".join(_table(block))


def _table(table: Table) -> Iterator[str]:
    yield f"{table.caption}:"
    yield ""
    groups = [[[_escape(cell) for cell in row] for row in g] for g in table.groups]
    yield from grid([_escape(name) for name in table.header], groups, "markdown")


def _escape(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
