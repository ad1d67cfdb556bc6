"""Whether token counts can be believed: the server's usage against a tokenizer, and tokens against pieces of text.

A rate in tokens/s is only as good as its tokens. A server may not tell any, tell another model's, or count what it
threw away; and engines that put several tokens into a piece of text, or several pieces into a token, look faster or
slower to a client that counts pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from penstock.lab.bench.metrics import counted, output_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.lab.bench.observations import Observations

_TOLERANCE = 0.02  # of a sum of tokens
_MOST_TEXT = 2 << 20  # characters that are encoded again
_STOP = 1  # `finish` of an answer that ended by itself: its last token may be one without text


class Encoding(Protocol):
    """What a tokenizer must do here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the whole answers of one measurement."""

    answers: int
    told: int  # answers whose tokens the server told
    tokens: int  # theirs where told, else pieces
    pieces: int
    short: int  # answers with fewer tokens than were asked for
    long: int  # answers for which the server counts more than was allowed, beyond the token that ends one
    prompts_off: int  # prompts that the server counts shorter than the workload made them
    prompt_extra: float | None  # tokens that a server puts around a prompt, median; None: not told, or not known
    checked: int = 0  # answers that were encoded again
    checked_tokens: int = 0  # their tokens by the server, or their pieces
    encoded: int = 0  # their tokens by the tokenizer
    differing: int = 0  # answers whose two counts differ by more than the token that ends an answer

    @property
    def tokens_per_piece(self) -> float | None:
        """None without a piece."""
        return self.tokens / self.pieces if self.pieces else None

    @property
    def ratio(self) -> float | None:
        """The server's count over the tokenizer's; None if nothing was checked."""
        return self.checked_tokens / self.encoded if self.encoded else None

    def doubts(self) -> list[str]:
        """Sentences for people; empty if all is as it should be."""
        found = []
        if self.told < self.answers:
            found.append(
                f"The server told no token counts of {self.answers - self.told} of {self.answers} answers; pieces of"
                " text were counted instead, which may hold several tokens each."
            )
        if self.ratio is not None and abs(self.ratio - 1) > _TOLERANCE:
            what = "The server's token counts are" if self.told else "The pieces of text are"
            found.append(
                f"{what} {self.ratio:.3f} times what the tokenizer finds in the same {self.checked} answers: another"
                " tokenizer, tokens without text, or text whose usual encoding is not the one that was generated."
            )
        if self.prompts_off:
            found.append(
                f"The server counts {self.prompts_off} prompts shorter than they were made: it cut them, or its"
                " tokenizer is not the workload's."
            )
        if self.long:
            found.append(
                f"The server counts more tokens in {self.long} of {self.answers} answers than they were allowed:"
                " rates and times per token are as wrong as its counts."
            )
        if self.short:
            found.append(f"{self.short} of {self.answers} answers are shorter than was asked for.")
        return found


def count(runs: Sequence[Observations], tokenizer: Encoding | None = None) -> Counts:
    """Compare what can be compared; with a tokenizer, the answers whose text was kept are encoded again."""
    masks = [counted(seen) for seen in runs]

    def column(name: str) -> NDArray[np.int64]:
        parts = [getattr(seen, name)[mask] for seen, mask in zip(runs, masks, strict=True)]
        return np.concatenate(parts or [np.empty(0)]).astype(np.int64)

    told, asked = column("completion_tokens"), column("wanted_output")
    prompt, meant = column("prompt_tokens"), column("wanted_prompt")
    known = (prompt >= 0) & (meant >= 0)
    extra = (prompt - meant)[known]
    tokens = sum(int(output_tokens(seen)[mask].sum()) for seen, mask in zip(runs, masks, strict=True))
    found = Counts(
        answers=len(told), told=int((told > 0).sum()), tokens=tokens, pieces=int(column("piece_counts").sum()),
        short=int(((told > 0) & (told < asked)).sum()), long=int((told > asked + 1).sum()),
        prompts_off=int((extra < 0).sum()),
        prompt_extra=float(np.median(extra)) if len(extra) else None,
    )  # fmt: skip
    return found if tokenizer is None else _checked(found, runs, masks, tokenizer)


def _checked(
    found: Counts, runs: Sequence[Observations], masks: Sequence[NDArray[np.bool_]], tokenizer: Encoding
) -> Counts:
    checked = checked_tokens = encoded = differing = characters = 0
    for seen, mask in zip(runs, masks, strict=True):
        tokens = output_tokens(seen)
        for index in np.flatnonzero(mask).tolist():
            text = seen.texts.get(int(seen.id[index]))
            if text is None or characters > _MOST_TEXT:
                continue
            own = len(tokenizer.encode(text, add_special_tokens=False))
            theirs = int(tokens[index])
            ends = int(seen.finish[index] == _STOP and theirs == own + 1)
            characters += len(text)
            checked += 1
            checked_tokens += theirs - ends
            encoded += own
            differing += theirs - ends != own
    return replace(found, checked=checked, checked_tokens=checked_tokens, encoded=encoded, differing=differing)
