"""How much of a workload's prompts a prefix cache could find: an upper bound to hold an engine's hit ratio against."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.lab.bench.planned import Planned

BLOCK_TOKENS = 16  # as engines share them


def prefix_hit_ratio(requests: Iterable[Planned], block: int = BLOCK_TOKENS) -> float:
    """Share of prompt tokens in whole blocks that an earlier prompt began with, in a cache without limit.

    Words stand for tokens in texts, as each is one in those made here. Of a conversation's later turns all that was
    said before is in the cache, answers as long as they were asked for included. 0 for no requests.
    """
    seen: set[int] = set()
    hits = total = 0
    for planned in requests:
        parts = units(planned.prompt)
        total += len(parts)
        chain, found, missed = 0, 0, False
        for start in range(0, len(parts) - block + 1, block):
            chain = hash((chain, tuple(parts[start : start + block])))
            missed = missed or chain not in seen
            found += 0 if missed else block
            seen.add(chain)
        hits += found
        said, answer = len(parts), planned.max_tokens
        for turn in planned.turns:
            cached = (said + answer) // block * block
            said += answer + len(turn.text.split())
            answer = turn.max_tokens
            hits, total = hits + cached, total + said
    return hits / total if total else 0.0


def units(prompt: str | list[int] | list[dict[str, str]]) -> Sequence[str | int]:
    """The tokens of a prompt, or its words."""
    if isinstance(prompt, str):
        return prompt.split()
    return [unit for part in prompt for unit in ([part] if isinstance(part, int) else str(part["content"]).split())]
