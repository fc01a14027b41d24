"""Where the config of a stage came from, kept in its directory: an experiment file and options."""

import dataclasses
import json

from etils.epath import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.options import ChainOptions, parse
from rlhf_jax.strict_json import read_json

ORIGIN = "experiment.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """file: the experiment file, from the root on; options: as they were given."""

    file: str
    options: tuple[str, ...]

    def write(self, directory: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1)
        write_atomically(Path(directory) / ORIGIN, text.encode())

    @classmethod
    def read(cls, directory: Path) -> "Origin | None":
        """Of a stage's directory; None where the stage was not started by the command line.

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

        Raises UserError where the file is not there, or an option no longer fits it.
        """
        roots = [load_experiment(self.file), ChainOptions()]
        return parse(roots, self.options, f"rlhf-jax STAGE {self.file}")[0]
