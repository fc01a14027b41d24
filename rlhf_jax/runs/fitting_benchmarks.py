"""Which of the named benchmarks can measure which of the named models; says what is left out."""

from collections.abc import Collection, Mapping, Sequence

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark
from rlhf_jax.runs.measured import Named
from rlhf_jax.runs.reading import MODELS


def with_files(benchmarks: Mapping[str, Benchmark], named: Collection[str]) -> dict[str, Benchmark]:
    """The benchmarks without those that `all` means and whose files are not there; says which.
    Raises UserError where files of one that is named, or of all, are not there."""
    found, missing = {}, []
    for name, benchmark in benchmarks.items():
        try:
            benchmark.paths()
            found[name] = benchmark
        except UserError as error:
            if name in named:
                raise
            missing.append(error)
            print(f"eval: {name} is left out: {error}")
    if not found:
        raise missing[0]
    return found


def for_models(
    benchmarks: Mapping[str, Benchmark], models: Sequence[Named], named: Collection[str]
) -> dict[str, Benchmark]:
    """The benchmarks without those that `all` means and that measure none of the models; says which
    benchmarks and which models are left out. Raises UserError where one that is named measures
    none, or all of them do."""
    kinds = {model.ends for model in models}
    found = {name: each for name, each in benchmarks.items() if each.judges in kinds}
    left = [name for name in benchmarks if name not in found]
    if refused := [name for name in left if name in named or not found]:
        told = ", ".join(f"{model.name} (a {MODELS[model.ends][0]})" for model in models)
        wanted = MODELS[benchmarks[refused[0]].judges][1]
        raise UserError(f"{refused[0]} measures {wanted}: got {told}")
    if left:
        wanted = MODELS[benchmarks[left[0]].judges][0]
        print(f"eval: left out, for want of a {wanted}: {', '.join(left)}")
    wanted = {benchmark.judges for benchmark in found.values()}
    for model in models:
        if model.ends not in wanted:
            print(f"eval: {model.name} is not measured: no benchmark of "
                  f"{MODELS[model.ends][1]} is named")  # fmt: skip
    return found


def check_names(models: Sequence[Named], against: str | None) -> None:
    """Raises UserError where two models have one name, or `against` is none of them."""
    names = [model.name for model in models]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two models are called {repeated!r}: rename a folder")
    require(against is None or against in names, "against", against, f"of {', '.join(names)}")


def tell_against(
    benchmarks: Mapping[str, Benchmark], models: Sequence[Named], against: str | None
) -> None:
    """Says with which model those are compared that are of another kind than `against`."""
    kinds = {model.name: model.ends for model in models}
    measured = {benchmark.judges for benchmark in benchmarks.values()} - {kinds.get(against)}
    others = [model for model in models if model.ends in measured]
    if against is not None and len(others) > 1:
        one, many = MODELS[kinds[against]][0], MODELS[others[0].ends][1]
        print(f"eval: {against} is a {one}: {many} are compared with {others[0].name}")


def within_context(
    benchmarks: Mapping[str, Benchmark], models: Sequence[Named], named: Collection[str]
) -> dict[str, Benchmark]:
    """The benchmarks without those that `all` means and whose answers are longer than what a model
    can read; says which. Raises UserError where one that is named has such answers."""
    found = {}
    for name, benchmark in benchmarks.items():
        most = benchmark.longest_answer
        short = [m for m in models if m.ends == benchmark.judges and m.context <= most]
        if not short:
            found[name] = benchmark
            continue
        told = (f"its answers have up to {most} tokens, and {short[0].name} reads "
                f"{short[0].context} with the prompt: give --{name}.most-tokens or, with rotary "
                "positions, --context")  # fmt: skip
        if name in named:
            raise UserError(f"{name}: {told}")
        print(f"eval: {name} is left out: {told}")
    if not found:
        raise UserError("no benchmark is left")
    return found
