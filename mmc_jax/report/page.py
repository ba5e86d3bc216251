"""A page: one HTML file that needs nothing else, for a screen, a phone or paper.

    write_page(
        "report.html",
        title="MNIST, white box",
        sections=[
            Section("Accuracy", [Text("Three seeds each."), Table(...)]),
            Section("Features", [Picture.from_file("features.png", "MMC")]),
            Section("How it was made", [Code("python launch/reproduce.py ...")]),
        ],
    )

A section holds blocks: `Text`, `Table` (see `cells`), `Picture`, `Findings` and `Code`.
Pictures, style and script are inside the file; its content security policy lets it load
nothing and run nothing else. The same content gives the same bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence
from typing import ClassVar

import jinja2

from mmc_jax import __version__
from mmc_jax.evaluate import inputs
from mmc_jax.report.cells import Table
from mmc_jax.report.comparison import Note
from mmc_jax.report.style import DOTS_PER_INCH, Path

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    is_warning: bool = False
    """Whether a reader who skims must not miss it."""
    kind: ClassVar[str] = "text"


@dataclasses.dataclass(frozen=True)
class Code:
    """A command, as it is typed."""

    text: str
    kind: ClassVar[str] = "code"


@dataclasses.dataclass(frozen=True)
class Findings:
    """Findings in words; the marks of the tables of the same section point here."""

    notes: Sequence[Note]
    kind: ClassVar[str] = "findings"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure, as bytes, so that the page needs no file beside it."""

    name: str
    """The file's name."""
    caption: str
    content: bytes | None
    """A PNG or an SVG; None where there is none, and the page says so."""
    description: str = ""
    """For those who cannot see it; the caption where empty."""
    kind: ClassVar[str] = "picture"

    def __post_init__(self) -> None:
        """Refuse what browsers would not show alike."""
        if pathlib.Path(self.name).suffix not in _MEDIA:
            raise ValueError(
                f"{self.name} is no picture for a page; accepted: {', '.join(_MEDIA)}"
            )

    @classmethod
    def from_file(cls, path: Path, caption: str, *, description: str = "") -> Picture:
        """Read a figure; where the file is missing, the page will say so."""
        path = pathlib.Path(path)
        content = path.read_bytes() if path.exists() else None
        return cls(path.name, caption, content, description)

    @classmethod
    def drawn(
        cls,
        draw: Callable[[pathlib.Path], object],
        name: str,
        caption: str,
        *,
        description: str = "",
    ) -> Picture:
        """Return what `draw` writes into the file that it is given."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / name
            draw(path)
            return cls.from_file(path, caption, description=description)

    @property
    def uri(self) -> str:
        """The content as an address that holds it."""
        text = base64.b64encode(self.content or b"").decode("ascii")
        return f"data:{_MEDIA[pathlib.Path(self.name).suffix]};base64,{text}"

    @property
    def width(self) -> int:
        """Its natural width in CSS pixels, of which an inch has 96."""
        content = self.content or b""
        if not self.name.endswith(".svg"):
            # After the signature, and a length and a name, of eight bytes each.
            return round(int.from_bytes(content[16:20], "big") * 96 / DOTS_PER_INCH)
        points = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', content)
        if points is None:
            raise ValueError(f"{self.name} must say its width in points")
        return round(float(points[1]) * 96 / 72)


Block = Text | Code | Findings | Picture | Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def write_page(
    path: Path, *, title: str, sections: Sequence[Section], lead: str = ""
) -> pathlib.Path:
    """Write a page, whole or not at all.

    Args:
      path: the file to write; missing directories are made.
      title: of the page.
      sections: in order; those without a block are left out.
      lead: a paragraph under the title.

    Returns:
      The path.

    Raises:
      ValueError: if no section has a block, or a picture is neither PNG nor SVG.
    """
    filled = [section for section in sections if section.blocks]
    if not filled:
        raise ValueError("sections are empty: there is nothing to show")
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=filled,
        version=__version__,
        script_sha256=base64.b64encode(digest).decode("ascii"),
    )
    inputs.write_text(text, path)
    return pathlib.Path(path)
