"""What a stage can use while it runs: models, records, keys, compiled programs, and results from
the host, which are written to disk before they are used."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from etils.epath import Path

from rlhf_jax.durable.files import entries, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import processes
from rlhf_jax.randomness import random_key, shuffle_seed
from rlhf_jax.stages.stage import Build, Program
from rlhf_jax.strict_json import read_json

if TYPE_CHECKING:
    from rlhf_jax.runs.run import Run

HOST = "host"  # folder of a stage: NAME/STEP.json
ABOUT = "about.json"  # in a stage's directory


class HostResult(NamedTuple):
    """A result from the host, in a file."""

    file: Path
    of: str  # digest of the arguments from which the result was made
    about: str  # its name in messages

    def is_there(self) -> bool:
        return self.file.is_file() and read_json(self.file)["of"] == self.of

    def write(self, found: Any) -> None:
        write_atomically(self.file, self.json({"of": self.of, "found": found}))

    def json(self, found: Any) -> bytes:
        try:
            return json.dumps(found, allow_nan=False).encode()
        except ValueError:
            told = f"{self.about}: a number that is not finite came from the host"
            raise UserError(told) from None


class StageInputs:
    """The `stages.stage.Inputs` of one stage of a run."""

    def __init__(self, run: "Run", stage: str):
        self._run, self._stage = run, run.config.stages[stage]
        self._stream = self._stage.stream or stage
        self.build: Build = run.build(stage)
        self.runner, self.tokenizer = run.runner, run.tokenizer
        self.directory: Path = run.stage_directory(stage)
        self._at_end = contextlib.ExitStack()
        self._models: dict[str, Any] = {}  # by stage: two roles of one stage share its model

    def model(self, role: str) -> Any:
        stage = self._stage_of(role)
        if stage not in self._models:
            self._models[stage] = self._run.model(stage)
        return self._models[stage]

    def trunk(self, role: str) -> Any:
        return self._run.trunk(self._stage_of(role))

    def _stage_of(self, role: str) -> str:
        needs = self._stage.needs()
        if role not in needs:
            raise UserError(f"{self.build.name}: model({role!r}): its `needs` has no such role: "
                            f"it has {', '.join(needs) or 'none'}")  # fmt: skip
        return needs[role].stage

    def pretrained(self) -> Any:
        return self._run.published()

    def records(self, kind: str, split: str) -> Sequence:
        needs = self._stage.needs()
        return self._run.records(kind, split, needs[kind].stage if kind in needs else None)

    def grader(self) -> Callable[[str, str], Any]:
        return self._run.config.data.grader(self._run.config.seed)

    def key(self, use: str) -> jax.Array:
        return random_key(self._run.config.seed, f"{self._stream}/{use}")

    def shuffle(self, use: str) -> int:
        return shuffle_seed(self._run.config.seed, f"{self._stream}/{use}")

    def compile(self, programs: Mapping[str, Program]) -> dict[str, Callable]:
        return {name: program.compile(self.runner) for name, program in programs.items()}

    def on_host(self, name: str, step: int, function: Callable, *arguments: Any) -> Any:
        result = self._result(name, step, arguments)

        def write():
            if not result.is_there():
                result.write(function(*arguments))

        processes.first_alone(write, f"{name} {step}")
        return read_json(result.file)["found"]

    def rows_on_host(self, name: str, step: int, function: Callable, *columns: Sequence) -> list:
        result, count = self._result(name, step, columns), len(columns[0])
        if not processes.total(processes.is_first() and result.is_there()):
            own = processes.own_share(count)
            part = list(function(*(column[own] for column in columns)))
            expected = own.stop - own.start
            if len(part) != expected:
                raise UserError(f"{result.about}: expected {expected} results, got {len(part)}")
            parts = processes.gathered(result.json(part))
            found = [one for part in parts for one in json.loads(part)]
            processes.first_alone(lambda: result.write(found), f"{name} {step}")
        return read_json(result.file)["found"]

    def _result(self, name: str, step: int, arguments: Sequence) -> "HostResult":
        file = self.directory / HOST / name / f"{step}.json"
        of = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()
        return HostResult(file, of, f"{self.build.name}: {name} of step {step}")

    def host_results(self, name: str) -> list:
        folder = self.directory / HOST / name
        whole = (file for file in entries(folder) if file.suffix == ".json")  # no leftover .partial
        steps = sorted(int(file.stem) for file in whole)
        return [read_json(folder / f"{step}.json")["found"] for step in steps]

    def at_end(self, close: Callable[[], None]) -> None:
        self._at_end.callback(close)

    def close(self) -> None:
        self._at_end.close()

    def tell(self, **about: Any) -> None:
        text = json.dumps(about, indent=1, allow_nan=False)
        write = lambda: write_atomically(self.directory / ABOUT, text.encode())
        processes.first_alone(write, ABOUT)

    def fetch_rows(self, tree: Any) -> Any:
        return self.runner.fetch_rows(tree)

    def place_rows(self, whole: Any) -> Any:
        return self.runner.place_rows(whole)
