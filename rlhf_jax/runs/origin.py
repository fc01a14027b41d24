"""The experiment file and the options with which a stage was started, stored in its directory."""

import dataclasses
import json

from etils import epath
from etils.epath import Path

from rlhf_jax.durable.files import entries, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.options import ChainOptions, parse
from rlhf_jax.strict_json import read_json

ORIGIN = "experiment.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of a stage's config.

    file: the experiment file's absolute path. options: the command-line options, as given.
    """

    file: str
    options: tuple[str, ...]

    def write(self, directory: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1)
        write_atomically(Path(directory) / ORIGIN, text.encode())

    @classmethod
    def read(cls, directory: Path) -> "Origin | None":
        """The origin stored in a stage's directory; None if the command line did not start it.

        Raises UserError where the file is damaged.
        """
        place = Path(directory) / ORIGIN
        if not place.is_file():
            return None
        found = read_json(place)
        whole = isinstance(found, dict) and found.keys() == {"file", "options"}
        whole = whole and isinstance(found["file"], str) and isinstance(found["options"], list)
        if not whole or not all(isinstance(option, str) for option in found["options"]):
            raise UserError(f"{place}: expected an experiment file and options, got {found}")
        return cls(found["file"], tuple(found["options"]))

    def config(self) -> Experiment:
        """The experiment as it was run.

        Raises UserError where the file does not exist, or an option no longer fits it.
        """
        roots = [load_experiment(self.file), ChainOptions()]
        return parse(roots, self.options, f"rlhf-jax STAGE {self.file}")[0]


def is_run(source: str) -> bool:
    """Whether this is a directory in which the command line has started a stage."""
    return bool(_origins(epath.Path(source)))


def experiment_of(source: str) -> Experiment:
    """The experiment of a file, or of a run's directory: with the options of its last stage, each
    stage with the options with which it was started, and `out` as the directory.

    Raises UserError as `load_experiment`, and where a directory holds no run or where its
    experiment file has moved or lacks a stage.
    """
    if source.endswith(".py"):
        return load_experiment(source)
    origins = _origins(epath.Path(source))
    if not origins:
        raise UserError(f"{source}: expected an experiment file, or the directory of a run")
    for origin in origins.values():
        if not epath.Path(origin.file).is_file():
            raise UserError(f"{source}: its experiment file, {origin.file}, is not there: give the "
                            "file in place of the run")  # fmt: skip
    made = {origin: origin.config() for origin in set(origins.values())}
    order = list(next(iter(made.values())).stages)
    for name, origin in origins.items():
        if name not in order:
            raise UserError(f"{source}: {origin.file} has no stage {name!r} any more")
    stages = {name: made[origins[name]].stages[name] for name in order if name in origins}
    last = made[origins[[*stages][-1]]]
    return dataclasses.replace(last.with_stages(**stages), out=source)


def _origins(run: Path) -> dict[str, Origin]:
    """The origin of each stage of a run that the command line has started in this directory."""
    if not run.is_dir():
        return {}
    found = {place.name: Origin.read(place) for place in entries(run) if place.is_dir()}
    return {name: origin for name, origin in found.items() if origin is not None}
