"""What guessing ahead does to one stream: where a text copies its prompt, and where nothing repeats."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.client import Post, burst
from benchmarks.errors import BenchmarkError
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record

if TYPE_CHECKING:
    from benchmarks.client import Answer
    from benchmarks.peers.penstock import PenstockEngine
    from benchmarks.scenarios.base import Setting

NAME = "speculation"
_TOKENS = 320
_PROGRAM = '''\
def area(width, height):
    """The area of a rectangle, in the square of the unit of its sides."""
    if width < 0 or height < 0:
        raise ValueError("sides can't be negative")
    return width * height


def perimeter(width, height):
    """The perimeter of a rectangle, in the unit of its sides."""
    if width < 0 or height < 0:
        raise ValueError("sides can't be negative")
    return 2 * (width + height)


def diagonal(width, height):
    """The diagonal of a rectangle, in the unit of its sides."""
    if width < 0 or height < 0:
        raise ValueError("sides can't be negative")
    return (width ** 2 + height ** 2) ** 0.5
'''
_REPORT = """\
The dam was closed on Monday morning for the first inspection in eleven years. Divers found that two of the four gates
had lost their seals, and that gravel had worn the sill of the third down to the reinforcement. The operator said that
the reservoir would be kept nine metres below its usual level until the gates had been replaced, which may take until
the autumn. Farmers downstream were told to expect a third less water than last summer, and the town of Varn asked its
people to fill no pools. The last drought of this kind was in 2003, when the river could be crossed on foot.
"""
_COPIES = {
    "edit": f"Add a comment to the last line of this program and repeat the whole of it.\n```python\n{_PROGRAM}```",
    "quote": f"Repeat this report word for word.\n\n{_REPORT}",
}
_NEW = (
    "Tell a story about a fisherman who is lost in a storm.",
    "Explain how bread is made, from the field to the table.",
    "Describe a walk through a city that nobody has visited before.",
    "Write a letter to a friend about the first snow of the year.",
)


def measure(setting: Setting) -> list[Record]:
    """Each request twice in turn, guessing and not, with the same seed and so the same text."""
    metrics: list[Metric] = []
    with penstock(setting) as engine:
        for name, content in _COPIES.items():
            metrics += _compare(engine, setting.repeats, name, [(content, 0.0)])
        drafted, accepted = (engine.gauge(f"penstock_{kind}draft_tokens_total") for kind in ("", "accepted_"))
        metrics.append(Metric.from_samples("share_accepted_of_copies", "1", [accepted / drafted]))
        metrics += _compare(engine, setting.repeats, "new", [(content, 1.0) for content in _NEW])
    parameters = {"streams": 1, "most_tokens": _TOKENS, "copies": "greedy", "new": "temperature 1"}
    notes = ("A ratio is of one pair; of new text, of the medians of a pair over its requests.",)
    return [make_record(setting, engine, NAME, parameters, metrics, notes)]


def _compare(engine: PenstockEngine, repeats: int, name: str, asked: list[tuple[str, float]]) -> list[Metric]:
    speeds: dict[str, list[float]] = {"off": [], "ngram": []}
    for number in range(-1, repeats):  # the first pair warms up
        pairs = [_pair(engine, content, temperature, seed=number + 1) for content, temperature in asked]
        if number >= 0:
            for speculation, of_kind in speeds.items():
                of_kind.append(median(pair[speculation] for pair in pairs))
    ratios = [ngram / off for off, ngram in zip(speeds["off"], speeds["ngram"], strict=True)]
    return [
        *(Metric.from_samples(f"{name}_{kind}", "token/s", values) for kind, values in speeds.items()),
        Metric.from_samples(f"{name}_ratio", "1", ratios),
    ]


def _pair(engine: PenstockEngine, content: str, temperature: float, *, seed: int) -> dict[str, float]:
    """Tokens/s after the first without guessing and with it. Raises BenchmarkError unless the texts are the same."""
    order = ("off", "ngram") if seed % 2 else ("ngram", "off")
    answers = {kind: _ask(engine, content, temperature=temperature, seed=seed, speculation=kind) for kind in order}
    if answers["off"].text != answers["ngram"].text:
        raise BenchmarkError("A text with drafts differs from the text without.")
    return {kind: 1 / answer.tpot for kind, answer in answers.items()}


def _ask(engine: PenstockEngine, content: str, **options: Any) -> Answer:
    body = {
        "model": "model", "messages": [{"role": "user", "content": content}], "max_tokens": _TOKENS,
        "stream": True, "stream_options": {"include_usage": True}, **options,
    }  # fmt: skip
    answer = burst([Post("127.0.0.1", engine.port, "/v1/chat/completions", body)])[0]
    if answer.tokens < _TOKENS // 4:
        raise BenchmarkError(f"The model stopped after {answer.tokens} tokens.")
    return answer
