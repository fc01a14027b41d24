"""Generation of responses of uneven lengths, with and without slots: python benchmarks/slots.py

A response ends at a token whose id is a multiple of --mean, so that lengths are about geometric.
All settings take turns, in one process. For each of them the script prints the seconds (median; on
a CPU those that all cores worked for this process, so that other work on them counts little), its
ratio to decoding all rows at once, and the share of rows whose tokens are others, because
rounding has drawn another token. --out writes the figures as JSON.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.generation.decode import DecodingConfig, generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import SIZES
from rlhf_jax.models.matmul import resolve_dtype
from rlhf_jax.parallel.host import start_with_large_pages


@dataclasses.dataclass(frozen=True)
class Often(Ending):
    """Ends at every id that is a multiple of `mean`."""

    mean: int = 1

    def stops(self, tokens, column):
        del column
        return tokens % self.mean == 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", help="a name of models/config.py")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=48, help="the longest response")
    parser.add_argument("--mean", type=int, default=12, help="the mean length of a response")
    parser.add_argument("--slots", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--pieces", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compute-dtype", default="auto")
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser.parse_args()


def main(options: argparse.Namespace) -> dict:
    model = dataclasses.replace(SIZES[options.size], compute_dtype=options.compute_dtype)
    shape = options.rows, options.prompt
    tokens = jax.random.randint(jax.random.key(7), shape, 1, model.vocab_size, jnp.int32)
    params = jax.jit(functools.partial(transformer.init, model))(jax.random.key(0))
    given = params, tokens, jnp.ones_like(tokens), jax.random.key(1)
    settings = {"all rows": DecodingConfig()}
    settings |= {f"{n} slots": DecodingConfig(slots=n) for n in options.slots}
    settings |= {f"{n} pieces": DecodingConfig(cache_pieces=n) for n in options.pieces}
    programs, compiling = {}, {}
    for name, decoding in settings.items():
        sample = functools.partial(
            generate, model, sampling=SamplingConfig(), response_length=options.response,
            ending=Often(-1, 0, mean=options.mean), decoding=decoding,
        )  # fmt: skip
        started = time.perf_counter()
        programs[name] = jax.jit(sample).lower(*given).compile()
        compiling[name] = time.perf_counter() - started
    found = {name: jax.device_get(program(*given)) for name, program in programs.items()}
    seconds = {name: [] for name in programs}
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for _ in range(options.rounds):
        for name, program in programs.items():
            started = clock()
            jax.block_until_ready(program(*given))
            seconds[name].append(clock() - started)
    expected = found["all rows"]
    first = statistics.median(seconds["all rows"])
    result = {
        "device": str(jax.devices()[0]),
        "compute_dtype": str(resolve_dtype(model.compute_dtype)),
        "tokens": int(expected.mask.sum()),
        "mean_length": float(expected.mask.sum(axis=1).mean()),
        "settings": {
            name: {
                "seconds": statistics.median(times),
                "ratio": first / statistics.median(times),
                "rows_that_part": float(
                    np.mean((found[name].tokens != expected.tokens).any(axis=1))
                ),
                "compile_seconds": compiling[name],
            }
            for name, times in seconds.items()
        },
    }
    print(
        f"{options.rows} x ({options.prompt} + {options.response}), mean length "
        f"{result['mean_length']:.1f}, {result['compute_dtype']}, {result['device']}"
    )
    for name, row in result["settings"].items():
        print(
            f"{name:>10}: {row['seconds']:.3f} s, {row['ratio']:.2f} x, compiled in "
            f"{row['compile_seconds']:.1f} s, {row['rows_that_part']:.1%} of rows part"
        )
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    start_with_large_pages()
    main(arguments())
