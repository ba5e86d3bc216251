"""`load`: a data set by name, as three splits in memory.

`train` and `validation` come from the data set's training images, `test` is its test
images, whole and untouched. Which images are held out depends on the labels alone,
never on a run's seed: every run and every seed shares the same validation split, and
nothing is ever chosen on the test images.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib

import numpy as np

from mmc_jax.data import arrays, holdout, tfds_source

DATASETS = ("digits", *tfds_source.SPECS)
"""Names that `load` knows, besides a path to a `.npz` file."""

_NUM_DIGITS_TEST = 500

_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    TypeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on files that are damaged, or no `.npz` at all; of a
damaged header zipfile may say that its compression is not implemented."""


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation_size: int | None = None,
) -> arrays.DataSplits:
    """Load a data set into memory, with a validation split held out for choices.

    Args:
        name: one of `DATASETS`, or the path of a `.npz` file (see `read_npz`).
        data_dir: where TFDS data lie; None means TFDS_DATA_DIR, or else
            ~/tensorflow_datasets. Digits and `.npz` files do not use it.
        validation_size: training images to hold out, stratified by label; None means
            one tenth.

    Returns:
        The three splits. Of `digits`, which come without a test set, 500 images are
        the test set, a fixed stratified choice, and 1,297 the training set.

    Raises:
        DataNotFoundError: nothing to read; the message says where it was looked for.
        ValueError: an unknown name, a bad `validation_size`, or bad arrays.
    """
    path = os.fspath(name)
    if path == "digits":
        source = _read_digits()
    elif path in tfds_source.SPECS:
        source = tfds_source.read(path, data_dir=data_dir)
    elif path.endswith(".npz"):
        source = read_npz(path)
    else:
        raise ValueError(
            f"unknown data set {path!r}; known: {', '.join(DATASETS)}, or a path that "
            "ends in .npz"
        )
    if validation_size is None:
        validation_size = max(1, len(source.train) // 10)
    if isinstance(validation_size, bool) or not isinstance(
        validation_size, int | np.integer
    ):
        raise ValueError(f"validation_size must be an int, got {validation_size!r}")
    train, validation = holdout.split_off(source.train, int(validation_size))
    return arrays.DataSplits(
        name=path,
        train=train,
        validation=validation,
        test=source.test,
        num_classes=source.num_classes,
        num_coarse_classes=source.num_coarse_classes,
        label_names=source.label_names,
        full_sizes=source.full_sizes,
        source=source.source,
    )


def read_npz(path: str | os.PathLike[str]) -> arrays.SourceData:
    """Read a user's own arrays from a `.npz` file, and check them.

    The file holds `train_images`, `train_labels`, `test_images`, `test_labels`, and may
    hold `class_names`. Images are `[size, height, width]` or
    `[size, height, width, channels]`, uint8, or float32 or float64 multiples of 1/255
    in [0, 1] (data are kept as uint8, and nothing is rounded silently). Labels are
    integers from 0; without `class_names`, their number is one more than the largest
    training label, and every class must have a training image.

    Args:
        path: the file; other arrays in it are left alone.

    Returns:
        The training and the test set.

    Raises:
        DataNotFoundError: no such file.
        ValueError: not a `.npz` file, a missing key, or a bad array.
    """
    content = _read_keys(
        path, ("train_images", "train_labels", "test_images", "test_labels")
    )
    names = content.get("class_names")
    label_names = None if names is None else tuple(str(one) for one in names)
    num_classes = None if label_names is None else len(label_names)
    train = _dataset(content, "train", num_classes)
    if num_classes is None:
        num_classes = int(train.labels.max()) + 1
        missing = np.setdiff1d(np.arange(num_classes), train.labels)
        if missing.size:
            raise ValueError(
                f"train_labels of {path} go up to {num_classes - 1}, but class "
                f"{missing[0]} has no image; number the classes from 0 without gaps, "
                "or add class_names"
            )
    if num_classes < 2:
        raise ValueError(f"{path} has {num_classes} class; at least 2 are needed")
    test = _dataset(content, "test", num_classes)
    if test.image_shape != train.image_shape:
        raise ValueError(
            f"test_images of {path} are {list(test.image_shape)} each, train_images "
            f"{list(train.image_shape)}; they must agree"
        )
    return arrays.SourceData(
        train, test, num_classes, source=f"npz {path}", label_names=label_names
    )


def load_test_arrays(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read `test_images` and `test_labels` of a `.npz` file, to judge any model on.

    Unlike `read_npz` this takes every float image in [0, 1] as it is: nothing is kept
    as uint8.

    Args:
        path: the file; other arrays in it are left alone.

    Returns:
        images, float32 `[size, height, width, channels]` in [0, 1], and labels, int32
        `[size]`.

    Raises:
        DataNotFoundError: no such file.
        ValueError: not a `.npz` file, a missing key, or a bad array.
    """
    content = _read_keys(path, ("test_images", "test_labels"))
    images = arrays.as_image_batch(content["test_images"], "test_images")
    labels = arrays.as_labels(content["test_labels"], "test_labels", None)
    if len(images) != len(labels):
        raise ValueError(
            f"{path} holds {len(images)} test_images but {len(labels)} test_labels"
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255), labels
    return images.astype(np.float32), labels


def _read_keys(
    path: str | os.PathLike[str], required: tuple[str, ...]
) -> dict[str, np.ndarray]:
    if not pathlib.Path(path).is_file():
        raise arrays.DataNotFoundError(f"no file {os.fspath(path)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {
                key: file[key] for key in (*required, "class_names") if key in file
            }
    except _UNREADABLE as error:
        raise ValueError(
            f"{os.fspath(path)} is not a readable .npz: {error}"
        ) from error
    absent = [key for key in required if key not in content]
    if absent:
        raise ValueError(
            f"{os.fspath(path)} lacks {', '.join(absent)}; it must hold "
            f"{', '.join(required)}"
        )
    return content


def _dataset(
    content: dict[str, np.ndarray], split: str, num_classes: int | None
) -> arrays.ArrayDataset:
    images_key, labels_key = f"{split}_images", f"{split}_labels"
    images = arrays.as_levels(
        arrays.as_image_batch(content[images_key], images_key), images_key
    )
    labels = arrays.as_labels(content[labels_key], labels_key, num_classes)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} {images_key} but {len(labels)} {labels_key}")
    return arrays.ArrayDataset(images, labels)


def _read_digits() -> arrays.SourceData:
    from sklearn import datasets

    bunch = datasets.load_digits()
    # 17 grey levels, 0 to 16; the map to uint8 is one-to-one.
    images = np.round(bunch.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    whole = arrays.ArrayDataset(images, bunch.target.astype(np.int32))
    train, test = holdout.split_off(whole, _NUM_DIGITS_TEST)
    return arrays.SourceData(
        train,
        test,
        num_classes=10,
        label_names=tuple(str(one) for one in bunch.target_names),
        source="scikit-learn load_digits",
    )
