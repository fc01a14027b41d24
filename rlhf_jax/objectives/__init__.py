"""Objectives and estimators: arrays in, arrays out."""
