"""All mutants."""

from tests.mutants import (
    agreement,
    chain,
    chat,
    command_line,
    compiling,
    data,
    details,
    durable,
    estimators,
    evaluation,
    families,
    formats,
    generation,
    identity,
    iteration,
    judging,
    lora,
    models,
    objectives,
    plan,
    policy_gradients,
    preferences,
    published,
    recipes,
    rewards,
    stages,
    sweeps,
    training,
    use,
)

ROOMS = (formats, chat, details, objectives, policy_gradients, preferences, models, families, data,
         generation, training, durable, rewards, stages, iteration, identity, evaluation,
         recipes, chain, plan, command_line, use, sweeps, estimators, published,
         lora, agreement, compiling, judging)  # fmt: skip
TABLE = tuple(mutant for room in ROOMS for mutant in room.MUTANTS)
