"""Reports: tables as text, figures, and pages that hold both.

`tables` and `transfer` make text; runs, curves, images, features and transfer become
figures; `page` puts cells, pictures and findings into one HTML file. `record_page`
makes that of an experiment from its records, `evaluation` that of one evaluation, with
its record. `image_sections`, `curves` and `transfer` make sections of what else there
is, and `markdown` writes a page as Markdown.
"""

from mmc_jax.report.cells import (
    MISSING,
    Cell,
    Table,
    published_cell,
    seeds_cell,
    share_cell,
)
from mmc_jax.report.comparison import Note
from mmc_jax.report.curves import battery_section, minimum_norm_section
from mmc_jax.report.evaluation import write_evaluation
from mmc_jax.report.figures import (
    accuracy_vs_epsilon,
    feature_map,
    training_curves,
)
from mmc_jax.report.image_sections import (
    features_section,
    picture_sections,
    triples_section,
)
from mmc_jax.report.markdown import write_markdown
from mmc_jax.report.origin import origin_section
from mmc_jax.report.page import Code, Findings, Picture, Section, Text, write_page
from mmc_jax.report.pictures import image_triples
from mmc_jax.report.record_page import (
    curve_of_records,
    curve_section,
    evaluation_section,
    rows_section,
    write_record_page,
)
from mmc_jax.report.tables import render
from mmc_jax.report.transfer import (
    render_transfer,
    transfer_heat_map,
    transfer_section,
)

__all__ = [
    "MISSING",
    "Cell",
    "Code",
    "Findings",
    "Note",
    "Picture",
    "Section",
    "Table",
    "Text",
    "accuracy_vs_epsilon",
    "battery_section",
    "curve_of_records",
    "curve_section",
    "evaluation_section",
    "feature_map",
    "features_section",
    "image_triples",
    "minimum_norm_section",
    "origin_section",
    "picture_sections",
    "published_cell",
    "render",
    "render_transfer",
    "rows_section",
    "seeds_cell",
    "share_cell",
    "training_curves",
    "transfer_heat_map",
    "transfer_section",
    "triples_section",
    "write_evaluation",
    "write_markdown",
    "write_page",
    "write_record_page",
]
