"""The estimator lab measures bias, variance and cost of every policy-gradient estimator.

task.py is a task small enough to enumerate, so that its gradient is known exactly. rows.py is the
table of estimators (advantages x surrogate). theory.py says to what each biased estimator should
converge. measure.py measures, drift.py follows many steps on one batch, lab.py runs all of it.
"""
