"""Workloads that are made, not read: synthetic lengths, prefixes, conversations, documents, JSON schemas."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.lab.bench.workloads import KINDS, make, parse_workload
from penstock.lab.bench.workloads.sharing import prefix_hit_ratio

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.bench.planned import Planned
    from penstock.models.tokenizer import Tokenizer

MADE = ("synthetic", "prefixes", "conversations", "documents", "json-schema")


def _take(
    name: str, count: int = 200, seed: int = 1, tokenizer: Tokenizer | None = None, **options: Any
) -> list[Planned]:
    return list(islice(make(name, options, seed, tokenizer).requests(), count))


def _text(planned: Planned) -> str:
    return planned.prompt if isinstance(planned.prompt, str) else json.dumps(planned.prompt)


@pytest.mark.parametrize("name", MADE)
def test_given_a_seed_then_the_same_is_asked_each_time_and_another_seed_asks_otherwise(name: str) -> None:
    workload = make(name, {}, 5)
    once, again = (list(islice(workload.requests(), 20)) for _ in range(2))
    assert once == again == _take(name, 20, seed=5)
    other = _take(name, 20, seed=6)
    assert not {_text(one) for one in once} & {_text(one) for one in other}


@pytest.mark.parametrize("name", MADE)
def test_given_any_made_workload_then_its_description_is_json_and_names_its_options(name: str) -> None:
    workload = make(name, {}, 5)
    described = json.loads(json.dumps(workload.describe()))
    assert workload.name == name
    assert described["output_tokens"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 300), st.floats(0, 1), st.integers(0, 99), st.sampled_from(["text", "ids"]))
def test_given_any_lengths_then_prompts_have_exactly_so_many_tokens(
    tokenizer: Tokenizer, own: int, prefix: int, share: float, seed: int, form: str
) -> None:
    requests = _take(
        "prefixes", 5, seed, tokenizer, input_tokens=own, prefix_tokens=f"1-{prefix}", share=share, prompt=form
    )
    for planned in requests:
        ids = planned.prompt if isinstance(planned.prompt, list) else tokenizer.encode(planned.prompt)
        assert len(ids) == planned.prompt_tokens


def test_given_synthetic_prompts_then_none_shares_a_beginning(tokenizer: Tokenizer) -> None:
    requests = _take("synthetic", 3000, tokenizer=tokenizer, input_tokens=16, prompt="ids")
    assert prefix_hit_ratio(requests, block=2) == 0
    assert len({tuple(one.prompt[:1]) for one in requests[:2500]}) == 2500


def test_given_lengths_then_answers_are_asked_to_be_exactly_as_long() -> None:
    requests = _take("synthetic", 500, output_tokens="5-9")
    assert {one.max_tokens for one in requests} == {5, 6, 7, 8, 9}
    assert all(one.exact and one.due is None for one in requests)
    assert all(one.prompt_tokens is None for one in requests)  # unknown without a tokenizer


def test_given_prefixes_then_so_large_a_share_begins_with_one_of_them() -> None:
    requests = _take("prefixes", 2000, prefixes=4, prefix_tokens=32, input_tokens=32, share=0.75)
    lengths = [len(_text(one).split()) for one in requests]
    assert {*lengths} == {32, 64}
    assert lengths.count(64) / 2000 == pytest.approx(0.75, abs=0.04)
    assert len({" ".join(_text(one).split()[:32]) for one in requests if len(_text(one).split()) == 64}) == 4
    # three quarters of the requests find half their tokens; the others, and the first of each prefix, none
    assert prefix_hit_ratio(requests) == pytest.approx(0.75 * 32 / (0.75 * 64 + 0.25 * 32), abs=0.01)


def test_given_conversations_then_turns_and_thinking_are_as_asked() -> None:
    requests = _take(
        "conversations", 400, turns="2-4", think="1-3", systems=2, system_tokens=10, input_tokens=20,
        followup_tokens=7, output_tokens=9,
    )  # fmt: skip
    assert {1 + len(one.turns) for one in requests} == {2, 3, 4}
    turns = [turn for one in requests for turn in one.turns]
    assert {turn.think for turn in turns} == {1, 2, 3}
    assert {(len(turn.text.split()), turn.max_tokens) for turn in turns} == {(7, 9)}
    prompts: list[Any] = [one.prompt for one in requests]
    assert {len(prompt[0]["content"].split()) for prompt in prompts} == {10}
    assert len({prompt[0]["content"] for prompt in prompts}) == 2
    assert [message["role"] for message in prompts[0]] == ["system", "user"]
    assert [message["role"] for message in _take("conversations", 1, systems=0)[0].prompt] == ["user"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("order", "places"), [("tile", [0, 1, 2, 0, 1, 2]), ("each", [0, 0, 1, 1, 2, 2]), ("random", None)]
)
def test_given_documents_then_each_is_asked_about_so_often_in_that_order(order: str, places: list[int] | None) -> None:
    requests = _take("documents", 12, documents=3, questions=2, order=order, document_tokens=50, question_tokens=5)
    beginnings = [" ".join(_text(one).split()[:50]) for one in requests]
    for generation in (beginnings[:6], beginnings[6:]):
        names = [*dict.fromkeys(generation)]
        assert len(names) == 3
        assert sorted(generation.count(name) for name in names) == [2, 2, 2]
        if places is not None:
            assert [names.index(one) for one in generation] == places
    assert not {*beginnings[:6]} & {*beginnings[6:]}
    assert len({_text(one) for one in requests}) == 12


def test_given_json_schemas_then_each_request_asks_for_one_and_ends_where_the_json_does() -> None:
    requests = _take("json-schema")
    formats = [one.extra["response_format"] for one in requests]
    assert {one["json_schema"]["name"] for one in formats} == {"sentiment", "person", "event", "invoice"}
    assert all(one["type"] == "json_schema" and one["json_schema"]["strict"] for one in formats)
    assert not any(one.exact for one in requests)


def test_given_a_file_of_schemas_then_these_are_asked_for_and_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "schemas.jsonl"
    file.write_text('{"type": "object"}\n\n{"type": "array"}\n', encoding="utf-8")
    schemas = {one.extra["response_format"]["json_schema"]["schema"]["type"] for one in _take("json-schema", path=file)}
    assert schemas == {"object", "array"}
    file.write_text('{\n  "type": "object"\n}\n', encoding="utf-8")
    assert _take("json-schema", 1, path=file)[0].extra["response_format"]["json_schema"]["name"] == "schema_1"
    file.write_text('{"type": "object"}\n[1]\n', encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="line 2: a JSON schema is an object"):
        make("json-schema", {"path": file})


def test_given_a_workload_as_text_then_its_name_file_and_options_are_read() -> None:
    assert parse_workload("synthetic") == ("synthetic", {})
    assert parse_workload("azure:a/b.csv.gz?speed=2&from=0") == (
        "azure", {"path": "a/b.csv.gz", "speed": "2", "from": "0"},
    )  # fmt: skip
    name, options = parse_workload("synthetic?input_tokens=p50=10,max=90&output_tokens=3")
    assert (name, options) == ("synthetic", {"input_tokens": "p50=10,max=90", "output_tokens": "3"})
    for wrong in ("azure?speed", "azure?speed=1&speed=2"):
        with pytest.raises(InvalidRequestError) as refused:
            parse_workload(wrong)
        assert refused.value.param == "speed"


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("synthetik", {}, "Did you mean 'synthetic'?"),
        ("synthetic", {"imput_tokens": 3}, "Did you mean 'input_tokens'?"),
        ("synthetic", {"input_tokens": "x"}, "no distribution"),
        ("synthetic", {"prompt": "txt"}, "Did you mean 'text'?"),
        ("prefixes", {"share": 1.5}, "from 0 to 1"),
        ("prefixes", {"prefixes": 0}, "whole number from 1"),
        ("prefixes", {"prefixes": "2.5"}, "whole number"),
        ("azure", {}, "needs a file: azure:FILE"),
    ],
)
def test_given_a_wrong_name_or_option_then_it_is_refused_with_the_right_one(
    name: str, options: dict[str, Any], hint: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        make(name, options)
    assert hint in refused.value.message
    assert refused.value.param


def test_given_a_file_that_is_not_there_then_it_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"no file nowhere\.csv"):
        make("azure", {"path": "nowhere.csv"})


def test_given_token_ids_without_a_tokenizer_then_one_is_asked_for() -> None:
    with pytest.raises(InvalidRequestError, match="--tokenizer"):
        make("synthetic", {"prompt": "ids"})


def test_given_all_kinds_then_each_option_has_a_default_that_it_can_read_or_none() -> None:
    for kind in KINDS.values():
        for option in kind.options:
            assert option.help.endswith(".")
            if option.default is not None:
                option.read(option.default, option.name)
