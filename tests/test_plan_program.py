"""What is read off a compiled program: trips, collectives and their axes, bytes, against counts by hand."""

from pathlib import Path

import pytest

from clip_jax.plan.collectives import Collective, by_kind_and_axes, collectives
from clip_jax.plan.hlo import parse, shapes_in
from clip_jax.plan.traffic import cycles, hbm_bytes

# A shard_map over (data 4, fsdp 2): five turns of a scan, each gathering f32[8, 16] along fsdp; then an all-gather, a permute
# and a reduce-scatter over both, and a sum along each. Compiled for 8 CPU devices.
RECORDED = (Path(__file__).parent / "golden" / "collectives.hlo").read_text()
MESH = {"data": 4, "fsdp": 2}
PLACES = [(i % 4, i // 4) for i in range(8)]  # two nodes of four


def found_in(text: str, mesh: dict[str, int] = MESH) -> list[Collective]:
    return collectives(parse(text), mesh, PLACES, ())


def program(*lines: str, also: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{also}\nENTRY %main (p: f32[8,16]) -> f32[8,16] {{\n{body}\n}}\n"


def test_collectives_of_a_recorded_program():
    assert {(one.kind, one.axes, one.size, one.bytes, one.times) for one in found_in(RECORDED)} == {
        ("all-gather", ("fsdp",), 2, 16 * 16 * 4, 5),
        ("all-gather", ("data", "fsdp"), 8, 32 * 16 * 4, 1),
        ("collective-permute", ("data", "fsdp"), 8, 4 * 16 * 4, 1),
        ("reduce-scatter", ("data", "fsdp"), 8, 32 * 4 * 4, 1),
        ("all-reduce", ("fsdp",), 2, 4, 1),
        ("all-reduce", ("data",), 4, 4, 1),
    }


def test_bytes_sent_follow_the_ring_algorithms():
    sent = {(kind, axes): sent for kind, axes, sent, _ in by_kind_and_axes(found_in(RECORDED))}
    assert sent["all-gather", ("fsdp",)] == 5 * 1024 / 2
    assert sent["all-gather", ("data", "fsdp")] == 2048 * 7 / 8
    assert sent["reduce-scatter", ("data", "fsdp")] == 512 * 7 / 8
    assert sent["all-reduce", ("data",)] == 2 * 4 * 3 / 4
    assert sent["collective-permute", ("data", "fsdp")] == 256


def test_reach_of_groups():
    span = {(one.kind, one.axes): one.span for one in found_in(RECORDED)}
    assert span["all-gather", ("fsdp",)] == (2, 1)  # devices 0 and 1, of one node
    assert span["all-reduce", ("data",)] == (2, 2)  # 0, 2, 4, 6
    assert span["collective-permute", ("data", "fsdp")] == (2, 2)  # 3 to 4: back to place 0, of the other node


def passed_on(pairs: list[tuple[int, int]], places: list[tuple[int, ...]], rings: tuple[int, ...]) -> Collective:
    given = ",".join(f"{{{a},{b}}}" for a, b in pairs)
    text = program(f"ROOT %r = f32[8,16]{{1,0}} collective-permute(%p), source_target_pairs={{{given}}}")
    [one] = collectives(parse(text), {"data": len(places)}, places, rings)
    return one


ROW = [(i, 0, 0) for i in range(8)]
GRID = [(i // 4, i % 4, 0) for i in range(8)]


@pytest.mark.parametrize(
    ("step", "places", "rings", "load"),
    [
        (1, ROW, (8, 0, 0), 1),  # 7 to 0 is one link where the row closes
        (1, ROW, (0, 0, 0), 1),  # and else goes back, over links that nobody else uses
        (2, ROW, (8, 0, 0), 2),
        (3, ROW, (0, 0, 0), 3),
        (5, ROW, (8, 0, 0), 3),  # backwards
        (5, ROW, (0, 0, 0), 3),  # three go forth by 5, five go back by 3
        (1, GRID, (0, 0, 0), 1),  # 3 to 4: into the other row, and back along it
        (2, GRID, (0, 0, 0), 2),
        (
            1,
            [(i // 2, 0, 0) for i in range(8)],
            (0, 0, 0),
            0.5,
        ),  # two devices a chip: every other array stays in its chip
        (1, [(i % 4, i // 4) for i in range(8)], (), 0),  # GPUs
    ],
)
def test_arrays_over_the_busiest_link(step, places, rings, load):
    assert passed_on([(i, (i + step) % 8) for i in range(8)], places, rings).load == load


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("[4,2]<=[8]", ("fsdp",), 2),
        ("[2,4]<=[4,2]T(1,0)", ("data",), 4),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("fsdp",), 2),
        ("{{0,2,4,6},{1,3,5,7}}", ("data",), 4),
        ("{}", ("data", "fsdp"), 8),
        ("mesh['a'=4,'b'=2] {'b'}", ("fsdp",), 2),
        ("mesh['a'=4,'b'=2] {'a'}", ("data",), 4),
        ("mesh['a'=8] {'a'}", ("data", "fsdp"), 8),
        ("mesh['a'=8] {'a':(4)2}", ("fsdp",), 2),  # the inner factor
        ("mesh['a'=8] {'a':(1)4}", ("data",), 4),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','b'}", ("data",), 4),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", ("fsdp",), 2),
        ("mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'b'}", ("data",), 4),
    ],
)
def test_every_form_of_groups(groups, axes, size):
    [one] = found_in(program(f"ROOT %r = f32[8,16]{{1,0}} all-reduce(%p), replica_groups={groups}, to_apply=%add"))
    assert (one.axes, one.size) == (axes, size)


def test_groups_in_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match="no known form"):
        found_in(program("ROOT %r = f32[8,16]{1,0} all-reduce(%p), replica_groups=<8>, to_apply=%add"))


def test_a_group_of_one_sends_nothing():
    assert not found_in(program("ROOT %r = f32[8,16]{1,0} all-reduce(%p), replica_groups=[8,1]<=[8], to_apply=%add"))


def test_started_operations_are_asynchronous_and_their_operands_not_counted():
    gather, permute = found_in(
        program(
            "%g = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={0}",
            "%h = f32[64,16]{1,0} all-gather-done(%g)",
            "%c = (f32[8,16]{1,0}, f32[8,16]{1,0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}",
            "ROOT %d = f32[8,16]{1,0} collective-permute-done(%c)",
        )
    )
    assert (gather.bytes, permute.bytes) == (64 * 16 * 4, 8 * 16 * 4)
    assert gather.asynchronous
    assert permute.asynchronous


def test_a_tpu_collective_beside_fusions_is_counted_once():
    line = 'all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}, frontend_attributes={chain_id="3"}'
    [one] = found_in(program(f"%a = f32[16,16]{{1,0:S(1)}} {line}", f"ROOT %b = f32[16,16]{{1,0}} {line}"))
    assert one.asynchronous
    assert one.bytes == 16 * 16 * 4


def test_a_tpu_reduce_scatter_is_a_fused_all_reduce():
    fused = (
        "%all-reduce-scatter.1 (q: f32[8,16]) -> f32[1,16] {\n"
        "  %q = f32[8,16]{1,0} parameter(0)\n"
        "  %r = f32[8,16]{1,0} all-reduce(%q), replica_groups=[1,8]<=[8], to_apply=%add\n"
        "  ROOT %s = f32[1,16]{1,0} dynamic-slice(%r, %i), dynamic_slice_sizes={1,16}\n}\n"
    )
    [one] = found_in(
        program("ROOT %f = f32[1,16]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1", also=fused)
    )
    assert (one.kind, one.bytes, one.sent) == ("reduce-scatter", 512, 512 * 7 / 8)


LOOP = """
%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %y = f32[4]{0} add(%x, %x), backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %y)
}

%cond (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %n = s32[] constant(7)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %l = pred[] compare(%i, %n), direction=LT
}
"""


def test_trips_are_read_off_the_condition_where_the_loop_does_not_say():
    text = program("ROOT %w = (s32[], f32[4]{0}) while(%p), condition=%cond, body=%body", also=LOOP)
    assert parse(text).runs["body"] == 7
    assert cycles(parse(text)) == 700
    assert hbm_bytes(parse(text)) == 7 * 3 * 16  # two operands and a result of four f32


def test_bytes_count_slices_padding_and_only_hbm():
    fused = (
        "%f (a: f32[24,8,128], i: s32[]) -> f32[8,128] {\n"
        "  %a = f32[24,8,128]{2,1,0} parameter(0)\n"
        "  %i = s32[] parameter(1)\n"
        "  ROOT %d = f32[1,8,128]{2,1,0} dynamic-slice(%a, %i), dynamic_slice_sizes={1,8,128}\n}\n"
    )
    layer = 8 * 128 * 4
    sliced = program(
        "%a = f32[24,8,128]{2,1,0} parameter(0)",
        "ROOT %r = f32[8,128]{1,0:S(1)} fusion(%a, %i), kind=kLoop, calls=%f",
        also=fused,
    )
    assert hbm_bytes(parse(sliced)) == layer  # one layer read of 24; the result stays on the chip
    assert hbm_bytes(parse(program("ROOT %c = f32[5,100]{1,0:T(8,128)} copy(%x)"))) == layer


BRANCHES = """
%small (x: f32[4]) -> f32[4] {
  ROOT %a = f32[4]{0} add(%x, %x), backend_config={"estimated_cycles":"10"}
}

%large (x: f32[4]) -> f32[4] {
  %b = f32[64]{0} broadcast(%x), backend_config={"estimated_cycles":"70"}
  ROOT %c = f32[4]{0} slice(%b)
}
"""


@pytest.mark.parametrize(
    "which", ["branch_computations={%small, %large}", "true_computation=%large, false_computation=%small"]
)
def test_of_branches_the_costliest_counts(which):
    text = program(f"ROOT %r = f32[4]{{0}} conditional(%p, %x, %x), {which}", also=BRANCHES)
    assert dict(parse(text).runs) == {"main": 1, "large": 1}
    assert cycles(parse(text)) == 70


def test_what_an_asynchronous_operation_wraps_runs_beside_other_work():
    wrapped = (
        "%wrapped (q: f32[8,16]) -> f32[1,16] {\n"
        "  %q = f32[8,16]{1,0} parameter(0)\n"
        "  ROOT %s = f32[1,16]{1,0} reduce-scatter(%q), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add\n}\n"
    )
    started = program(
        "%a = ((f32[8,16]{1,0}), f32[1,16]{1,0}) async-start(%p), calls=%wrapped",
        "ROOT %d = f32[1,16]{1,0} async-done(%a)",
        also=wrapped,
    )
    [one] = found_in(started)
    assert (one.kind, one.bytes, one.asynchronous) == ("reduce-scatter", 512, True)
    [one] = found_in(program("ROOT %a = f32[1,16]{1,0} call(%p), to_apply=%wrapped", also=wrapped))
    assert not one.asynchronous


def test_fused_intermediates_reach_no_memory_and_cost_no_cycles_of_their_own():
    fused = (
        "%f (a: f32[8,128]) -> f32[8,128] {\n"
        "  %a = f32[8,128]{1,0} parameter(0)\n"
        '  %b = f32[8,128]{1,0} exponential(%a), backend_config={"estimated_cycles":"5"}\n'
        "  ROOT %c = f32[8,128]{1,0} negate(%b)\n}\n"
    )
    text = program(
        "%a = f32[8,128]{1,0} parameter(0)",
        'ROOT %r = f32[8,128]{1,0} fusion(%a), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"9"}',
        also=fused,
    )
    assert hbm_bytes(parse(text)) == 2 * 8 * 128 * 4  # one read, one written
    assert cycles(parse(text)) == 9


LAYER = 8 * 128 * 4


def test_a_slice_written_in_place_moves_the_slice_alone():
    fused = (
        "%f (a: f32[24,8,128], u: f32[1,8,128]) -> f32[24,8,128] {\n"
        "  %a = f32[24,8,128]{2,1,0} parameter(0)\n"
        "  %u = f32[1,8,128]{2,1,0} parameter(1)\n"
        "  %n = f32[1,8,128]{2,1,0} negate(%u)\n"
        "  ROOT %d = f32[24,8,128]{2,1,0} dynamic-update-slice(%a, %n, %i)\n}\n"
    )
    given = ("%a = f32[24,8,128]{2,1,0} parameter(0)", "%u = f32[1,8,128]{2,1,0} parameter(1)")
    fusion = program(*given, "ROOT %r = f32[24,8,128]{2,1,0} fusion(%a, %u), kind=kLoop, calls=%f", also=fused)
    assert hbm_bytes(parse(fusion)) == 2 * LAYER
    alone = program(*given, "ROOT %r = f32[24,8,128]{2,1,0} dynamic-update-slice(%a, %u, %i)")
    assert hbm_bytes(parse(alone)) == 2 * LAYER


def test_a_copy_to_memory_on_the_chip_counts_once():
    text = program(
        "%a = f32[8,128]{1,0} parameter(0)",
        "%s = (f32[8,128]{1,0:S(1)}, f32[8,128]{1,0}, u32[]) copy-start(%a)",
        "ROOT %d = f32[8,128]{1,0:S(1)} copy-done(%s)",
    )
    assert hbm_bytes(parse(text)) == LAYER


def test_a_buffer_that_a_fusion_only_hands_on_is_not_read():
    fused = (
        "%f (a: f32[8,128], b: f32[8,128]) -> (f32[8,128], f32[8,128]) {\n"
        "  %a = f32[8,128]{1,0} parameter(0)\n"
        "  %b = f32[8,128]{1,0} parameter(1)\n"
        "  %n = f32[8,128]{1,0} negate(%a)\n"
        "  ROOT %t = (f32[8,128]{1,0}, f32[8,128]{1,0}) tuple(%n, %b)\n}\n"
    )
    text = program(
        "%a = f32[8,128]{1,0} parameter(0)",
        "%b = f32[8,128]{1,0} parameter(1)",
        "ROOT %r = (f32[8,128]{1,0}, f32[8,128]{1,0}) fusion(%a, %b), kind=kLoop, calls=%f",
        also=fused,
    )
    assert hbm_bytes(parse(text)) == 2 * LAYER


def test_of_a_loops_constants_the_bound_is_the_largest():
    two = LOOP.replace("  %n = s32[] constant(7)", "  %z = s32[] constant(0)\n  %n = s32[] constant(7)")
    text = program("ROOT %w = (s32[], f32[4]{0}) while(%p), condition=%cond, body=%body", also=two)
    assert parse(text).runs["body"] == 7


def test_shapes():
    one, two = shapes_in("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, pred[]{:T(512)})")
    assert (one.bytes, one.fast, one.held) == (12, True, (8, 128))
    assert (two.bytes, two.fast) == (1, False)


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        parse("not a program")
