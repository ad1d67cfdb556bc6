"""What requests change in the logits before a token is chosen: a grammar's mask, biases, bans and penalties."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from penstock.engine.types import SampleSpec


def needs_adjusting(spec: SampleSpec) -> bool:
    return spec.allowed is not None or bool(spec.banned_token_ids or spec.params.logit_bias) or _is_penalized(spec)


def adjust_logits(logits: Tensor, specs: Sequence[SampleSpec]) -> Tensor:
    """Apply each row's wishes to logits [rows, vocab], float32, in place. Ids outside the vocabulary have no effect."""
    vocab = logits.shape[1]
    _restrict(logits, specs)
    biases = _Entries(vocab)
    bans = _Entries(vocab)
    for row, spec in enumerate(specs):
        biases.add(row, spec.params.logit_bias.items())
        bans.add(row, ((token, 0.0) for token in spec.banned_token_ids))
    if biases:
        rows, tokens, values = biases.tensors(logits)
        logits.index_put_((rows, tokens), values, accumulate=True)
    if bans:
        rows, tokens, _ = bans.tensors(logits)
        logits.index_put_((rows, tokens), logits.new_tensor(float("-inf")))
    _penalize(logits, specs)
    return logits


def _restrict(logits: Tensor, specs: Sequence[SampleSpec]) -> None:
    """Rule out the tokens that a row's grammar doesn't allow."""
    rows = [row for row, spec in enumerate(specs) if spec.allowed is not None]
    if not rows:
        return
    vocab = logits.shape[1]
    size = -(-vocab // 8)
    masks = b"".join((specs[row].allowed or b"")[:size].ljust(size, b"\0") for row in rows)
    packed = torch.frombuffer(bytearray(masks), dtype=torch.uint8).view(len(rows), size, 1).to(logits.device)
    bits = torch.arange(8, dtype=torch.uint8, device=logits.device)
    allowed = (packed >> bits & 1).view(len(rows), -1)[:, :vocab].bool()  # [len(rows), vocab]
    index = torch.tensor(rows, device=logits.device)
    logits[index] = logits[index].masked_fill(~allowed, float("-inf"))


def _penalize(logits: Tensor, specs: Sequence[SampleSpec]) -> None:
    """Repetition divides (or, below 0, multiplies) the scores of tokens in prompt or output (Keskar et al.,
    arXiv:1909.05858); frequency and presence subtract for tokens in the output, as OpenAI defines them."""
    repeated = _Entries(logits.shape[1])
    subtracted = _Entries(logits.shape[1])
    for row, spec in enumerate(specs):
        p = spec.params
        if p.repetition_penalty != 1:
            seen = set(spec.prompt_token_ids).union(spec.output_token_ids)
            repeated.add(row, ((token, p.repetition_penalty) for token in seen))
        if p.frequency_penalty or p.presence_penalty:
            counts = Counter(spec.output_token_ids)
            subtracted.add(row, ((t, n * p.frequency_penalty + p.presence_penalty) for t, n in counts.items()))
    if repeated:
        rows, tokens, factors = repeated.tensors(logits)
        scores = logits[rows, tokens]
        logits.index_put_((rows, tokens), torch.where(scores > 0, scores / factors, scores * factors))
    if subtracted:
        rows, tokens, amounts = subtracted.tensors(logits)
        logits.index_put_((rows, tokens), logits[rows, tokens] - amounts)


def _is_penalized(spec: SampleSpec) -> bool:
    p = spec.params
    return p.repetition_penalty != 1 or p.frequency_penalty != 0 or p.presence_penalty != 0


class _Entries:
    """Sparse (row, token, value) triples, gathered over the batch to be applied at once."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._rows: list[int] = []
        self._tokens: list[int] = []
        self._values: list[float] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, row: int, entries: Iterable[tuple[int, float]]) -> None:
        for token, value in entries:
            if 0 <= token < self._vocab:
                self._rows.append(row)
                self._tokens.append(token)
                self._values.append(value)

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 rows, int64 tokens, float32 values."""
        return (
            torch.tensor(self._rows, device=like.device),
            torch.tensor(self._tokens, device=like.device),
            torch.tensor(self._values, dtype=torch.float32, device=like.device),
        )
