"""The experiment file and the options with which a stage was started, stored in its directory."""

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
