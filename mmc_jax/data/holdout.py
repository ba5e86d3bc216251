"""Which examples are held out, or kept: stratified by label, the same for every run."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmc_jax.data.arrays import ArrayDataset, DataSplits

SPLIT_SEED = 0
"""Seeds every held-out split. Not a run's seed: all runs share the same splits."""


def held_out_indices(labels: np.ndarray, size: int) -> np.ndarray:
    """Choose `size` examples, stratified by label: the same ones on every call.

    Each class gives in proportion to its share: sorted data are no trap.

    Args:
        labels: int `[n]`.
        size: 1 to n - 1.

    Returns:
        Sorted indices, int64 `[size]`.

    Raises:
        ValueError: `size` out of range, or a class would lose its last example.
    """
    if not 1 <= size < len(labels):
        raise ValueError(
            f"cannot hold out {size} of {len(labels)} examples; accepted: "
            f"1 to {len(labels) - 1}"
        )
    chosen = stratified_indices(labels, size)
    emptied = np.setdiff1d(labels, np.delete(labels, chosen))
    if emptied.size:
        raise ValueError(
            f"holding out {size} of {len(labels)} examples takes all of class "
            f"{emptied[0]}"
        )
    return chosen


def stratified_indices(labels: np.ndarray, size: int) -> np.ndarray:
    """Choose `size` examples, each class in proportion to its share.

    Rounded by largest remainder, so that the sizes add up exactly. The same ones on
    every call, whatever the order that a data set comes in.

    Args:
        labels: int `[n]`.
        size: 0 to n.

    Returns:
        Sorted indices, int64 `[size]`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas, remainders = np.divmod(size * counts, len(labels))
    by_remainder = np.argsort(-remainders, kind="stable")
    quotas[by_remainder[: size - quotas.sum()]] += 1
    # RandomState, not default_rng: numpy promises never to change its stream.
    order = np.random.RandomState(SPLIT_SEED)
    chosen = [
        order.permutation(np.flatnonzero(labels == one_class))[:quota]
        for one_class, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def split_off(dataset: ArrayDataset, size: int) -> tuple[ArrayDataset, ArrayDataset]:
    """Return (the rest, `size` held-out examples), both in their original order."""
    held_out = held_out_indices(dataset.labels, size)
    return dataset.take(np.delete(np.arange(len(dataset)), held_out)), dataset.take(
        held_out
    )


def with_fewer_to_train_on(splits: DataSplits, size: int) -> DataSplits:
    """Return splits whose training set is cut, each class in proportion.

    Args:
        splits: the data.
        size: at most so many training images; 0 for all.

    Returns:
        The splits; validation and test are as they were.
    """
    if not size or size >= len(splits.train):
        return splits
    chosen = stratified_indices(splits.train.labels, size)
    return dataclasses.replace(splits, train=splits.train.take(chosen))
