"""The main job on real data that is always at hand, in about two minutes.

    python launch/quickstart.py --workdir=runs/quickstart

On scikit-learn's handwritten digits it trains a softmax cross-entropy model, an MMC
model and an adversarially trained MMC model, attacks all three, prints one table, and
writes results.json, figures, the checkpoints, and report.html, which shows it all. A
fourth, small MMC model has two features, to draw them.
"""

import pathlib
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from mmc_jax import attacks, data, report
from mmc_jax.command_line import in_one_line, parse_flags, refuse_arguments
from mmc_jax.evaluate import inputs, robust_accuracy
from mmc_jax.train import load, read_metrics, train

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where everything goes.")

EPSILON = 0.1
_MODELS = {
    "softmax": "loss=softmax",
    "MMC": "loss=mmc",
    "MMC, adversarial": f"loss=mmc,adv=pgd,eps={EPSILON}",
}
_PLANE = "MMC, two features"
_STEPS = dict(num_steps=20)
_ATTACKS = {
    "FGSM, cross-entropy": dict(name="fgsm", objective="cross_entropy"),
    "BIM, own class": dict(name="bim", objective="own_class", **_STEPS),
    "PGD, cross-entropy": dict(name="pgd", objective="cross_entropy", **_STEPS),
    "PGD, margin": dict(name="pgd", objective="margin", **_STEPS),
    "PGD, targeted margin": dict(
        name="pgd", objective="margin", targeted=True, **_STEPS
    ),
    "Gaussian noise": dict(name="gaussian_noise", sigma=0.05),
    "rotation": dict(name="rotation", max_angle=30.0),
}
# The curve over epsilon; its points at 0 and at EPSILON are in the table already.
_SWEPT = "PGD, margin"
_SWEEP = (0.02, 0.05, 0.2, 0.3)


def main(argv: list[str]) -> None:
    """Train, attack, show; say in one line what went wrong where something did."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    with in_one_line():
        _run()


def _run() -> None:
    start = time.perf_counter()
    workdir = pathlib.Path(_WORKDIR.value)
    splits = data.load("digits", validation_size=200)
    images, labels = np.float32(splits.test.images / 255), splits.test.labels
    loaded = {name: _train(workdir, name) for name in (*_MODELS, _PLANE)}
    records, curves = {}, {}
    for name in _MODELS:
        print(f"Attacking {name}", flush=True)
        logits_fn = loaded[name][2]
        records[name] = _attack(logits_fn, images, labels, _ATTACKS, EPSILON, True)
        shares = {0.0: records[name].clean, EPSILON: records[name].row(_SWEPT).accuracy}
        for epsilon in _SWEEP:
            row = {_SWEPT: _ATTACKS[_SWEPT]}
            swept = _attack(logits_fn, images, labels, row, epsilon)
            shares[epsilon] = swept.worst_case
        curves[name] = (
            sorted(shares),
            [shares[epsilon].value for epsilon in sorted(shares)],
            [shares[epsilon].interval for epsilon in sorted(shares)],
        )
    table = report.render(records)
    print(f"\n{table}\n")
    results = _write_results(workdir, loaded, records, curves)
    _draw(workdir, loaded, records, curves, images, labels)
    _write_page(workdir, results)
    print(
        f"In {time.perf_counter() - start:.0f} s. The environment is .venv/; the run is"
        f" {workdir}/ with report.html to read, results.json, figures/*.png and a work"
        " directory a model."
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).replace("__", "_")


def _train(workdir: pathlib.Path, name: str):
    """Train one model, or find it trained, and read it back."""
    # Here, not above: configs/ lies beside this script's folder, see below.
    from configs import digits

    print(f"Training {name}", flush=True)
    config = digits.get_config(_MODELS.get(name, "loss=mmc"))
    if name == _PLANE:
        config.model.feature_dim = 2
    train(config, workdir / _slug(name))
    return load(workdir / _slug(name))


def _attack(logits_fn, images, labels, rows, epsilon, keep_images=False):
    return robust_accuracy(
        logits_fn,
        images,
        labels,
        rows,
        jax.random.key(0),
        norm="linf",
        epsilon=epsilon,
        mode="individual",
        batch_size=len(images),
        keep_images=keep_images,
    )


def _write_results(workdir: pathlib.Path, loaded, records, curves):
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "models": {
            name: {"config": loaded[name][3].to_dict(), **record.to_dict()}
            for name, record in records.items()
        },
        "accuracy_vs_epsilon": {
            name: dict(zip(("epsilon", "accuracy", "interval_95"), curve, strict=True))
            for name, curve in curves.items()
        },
    }
    inputs.write_json(content, workdir / "results.json")
    return content


def _write_page(workdir: pathlib.Path, results) -> None:
    """Write report.html from what was saved."""
    figures = workdir / "figures"
    triples = [
        report.Picture.from_file(
            path,
            f"{name}: clean images, adversarial ones of the worst case, and their"
            " difference, amplified",
        )
        if (path := _triples_path(figures, name)).is_file()
        else report.Text(f"The attacks break no image of {name}.")
        for name in results["models"]
    ]
    plane = report.Picture.from_file(
        figures / "features.png",
        "Test features of a small MMC model around the centers of their classes, and"
        " the way that an attack takes through them",
    )
    training = report.Picture.from_file(
        figures / "training.png", "Loss and validation accuracy over wall-clock time"
    )
    report.write_record_page(
        workdir / "report.html",
        results["models"],
        title="Robust digits",
        lead="Three models of scikit-learn's handwritten digits, and what attacks leave"
        f" of them. The curve over epsilon is of {_SWEPT}.",
        curves=results["accuracy_vs_epsilon"],
        sections=[
            report.Section("Adversarial images", triples),
            report.Section("Features", [plane]),
            report.Section("Training", [training]),
        ],
        command=results["command"],
    )


def _triples_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"images_{_slug(name)}.png"


def _draw(workdir, loaded, records, curves, images, labels) -> None:
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    histories = {name: read_metrics(workdir / _slug(name)) for name in _MODELS}
    report.training_curves(histories, folder / "training.png")
    report.accuracy_vs_epsilon(
        curves, folder / "accuracy_vs_epsilon.png", chance=1 / 10
    )
    for name, record in records.items():
        broken = np.flatnonzero(record.clean_correct & ~record.robust)[:8]
        path = _triples_path(folder, name)
        # Of an earlier run, which may have broken some where this one breaks none.
        path.unlink(missing_ok=True)
        if len(broken):
            logits_fn = loaded[name][2]
            clean, adversarial = images[broken], record.images[broken]
            report.image_triples(
                clean,
                adversarial,
                labels[broken],
                np.argmax(logits_fn(jnp.asarray(adversarial)), -1),
                path,
            )
    _draw_plane(folder, *loaded[_PLANE][:3], images, labels)


def _draw_plane(folder, model, variables, logits_fn, images, labels) -> None:
    """Draw 2-D features, and the way that an attack takes through them."""
    features = jax.jit(lambda x: model.apply(variables, x).features)
    chosen = slice(0, 6)
    # Without a random start, n steps are the first n of any longer attack.
    path = [images[chosen]] + [
        attacks.bim(
            logits_fn,
            jax.random.key(0),
            images[chosen],
            labels[chosen],
            epsilon=EPSILON,
            step_size=EPSILON / 5,
            num_steps=num_steps,
            objective="margin",
            keep="last",
            stop_on_success=False,
        )
        for num_steps in range(2, 11, 2)
    ]
    report.feature_map(
        np.asarray(features(images)),
        labels,
        folder / "features.png",
        centers=np.asarray(variables["centers"]["centers"]),
        attack_paths=np.stack([features(step) for step in path], axis=1),
        attack_labels=labels[chosen],
        title=f"MMC features of test images, and BIM at epsilon {EPSILON}",
    )


if __name__ == "__main__":
    # configs/ is imported as a package, from wherever this script is started.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    app.run(main, flags_parser=parse_flags)
