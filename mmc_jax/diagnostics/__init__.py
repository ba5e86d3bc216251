"""Signs that a robustness number is not what it seems, each a named `Finding`.

| finding | what it says | what to do | who looks |
|---|---|---|---|
| `zero_gradient` | no gradient to follow on many images | another objective | E B |
| `objective_disagreement` | another objective breaks far more | believe that one | E |
| `box_or_ball_violation` | the attack returned images that do not count | mend it | E |
| `probabilities_as_logits` | the model seems to end in a softmax | cut it off | E B |
| `randomised` | forwards differ, and the attack ignores it | declare it, EOT | E B |
| `too_few_classes` | AutoAttack without DLR | other attacks beside it | E |
| `black_box_stronger` | queries or transfer break more images | masked | E B T |
| `noise_as_strong` | noise in the ball breaks as many as the attack | masked | E B |
| `flat_loss` | the attack hardly lowers its own objective | masked | B |
| `more_steps_help` | accuracy still falls steeply at the most steps | more steps | B |
| `more_steps_hurt` | accuracy rises with the steps | smaller steps, keep the best | B |
| `large_epsilon` | above chance where any image may become any other | masked | B |

E: every `evaluate.robust_accuracy` looks, row by row. B: `gradient_masking_battery`,
sweeps over a few hundred images. T: `evaluate.transfer_matrix`. "Masked" means that the
gradient misleads and the number shows that, not robustness: attack with another
objective (`margin`, `own_class`), with rescaled logits (`attacks.rescaling`), without
gradients, and believe the lowest.

The first is the trap of the MMC loss. Cross-entropy over distance logits
-||z - mu_k||^2 saturates: float32 rounds the wrong classes' probabilities to exactly
zero, the gradient vanishes, and PGD never leaves its starting point. The model looks
robust and is not.

`gradients` and `classifiers` measure, `findings`, `curves` and `comparisons` judge what
was measured, `battery` does both, on a `bench`.
"""

from mmc_jax.diagnostics.battery import Battery, gradient_masking_battery
from mmc_jax.diagnostics.bench import check_ball
from mmc_jax.diagnostics.classifiers import (
    NUM_FOR_RANDOMNESS,
    Randomness,
    find_randomness,
    find_too_few_classes,
    measure_randomness,
)
from mmc_jax.diagnostics.comparisons import (
    find_strong_noise,
    find_stronger_black_box,
    find_stronger_rivals,
)
from mmc_jax.diagnostics.curves import (
    AccuracyCurve,
    find_flat_loss,
    find_large_epsilon,
    find_unsettled_steps,
)
from mmc_jax.diagnostics.findings import (
    Finding,
    aims_at_classes,
    find_objective_disagreement,
    find_objectives_without_gradient,
    find_probabilities,
    find_violations,
    find_zero_gradients,
    objective_label,
)
from mmc_jax.diagnostics.gradients import zero_gradient_fraction

__all__ = [
    "NUM_FOR_RANDOMNESS",
    "AccuracyCurve",
    "Battery",
    "Finding",
    "Randomness",
    "aims_at_classes",
    "find_flat_loss",
    "find_large_epsilon",
    "find_objective_disagreement",
    "find_objectives_without_gradient",
    "find_probabilities",
    "find_randomness",
    "find_strong_noise",
    "find_stronger_black_box",
    "find_stronger_rivals",
    "find_too_few_classes",
    "find_unsettled_steps",
    "find_violations",
    "check_ball",
    "find_zero_gradients",
    "gradient_masking_battery",
    "measure_randomness",
    "objective_label",
    "zero_gradient_fraction",
]
