"""Collectives and cycles of hand-written programs, counted by hand."""

import pytest

from rlhf_jax.plan import hlo

TEXT = """\
HloModule jit_update, is_scheduled=true, num_partitions=4

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%piece_one (p: bf16[2,8]) -> bf16[8,8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %gather.1 = bf16[8,8]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%piece_two (p: bf16[2,8]) -> bf16[8,8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %gather.2 = bf16[8,8]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%compared (i: s32[], n: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %n = s32[] parameter(1)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%inner_condition (t: (f32[16], s32[])) -> pred[] {
  %t = (f32[16]{0}, s32[]) parameter(0)
  %n = s32[] constant(6)
  %i = s32[] get-tuple-element(%t), index=1
  ROOT %fusion = pred[] fusion(%i, %n), kind=kLoop, calls=%compared
}

%inner_body (t: (f32[16], s32[])) -> (f32[16], s32[]) {
  %t = (f32[16]{0}, s32[]) parameter(0)
  %x = f32[16]{0} get-tuple-element(%t), index=0
  %i = s32[] get-tuple-element(%t), index=1
  %two = s32[] constant(2)
  %start = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,1},{1,0}}
  %y = f32[16]{0} collective-permute-done(%start)
  %next = s32[] add(%i, %two)
  ROOT %out = (f32[16]{0}, s32[]) tuple(%y, %next)
}

%outer_condition (t: (f32[16], s32[])) -> pred[] {
  %t = (f32[16]{0}, s32[]) parameter(0)
  %n = s32[] constant(5)
  %i = s32[] get-tuple-element(%t), index=1
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%outer_body (t: (f32[16], s32[])) -> (f32[16], s32[]) {
  %t = (f32[16]{0}, s32[]) parameter(0)
  %shard = bf16[2,8]{1,0} constant({...})
  %one = s32[] constant(1)
  %x = f32[16]{0} get-tuple-element(%t), index=0
  %i = s32[] get-tuple-element(%t), index=1
  %begun = bf16[8,8]{1,0} fusion(%shard), kind=kCustom, calls=%piece_one, backend_config={"estimated_cycles":"100"}
  %ended = bf16[8,8]{1,0} fusion(%shard), kind=kCustom, calls=%piece_two, backend_config={"estimated_cycles":"50"}
  %pair = (f32[16]{0}, s32[]) tuple(%x, %i)
  %loop = (f32[16]{0}, s32[]) while(%pair), condition=%inner_condition, body=%inner_body
  %y = f32[16]{0} get-tuple-element(%loop), index=0
  %next = s32[] add(%i, %one)
  ROOT %out = (f32[16]{0}, s32[]) tuple(%y, %next)
}

ENTRY %main (x: f32[16], g: f32[8,4]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  %g = f32[8,4]{1,0:T(8,128)} parameter(1)
  %zero = s32[] constant(0)
  %pair = (f32[16]{0}, s32[]) tuple(%x, %zero)
  %reduced = (f32[8,4]{1,0}, f32[16]{0}) all-reduce(%g, %x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%sum
  %scattered = f32[2,4]{1,0} reduce-scatter(%g), channel_id=2, replica_groups={}, dimensions={0}, to_apply=%sum
  %loop = (f32[16]{0}, s32[]) while(%pair), condition=%outer_condition, body=%outer_body
  ROOT %y = f32[16]{0} get-tuple-element(%loop), index=0
}
"""  # noqa: E501


def test_bytes_are_counted_by_kind_with_loops_multiplied():
    cost = hlo.parse(TEXT).cost()
    assert cost.collectives == {
        "all-reduce": 2 * (1 / 2) * (8 * 4 + 16) * 4,  # among 2 chips
        "reduce-scatter": (3 / 4) * 8 * 4 * 4,  # all 4 chips
        # Cut into two computations, but one collective; 5 turns. A share goes to 3 others.
        "all-gather": 5 * 3 * 2 * 8 * 2,
        "collective-permute": 5 * 3 * 16 * 4,  # the inner loop goes 0, 2, 4
    }
    assert cost.cycles == 5 * (100 + 50)
    assert cost.unknown == 0


def test_a_reduce_scatter_as_tpus_write_it():
    text = TEXT.replace("%sum (a", "%all-reduce-scatter.1 (p: f32[8,4]) -> f32[2,4] {\n"
        "  %p = f32[8,4]{1,0} parameter(0)\n"
        "  %r = f32[8,4]{1,0} all-reduce(%p), channel_id=3, replica_groups={}, to_apply=%sum\n"
        "  ROOT %s = f32[2,4]{1,0} dynamic-slice(%r)\n}\n\n%sum (a", 1)  # fmt: skip
    once = hlo.parse(text).cost_of("all-reduce-scatter.1")
    assert once.collectives == {"reduce-scatter": (3 / 4) * 8 * 4 * 4}


def test_what_follows_a_kernel_whose_attributes_have_several_lines_is_counted():
    kernel = (
        '  %kernel = f32[16]{0} custom-call(%x), custom_call_target="tpu_custom_call", '
        'frontend_attributes={kernel_metadata={\n"xprof_metadata":"{}"\n}}, '
        'backend_config={"estimated_cycles":"7"}\n'
    )
    text = TEXT
    for place in ("  %begun", "  %reduced"):
        text = text.replace(place, kernel + place)
    found, plain = hlo.parse(text).cost(), hlo.parse(TEXT).cost()
    assert found.collectives == plain.collectives and found.unknown == 0
    assert found.cycles == plain.cycles + 7 + 5 * 7


def test_the_turns_of_a_loop():
    module = hlo.parse(TEXT)
    assert [(turns, times) for _, turns, times in module.loops()] == [(5, 1), (3, 5)]
    known = TEXT.replace(
        "body=%outer_body", 'body=%outer_body, backend_config={"known_trip_count":{"n":"11"}}'
    )
    assert [turns for _, turns, _ in hlo.parse(known).loops()] == [11, 3]


def test_a_loop_that_tells_no_bound_is_counted_once_and_said():
    text = TEXT.replace("direction=LT", "direction=NE")
    cost = hlo.parse(text).cost()
    assert cost.unknown == 2
    assert cost.collectives["all-gather"] == 3 * 2 * 8 * 2


@pytest.mark.parametrize(
    "groups, size",
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=[4,4]<=[4,4]T(1,0), use_global_device_ids=true", 4),
        ("replica_groups=mesh['a'=4,'b'=16,'c'=1] {'b'}", 16),
        ("replica_groups=mesh['a'=4,'b'=16], device_ids=([4,16]T(1,0)) {'a','b'}", 64),
        ("replica_groups=mesh['a'=4,'b'=16] {'b':(2)8}", 8),
        ("replica_groups={}", 32),
    ],
)
def test_groups_of_chips_in_each_way_to_write_them(groups, size):
    assert hlo.group_size(f", channel_id=3, {groups}, dimensions={{0}}", 32) == size


def test_groups_in_a_way_not_known_are_refused():
    with pytest.raises(ValueError, match="not known here"):
        hlo.group_size(", replica_groups=<4x4>", 32)


def test_bytes_of_shapes():
    assert hlo.bytes_of("bf16[3,5]{1,0:T(8,128)(2,1)S(1)}") == 30
    assert hlo.bytes_of("(f32[4]{0}, s8[7]{0}, u32[])") == 16 + 7 + 4
    assert hlo.bytes_of("f32[]") == 4
