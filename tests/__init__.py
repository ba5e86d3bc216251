"""The tests of mmc_jax: `<module>_test.py` for each module, and `reference/` to judge by."""
