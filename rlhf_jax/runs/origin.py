"""The experiment file and the options with which a stage, or the last command of a run, was
started; stored in the directory of the stage or run."""

import dataclasses
import json

from etils import epath
from etils.epath import Path

from rlhf_jax.durable.files import place, write_atomically
from rlhf_jax.durable.fingerprint import differences
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.options import ChainOptions, parse
from rlhf_jax.strict_json import read_json

ORIGIN = "experiment.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of a config.

    file: the experiment file's absolute path. options: the command-line options, as given.
    """

    file: str
    options: tuple[str, ...]

    def write(self, directory: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1)
        write_atomically(Path(directory) / ORIGIN, text.encode())

    @classmethod
    def read(cls, directory: Path) -> "Origin | None":
        """The origin stored in a directory; None if the command line did not start the stage or
        run.

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
        return self.applied(load_experiment(self.file))

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment of the file with the options. Raises UserError where one does not fit."""
        roots = [experiment, ChainOptions()]
        return parse(roots, self.options, f"rlhf-jax STAGE {self.file}")[0]


def is_experiment(source: str) -> bool:
    """Whether `experiment_of` reads it: an experiment file, or a run of the command line."""
    return source.endswith(".py") or is_run(source)


def is_run(source: str) -> bool:
    """Whether the command line has run stages in this directory."""
    return (epath.Path(source) / ORIGIN).is_file()


def experiment_of(source: str) -> Experiment:
    """The experiment of a file; or of a run's directory, as the last command that ran stages there
    read it. A stage that was started with other options has these.

    `out` is the directory; `parallel` is that of the experiment file. A folder of records that has
    moved is left out, because the run has its own copy.
    Raises UserError as `load_experiment`, and where a directory tells no experiment.
    """
    if source.endswith(".py"):
        return load_experiment(source)
    run = place(source, "RUN")
    if (last := Origin.read(run)) is None:
        raise UserError(f"{source}: expected an experiment file, or the directory of a run that "
                        "the command line has made")  # fmt: skip
    if not epath.Path(last.file).is_file():
        raise UserError(f"{source}: its experiment file, {last.file}, is not there: give the "
                        "experiment file in place of the run")  # fmt: skip
    experiment = load_experiment(last.file)
    config = last.applied(experiment)
    data = config.data
    if (path := getattr(data, "path", None)) is not None and not epath.Path(path).is_dir():
        data = dataclasses.replace(data, path=None)
    config = dataclasses.replace(config, out=source, data=data, parallel=experiment.parallel)
    for name in config.stages:
        own = Origin.read(run / name)
        if own not in (None, last) and differences(run / name, config.fingerprint(name)):
            stages = own.config().stages
            config = config.with_stages(**{name: stages[name]}) if name in stages else config
    return config
