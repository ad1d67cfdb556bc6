"""How a step is laid out: rows, groups, pieces and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.runners.torch import plan as plan_module
from penstock.engine.runners.torch import reach as reach_module
from penstock.engine.runners.torch.kv_cache import KVCache
from penstock.engine.runners.torch.plan import Planner
from penstock.engine.types import SequenceStep
from support.gguf_files import tiny_spec

if TYPE_CHECKING:
    import pytest

    from penstock.engine.runners.torch.reach import AttentionPlan

CPU = torch.device("cpu")
SIZE = 4


def planner(window: int | None = None, dtype: torch.dtype = torch.bfloat16) -> Planner:
    return mixed_planner((window,), dtype)


def mixed_planner(windows: tuple[int | None, ...], dtype: torch.dtype) -> Planner:
    return Planner(KVCache(tiny_spec(), 512, SIZE, dtype, CPU), windows, dtype, CPU)


def step(start: int, count: int = 1, first_block: int = 0) -> SequenceStep:
    blocks = -(-(start + count) // SIZE)
    return SequenceStep("s", list(range(count)), start, list(range(first_block, first_block + blocks)), None)


steps = st.lists(
    st.builds(step, st.integers(0, 200), st.one_of(st.just(1), st.integers(1, 60)), st.integers(0, 400)),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(
    steps,
    st.sampled_from([(None,), (1,), (5,), (64,), (None, 7), (None, 40)]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_query_sees_exactly_the_keys_it_should(
    sequences: list[SequenceStep], windows: tuple[int | None, ...], dtype: torch.dtype
) -> None:
    plan = mixed_planner(windows, dtype).plan(sequences)
    assert plan.tokens.shape == plan.positions.shape == plan.slots.shape
    assert len(plan.attention) == len(windows)
    for attention, window in zip(plan.attention, windows, strict=True):
        _assert_rows(plan, _visible_slots(plan, attention, sequences), sequences, window)


def _assert_rows(
    plan: plan_module.StepPlan, seen: dict[int, list[int]], sequences: list[SequenceStep], window: int | None
) -> None:
    for i, s in enumerate(sequences):
        rows = range(plan.rows[i].start, plan.rows[i].stop)
        assert plan.tokens[plan.rows[i]].tolist() == list(s.token_ids)
        for row, position in zip(rows, range(s.start, s.start + len(s.token_ids)), strict=True):
            assert plan.positions[row] == position
            assert plan.slots[row] == _slot(s, position)
            first = 0 if window is None else max(0, position - window + 1)
            assert seen[row] == [_slot(s, p) for p in range(first, position + 1)]


def _slot(s: SequenceStep, position: int) -> int:
    return s.block_table[position // SIZE] * SIZE + position % SIZE


def _visible_slots(
    plan: plan_module.StepPlan, attention: AttentionPlan, sequences: list[SequenceStep]
) -> dict[int, list[int]]:
    """The cache slots each row attends to, in order, as the plan's blocks and masks say."""
    seen: dict[int, list[int]] = {}
    for group in attention.decodes:
        n = group.bias.shape[0]
        slots = (group.blocks.view(n, -1, 1) * SIZE + torch.arange(SIZE)).view(n, -1)
        for i in range(n):
            seen[group.rows.start + i] = slots[i][group.bias[i, 0, 0] == 0].tolist()
    for chunk in attention.prefills:
        own = [s for i, s in enumerate(sequences) if plan.rows[i] == chunk.rows]
        blocks = torch.tensor(own[0].block_table) if chunk.blocks is None else chunk.blocks
        slots = (blocks.unsqueeze(1) * SIZE + torch.arange(SIZE)).view(-1)
        for piece in chunk.pieces:
            count = piece.rows.stop - piece.rows.start
            for i in range(count):
                if piece.bias is None:
                    seen[piece.rows.start + i] = slots[: i + 1].tolist()
                else:
                    seen[piece.rows.start + i] = slots[piece.keys][piece.bias[i] == 0].tolist()
    return seen


def test_short_decodes_are_not_padded_to_a_long_one() -> None:
    sequences = [step(99), step(2000), step(101), step(98)]
    plan = planner().plan(sequences)
    lengths = [group.bias.shape[-1] * group.bias.shape[0] for group in plan.attention[0].decodes]
    assert sum(lengths) < 2100 + 3 * 110
    assert plan.rows[1] == slice(0, 1)


def test_alike_decodes_share_a_group() -> None:
    plan = planner().plan([step(100 + i) for i in range(20)])
    assert len(plan.attention[0].decodes) == 1


def test_a_group_gathers_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_GATHER_TOKENS", 400)
    plan = planner().plan([step(99) for _ in range(10)])
    assert [group.bias.shape[0] for group in plan.attention[0].decodes] == [4, 4, 2]


def test_a_long_chunk_is_cut_so_that_no_mask_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "_MASK_ELEMENTS", 1000)
    [chunk] = planner().plan([step(50, 150)]).attention[0].prefills
    assert all(piece.bias is not None and piece.bias.numel() <= 1000 for piece in chunk.pieces)
    assert [piece.keys for piece in chunk.pieces] == [slice(0, 55 + 5 * i) for i in range(30)]


@settings(deadline=None)
@given(
    st.integers(0, 600),
    st.lists(st.integers(1, 200), min_size=1, max_size=3),
    st.sampled_from([(None,), (40,), (None, 40)]),
)
def test_in_float32_the_keys_of_a_query_do_not_depend_on_where_chunks_are_cut(
    start: int, counts: list[int], windows: tuple[int | None, ...]
) -> None:
    """Nor, for a single token, on the other decodes of its batch."""
    planned = mixed_planner(windows, torch.float32)
    shapes: dict[tuple[int | str | None, ...], set[int]] = {}
    batches = [[step(start, count), step(17)] for count in counts]
    batches += [[step(start), step(300), step(2)], [step(start), *(step(start + i) for i in (1, 5, 30))]]
    for batch in batches:
        plan = planned.plan(batch)
        for window, attention in zip(windows, plan.attention, strict=True):
            for chunk in attention.prefills:
                for piece in chunk.pieces:
                    assert piece.bias is not None
                    assert piece.bias.shape[0] % 32 == 0
                    for row in range(piece.rows.start, piece.rows.stop):
                        shapes.setdefault((window, int(plan.positions[row])), set()).add(piece.bias.shape[1])
            for group in attention.decodes:
                # A decode begins with the first block that its window sees, a prompt's piece with that of its span.
                apart = ("decode",) if window is not None else ()
                for row in range(group.rows.start, group.rows.stop):
                    at = (window, int(plan.positions[row]), *apart)
                    shapes.setdefault(at, set()).add(group.bias.shape[-1])
    assert all(len(found) == 1 for found in shapes.values())
