"""Decode steps of fixed shapes, captured once as CUDA graphs and replayed: no launch overhead per operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.runners.torch.plan import StepPlan
from penstock.engine.runners.torch.reach import AttentionPlan, DecodeGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from penstock.engine.runners.torch.kv_cache import KVCache
    from penstock.engine.runners.torch.lora import LoraBank
    from penstock.engine.runners.torch.plan import Planner
    from penstock.engine.types import SequenceStep

_LEAST_TOKENS = 256  # contexts are padded to powers of two from here on


class DecodeGraphs:
    """Runs steps in which every sequence computes one token, padded up to a power of two of sequences and of
    blocks, so that few shapes exist. A shape is captured when first met.

    Args:
        forward: computes hidden states [rows, hidden] from a plan, by operations a graph can hold.
        captures: else the padded step is computed as any other.
    """

    def __init__(
        self,
        forward: Callable[[StepPlan], Tensor],
        planner: Planner,
        cache: KVCache,
        bank: LoraBank,
        dtype: torch.dtype,
        device: torch.device,
        *,
        captures: bool,
    ) -> None:
        self._forward = forward
        self._planner = planner
        self._cache = cache
        self._bank = bank
        self._layout = bank.layout
        self._dtype = dtype
        self._device = device
        self._captures = captures
        self._steps: dict[tuple[int, ...], _StaticStep] = {}
        self._pool: Any = None

    def run(self, sequences: Sequence[SequenceStep]) -> Tensor:
        """Hidden states [len(sequences), hidden], in the order given; valid until the next call."""
        least = max(1, _LEAST_TOKENS // self._cache.block_size)
        is_adapted = any(s.adapter for s in sequences)
        if self._layout != self._bank.layout:
            self._steps = {shape: step for shape, step in self._steps.items() if step.plan.adapted is None}
            self._layout = self._bank.layout
        widest = (max(map(reach.width, sequences)) for reach in self._planner.reaches)
        widths = tuple(max(least, _power_of_two(width)) for width in widest)
        shape = _power_of_two(len(sequences)), *widths, int(is_adapted)
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = self._make_step(shape[0], widths, is_adapted=is_adapted)
        self._fill(step, sequences)
        if step.graph is not None:
            step.graph.replay()
            hidden = step.hidden
        else:
            hidden = self._forward(step.plan)
        return hidden[: len(sequences)]

    def _make_step(self, rows: int, widths: tuple[int, ...], *, is_adapted: bool) -> _StaticStep:
        def integers(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int64, device=self._device)

        def group(width: int) -> DecodeGroup:
            bias = torch.zeros((rows, 1, 1, width * self._cache.block_size), dtype=self._dtype, device=self._device)
            return DecodeGroup(slice(0, rows), integers(rows * width), bias)

        attention = tuple(AttentionPlan((group(width),), ()) for width in widths)
        adapted = self._bank.fixed_rows(rows) if is_adapted else None
        plan = StepPlan(integers(rows), integers(rows), integers(rows), attention, (), adapted)
        step = _StaticStep(plan, widths, torch.empty(0), None)
        self._fill(step, ())
        if self._captures:
            self._capture(step)
        return step

    def _capture(self, step: _StaticStep) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(step.plan)  # libraries allocate their workspaces outside of the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step.hidden = self._forward(step.plan)
        self._pool = graph.pool()
        step.graph = graph

    def _fill(self, step: _StaticStep, sequences: Sequence[SequenceStep]) -> None:
        """Copy a step into the static tensors. Rows without a sequence write to the spare block and see only it."""
        plan, size = step.plan, self._cache.block_size
        rows, n = plan.tokens.shape[0], len(sequences)
        padding = rows - n
        slots = [s.block_table[s.start // size] * size + s.start % size for s in sequences]
        plan.tokens.copy_(torch.tensor([s.token_ids[0] for s in sequences] + [0] * padding))
        plan.positions.copy_(torch.tensor([s.start for s in sequences] + [0] * padding))
        plan.slots.copy_(torch.tensor(slots + [self._cache.spare_block * size] * padding))
        if plan.adapted is not None:
            plan.adapted.slots.copy_(torch.tensor([self._bank.slot(s.adapter) for s in sequences] + [0] * padding))
        for reach, attention, width in zip(self._planner.reaches, plan.attention, step.widths, strict=True):
            found, unseen = reach.decode_group(sequences, width)
            blocks = torch.full((rows, width), self._cache.spare_block)
            blocks[:n] = torch.from_numpy(found)
            hidden = torch.zeros((rows, width * size), dtype=torch.bool)
            hidden[:n] = torch.from_numpy(unseen)
            bias = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, float("-inf"))
            (group,) = attention.decodes
            group.blocks.copy_(blocks.view(-1))
            group.bias.copy_(bias.view(group.bias.shape))


@dataclass(slots=True)
class _StaticStep:
    """One shape's tensors, at addresses that never change, and its graph (None if it isn't captured)."""

    plan: StepPlan
    widths: tuple[int, ...]  # blocks of a sequence, for each window
    hidden: Tensor
    graph: Any


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
