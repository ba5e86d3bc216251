"""Other libraries on our weights: torch twins, and the PGD of Foolbox and torchattacks.

A peer that is not installed is left out, and said to be. The torch twins compute what
our models compute: `HWIO` kernels become `OIHW`, dense kernels are transposed, features
are flattened in NHWC order, and `SAME` padding is split as Flax splits it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_EXTRA = "pip install '.[bench]', and torchattacks with --no-deps"


def missing() -> list[str]:
    """Return the peers' packages that are not installed."""
    names = ("foolbox", "torch", "torchattacks")
    return [name for name in names if importlib.util.find_spec(name) is None]


def describe_missing() -> str:
    """Return what to print: which peers are left out, if any, and how to get them."""
    if not missing():
        return ""
    return f"Not installed, so left out: {', '.join(missing())} ({_EXTRA})."


def jax_contenders(case: Any) -> dict[str, Callable[[], Any]]:
    """Return Foolbox's PGD on our own model, jitted by the user and not.

    Args:
      case: what is attacked, as `attacks.py` describes it.

    Returns:
      Name -> function of no arguments that attacks the batch; empty if Foolbox is not
      installed.
    """
    if "foolbox" in missing():
        return {}
    attack = _foolbox_attack(case)
    contenders = {
        "Foolbox, JAX, model jitted by the user": jax.jit(case.logits_fn),
        "Foolbox, JAX, eager": case.logits_fn,
    }
    foolbox = import_foolbox()

    def make(logits_fn):
        model = foolbox.JAXModel(logits_fn, bounds=(0, 1))
        return lambda: attack.run(
            model, case.images, case.labels, epsilon=case.settings["epsilon"]
        )

    return {name: make(logits_fn) for name, logits_fn in contenders.items()}


def torch_contenders(case: Any) -> dict[str, Callable[[], Any]]:
    """Return the PGD of torchattacks, and Foolbox's on torch, on our weights.

    Args:
      case: what is attacked, as `attacks.py` describes it.

    Returns:
      Name -> function of no arguments that attacks the batch and returns NHWC images;
      empty if torch is not installed.

    Raises:
      RuntimeError: if the twin's logits are not the model's.
    """
    if "torch" in missing():
        return {}
    import torch

    twin = make_twin(case)
    images = to_nchw(case.images)
    labels = torch.from_numpy(np.array(case.labels, np.int64))
    settings = case.settings
    contenders = {}
    if "torchattacks" not in missing():
        import torchattacks

        pgd = torchattacks.PGD(
            twin,
            eps=settings["epsilon"],
            alpha=settings["step_size"],
            steps=settings["num_steps"],
        )
        contenders["torchattacks"] = lambda: to_nhwc(pgd(images, labels))
    if "foolbox" not in missing():
        attack = _foolbox_attack(case)
        model = import_foolbox().PyTorchModel(twin, bounds=(0, 1))
        contenders["Foolbox, torch"] = lambda: to_nhwc(
            attack.run(model, images, labels, epsilon=settings["epsilon"])
        )
    return contenders


def import_foolbox() -> Any:
    """Return the module, without the warning that its import raises."""
    # It imports from a namespace that SciPy deprecates.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
    return foolbox


def _foolbox_attack(case):
    # `run`, not the attack itself: that one runs the model once more afterwards.
    return import_foolbox().attacks.LinfPGD(
        abs_stepsize=case.settings["step_size"], steps=case.settings["num_steps"]
    )


def to_nchw(images: Any) -> Any:
    """Return NHWC images as a torch tensor in NCHW."""
    import torch

    return torch.from_numpy(np.moveaxis(np.array(images), -1, 1).copy())


def to_nhwc(images: Any) -> np.ndarray:
    """Return a torch tensor in NCHW as NHWC images."""
    return images.detach().numpy().transpose(0, 2, 3, 1)


def make_twin(case: Any, *, shift: float = 0.0) -> Any:
    """Return a torch module with the case's weights, checked to give its logits.

    Args:
      case: what is attacked; `name`, `logits_fn`, `variables` and `images` are read.
      shift: added to every logit, for attacks that take a negative one for none.

    Returns:
      NCHW images -> logits, in evaluation mode, without gradients of the weights.

    Raises:
      RuntimeError: if the twin's logits are not the model's.
    """
    import torch

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = _convert(case.variables)
            # Where torchattacks looks for the device.
            self.leaves = torch.nn.ParameterList(jax.tree.leaves(self.weights))

        def forward(self, images):
            return _FORWARD[case.name](self.weights, images) + shift

    twin = Twin().eval()
    with torch.no_grad():
        found = twin(to_nchw(case.images)).numpy() - shift
    expected = jax.jit(case.logits_fn)(case.images)
    difference = float(jnp.max(jnp.abs(found - expected)))
    # Logits of hundreds and a shift leave so much of a float32.
    tolerance = 1e-3 + 1e-6 * abs(shift)
    if difference > tolerance or (found.argmax(1) != expected.argmax(1)).any():
        raise RuntimeError(f"{case.name}: torch's logits differ by {difference}")
    print(f"  torch twin: largest difference of a logit {difference:.1e}")
    return twin


def _convert(variables):
    """Return a nested dict of torch tensors; its leaves have torch's layouts."""
    import torch

    order = {4: (3, 2, 0, 1), 2: (1, 0)}

    def convert(path, leaf):
        array = np.array(leaf)
        if path[-1].key == "kernel":
            array = array.transpose(order[array.ndim])
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return torch.nn.Parameter(tensor, requires_grad=False)

    return jax.tree_util.tree_map_with_path(convert, jax.device_get(variables))


def _conv(weights, images, stride=1):
    import torch.nn.functional as F

    size = weights["kernel"].shape[-1]
    length = images.shape[-1]
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    before, after = total // 2, total - total // 2
    if before != after:
        images = F.pad(images, (before, after, before, after))
        before = 0
    return F.conv2d(images, weights["kernel"], weights["bias"], stride, before)


def _dense(weights, features):
    return features @ weights["kernel"].T + weights["bias"]


def _flatten(images):
    return images.permute(0, 2, 3, 1).flatten(1)


def _head(variables, images, backbone):
    params = variables["params"]
    mean = variables["preprocessing"]["mean"].permute(2, 0, 1)
    stats = variables.get("batch_stats", {}).get("backbone", {})
    features = backbone(params["backbone"], stats, images - mean)
    if "centers" not in variables:
        return _dense(params["linear"], features)
    centers = variables["centers"]["centers"]
    squares = features.square().sum(1, keepdim=True) + centers.square().sum(1)
    return 2 * features @ centers.T - squares


def _cnn(params, stats, hidden):
    del stats
    for layer in ("Conv_0", "Conv_1"):
        hidden = _conv(params[layer], hidden, stride=2).relu()
    hidden = _dense(params["Dense_0"], _flatten(hidden)).relu()
    return _dense(params["Dense_1"], hidden)


def _resnet20(params, stats, images):
    import torch.nn.functional as F

    def norm(params, stats, hidden):
        means, variances = stats["mean"], stats["var"]
        return F.batch_norm(
            hidden, means, variances, params["scale"], params["bias"], eps=1e-3
        )

    hidden = _conv(params["Conv_0"], images)
    hidden = norm(params["BatchNorm_0"], stats["BatchNorm_0"], hidden).relu()
    for index in range(9):
        block, moments = params[f"BasicBlock_{index}"], stats[f"BasicBlock_{index}"]
        stride = 2 if index in (3, 6) else 1
        branch = _conv(block["Conv_0"], hidden, stride)
        branch = norm(block["BatchNorm_0"], moments["BatchNorm_0"], branch).relu()
        branch = _conv(block["Conv_1"], branch)
        branch = norm(block["BatchNorm_1"], moments["BatchNorm_1"], branch)
        if stride == 2:
            hidden = _conv(block["Conv_2"], hidden, stride)
        hidden = (hidden + branch).relu()
    return _dense(params["Dense_0"], hidden.mean((2, 3)))


def _plain(variables, images):
    import torch.nn.functional as F

    params, hidden = variables["params"], images
    for layer in ("Conv_0", "Conv_1"):
        hidden = F.avg_pool2d(_conv(params[layer], hidden).relu(), 2)
    return _dense(params["Dense_0"], _flatten(hidden))


_FORWARD = {
    "cnn": lambda variables, images: _head(variables, images, _cnn),
    "resnet20_v1": lambda variables, images: _head(variables, images, _resnet20),
    "plain nn.Conv": _plain,
}
