"""What a JSON schema costs: throughput of 32 streams held to one, and the first token's delay while one is compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.client import Post, burst
from benchmarks.errors import BenchmarkError
from benchmarks.json_schemas import schemas
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.client import Answer
    from benchmarks.scenarios.base import Setting

NAME = "structured"
_STREAMS = 32
_TOKENS = 128
# Nothing ends it within the tokens that are asked for, so that both kinds of streams are of one length.
_LONG: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["river", "lake", "sea"]},
            "length": {"type": "integer", "minimum": 0, "maximum": 100_000},
            "notes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
        "required": ["name", "kind", "length", "notes"],
        "additionalProperties": False,
    },
}


def measure(setting: Setting) -> list[Record]:
    """Bursts with and without the schema in turn; then each of 200 schemas once new and once known.

    Without guessing ahead, which helps texts by how much they repeat themselves, and so one kind more than the other.
    """
    with penstock(setting, "--speculation", "off") as engine:
        free, held = [], []
        for number in range(-1, setting.repeats):  # the first pair warms up
            for kind in (free, held) if number % 2 else (held, free):
                prompts = setting.prompts.take(_STREAMS, f"{'held' if kind is held else 'free'} {number}")
                posts = [engine.post(prompt, _TOKENS) for prompt in prompts]
                speed = _throughput(burst([_with(post, _LONG) for post in posts] if kind is held else posts))
                if number >= 0:
                    kind.append(speed)
        [prompt] = setting.prompts.take(1, "first token")
        plain = engine.post(prompt, 2)
        new: list[float] = []
        known: list[float] = []
        for schema in [{"const": "warm-up"}, *schemas()]:
            post = _with(plain, schema)
            base, first, again = (burst([each])[0].ttft for each in (plain, post, post))
            new.append(first - base)
            known.append(again - base)
    metrics = [
        Metric.from_samples("output_throughput_free", "tokens/s", free),
        Metric.from_samples("output_throughput_schema", "tokens/s", held),
        Metric.from_samples("throughput_ratio", "1", [a / b for a, b in zip(held, free, strict=True)]),
        Metric.from_samples("first_token_delay_new_schema", "s", new[1:]),
        Metric.from_samples("first_token_delay_known_schema", "s", known[1:]),
    ]
    parameters = {"streams": _STREAMS, "output_tokens": _TOKENS, "schemas": len(new) - 1}
    notes = (
        "Delays are against the same prompt without a schema, asked just before; its prefix is cached for all three. "
        "A new schema may be a repetition of one before, where the generator drew the same twice.",
    )
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]


def _with(post: Post, schema: dict[str, Any]) -> Post:
    return replace(post, body={**post.body, "structured_outputs": {"json": schema}})


def _throughput(answers: Sequence[Answer]) -> float:
    if any(answer.tokens != _TOKENS for answer in answers):
        raise BenchmarkError(f"A stream ended before its {_TOKENS} tokens.")
    return sum(answer.tokens for answer in answers) / (
        max(answer.arrivals[-1] for answer in answers) - min(answer.sent for answer in answers)
    )
