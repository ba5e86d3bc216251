"""Slow, obvious numpy versions of the library's mathematics, written from the papers.

Nothing here imports `mmc_jax`, and nothing here was written by looking at it: when the
two disagree, the cited formula decides. Everything is float64 and handles one example
at a time, in plain loops, unless a docstring says otherwise.

* `centers`, `losses`, `objectives`: the equations;
* `models`: three small networks whose gradients are written out by hand;
* `attacks`: the gradient-sign family on those models, from an explicit start;
* `apgd`, `fab`, `square` (with `square_draws`), `carlini_wagner`, `elastic_net`,
  `deep_fool`, `spsa`: the stronger attacks, whose draws are arguments; each says what
  its paper leaves open. `adam` is what some of them descend by;
* `linear`, `projections`: what no attack on a linear model can beat, and the nearest
  points of balls and hyperplanes within the box;
* `resampling`: sub-pixel shifts, flips and rotations;
* `evaluation`, `training`: counting, and the steps of stochastic gradient descent.
"""
