"""The engine's messages. What crosses a process is a `msgspec.Struct`; what stays inside is a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKGROUND_PRIORITY = 1 << 20  # requests of this priority or a higher number run while nothing else has to

FinishReason = Literal["stop", "length", "abort", "error"]
Speculation = Literal["off", "ngram", "draft"]
# What becomes a sequence's vector: the last token's normalized final hidden state, or the mean of all tokens'.
Pooling = Literal["last", "mean"]


class ThinkingLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a model may think.

    `begin` and `end` are the tags around its thinking, `end_token_ids` the end as tokens; `begun` says that the prompt
    has the beginning.
    """

    tokens: int
    begin: str
    end: str
    end_token_ids: tuple[int, ...]
    begun: bool


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen and when to stop. Names and defaults follow vLLM's.

    `seed` None means a fresh random seed per request. `logprobs` is how many alternatives to return per
    generated token (0: the chosen one only; None: none at all); `prompt_logprobs` likewise for the prompt.
    `grammar` (llguidance's dialect of Lark, with `%json` and `%regex`) is what the text must match as a whole.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = 16  # None: up to the context
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    shown_token_ids: tuple[int, ...] = ()  # control tokens that are text all the same
    grammar: str | None = None
    thinking: ThinkingLimit | None = None
    speculation: Speculation | None = None  # None: as the engine is set up


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. `n > 1` has already been unfolded into n of these by the client."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0  # lower runs first, as in vLLM
    arrival_time: float = 0.0  # time.monotonic() of the client's process (one clock per machine)
    cache_salt: str = ""
    pooling: Pooling | None = None  # nothing is generated: the answer is the prompt's vector
    adapter: str = ""  # by name; empty: the model itself

    @property
    def needs_every_position(self) -> bool:
        """Whether each position of the prompt has to be computed, whatever the prefix cache holds of it."""
        return self.params.prompt_logprobs is not None or self.pooling == "mean"


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A low-rank adapter that is loaded."""

    name: str
    path: str  # its directory
    rank: int  # the greatest of its modules'
    nbytes: int  # its weights in memory


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token and its natural-log probability; rank 1 is the most likely."""

    token_id: int
    logprob: float
    rank: int


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token of one position and the most likely alternatives (best first)."""

    chosen: TokenLogprob
    top: list[TokenLogprob]


class RequestOutput(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What happened to a request since its last output: a delta, not the whole.

    `text` holds only whole characters; `token_ids` and `text` need not line up while a character or a
    possible stop string is held back. Times are `time.monotonic()` seconds.
    """

    request_id: str
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None  # once, with the first output
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token or string that matched
    cached_tokens: int = 0  # prompt tokens whose KV came from the prefix cache (final value in every delta)
    scheduled_time: float = 0.0  # first time in a batch
    embedding: bytes | None = None  # for `Request.pooling`: float32 [hidden_size], in the machine's byte order
    error: str | None = None  # with finish_reason "error": the sentence
    error_type: str | None = None  # and the class of core.errors that says it
    error_param: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What the sampler needs for one sequence; the id lists are live references, read-only to the runner."""

    params: SamplingParams
    seed: int
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    banned_token_ids: Sequence[int]  # end-of-text and stop tokens while min_tokens is not reached, or ignored eos
    # What a grammar allows: a bit per token, the least significant of a byte first; tokens beyond it are not allowed.
    allowed: bytes | None = None


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One sequence's share of a step: compute `token_ids` at positions start .. start + len - 1.

    `block_table` maps position p to block `block_table[p // block_size]`, and covers all of them.
    `sample` is None while part of the prompt is still to come. With `drafts`, the last `len(drafts)` of `token_ids` are
    guesses: `sample` says how to choose the token in place of the first of them, and each of `drafts` how to choose the
    one after it, should it be right. `prompt_logprobs` asks for the log
    probabilities of that many alternatives at each of these prompt positions.
    """

    request_id: str
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    sample: SampleSpec | None
    prompt_logprobs: int | None = None
    next_prompt_ids: Sequence[int] = ()  # with prompt_logprobs: the token that follows each position, where known
    drafts: Sequence[SampleSpec] = ()
    adapter: int = 0  # the number that `ModelRunner.load_adapter` was given; 0: none
    pooling: Pooling | None = None  # give the last of these tokens' hidden state, or the sum of all of theirs


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass: any mix of decodes (one token) and prefill chunks (many)."""

    sequences: Sequence[SequenceStep]

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.sequences)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token; None if there was none to choose."""

    token_id: int | None
    logprobs: PositionLogprobs | None = None


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """Answer to one SequenceStep, in the batch's order. `error` fails this sequence alone."""

    token_id: int | None = None
    logprobs: PositionLogprobs | None = None
    after_drafts: Sequence[Sampled] = ()  # what would follow each draft
    prompt_logprobs: Sequence[PositionLogprobs] = ()
    pooled: bytes | None = None  # float32 [hidden_size]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    sequences: Sequence[SequenceOutput]
