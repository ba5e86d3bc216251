"""Data: loading, on-device augmentation, batching and padding.

Read `loading.py` first (`load` gives three splits in memory), then `batching.py` (from
uint8 on the device to a step's batch) and `augment.py`.
"""

from mmc_jax.data.arrays import ArrayDataset, DataNotFoundError, DataSplits
from mmc_jax.data.loading import DATASETS, load, load_test_arrays

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "DataNotFoundError",
    "DataSplits",
    "load",
    "load_test_arrays",
]
