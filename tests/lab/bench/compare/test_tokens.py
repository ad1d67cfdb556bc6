"""What engines count, against what is in their text."""

from __future__ import annotations

from penstock.lab.bench.compare.tokens import count
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned
from penstock.lab.bench.stub import Stub


class Letters:
    """A tokenizer that finds a token in each letter, far more than the stub counts."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]


def test_given_chunks_of_two_tokens_when_counted_then_the_ratio_is_two() -> None:
    with Stub(ttft=0.001, itl=0.001, tokens_per_chunk=2) as stub:
        seen = offer(Endpoint.open(stub.url), [Planned("a b", 8) for _ in range(4)], Manner(slots=2))
    found = dict(count([seen], None).rows)
    assert (found["answers"], found["output tokens an answer"], found["tokens a chunk"]) == ("4", "8.0", "2.00")
    assert found["its count over the tokenizer's"] == "–"
    assert count([seen], None).warnings == ()
    assert any("tokenizer" in line for line in count([seen], Letters()).warnings)


def test_given_an_engine_that_tells_nothing_when_counted_then_it_says_so() -> None:
    with Stub(ttft=0.001, itl=0.001, usage=False) as stub:
        seen = offer(Endpoint.open(stub.url), [Planned("a b", 8)], Manner(slots=1))
    assert dict(count([seen], None).rows)["told by the engine"] == "no"
    assert any("no token counts" in line for line in count([seen], None).warnings)


def test_given_no_runs_when_counted_then_there_is_nothing_to_say() -> None:
    assert dict(count([], None).rows)["output tokens an answer"] == "–"
    assert count([], None).warnings == ()
