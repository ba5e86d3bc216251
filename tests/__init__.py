"""The tests of mmc_jax: `<module>_test.py` each, and `reference/` to judge by."""
