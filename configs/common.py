"""What all configs share: the string argument, and one base with every field.

A string argument chooses structure, `configs/mnist.py:loss=mmc,adv=pgd,eps=0.3`;
overrides change values, `--config.optimizer.learning_rate=0.05`. Configs are plain
data and import nothing of `mmc_jax`, which checks every value when a run starts.
"""

from fractions import Fraction
from typing import Any

import ml_collections

ARGUMENTS = {
    "loss": "softmax, center, mmc, mmlda, absolute_mmc, huber_mmc, elastic_mmc, gsce,"
    " lgm or lgm_identity",
    "centers": "where the centers of the MMC losses and of MMLDA lie: optimal, random"
    " or hierarchical, by the coarse labels of the data",
    "adv": "none, pgd, mim, bim or fgsm: adversarial training with that attack",
    "targeted": "a flag: attack random wrong classes in training",
    "eps": "radius of the training attack, such as 8/255 or 0.3",
    "recipe": "what adversarial training trains on: standard, trades or mart",
    "papers_choices": "a flag: adversarial training as the paper's code has it, by"
    " predicted labels and the batch's statistics, with running ones from clean images",
    "awp": "a flag: perturb the weights adversarially too",
    "model": "an architecture, such as cnn or resnet32_v2",
    "runlocal": "a flag: shrink the run to seconds",
}
FLAGS = ("targeted", "papers_choices", "awp", "runlocal")

# Losses by the squared distance to the own center, with a one half before it; with the
# plain distance; and what may be set for each loss.
HALVED_LOSSES = ("mmc", "huber_mmc", "elastic_mmc")
MMC_LOSSES = (*HALVED_LOSSES, "absolute_mmc")
HYPERPARAMETERS = {
    "softmax": dict(label_smoothing=0.0),  # the share that goes to all classes
    "mmlda": dict(label_smoothing=0.0),
    "huber_mmc": dict(threshold=1.0),  # distance from which a pull grows no more
    "elastic_mmc": dict(elasticity=1.0),  # alpha, variance of the trained centers
    "center": dict(
        center_weight=0.003,  # lambda, of the center loss beside the cross-entropy
        center_rate=0.5,  # alpha, how far a step takes the centers
        label_smoothing=0.0,
    ),
    "lgm": dict(
        margin=0.1,  # alpha, of the own distance
        likelihood_weight=0.01,  # lambda
    ),
    "lgm_identity": dict(margin=0.1, likelihood_weight=0.01),
}

# What may be set for each recipe: the weight of the divergence between the predictions
# on clean and attacked images, and the temperature of these. At 0 it is that which fits
# the loss: 1, or C_MM^2 / 5 where features are pulled to preset centers.
RECIPES = {
    "trades": dict(weight=6.0, temperature=0.0),
    "mart": dict(weight=5.0, temperature=0.0),
}
RECIPE_ATTACKS = {
    "trades": dict(objective="kl_divergence"),
    "mart": dict(objective="cross_entropy"),
}


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
    """Parse `loss=mmc,adv=pgd,eps=8/255,runlocal` over `defaults`.

    Raises:
      ValueError: for an argument that is unknown, repeated or malformed; it names the
        argument and lists what is accepted.
    """
    values = {"centers": "optimal", "recipe": "standard"}
    values |= {flag: False for flag in FLAGS} | defaults
    seen = set()
    for item in filter(None, (part.strip() for part in (arg or "").split(","))):
        name, has_value, text = item.partition("=")
        if name not in ARGUMENTS:
            known = "; ".join(f"{key} ({what})" for key, what in ARGUMENTS.items())
            raise ValueError(f"unknown config argument {item!r}; accepted: {known}")
        if name in seen:
            raise ValueError(f"config argument {name!r} is given twice")
        if (name in FLAGS) == bool(has_value):
            form = name if name in FLAGS else f"{name}=VALUE"
            raise ValueError(f"config argument {item!r} must be written {form}")
        seen.add(name)
        values[name] = True if name in FLAGS else text
    if values["adv"] in ("", "none") and seen & {"eps", "targeted", "papers_choices"}:
        raise ValueError(
            f"config arguments {arg!r} describe an attack in training, and adv=NAME is"
            f" missing; adv is {ARGUMENTS['adv']}"
        )
    if isinstance(values["eps"], str):
        values["eps"] = parse_fraction("eps", values["eps"])
    return ml_collections.ConfigDict(values)


def parse_fraction(name: str, text: str) -> float:
    """Read `8/255` or `0.03` as a number in [0, 1].

    Raises:
      ValueError: if `text` is neither, or outside [0, 1].
    """
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(
            f"config argument {name}={text!r} must be a number in [0, 1] such as"
            " 8/255 or 0.03"
        )
    return value


def base_config(args: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return every field, with the paper's values where the paper has them."""
    config = ml_collections.ConfigDict()
    config.dataset = ""
    config.data_dir = ""  # empty: TFDS_DATA_DIR, else TFDS's own default
    config.validation_size = 5000  # held out of the training set, never of the test set
    config.seed = 0
    config.parallel = "pmap"  # or jit: the same step under jit with shardings
    config.num_devices = 0  # 0: all of them
    config.batch_size = 50
    config.num_epochs = 200
    config.steps_per_call = 100  # steps on the device between two looks of the host
    config.checkpoint_every_epochs = 1
    config.keep_checkpoints = 3
    config.max_train_images = 0  # 0: all of them
    config.model = dict(
        name=args.model,
        feature_dim=0,  # 0: the architecture's own
        center_norm=10.0,  # C_MM
        centers=args.centers,
        dtype="float32",  # or bfloat16, for accelerators
    )
    if args.centers == "hierarchical":
        config.model.child_center_norm = 1.0  # of a class, seen from its parent's
    # The reference trains MMC without the paper's one half: its learning rates belong
    # to that loss.
    config.loss = dict(
        name=args.loss,
        loss_scale=2.0 if args.loss in HALVED_LOSSES else 1.0,
        **HYPERPARAMETERS.get(args.loss, {}),
    )
    config.update(training_recipe(args))
    config.augment = dict(shift=0.1, flip=False)
    config.optimizer = dict(
        name="sgd",  # or adam
        learning_rate=0.01,
        momentum=0.9,
        conv_l2=1e-4,  # of the sum of squares, on convolution kernels alone
        boundaries=(101, 151),  # epochs after which the rate falls tenfold
        ema_decay=0.0,  # 0: no moving average of the weights
    )
    return config


def training_attack(args: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return the attack of adversarial training, empty for none.

    Ten steps of a quarter of epsilon (the paper's 2/255 for 8/255), every one of them
    taken, and the objective that the loss itself is about: for MMC and its variants the
    distance to the own center, the paper's adaptive type 1. TRADES and MART have
    objectives of their own.
    """
    if args.adv in ("", "none"):
        return ml_collections.ConfigDict()
    attack = dict(
        name=args.adv,
        epsilon=args.eps,
        objective="own_class" if args.loss in MMC_LOSSES else "cross_entropy",
        targeted=args.targeted,
        warmup_epochs=0,  # epochs over which the perturbation grows to its full size
        labels="true",  # or predicted, by the model on the clean image
        statistics="running",  # of BatchNorm while attacking; or batch
        clean_weight=0.0,  # of the loss on clean images, beside one minus it
        statistics_from="adversarial",  # or clean: which images move the running ones
    )
    if args.papers_choices:
        attack.update(labels="predicted", statistics="batch", statistics_from="clean")
    attack.update(RECIPE_ATTACKS.get(args.recipe, {}))
    if args.recipe == "trades" and args.adv == "mim":
        attack["random_start"] = True  # the divergence has no gradient where it is 0
    if args.adv != "fgsm":
        attack.update(
            step_size=args.eps / 4, num_steps=10, keep="last", stop_on_success=False
        )
    return ml_collections.ConfigDict(attack)


def training_recipe(args: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return the attack, what is trained on, and where its gradient is taken."""
    return ml_collections.ConfigDict(
        dict(
            attack=training_attack(args),
            recipe=dict(name=args.recipe, **RECIPES.get(args.recipe, {})),
            weight_perturbation=dict(
                gamma=0.005 if args.awp else 0.0,  # of each layer's norm; 0: none
                warmup_epochs=0,  # epochs without it
            ),
        )
    )


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Cut a run down to seconds, to see that it starts and goes through."""
    config.num_epochs = 1
    config.max_train_images = 500
    config.validation_size = 100
    config.batch_size = 50
    config.steps_per_call = 5
    if "num_steps" in config.attack:
        config.attack.num_steps = 2
    return config
