"""Low-rank adapters beside the products: `y += scale * B (A x)`, each row with its own sequence's adapter.

As in S-LoRA (Sheng et al., arXiv:2311.03285) all adapters' weights lie in one bank, and rows of one adapter are
multiplied together. Rows come in blocks of one adapter each, padded, so that one batched product serves any mix, and
in float32 a row's sums are the same in any company: they are of blocks of one shape. A decode step of fixed shape,
which a CUDA graph can hold, has a block for each row, and slot 0, all zeros, for rows without an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from penstock.core.errors import ConfigError
from penstock.models.architectures.base import tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from penstock.models.lora import LoraAdapter
    from penstock.models.spec import ModelSpec

_BLOCK_ROWS = 16
_RANK_STEP = 8


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """A step's rows that have an adapter, in blocks of one adapter each."""

    slots: Tensor  # int64 [blocks]
    gather: Tensor | None  # int64 [blocks * rows of a block]: rows of the step, any for padding; None: all, in order
    places: Tensor  # int64 [adapted rows]: which of the gathered are no padding
    rows: Tensor  # int64 [adapted rows]: the rows of the step that they are


class LoraBank:
    """The adapters of one model in memory: for each module of each layer `A` [slots, rank, inputs] and `B`
    [slots, outputs, rank], the scale within `B`, ranks padded with zeros.

    It has room for what is loaded, and grows. `layout` changes whenever its tensors do: what was captured before reads
    others.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = 0
        self._dtype = dtype
        self._device = device
        self._slots: dict[int, int] = {}  # by an adapter's number; slot 0 is nobody's
        self._room = (1, _RANK_STEP)  # slots, rank
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}  # by module
        self._shapes = {name.removesuffix(".weight"): shape for name, shape in tensor_shapes(spec) if len(shape) == 2}

    @property
    def is_empty(self) -> bool:
        """Whether no adapter is loaded."""
        return not self._slots

    def load(self, number: int, adapter: LoraAdapter) -> int:
        """Take an adapter; the bytes of its weights. Raises ConfigError without memory."""
        slot = next(slot for slot in range(1, len(self._slots) + 2) if slot not in self._slots.values())
        nbytes = 0
        try:
            self._make_room(slot + 1, adapter.rank, adapter.pairs.keys())
            for module, (a, b) in self._pairs.items():
                a[slot].zero_()
                b[slot].zero_()
                if module in adapter.pairs:
                    pair = adapter.pairs[module]
                    a[slot, : pair.rank] = torch.from_numpy(adapter.read(pair.a)).to(a)
                    b[slot, :, : pair.rank] = (torch.from_numpy(adapter.read(pair.b)) * pair.scale).to(b)
                    nbytes += int(a[slot].nbytes + b[slot].nbytes)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                "There is no room on the device for the adapter. Lower --gpu-memory-utilization, which leaves some.",
                param="gpu_memory_utilization",
            ) from error
        self._slots[number] = slot
        return nbytes

    def unload(self, number: int) -> None:
        """Forget an adapter."""
        del self._slots[number]

    def slot(self, number: int) -> int:
        """Where an adapter lies; 0 for none."""
        return self._slots[number] if number else 0

    def rows(self, adapters: Sequence[tuple[slice, int]]) -> AdaptedRows | None:
        """The blocks of a step whose sequences have these rows and adapters' numbers; None if none has an adapter."""
        by_slot: dict[int, list[int]] = {}
        for part, number in adapters:
            if number:
                by_slot.setdefault(self._slots[number], []).extend(range(part.start, part.stop))
        if not by_slot:
            return None
        gather: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        for slot, rows in by_slot.items():
            padding = -len(rows) % _BLOCK_ROWS
            places += range(len(gather), len(gather) + len(rows))
            gather += rows + [rows[0]] * padding
            slots += [slot] * ((len(rows) + padding) // _BLOCK_ROWS)
        tensor = self._integers
        return AdaptedRows(
            tensor(slots), tensor(gather), tensor(places), tensor([r for rows in by_slot.values() for r in rows])
        )

    def fixed_rows(self, count: int) -> AdaptedRows:
        """A block for each of `count` rows, for a step whose slots are written later."""
        every = torch.arange(count, device=self._device)
        return AdaptedRows(torch.zeros_like(every), None, every, every)

    def add(self, layer: int, modules: Sequence[str], x: Tensor, y: Tensor, rows: AdaptedRows) -> None:
        """Add what adapters make of x [rows, inputs] to y [rows, outputs of the modules side by side], in place."""
        first = 0
        gathered: Tensor | None = None
        for module in modules:
            name = f"layers.{layer}.{module}"
            outputs = self._shapes[name][0]
            if name in self._pairs:
                if gathered is None:
                    gathered = x if rows.gather is None else x.index_select(0, rows.gather)
                    gathered = gathered.view(len(rows.slots), -1, x.shape[1])
                a, b = (matrix.index_select(0, rows.slots) for matrix in self._pairs[name])
                change = torch.bmm(torch.bmm(gathered, a.mT), b.mT).view(-1, outputs)
                target = y[:, first : first + outputs]
                if rows.gather is None:
                    target.add_(change)
                else:
                    target.index_add_(0, rows.rows, change.index_select(0, rows.places).to(y.dtype))
            first += outputs

    def _make_room(self, slots: int, rank: int, modules: Iterable[str]) -> None:
        """Tensors for these modules and for as many slots and ranks, with what was there."""
        room = max(self._room[0], slots), max(self._room[1], -(-rank // _RANK_STEP) * _RANK_STEP)
        names = self._pairs.keys() | modules
        if room == self._room and names == self._pairs.keys():
            return
        self._room = room
        self.layout += 1
        for name in sorted(names):
            outputs, inputs = self._shapes[name]
            a = torch.zeros((room[0], room[1], inputs), dtype=self._dtype, device=self._device)
            b = torch.zeros((room[0], outputs, room[1]), dtype=self._dtype, device=self._device)
            if name in self._pairs:
                old_a, old_b = self._pairs[name]
                a[: old_a.shape[0], : old_a.shape[1]] = old_a
                b[: old_b.shape[0], :, : old_b.shape[2]] = old_b
            self._pairs[name] = a, b

    def _integers(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
