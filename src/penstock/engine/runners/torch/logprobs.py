"""Natural-log probabilities of chosen tokens and of the likeliest alternatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from penstock.engine.types import PositionLogprobs, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# Scores in float32 that exist at a time while a prompt is scored.
_MAX_ELEMENTS = 1 << 22


def position_logprobs(logits: Tensor, chosen: Sequence[int], tops: Sequence[int]) -> list[PositionLogprobs]:
    """For each row of logits [rows, vocab] the chosen token and the `tops[row]` likeliest, best first.

    A token's rank is one more than the number of tokens likelier than it.
    """
    scores = torch.log_softmax(logits.float(), -1)
    picked = scores.gather(1, torch.tensor(chosen, device=logits.device).unsqueeze(1))
    ranks = ((scores > picked).sum(-1) + 1).tolist()
    most = min(max(tops), logits.shape[1])
    best = scores.topk(most, -1) if most else None
    values = best.values.tolist() if best else []
    tokens = best.indices.tolist() if best else []
    rows: list[PositionLogprobs] = []
    for i, (token, logprob) in enumerate(zip(chosen, picked.squeeze(1).tolist(), strict=True)):
        count = min(tops[i], most)
        top = [TokenLogprob(tokens[i][j], values[i][j], j + 1) for j in range(count)]
        rows.append(PositionLogprobs(TokenLogprob(token, logprob, ranks[i]), top))
    return rows


def prompt_logprobs(
    hidden: Tensor, next_ids: Sequence[int], top: int, logits: Callable[[Tensor], Tensor], vocab: int
) -> list[PositionLogprobs]:
    """Log probabilities of the token after each position whose successor is known.

    Args:
        hidden: [positions, hidden], at least as many as next_ids.
        logits: turns hidden states into scores [positions, vocab]; called on a bounded number at a time.
    """
    step = max(1, _MAX_ELEMENTS // vocab)
    found: list[PositionLogprobs] = []
    for i in range(0, len(next_ids), step):
        ids = next_ids[i : i + step]
        found.extend(position_logprobs(logits(hidden[i : i + len(ids)]), ids, [top] * len(ids)))
    return found
