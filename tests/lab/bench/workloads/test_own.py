"""Requests of one's own, in the shapes in which people have them."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads import make
from penstock.lab.bench.workloads.own import Own

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.lab.bench.planned import Planned
    from penstock.models.tokenizer import Tokenizer

_HI = [{"role": "user", "content": "hi"}]


def _own(folder: Path, *lines: Any, tokenizer: Tokenizer | None = None, **options: Any) -> Own:
    path = folder / "own.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), encoding="utf-8")
    made = make("jsonl", {"path": path, **options}, 1, tokenizer)
    assert isinstance(made, Own)
    return made


def _one(folder: Path, line: Any, **options: Any) -> Planned:
    (planned,) = _own(folder, line, **options).requests()
    return planned


def test_given_prompts_then_text_ids_lengths_and_fields_of_the_api_go_along(tmp_path: Path) -> None:
    planned = _one(tmp_path, {"prompt": "a b", "max_tokens": 3, "temperature": 0.5, "stop": ["x"]})
    assert (planned.prompt, planned.max_tokens) == ("a b", 3)
    assert planned.extra == {"temperature": 0.5, "stop": ["x"]}
    assert not planned.exact
    ids = _one(tmp_path, {"prompt": [1, 2, 3], "output_len": 4}, exact="yes")
    assert (ids.prompt, ids.max_tokens, ids.prompt_tokens, ids.exact) == ([1, 2, 3], 4, 3, True)
    assert _one(tmp_path, {"prompt": "a"}, output_tokens=9).max_tokens == 9


def test_given_openai_batch_lines_then_their_bodies_are_asked(tmp_path: Path) -> None:
    body = {"model": "gpt", "stream": False, "messages": _HI, "max_completion_tokens": 9, "seed": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    own = _own(tmp_path, line)
    (planned,) = own.requests()
    assert (planned.prompt, planned.max_tokens, planned.extra) == (_HI, 9, {"seed": 4})
    assert own.ignored == ()


def test_given_a_conversation_then_users_turns_are_said_and_answers_are_as_long_as_given(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    conversation = [
        {"from": "system", "value": "be kind"},
        {"from": "human", "value": "hello"},
        {"from": "gpt", "value": "good day to you"},
        {"from": "human", "value": "more"},
    ]
    planned = _one(tmp_path, {"id": "x", "conversations": conversation}, tokenizer=tokenizer, output_tokens=7)
    assert planned.prompt == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert planned.max_tokens == len(tokenizer.encode("good day to you"))
    assert [(turn.text, turn.max_tokens) for turn in planned.turns] == [("more", 7)]


def test_given_sharegpts_array_plain_or_packed_then_it_is_read_like_lines(tmp_path: Path) -> None:
    items = [{"id": n, "conversations": [{"from": "human", "value": f"q{n}"}]} for n in range(3)]
    for name, raw in (
        ("a.json", json.dumps(items, indent=2).encode()),
        ("b.json.gz", gzip.compress(json.dumps(items).encode())),
    ):
        path = tmp_path / name
        path.write_bytes(raw)
        made = make("jsonl", {"path": path})
        asked: list[Any] = [one.prompt for one in made.requests()]
        assert [prompt[0]["content"] for prompt in asked] == ["q0", "q1", "q2"]
        assert made.describe()["ignored_fields"] == ["id"]


def test_given_times_then_requests_come_by_them_from_0_and_so_fast(tmp_path: Path) -> None:
    own = _own(tmp_path, {"prompt": "b", "timestamp": 9000}, {"prompt": "a", "timestamp": 5000}, speed=2)
    assert [(one.prompt, one.due) for one in own.requests()] == [("a", 0.0), ("b", 2.0)]
    with pytest.raises(InvalidRequestError, match="only 1 of 2 requests have a time"):
        _own(tmp_path, {"prompt": "b", "due": 9}, {"prompt": "a"})
    with pytest.raises(InvalidRequestError, match="can't be shuffled or repeated"):
        _own(tmp_path, {"prompt": "b", "due": 9}, repeat=2)


def test_given_repeat_and_shuffle_then_each_round_has_all_in_another_order(tmp_path: Path) -> None:
    own = _own(tmp_path, *({"prompt": f"{n}"} for n in range(20)), repeat=3, shuffle=True)
    asked = [str(one.prompt) for one in own.requests()]
    rounds = [asked[:20], asked[20:40], asked[40:]]
    assert [sorted(one, key=int) for one in rounds] == [[f"{n}" for n in range(20)]] * 3
    assert rounds[0] != rounds[1] != rounds[2]
    assert asked == [str(one.prompt) for one in own.requests()]
    assert own.describe()["requests"] == 60


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is no JSON"),
        (5, "it is no JSON object"),
        ({"text": "a"}, "it has neither a prompt"),
        ({"prompt": "a", "messages": _HI}, "both a prompt and messages"),
        ({"prompt": ""}, "is empty"),
        ({"prompt": [1, "a"]}, "no list of token ids"),
        ({"prompt": [True]}, "no list of token ids"),
        ({"messages": []}, "no list of objects"),
        ({"messages": [{"role": "user"}]}, "no list of objects"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens is no whole number from 1: 0"),
        ({"prompt": "a", "output_len": "x"}, "output_len is no whole number"),
        ({"prompt": "a", "due": -1}, "due is no number from 0"),
        ('{"prompt": "a", "due": NaN}', "due is no number from 0"),
        pytest.param("[" * 100_000, "it is no JSON", id="nested"),
        ({"conversations": []}, "no turn of a user"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "no known speaker"),
        ({"conversations": ["x"]}, "is no object"),
        ({"body": {"input": "x"}}, "it has neither a prompt"),
    ],
)
def test_given_a_bad_line_then_it_is_named_by_its_number_or_skipped_and_counted(
    tmp_path: Path, line: Any, why: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        _own(tmp_path, {"prompt": "a"}, "", line)
    assert "own.jsonl, line 3: " in refused.value.message
    assert why in refused.value.message
    own = _own(tmp_path, {"prompt": "a"}, "", line, skip_bad_lines="yes")
    assert (len(own.planned), own.describe()["bad_lines"]) == (1, 1)


@pytest.mark.parametrize("raw", [b"", b"[", b"\xff\xfe{}", b"[]"])
def test_given_a_file_that_holds_nothing_readable_then_it_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(raw)
    with pytest.raises(InvalidRequestError, match=r"own\.jsonl"):
        make("jsonl", {"path": path})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "conversations", "body", "role", "from"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(_JSON)
def test_given_any_json_then_it_is_asked_or_refused(tmp_path_factory: pytest.TempPathFactory, line: Any) -> None:
    try:
        own = _own(tmp_path_factory.mktemp("own"), {"prompt": "a"}, line)
    except InvalidRequestError as error:
        said = error.message
    else:
        said = "line 2"
        assert all(one.prompt and one.max_tokens >= 1 for one in own.requests())
    assert "line 2" in said
