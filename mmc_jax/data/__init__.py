"""Data: loading, on-device augmentation, batching and padding.

Read `loading.py` first (`load` gives three splits in memory), then `batching.py` (from
uint8 on the device to a step's batch) and `augment.py`.
"""

from mmc_jax.data.arrays import ArrayDataset, DataNotFoundError, DataSplits
from mmc_jax.data.augment import Augment, make_augment
from mmc_jax.data.batching import (
    DeviceDataset,
    epoch_permutation,
    pad_batches,
    to_batch,
    to_device,
    to_float,
)
from mmc_jax.data.holdout import with_fewer_to_train_on
from mmc_jax.data.loading import DATASETS, load, load_test_arrays

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "Augment",
    "DataNotFoundError",
    "DataSplits",
    "DeviceDataset",
    "epoch_permutation",
    "load",
    "load_test_arrays",
    "make_augment",
    "pad_batches",
    "to_batch",
    "to_device",
    "to_float",
    "with_fewer_to_train_on",
]
