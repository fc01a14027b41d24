"""TPU chips, and topologies given by name."""

import dataclasses
import math
import re

from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, from Google's page about it: https://cloud.google.com/tpu/docs/<name>.

    hbm          GiB that programs may use, as libtpu 0.0.42 reports: a little less than the chip
                 has (v4 32, v5e 16, v5p 96, v6e 32)
    peak         bfloat16 FLOP/s
    clock        cycles per second: peak / (2 x multipliers of the chip's matrix units)
    links        bytes/s that a chip sends to its neighbours, half of the bidirectional figure
    largest      chips of the largest slice
    host         the smallest topology, that of one host
    """

    name: str
    hbm: float
    peak: float
    clock: float
    links: float
    largest: int
    host: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 30.75, 275e12, 1.05e9, 300e9, 4096, "2x2x1"),
        Chip("v5e", 15.75, 197e12, 1.5e9, 200e9, 256, "2x2"),
        Chip("v5p", 95.74, 459e12, 1.75e9, 600e9, 8960, "2x2x1"),
        Chip("v6e", 31.25, 918e12, 1.75e9, 400e9, 256, "2x2"),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a pod: "v5p:4x4x4" is 64 chips."""

    name: str
    chip: Chip
    chips: int


def parse_topology(name: str) -> Topology:
    """The topology of a name CHIP:AxB or CHIP:AxBxC; raises UserError for any other name."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    chip = CHIPS.get(match[1]) if match else None
    if chip is None:
        raise UserError(
            f"topology {name!r}: must be one of {', '.join(CHIPS)} with a shape, "
            "as in v5p:4x4x4 or v5e:4x4"
        )
    sides = [int(side) for side in match[2].split("x")]
    dimensions = chip.host.count("x") + 1
    chips = math.prod(sides)
    if len(sides) != dimensions or not 0 < chips <= chip.largest:
        raise UserError(
            f"topology {name!r}: {chip.name} has shapes of {dimensions} sides, as "
            f"{chip.name}:{chip.host}, and at most {chip.largest} chips"
        )
    return Topology(name, chip, chips)
