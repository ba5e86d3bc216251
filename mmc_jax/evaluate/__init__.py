"""Evaluation: attack every image, check what comes back, keep the worst case.

    record = robust_accuracy(
        logits_fn, images, labels,
        {"fgsm": dict(name="fgsm", objective="margin"),
         "pgd": dict(name="pgd", objective="margin", num_steps=40, step_size=0.01)},
        jax.random.key(0), norm="linf", epsilon=8 / 255,
    )
    record.worst_case.value, record.worst_case.interval, record.findings

Read `robust` first (the function above and what it promises), then `run` (the loop),
`batch` (one turn of it), `verdict` (what counts as adversarial) and `record` (what
comes out). `checks` and `rows` refuse bad input before any work; `cost` says beforehand
what it will take; `journal` lets a killed run go on. `saved` writes the adversarial
images, which `verify` judges with code of its own.

`minimum_norm` asks for the smallest distance instead of what is broken in a ball, and
`transfer_matrix` scores models on each other's adversarial images.
"""

from mmc_jax.evaluate.cost import CostEstimate, estimate_cost
from mmc_jax.evaluate.journal import remove_journal
from mmc_jax.evaluate.minimum_norm import MinimumNormRecord, minimum_norm
from mmc_jax.evaluate.progress import Progress
from mmc_jax.evaluate.record import EvaluationRecord, RowRecord, Share
from mmc_jax.evaluate.robust import EvaluationInterrupted, robust_accuracy
from mmc_jax.evaluate.robustbench import robustbench_entry
from mmc_jax.evaluate.rounding import round_to_8_bits
from mmc_jax.evaluate.saved import save_images
from mmc_jax.evaluate.transfer import TransferRecord, transfer_matrix
from mmc_jax.evaluate.verify import (
    SavedImages,
    Verification,
    read_images,
    verify_images,
)

__all__ = [
    "CostEstimate",
    "EvaluationInterrupted",
    "EvaluationRecord",
    "MinimumNormRecord",
    "Progress",
    "RowRecord",
    "SavedImages",
    "Share",
    "TransferRecord",
    "Verification",
    "estimate_cost",
    "minimum_norm",
    "read_images",
    "remove_journal",
    "robust_accuracy",
    "robustbench_entry",
    "round_to_8_bits",
    "save_images",
    "transfer_matrix",
    "verify_images",
]
