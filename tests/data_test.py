"""Loading: real data through TFDS, digits, a user's arrays, and every wrong array."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from mmc_jax import data
from mmc_jax.data import holdout, tfds_source

_IMAGES = np.arange(30 * 4 * 4, dtype=np.int64).reshape(30, 4, 4).astype(np.uint8)
_LABELS = np.arange(30) % 3


def _save(path: pathlib.Path, **changes) -> str:
    content = {
        "train_images": _IMAGES,
        "train_labels": _LABELS,
        "test_images": _IMAGES[:6],
        "test_labels": _LABELS[:6],
    } | changes
    np.savez(path, **{key: one for key, one in content.items() if one is not None})
    return str(path)


def _multiset(*splits: data.ArrayDataset) -> list[bytes]:
    return sorted(
        image.tobytes() + int(label).to_bytes()
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


# --- The validation split ---------------------------------------------------------


def test_held_out_is_stratified_even_when_sorted():
    labels = np.repeat([0, 1, 2, 3], [400, 300, 200, 100])
    held_out = holdout.held_out_indices(labels, 100)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [40, 30, 20, 10])
    assert np.unique(held_out).size == 100
    # From all over each class, not from its end.
    assert held_out.min() < 40 and 400 <= held_out[40] < 430


def test_held_out_rounds_by_largest_remainder():
    labels = np.repeat([0, 1, 2], [50, 31, 19])
    # 10 % are 5, 3.1 and 1.9 examples.
    held_out = holdout.held_out_indices(labels, 10)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [5, 3, 2])


def test_held_out_is_the_same_everywhere_and_always():
    # Recorded once: a change here silently changes every recipe's validation split.
    held_out = holdout.held_out_indices(np.arange(40) % 4, 8)
    np.testing.assert_array_equal(held_out, [7, 8, 10, 13, 14, 21, 27, 32])


@pytest.mark.parametrize("size", [0, -1, 12, 13])
def test_held_out_size_out_of_range(size):
    with pytest.raises(ValueError, match=rf"hold out {size} of 12.*1 to 11"):
        holdout.held_out_indices(np.arange(12) % 3, size)


def test_held_out_leaves_every_class_in_training():
    with pytest.raises(ValueError, match="takes all of class 1"):
        holdout.held_out_indices(np.array([0] * 9 + [1]), 9)


# --- Digits -----------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn import datasets

    splits = data.load("digits", validation_size=197)
    assert splits.sizes == {"train": 1100, "validation": 197, "test": 500}
    assert splits.num_classes == 10 and not splits.is_subset
    assert splits.train.image_shape == (8, 8, 1)
    bunch = datasets.load_digits()
    levels = np.array([round(level * 255 / 16) for level in range(17)])
    expected = data.ArrayDataset(
        levels[bunch.images.astype(int)][..., None].astype(np.uint8),
        bunch.target.astype(np.int32),
    )
    assert np.unique(levels).size == 17
    parts = (splits.train, splits.validation, splits.test)
    assert _multiset(*parts) == _multiset(expected)
    for part in parts:
        share = np.bincount(part.labels) / len(part)
        np.testing.assert_allclose(share, 0.1, atol=0.01)


def test_validation_size_leaves_the_test_set_alone():
    small, large = (data.load("digits", validation_size=size) for size in (100, 200))
    np.testing.assert_array_equal(small.test.images, large.test.images)
    again = data.load("digits", validation_size=100)
    np.testing.assert_array_equal(small.validation.images, again.validation.images)
    default = data.load("digits")
    assert default.sizes["validation"] == 129


# --- TFDS, without TensorFlow -----------------------------------------------------


def test_mnist_is_whole_and_quick(tfds_dir):
    start = time.process_time()
    splits = data.load("mnist", data_dir=tfds_dir, validation_size=5000)
    seconds = time.process_time() - start
    assert splits.sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert not splits.is_subset
    both = np.concatenate([splits.train.labels, splits.validation.labels])
    # The published class counts.
    np.testing.assert_array_equal(
        np.bincount(both),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(splits.test.labels),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    pixels = np.concatenate([splits.train.images, splits.validation.images])
    assert abs(pixels.mean() / 255 - 0.1307) < 1e-4
    assert abs(pixels.std() / 255 - 0.3081) < 1e-4
    # Of one core, so that a busy machine fails nothing; it takes about 3.
    assert seconds < 10


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_bulk_reading_equals_tfds_own_decoding(tfds_dir, name):
    import tensorflow_datasets as tfds

    found = tfds_source.read(name, data_dir=tfds_dir)
    for split, dataset in (("train", found.train), ("test", found.test)):
        reference = tfds.data_source(name, split=split, data_dir=tfds_dir)
        assert len(dataset) == len(reference)
        for index in range(0, len(dataset), 97):
            example = reference[index]
            np.testing.assert_array_equal(dataset.images[index], example["image"])
            assert dataset.labels[index] == example["label"]
            if name == "cifar100":
                assert dataset.coarse_labels[index] == example["coarse_label"]


def test_cifar100_has_its_real_coarse_labels(tfds_dir):
    splits = data.load("cifar100", data_dir=tfds_dir)
    assert (splits.num_classes, splits.num_coarse_classes) == (100, 20)
    parents = splits.class_parents()
    np.testing.assert_array_equal(np.bincount(parents), np.full(20, 5))
    children = {splits.label_names[label] for label in np.flatnonzero(parents == 4)}
    # "Fruit and vegetables", from the data set's page.
    assert children == {"apple", "mushroom", "orange", "pear", "sweet_pepper"}
    np.testing.assert_array_equal(
        parents[splits.test.labels], splits.test.coarse_labels
    )


def test_a_subset_says_so(tfds_dir, caplog):
    with caplog.at_level(logging.WARNING):
        splits = data.load("cifar10", data_dir=tfds_dir)
    if splits.sizes["test"] == 10_000:
        pytest.skip(f"cifar10 in {tfds_dir} is the whole set, not a subset")
    assert splits.is_subset and splits.full_sizes == (50_000, 10_000)
    assert "subset: 2000 training and 500 test images of 50000 and 10000" in caplog.text


def test_tensorflow_is_never_imported(tfds_dir):
    program = (
        "import sys\n"
        "import mmc_jax.data\n"
        "assert 'tensorflow_datasets' not in sys.modules, 'imported too early'\n"
        "mmc_jax.data.load('cifar10')\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
        "print('no TensorFlow')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TFDS_DATA_DIR": str(tfds_dir)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "no TensorFlow", result.stderr


def test_damaged_records_are_named(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "cifar10", tmp_path / "cifar10")
    (records,) = tmp_path.glob("cifar10/*/cifar10-train.array_record*")
    content = bytearray(records.read_bytes())
    content[500_000:500_100] = bytes(100)
    records.chmod(0o600)
    records.write_bytes(content)
    with pytest.raises(ValueError, match="train records of cifar10.*damaged"):
        data.load("cifar10", data_dir=tmp_path)


# --- TFDS, where nothing is prepared or only TensorFlow can read it ---------------


def _pretend(directory: pathlib.Path, version: str, **info) -> None:
    where = directory / "mnist" / version
    where.mkdir(parents=True)
    (where / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture
def no_tensorflow(monkeypatch):
    monkeypatch.setattr(tfds_source, "_has_tensorflow", lambda: False)


@pytest.fixture
def stub_tfds(monkeypatch):
    """Stand-ins for both packages: a real TensorFlow is too large to test with."""
    calls = []
    columns = [
        {
            "image": np.full((size, 28, 28, 1), 7, np.uint8),
            "label": np.arange(size) % 10,
        }
        for size in (40, 20)
    ]
    label = types.SimpleNamespace(names=[str(digit) for digit in range(10)])
    info = types.SimpleNamespace(features={"label": label})

    class Builder:
        version = "3.0.1"

        def download_and_prepare(self):
            calls.append(("download_and_prepare",))
            raise OSError("no network")

    def load(name, **options):
        calls.append((name, options))
        return columns, info

    def builder(name, **options):
        calls.append((name, options))
        return Builder()

    tfds = types.ModuleType("tensorflow_datasets")
    tfds.load, tfds.builder, tfds.as_numpy = load, builder, lambda tree: tree
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.config = types.SimpleNamespace(
        set_visible_devices=lambda devices, kind: calls.append((kind, devices))
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setattr(tfds_source, "_has_tensorflow", lambda: True)
    return calls


def test_nothing_prepared_says_where_and_how(tmp_path, monkeypatch, no_tensorflow):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataNotFoundError) as caught:
        data.load("mnist")
    message = str(caught.value)
    for part in (
        f"{tmp_path}/mnist/<version>/dataset_info.json",
        "TFDS_DATA_DIR",
        "pip install 'mmc_jax[tf]'",
        f"data.load('mnist', data_dir='{tmp_path}')",
    ):
        assert part in message
    assert isinstance(caught.value, FileNotFoundError | ValueError)


def test_default_directory_is_tfds_own(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    expected = pathlib.Path.home() / "tensorflow_datasets"
    assert tfds_source.default_data_dir() == expected


def test_tfrecord_without_tensorflow(tmp_path, no_tensorflow):
    _pretend(tmp_path, "3.0.1", fileFormat="tfrecord")
    with pytest.raises(data.DataNotFoundError, match="as tfrecord.*not installed"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("info", [{"fileFormat": "tfrecord"}, {}])
def test_tfrecord_with_tensorflow(tmp_path, stub_tfds, info):
    _pretend(tmp_path, "3.0.1", **info)
    splits = data.load("mnist", data_dir=tmp_path, validation_size=10)
    assert splits.sizes == {"train": 30, "validation": 10, "test": 20}
    assert splits.is_subset and splits.source == "tfds mnist:3.0.1 (tfrecord)"
    assert (splits.test.images == 7).all()
    hidden, (name, options) = stub_tfds
    assert hidden == ("GPU", [])
    assert name == "mnist:3.0.1" and options["download"] is False
    assert options["data_dir"] == tmp_path and options["split"] == ["train", "test"]


def test_preparing_asks_for_array_record(tmp_path, stub_tfds):
    with pytest.raises(data.DataNotFoundError, match="preparing it failed: no network"):
        data.load("mnist", data_dir=tmp_path)
    assert stub_tfds[1:] == [
        ("mnist", {"data_dir": tmp_path, "file_format": "array_record"}),
        ("download_and_prepare",),
    ]


def test_array_record_is_preferred_then_the_newest(tmp_path):
    _pretend(tmp_path, "2.0.0", fileFormat="array_record")
    _pretend(tmp_path, "9.0.0", fileFormat="tfrecord")
    _pretend(tmp_path, "incomplete.AB_9.9.9", fileFormat="array_record")
    assert tfds_source._find_prepared(tmp_path, "mnist").version == "2.0.0"
    _pretend(tmp_path, "10.0.0", fileFormat="array_record")
    assert tfds_source._find_prepared(tmp_path, "mnist").version == "10.0.0"


def test_unexpected_records_are_refused(tmp_path, stub_tfds, monkeypatch):
    _pretend(tmp_path, "3.0.1", fileFormat="tfrecord")
    spec = tfds_source.TfdsSpec((28, 28, 3), 10, (60_000, 10_000))
    monkeypatch.setattr(tfds_source, "SPECS", {"mnist": spec})
    with pytest.raises(ValueError, match=r"mnist train images are \[28, 28, 1\]"):
        data.load("mnist", data_dir=tmp_path)


# --- A user's own arrays ----------------------------------------------------------


def test_npz_comes_back_as_it_is(tmp_path):
    path = _save(tmp_path / "mine.npz", class_names=np.array(["a", "b", "c"]))
    splits = data.load(path, validation_size=3)
    whole = data.ArrayDataset(_IMAGES[..., None], _LABELS.astype(np.int32))
    assert _multiset(splits.train, splits.validation) == _multiset(whole)
    np.testing.assert_array_equal(splits.test.images, whole.images[:6])
    np.testing.assert_array_equal(splits.test.labels, _LABELS[:6])
    assert (splits.num_classes, splits.label_names) == (3, ("a", "b", "c"))
    np.testing.assert_array_equal(np.sort(splits.validation.labels), [0, 1, 2])
    assert not splits.is_subset and splits.source == f"npz {path}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_npz_floats_become_the_same_levels(tmp_path, dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(-1, 2, 2, 1)
    images = levels.astype(dtype) / dtype(255)
    labels = np.arange(len(levels)) % 2
    path = _save(
        tmp_path / "floats.npz",
        **{"train_images": images, "train_labels": labels},
        **{"test_images": images, "test_labels": labels},
    )
    np.testing.assert_array_equal(data.load(path).test.images, levels)


def test_test_arrays_keep_their_floats(tmp_path):
    images = np.random.default_rng(0).random((6, 4, 4)).astype(np.float32)
    path = _save(tmp_path / "test.npz", test_images=images, train_images=None)
    found, labels = data.load_test_arrays(path)
    np.testing.assert_array_equal(found, images[..., None])
    assert found.dtype == np.float32 and labels.dtype == np.int32
    found, _ = data.load_test_arrays(_save(tmp_path / "levels.npz"))
    np.testing.assert_array_equal(found[..., 0], _IMAGES[:6] / np.float32(255))


_NAN = np.full((30, 4, 4), 0.2)
_NAN[3, 2, 1] = np.nan
_NORMALISED = np.linspace(-1, 1, 480).reshape(30, 4, 4)
_BAD_NPZ = {
    "missing_key": ({"test_labels": None}, r"lacks test_labels; it must hold train"),
    "rank": ({"train_images": _IMAGES[0]}, r"train_images must be \[size.*\[4, 4\]"),
    "int64": ({"train_images": _IMAGES.astype(int)}, r"must be uint8, .*got int64"),
    "bool": ({"test_images": _IMAGES[:6] > 9}, r"test_images must be uint8.*got bool"),
    "nan": ({"train_images": _NAN}, r"train_images\[3, 2, 1\] = nan; accepted: 0 to 1"),
    "normalised": ({"train_images": _NORMALISED}, r"\[0, 0, 0\] = -1.0.*240 of 480"),
    "between": (
        {"train_images": np.full((30, 4, 4), 0.5)},
        r"= 0\.5; accepted: multiples of 1/255.*astype\(np.uint8\)",
    ),
    "empty": ({"test_images": _IMAGES[:0]}, r"test_images holds no image"),
    "lengths": ({"test_labels": _LABELS[:5]}, "6 test_images but 5 test_labels"),
    "float_labels": (
        {"train_labels": _LABELS / 1.0},
        r"train_labels must be integers.*float64",
    ),
    "one_hot": (
        {"train_labels": np.eye(3, dtype=int)[_LABELS]},
        r"got int64 \[30, 3\]",
    ),
    "negative": ({"train_labels": _LABELS - 1}, r"train_labels\[0\] = -1 is out of"),
    "too_large": ({"test_labels": _LABELS[:6] + 1}, r"test_labels\[2\] = 3.*0 to 2"),
    "from_one": ({"train_labels": _LABELS + 1}, "class 0 has no image.*class_names"),
    "one_class": ({"train_labels": _LABELS * 0}, "has 1 class; at least 2"),
    "sizes": (
        {"test_images": np.zeros((6, 5, 5), np.uint8)},
        r"\[5, 5, 1\] each.*\[4,",
    ),
    "names": ({"class_names": np.array(["a", "b"])}, r"train_labels\[2\] = 2.*0 to 1"),
    "objects": ({"train_labels": np.array([None] * 30)}, "not a readable .npz"),
}


@pytest.mark.parametrize("case", _BAD_NPZ)
def test_bad_npz_is_refused(tmp_path, case):
    changes, message = _BAD_NPZ[case]
    path = _save(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=message):
        data.load(path)


def test_class_names_allow_a_class_without_images(tmp_path):
    names = np.array(["a", "b", "c", "d"])
    path = _save(tmp_path / "four.npz", train_labels=_LABELS + 1, class_names=names)
    assert data.load(path).num_classes == 4


def test_bad_names_and_files(tmp_path):
    with pytest.raises(
        ValueError, match="unknown data set 'svhn'; known: digits, mnist"
    ):
        data.load("svhn")
    with pytest.raises(data.DataNotFoundError, match="no file .*none.npz"):
        data.load(tmp_path / "none.npz")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ValueError, match="empty.npz is not a readable .npz"):
        data.load(tmp_path / "empty.npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(ValueError, match="text.npz is not a readable .npz"):
        data.load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", _IMAGES)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="one.npz is not a readable .npz"):
        data.load(tmp_path / "one.npz")


@pytest.mark.parametrize("size", [0.1, True, "10"])
def test_validation_size_must_be_an_int(size):
    with pytest.raises(ValueError, match="validation_size must be an int"):
        data.load("digits", validation_size=size)


# --- ArrayDataset and DataSplits --------------------------------------------------


def test_mean_image_is_the_exact_mean():
    dataset = data.ArrayDataset(_IMAGES[..., None], _LABELS.astype(np.int32))
    expected = (_IMAGES.astype(np.float64) / 255).mean(axis=0)[..., None]
    np.testing.assert_allclose(dataset.mean_image(), expected, rtol=1e-6)
    assert dataset.mean_image().dtype == np.float32


@pytest.mark.parametrize(
    ("images", "labels", "coarse", "message"),
    [
        (_IMAGES, _LABELS.astype(np.int32), None, r"uint8 \[size, h.*\[30, 4, 4\]"),
        (_IMAGES[..., None] / 255, _LABELS.astype(np.int32), None, "got float64"),
        (_IMAGES[:0, ..., None], np.zeros(0, np.int32), None, "images are empty"),
        (_IMAGES[..., None], _LABELS, None, r"labels must be int32 \[30\].*int64"),
        (_IMAGES[..., None], np.zeros(29, np.int32), None, r"int32 \[29\]"),
        (
            _IMAGES[..., None],
            _LABELS.astype(np.int32),
            np.zeros(3, np.int32),
            "^coarse_labels must",
        ),
    ],
)
def test_bad_datasets_are_refused(images, labels, coarse, message):
    with pytest.raises(ValueError, match=message):
        data.ArrayDataset(images, labels, coarse)


def test_class_parents_must_be_clear():
    def splits(coarse):
        labels = _LABELS.astype(np.int32)
        one = data.ArrayDataset(_IMAGES[..., None], labels, coarse)
        return data.DataSplits("mine", one, one, one, num_classes=3, source="here")

    parents = splits(np.array([1, 0, 1], np.int32)[_LABELS]).class_parents()
    np.testing.assert_array_equal(parents, [1, 0, 1])
    with pytest.raises(ValueError, match="mine has no coarse labels"):
        splits(None).class_parents()
    with pytest.raises(ValueError, match="class 0 of mine must have exactly one"):
        splits((np.arange(30) // 6).astype(np.int32)).class_parents()
