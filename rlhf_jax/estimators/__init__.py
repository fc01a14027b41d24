"""The estimator lab: bias, variance and cost of every policy-gradient estimator, measured.

task.py is small enough to enumerate, so that the gradient is known exactly; rows.py is the table of
estimators (advantages x surrogate); theory.py says what each biased row should converge to;
measure.py measures, drift.py follows several epochs on one batch, lab.py runs it all.
"""
