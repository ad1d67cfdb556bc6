"""Published traces: read whole, windowed, scaled, and with their bad rows named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.lab.bench.workloads import make
from penstock.lab.bench.workloads.sharing import prefix_hit_ratio
from penstock.lab.bench.workloads.traces.replay import Replay

if TYPE_CHECKING:
    from penstock.models.tokenizer import Tokenizer

_TRACES = Path(__file__).parents[5] / "shared" / "data" / "traces"
_AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
_BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def _published(name: str) -> Path:
    if not (_TRACES / name).exists():
        pytest.skip(f"service: the published trace {name} in ../shared/data/traces")
    return _TRACES / name


def _replay(name: str, path: Path, **options: Any) -> Replay:
    made = make(name, {"path": path, **options}, 1)
    assert isinstance(made, Replay)
    return made


def _file(folder: Path, text: str, name: str = "trace.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("kind", "requests", "inputs", "outputs", "last"),
    [("conv", 19366, 22_361_870, 4_088_665, 3501.7219), ("code", 8819, 18_059_974, 245_896, 3435.9480)],
)
def test_given_azures_hour_then_all_its_rows_are_read(
    kind: str, requests: int, inputs: int, outputs: int, last: float
) -> None:
    trace = _replay("azure", _published(f"AzureLLMInferenceTrace_{kind}.csv.gz")).trace
    assert (len(trace), sum(trace.inputs), sum(trace.outputs)) == (requests, inputs, outputs)
    assert trace.at[0] == 0
    assert trace.at[-1] == pytest.approx(last, abs=1e-4)


def test_given_mooncakes_trace_then_all_its_rows_are_read_and_what_a_cache_could_find_is_known() -> None:
    replay = _replay("mooncake", _published("mooncake_conversation_trace.jsonl.gz"))
    trace = replay.trace
    assert (len(trace), max(trace.inputs), trace.at[-1]) == (12031, 126_195, 3536.999)
    # The simplest count of it: blocks seen before, as an id stands for all before it too.
    seen: set[int] = set()
    found = total = 0
    raw = gzip.decompress((_TRACES / "mooncake_conversation_trace.jsonl.gz").read_bytes())
    for line in raw.decode().splitlines():
        row = json.loads(line)
        found += sum(one in seen for one in row["hash_ids"])
        total += len(row["hash_ids"])
        seen.update(row["hash_ids"])
    assert replay.prefix_hit_ratio() == pytest.approx(found / total, abs=0.01)


def test_given_mooncakes_blocks_then_prompts_share_exactly_what_the_real_ones_did() -> None:
    path = _published("mooncake_conversation_trace.jsonl.gz")
    replay = _replay("mooncake", path, to=30)
    requests = list(replay.requests())
    assert len(requests) == len(replay.rows) > 50
    assert [len(str(one.prompt).split()) for one in requests] == replay.trace.inputs.tolist()
    assert prefix_hit_ratio(requests, block=512) == pytest.approx(replay.prefix_hit_ratio(), abs=1e-3)
    words = [str(one.prompt).split() for one in requests]
    for (one, mine), (other, theirs) in islice(pairwise(zip(words, replay.trace.blocks or [], strict=True)), 50):
        same = sum(a == b for a, b in zip(mine, theirs, strict=False))
        assert one[: same * 512] == other[: same * 512][: len(one)]
        assert one[same * 512 :][:2] != other[same * 512 :][:2]


def test_given_a_tokenizer_then_a_traces_prompts_have_its_lengths_in_tokens(tokenizer: Tokenizer) -> None:
    path = _published("AzureLLMInferenceTrace_code.csv.gz")
    replay = make("azure", {"path": path}, 1, tokenizer)
    for planned in islice(replay.requests(), 20):
        assert len(tokenizer.encode(str(planned.prompt))) == planned.prompt_tokens
    assert [one.max_tokens for one in islice(replay.requests(), 2)] == [10, 8]


def test_given_a_window_and_a_speed_then_times_begin_there_and_go_so_fast(tmp_path: Path) -> None:
    rows = "".join(f"2024-05-10 00:00:{second:02}+00:00,{second + 1},7\n" for second in range(60))
    path = _file(tmp_path, _AZURE + rows)
    requests = list(_replay("azure", path, **{"from": 10, "to": 20, "speed": 5}).requests())
    assert [one.due for one in requests] == pytest.approx([second / 5 for second in range(10)])
    assert [len(str(one.prompt).split()) for one in requests] == list(range(11, 21))
    assert {one.due for one in _replay("azure", path, timing="none").requests()} == {None}
    with pytest.raises(InvalidRequestError, match=r"from=20 is not before to=20"):
        _replay("azure", path, **{"from": 20, "to": 20})
    with pytest.raises(InvalidRequestError, match=r"no request from 100 to inf s; its last is at 59\.0 s"):
        _replay("azure", path, **{"from": 100})


def test_given_azures_times_of_both_years_then_they_are_read_alike(tmp_path: Path) -> None:
    old = "2023-11-16 18:15:46.6805900,3,4\n2023-11-16 18:15:50.9951690,3,4\n"
    new = "2024-05-10 00:00:00.009930+00:00,3,4\n2024-05-10 00:00:01+00:00,3,4\n"
    assert _replay("azure", _file(tmp_path, _AZURE + old)).trace.at[1] == pytest.approx(4.314579)
    assert _replay("azure", _file(tmp_path, _AZURE + new)).trace.at[1] == pytest.approx(0.99007)


def test_given_longer_requests_than_a_model_takes_then_they_are_cut_and_counted(tmp_path: Path) -> None:
    path = _file(tmp_path, _AZURE + "2024-05-10 00:00:00,100,50\n2024-05-10 00:00:01,10,5\n")
    replay = _replay("azure", path, max_input=40, max_output=20)
    assert [(len(str(one.prompt).split()), one.max_tokens) for one in replay.requests()] == [(40, 20), (10, 5)]
    assert replay.describe()["cut"] == 1


def test_given_burstgpt_then_failed_rows_are_counted_and_a_model_can_be_chosen(tmp_path: Path) -> None:
    rows = (
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n"
        "118,GPT-4,417,276,693,Conversation log\n120,GPT-4,10,3,13,API log\n"
    )
    path = _file(tmp_path, _BURST + rows)
    replay = _replay("burstgpt", path)
    assert (replay.trace.at.tolist(), replay.trace.inputs.tolist()) == ([0, 113, 115], [472, 417, 10])
    assert replay.describe()["failed_rows"] == 1
    assert _replay("burstgpt", path, model="GPT-4", log_type="API log").trace.outputs.tolist() == [3]
    with pytest.raises(InvalidRequestError, match="no request that can be asked again"):
        _replay("burstgpt", path, model="GPT-5")
    for wrong in ("inf", "nan", "", "x"):
        with pytest.raises(InvalidRequestError, match="line 2: Timestamp is no number of seconds"):
            _replay("burstgpt", _file(tmp_path, f"{_BURST}{wrong},GPT-4,10,3,13,API log\n", "bad.csv"))
    third = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    newer = _file(tmp_path, third + "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log\n", "3.csv")
    assert _replay("burstgpt", newer).trace.inputs.tolist() == [906]
    assert _replay("burstgpt", newer).describe()["ignored_columns"] == []


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("2024-05-10 00:00:02,3", "it has 2 fields, the header 3"),
        ("2024-05-10 00:00:02,x,3", "ContextTokens is no whole number: 'x'"),
        ("2024-05-10 00:00:02,3,4.5", "GeneratedTokens is no whole number"),
        ("2024-05-10 00:00:02,0,3", "0 input tokens are not from 1"),
        ("2024-05-10 00:00:02,3,-1", "-1 output tokens are not from 1"),
        ("2024-05-10 00:00:02,99999999999,3", "99999999999 input tokens are not from 1"),
        ("yesterday,3,4", "TIMESTAMP is no time: 'yesterday'"),
        ("2024-05-09 00:00:00,3,4", "its time, -86401 s after the first, lies before that of the request above it"),
    ],
)
def test_given_a_bad_row_then_it_is_named_by_its_line_or_skipped_and_counted(
    tmp_path: Path, row: str, why: str
) -> None:
    good = "2024-05-10 00:00:01,3,4\n"
    path = _file(tmp_path, f"{_AZURE}{good}\n{row}\n2024-05-10 00:00:03,5,6\n")
    with pytest.raises(InvalidRequestError) as refused:
        _replay("azure", path)
    assert f"trace.csv, line 4: {why}" in refused.value.message
    assert "skip_bad_rows=yes" in refused.value.message
    replay = _replay("azure", path, skip_bad_rows="yes")
    assert (len(replay.trace), replay.describe()["bad_rows"]) == (2, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"timestamp": 9, "input_length": 3, "output_length": 1}', "'hash_ids' is missing"),
        ('{"timestamp": "x", "input_length": 3, "output_length": 1, "hash_ids": [0]}', "timestamp is no number"),
        ('{"timestamp": NaN, "input_length": 3, "output_length": 1, "hash_ids": [0]}', "timestamp is no number"),
        pytest.param("[" * 100_000, "it is no JSON", id="nested"),
        ('{"timestamp": 9, "input_length": 513, "output_length": 1, "hash_ids": [0]}', "are 2 blocks, not 1 hash_ids"),
        ('{"timestamp": 9, "input_length": 3, "output_length": 1, "hash_ids": ["a"]}', "no list of whole numbers"),
        ('{"timestamp": 9, "input_length": true, "output_length": 1, "hash_ids": [0]}', "input_length is no whole"),
    ],
)
def test_given_a_bad_line_of_mooncake_then_it_is_named(tmp_path: Path, row: str, why: str) -> None:
    good = '{"timestamp": 5, "input_length": 3, "output_length": 1, "hash_ids": [0]}\n'
    path = _file(tmp_path, good + row + "\n")
    with pytest.raises(InvalidRequestError) as refused:
        _replay("mooncake", path)
    assert "trace.csv, line 2: " in refused.value.message
    assert why in refused.value.message
    assert len(_replay("mooncake", path, skip_bad_rows=True).trace) == 1


def test_given_what_is_no_such_trace_then_the_header_is_named_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = _file(tmp_path, _BURST + "5,ChatGPT,472,18,490,Conversation log\n")
    with pytest.raises(InvalidRequestError, match="line 1: the header lacks TIMESTAMP, ContextTokens, GeneratedTokens"):
        _replay("azure", path, skip_bad_rows=True)
    with pytest.raises(InvalidRequestError, match="header lacks"):
        _replay("azure", _file(tmp_path, ""))
    with pytest.raises(InvalidRequestError, match="no request that can be asked again"):
        _replay("azure", _file(tmp_path, _AZURE))


def test_given_columns_of_which_nothing_is_made_then_the_record_names_them(tmp_path: Path) -> None:
    path = _file(tmp_path, "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00,2,3,4\n")
    assert _replay("azure", path).describe()["ignored_columns"] == ["NumImages"]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"no gzip" + raw, lambda raw: raw[:60] + b"??"])
def test_given_a_damaged_file_then_it_is_refused_whatever_is_done_about_bad_rows(tmp_path: Path, damage: Any) -> None:
    rows = "".join(f"2024-05-10 00:{n // 60:02}:{n % 60:02},{n + 1},7\n" for n in range(3000))
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(damage(gzip.compress((_AZURE + rows).encode())))
    with pytest.raises(InvalidRequestError, match="the file is damaged there"):
        _replay("azure", path, skip_bad_rows=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 8))))
def test_given_any_tree_of_blocks_then_a_cache_finds_what_the_ids_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, list[int], int]]
) -> None:
    # An id stands for its block and all before it, as in the published traces.
    names: dict[tuple[int, ...], int] = {}
    lines, at = [], 0
    for wait, blocks, last in rows:
        at += wait
        ids = [
            names.setdefault((last * (n == len(blocks)), *blocks[:n]), len(names)) for n in range(1, len(blocks) + 1)
        ]
        lines.append({"timestamp": at, "input_length": 8 * (len(ids) - 1) + last, "output_length": 1, "hash_ids": ids})
    if not lines:
        return
    path = tmp_path_factory.mktemp("tree") / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    replay = _replay("mooncake", path, block_tokens=8)
    requests = list(replay.requests())
    whole = prefix_hit_ratio(requests, block=8) * sum(replay.trace.inputs)
    # whole blocks alone are compared: a last one that isn't full is found by its id, but not as a block of 8
    seen: set[int] = set()
    found = 0
    for line in lines:
        known = next((n for n, one in enumerate(line["hash_ids"]) if one not in seen), len(line["hash_ids"]))
        found += 8 * min(known, line["input_length"] // 8)
        seen.update(line["hash_ids"])
    assert whole == pytest.approx(found)


def test_given_the_same_trace_and_another_seed_then_other_words_at_the_same_times(tmp_path: Path) -> None:
    path = _file(tmp_path, _AZURE + "".join(f"2024-05-10 00:00:0{n},20,7\n" for n in range(9)))
    one, other = (list(make("azure", {"path": path}, seed).requests()) for seed in (1, 2))
    assert [a.due for a in one] == [b.due for b in other]
    assert not {str(a.prompt) for a in one} & {str(b.prompt) for b in other}
    assert max(Counter(str(a.prompt).split()[0] for a in one).values()) == 1
