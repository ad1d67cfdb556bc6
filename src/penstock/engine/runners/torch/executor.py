"""One step from beginning to end: check, compute, sample, and keep a failure to the sequence that caused it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch

from penstock.engine.runners.refusal import NOT_FINITE, Limits, refusal
from penstock.engine.runners.torch.attention import Attention
from penstock.engine.runners.torch.graphs import DecodeGraphs
from penstock.engine.runners.torch.logprobs import prompt_logprobs
from penstock.engine.runners.torch.lora import LoraBank
from penstock.engine.runners.torch.plan import Planner
from penstock.engine.runners.torch.sampler import sample
from penstock.engine.runners.torch.variant import PLAIN, Variant
from penstock.engine.types import PositionLogprobs, Sampled, SequenceOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from penstock.engine.runners.torch.decoder import Decoder
    from penstock.engine.runners.torch.kv_cache import KVCache
    from penstock.engine.runners.torch.rotary import Rotary
    from penstock.engine.types import SequenceStep
    from penstock.models.spec import ModelSpec


class StepExecutor:
    """Runs steps of one model over one KV cache. To be used inside `torch.inference_mode()`.

    Attributes:
        bank: the adapters that sequences may ask for.

    Args:
        variant: as it is, steps of decodes alone run in fixed shapes, captured as graphs, where the device can.
    """

    def __init__(
        self,
        spec: ModelSpec,
        decoder: Decoder,
        rotary: Rotary,
        cache: KVCache,
        dtype: torch.dtype,
        device: torch.device,
        variant: Variant = PLAIN,
    ) -> None:
        self._spec = spec
        self._decoder = decoder
        self._cache = cache
        self._device = device
        self._limits = Limits(spec.vocab_size, rotary.length, cache.num_blocks, cache.block_size)
        attention = Attention(spec, cache, device)
        self.bank = LoraBank(spec, dtype, device)
        compute = partial(decoder.forward, rotary=rotary, attention=attention, bank=self.bank)
        self._compute = compute if variant.compiler is None else variant.compiler(compute)
        self._planner = Planner(cache, spec.windows, dtype, device)
        captures = variant.graphs == "auto" and device.type == "cuda"
        self._graphs = (
            DecodeGraphs(self._compute, self._planner, cache, self.bank, dtype, device, captures=captures)
            if captures or variant.graphs == "padded"
            else None
        )

    def run(self, sequences: Sequence[SequenceStep]) -> list[SequenceOutput]:
        """One output for each sequence, in order."""
        outputs = [SequenceOutput(error=refusal(s, self._limits)) for s in sequences]
        valid = [i for i, output in enumerate(outputs) if output.error is None]
        if valid:
            for i, output in zip(valid, self._run_valid([sequences[i] for i in valid]), strict=True):
                outputs[i] = output
        return outputs

    def _run_valid(self, sequences: list[SequenceStep]) -> list[SequenceOutput]:
        hidden, rows = self._forward(sequences)
        broken = self._broken(sequences, hidden, rows)
        outputs = [SequenceOutput(error=NOT_FINITE if i in broken else None) for i in range(len(sequences))]
        sampled = [i for i, s in enumerate(sequences) if s.sample is not None and i not in broken]
        if sampled:
            specs = {i: [spec, *s.drafts] for i in sampled if (spec := (s := sequences[i]).sample) is not None}
            wanted = [row for i in sampled for row in range(rows[i].stop - len(specs[i]), rows[i].stop)]
            logits = self._decoder.logits(hidden.index_select(0, torch.tensor(wanted, device=self._device)))
            chosen = iter(sample(logits, [spec for i in sampled for spec in specs[i]]))
            for i in sampled:
                first, *others = islice(chosen, len(specs[i]))
                outputs[i] = replace(first, after_drafts=[Sampled(o.token_id, o.logprobs) for o in others])
        for i, step in enumerate(sequences):
            if step.prompt_logprobs is not None and outputs[i].error is None:
                scores = self._score_prompt(step, step.prompt_logprobs, hidden[rows[i]])
                outputs[i] = replace(outputs[i], prompt_logprobs=scores)
            if step.pooling is not None and outputs[i].error is None:
                own = hidden[rows[i]].float()
                pooled = own.sum(0) if step.pooling == "mean" else own[-1]
                outputs[i] = replace(outputs[i], pooled=bytes(pooled.cpu().numpy().data))
        return outputs

    def _forward(self, sequences: list[SequenceStep]) -> tuple[Tensor, Sequence[slice]]:
        """Hidden states [rows, hidden], and which rows belong to each sequence."""
        if self._graphs is not None and self._planner.is_one_decode_group(sequences):
            return self._graphs.run(sequences), [slice(i, i + 1) for i in range(len(sequences))]
        plan = self._planner.plan(sequences)
        adapted = self.bank.rows([(rows, s.adapter) for rows, s in zip(plan.rows, sequences, strict=True)])
        plan = replace(plan, adapted=adapted)
        return self._compute(plan), plan.rows

    def _score_prompt(self, s: SequenceStep, top: int, hidden: Tensor) -> list[PositionLogprobs]:
        return prompt_logprobs(hidden, s.next_prompt_ids, top, self._decoder.logits, self._spec.vocab_size)

    def _broken(self, sequences: list[SequenceStep], hidden: Tensor, rows: Sequence[slice]) -> set[int]:
        """The sequences whose hidden states overflowed or are NaN; the blocks they wrote are made harmless."""
        finite = hidden.sum(-1, dtype=torch.float32).isfinite()
        if bool(finite.all()):
            return set()
        broken = {i for i in range(len(sequences)) if not bool(finite[rows[i]].all())}
        size = self._cache.block_size
        written = {
            block
            for i in broken
            for block in sequences[i].block_table[sequences[i].start // size : self._limits.blocks(sequences[i])]
        }
        if written:  # empty if only padding overflowed
            self._cache.scrub(torch.tensor(sorted(written), device=self._device))
        return broken
