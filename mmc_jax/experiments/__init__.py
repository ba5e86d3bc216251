"""The paper's experiments: train and measure what is missing, and write one page.

    plan = Plan(**configs.experiments.expand("table1", "mnist", "smoke"))
    work = find_work(plan, out, runs, splits)
    do_work(work, splits, batch_size=128, report=print)
    write_pages(plan, out)

Read `plan` first (models and cells as plain data), then `store` (a cell on the disk),
`run` (the loop) and `kinds` (what can be measured; adding to it). `view` reads what is
stored; `tables`, `distances`, `transfers` and `origin` make sections of it, `page` the
page. `estimate` says beforehand what it will take.
"""

from mmc_jax.experiments.estimate import Estimate, estimate_work
from mmc_jax.experiments.kinds import KINDS, Kind
from mmc_jax.experiments.page import write_pages
from mmc_jax.experiments.plan import Plan, Wanted
from mmc_jax.experiments.run import Work, cell_name, do_work, find_work, training_name
from mmc_jax.experiments.subject import Subject, Task

__all__ = [
    "KINDS",
    "Estimate",
    "Kind",
    "Plan",
    "Subject",
    "Task",
    "Wanted",
    "Work",
    "cell_name",
    "do_work",
    "estimate_work",
    "find_work",
    "training_name",
    "write_pages",
]
