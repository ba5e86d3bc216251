"""MNIST, CIFAR-10 and CIFAR-100 through TensorFlow Datasets, mostly without TensorFlow.

What lies on disk decides how it is read:

- array_record files: `tfds.data_source`, which needs no TensorFlow;
- tfrecord files: `tfds.load`, which needs TensorFlow;
- nothing: `download_and_prepare` where TensorFlow is installed, else an error that says
  where data was looked for and what to type.

tensorflow_datasets is imported when data is asked for, not before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mmc_jax.data import arrays

_LOG = logging.getLogger(__name__)
_SPLITS = ("train", "test")
_Columns = Mapping[str, np.ndarray]
_Read = tuple[Sequence[_Columns], tuple[str, ...]]  # One a split; the label names.


@dataclasses.dataclass(frozen=True)
class TfdsSpec:
    """What the published data set looks like."""

    image_shape: tuple[int, int, int]
    num_classes: int
    full_sizes: tuple[int, int]
    num_coarse_classes: int | None = None


SPECS: Mapping[str, TfdsSpec] = {
    "mnist": TfdsSpec((28, 28, 1), 10, (60_000, 10_000)),
    "cifar10": TfdsSpec((32, 32, 3), 10, (50_000, 10_000)),
    "cifar100": TfdsSpec((32, 32, 3), 100, (50_000, 10_000), num_coarse_classes=20),
}


@dataclasses.dataclass(frozen=True)
class _Prepared:
    version: str
    file_format: str


def default_data_dir() -> pathlib.Path:
    """Return TFDS_DATA_DIR, or TFDS's own default, ~/tensorflow_datasets."""
    configured = os.environ.get("TFDS_DATA_DIR")
    return pathlib.Path(configured or "~/tensorflow_datasets").expanduser()


def read(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> arrays.SourceData:
    """Read the training and test images of a TFDS data set into memory.

    Args:
        name: a key of `SPECS`.
        data_dir: TFDS data directory; None means `default_data_dir()`.

    Raises:
        DataNotFoundError: not prepared (or not readable) without TensorFlow.
        ValueError: the records are not what `SPECS` says.
    """
    directory = (
        default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    )
    prepared = _find_prepared(directory, name)
    if prepared is None:
        prepared = _prepare(directory, name)
    if prepared.file_format == "array_record":
        examples, names = _read_array_record(directory, name, prepared)
    else:
        examples, names = _read_tfrecord(directory, name, prepared)
    spec = SPECS[name]
    train, test = (
        _check(columns, spec, f"{name} {split}")
        for split, columns in zip(_SPLITS, examples, strict=True)
    )
    if (len(train), len(test)) != spec.full_sizes:
        _LOG.warning(
            "%s in %s is a subset: %d training and %d test images of %d and %d. "
            "Good for trying code, not for reporting results.",
            *(name, directory, len(train), len(test), *spec.full_sizes),
        )
    return arrays.SourceData(
        train,
        test,
        num_classes=spec.num_classes,
        source=f"tfds {name}:{prepared.version} ({prepared.file_format})",
        num_coarse_classes=spec.num_coarse_classes,
        label_names=names,
        full_sizes=spec.full_sizes,
    )


def _find_prepared(directory: pathlib.Path, name: str) -> _Prepared | None:
    """Return the newest prepared version, an array_record one before any other."""
    found = []
    for info_file in directory.glob(f"{name}/*/dataset_info.json"):
        version = info_file.parent.name
        if all(part.isdigit() for part in version.split(".")):
            info = json.loads(info_file.read_text())
            # TFDS wrote no format before it knew more than one.
            found.append(_Prepared(version, info.get("fileFormat", "tfrecord")))
    return max(
        found,
        default=None,
        key=lambda one: (
            one.file_format == "array_record",
            [int(part) for part in one.version.split(".")],
        ),
    )


def _read_array_record(
    directory: pathlib.Path, name: str, prepared: _Prepared
) -> _Read:
    import tensorflow_datasets as tfds

    examples = []
    for split in _SPLITS:
        source = tfds.data_source(
            f"{name}:{prepared.version}",
            split=split,
            data_dir=directory,
            download=False,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
        try:  # All records in one call: one by one takes ten times as long.
            records = source.__getitems__(range(len(source)))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"the {split} records of {name} in "
                f"{directory / name / prepared.version} are damaged or missing; "
                f"prepare the data set again: {error}"
            ) from error
        examples.append(_decode(records, name))
    return examples, tuple(source.dataset_info.features["label"].names)


def _decode(records: Sequence[bytes], name: str) -> dict[str, np.ndarray]:
    """Parse serialised examples with PNG images into columns.

    TFDS's own per-example decoding gives the same arrays in three times the time.
    """
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    spec = SPECS[name]
    height, width, channels = spec.image_shape
    images = np.empty((len(records), height, width, channels), np.uint8)
    label_keys = ["label"] + ["coarse_label"] * (spec.num_coarse_classes is not None)
    labels: dict[str, list[int]] = {key: [] for key in label_keys}
    for index, record in enumerate(records):
        features = tf_example_pb2.Example.FromString(record).features.feature
        png = io.BytesIO(features["image"].bytes_list.value[0])
        pixels = np.asarray(Image.open(png, formats=("PNG",)))
        images[index] = pixels.reshape(height, width, channels)
        for key, values in labels.items():
            values.append(features[key].int64_list.value[0])
    return {"image": images} | {key: np.array(col) for key, col in labels.items()}


def _read_tfrecord(directory: pathlib.Path, name: str, prepared: _Prepared) -> _Read:
    where = directory / name / prepared.version
    if not _has_tensorflow():
        raise arrays.DataNotFoundError(
            f"{where} holds {name} as {prepared.file_format}, which only TensorFlow "
            "can read, and TensorFlow is not installed. "
            f"{_how_to_prepare(directory, name)}"
        )
    import tensorflow_datasets as tfds

    _hide_accelerators_from_tensorflow()
    columns, info = tfds.load(
        f"{name}:{prepared.version}",
        split=list(_SPLITS),
        data_dir=directory,
        download=False,
        batch_size=-1,
        with_info=True,
    )
    return tfds.as_numpy(columns), tuple(info.features["label"].names)


def _prepare(directory: pathlib.Path, name: str) -> _Prepared:
    if not _has_tensorflow():
        raise arrays.DataNotFoundError(
            f"no prepared {name} in {directory} (looked for "
            f"{directory / name / '<version>' / 'dataset_info.json'}). "
            f"{_how_to_prepare(directory, name)}"
        )
    import tensorflow_datasets as tfds

    _hide_accelerators_from_tensorflow()
    _LOG.info("downloading and preparing %s in %s", name, directory)
    builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError as error:
        raise arrays.DataNotFoundError(
            f"no prepared {name} in {directory}, and preparing it failed: {error}"
        ) from error
    return _Prepared(str(builder.version), "array_record")


def _how_to_prepare(directory: pathlib.Path, name: str) -> str:
    return (
        "Point data_dir or the environment variable TFDS_DATA_DIR at a directory that "
        "holds it in the array_record format; or prepare it once, which needs "
        "TensorFlow and a network: pip install 'mmc_jax[tf]', then python -c "
        f"\"from mmc_jax import data; data.load('{name}', data_dir='{directory}')\""
    )


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _hide_accelerators_from_tensorflow() -> None:
    # TensorFlow would take all of a GPU's memory merely to read files.
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def _check(columns: _Columns, spec: TfdsSpec, name: str) -> arrays.ArrayDataset:
    images = columns["image"]
    if images.shape[1:] != spec.image_shape:
        raise ValueError(
            f"{name} images are {list(images.shape[1:])}, expected "
            f"{list(spec.image_shape)}"
        )
    coarse = None
    if spec.num_coarse_classes is not None:
        coarse = arrays.as_labels(
            columns["coarse_label"], f"{name} coarse labels", spec.num_coarse_classes
        )
    labels = arrays.as_labels(columns["label"], f"{name} labels", spec.num_classes)
    return arrays.ArrayDataset(images, labels, coarse)
