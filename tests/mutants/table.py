"""All mutants."""

from tests.mutants import generation, objectives, training

TABLE = objectives.MUTANTS + generation.MUTANTS + training.MUTANTS
