"""Objectives and estimators: arrays in, arrays out.

Estimator = advantage function x surrogate function; objective = sum of named, weighted terms.
Functions return unreduced per-token or per-example values; `reductions.WeightedMean` is the only
reduction. Masks are 1 where a token counts. docs/objectives.md lists every function.
"""
