import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.plan.chips import CHIPS, parse_topology


@pytest.mark.parametrize(
    "name, chips", [("v5p:4x4x4", 64), ("v5p:8x8x16", 1024), ("v5e:16x16", 256), ("v4:2x2x1", 4)]
)
def test_a_topology_and_its_chips(name, chips):
    topology = parse_topology(name)
    assert topology.chips == chips
    assert topology.chip is CHIPS[name.split(":")[0]]


@pytest.mark.parametrize(
    "name, told",
    [
        ("v5p", "must be one of v4, v5e, v5p, v6e"),
        ("v3:4x4", "must be one of"),
        ("v5p:4x4", "shapes of 3 sides"),
        ("v5e:4x4x4", "shapes of 2 sides"),
        ("v5e:32x32", "at most 256 chips"),
        ("v5p:0x4x4", "shapes of 3 sides"),
    ],
)
def test_a_topology_that_cannot_be_is_one_line(name, told):
    with pytest.raises(UserError, match=told) as caught:
        parse_topology(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, units", [("v4", 2 * 4 * 128**2), ("v5e", 4 * 128**2), ("v5p", 2 * 4 * 128**2),
                    ("v6e", 4 * 256**2)]
)  # fmt: skip
def test_the_clock_is_what_the_peak_and_the_matrix_units_imply(name, units):
    """Cores of a chip x matrix units of a core x multipliers of a unit; v6e's two units are
    counted twice, as its peak asks for."""
    chip = CHIPS[name]
    assert chip.peak / (2 * units) == pytest.approx(chip.clock, rel=0.01)
