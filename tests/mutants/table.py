"""All mutants."""

from tests.mutants import (
    data,
    details,
    evaluation,
    generation,
    models,
    objectives,
    policy_gradients,
    preferences,
    stages,
    training,
)

ROOMS = (details, objectives, policy_gradients, preferences, models, data, generation, training,
         stages, evaluation)  # fmt: skip
TABLE = tuple(mutant for room in ROOMS for mutant in room.MUTANTS)
