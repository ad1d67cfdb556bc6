"""What servers tell of themselves, from pages as each of them has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, PlainTextResponse, Response

from penstock.lab.bench.compare.contenders import Contender
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.engines import Common, Place
from penstock.lab.bench.told import Told, _chosen, what_it_tells
from support.one_answer import answering, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VLLM = (
    "# TYPE vllm:cache_config_info gauge\n"
    'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",kv_path="/home/me"} 1.0\n'
)
PENSTOCK = (
    "# TYPE penstock_engine_config_info gauge\n"
    'penstock_engine_config_info{enable_prefix_caching="True",max_num_seqs="4",model="other",threads="2"} 1.0\n'
    'penstock_engine_config_info{enable_prefix_caching="False",max_num_seqs="8",model="m",threads="2"} 1.0\n'
)
LLAMA_CPP = {
    "default_generation_settings": {"n_ctx": 4096, "params": {"seed": 1}},
    "total_slots": 4,
    "model_path": "/home/me/model.gguf",
    "build_info": "b5002-2c3f8b85",
}
TGI = {"model_id": "/data/m", "version": "3.3.4", "max_concurrent_requests": 128, "max_batch_total_tokens": None}
OLLAMA = {"models": [{"name": "other", "context_length": 1}, {"name": "m:latest", "context_length": 8192}]}


def page(value: Any) -> Callable[[], Response]:
    return lambda: JSONResponse(value)


def told(**pages: Callable[[], Response]) -> Told:
    with answering(**{path.replace("__", "/"): answer for path, answer in pages.items()}) as url:
        return what_it_tells(Endpoint.open(url))


def test_given_each_engines_pages_then_its_version_and_limits_are_told_and_no_paths() -> None:
    vllm = told(version=page({"version": "0.32.0"}), metrics=lambda: PlainTextResponse(VLLM))
    assert vllm == Told("0.32.0", {"block_size": "16", "cache_dtype": "auto", "enable_prefix_caching": "True"})
    own = told(version=page({"version": "0.1.0"}), metrics=lambda: PlainTextResponse(PENSTOCK))
    assert own == Told("0.1.0", {"max_num_seqs": "8", "enable_prefix_caching": "False", "threads": "2"})
    of_others = told(metrics=lambda: PlainTextResponse(PENSTOCK.replace('"m"', '"another"')))
    assert of_others == Told()
    llama_cpp = told(props=page(LLAMA_CPP))
    assert llama_cpp == Told("b5002-2c3f8b85", {"total_slots": 4, "n_ctx": 4096, "build_info": "b5002-2c3f8b85"})
    assert told(info=page(TGI)) == Told("3.3.4", {"max_concurrent_requests": 128})
    ollama = told(api__version=page({"version": "0.9.6"}), api__ps=page(OLLAMA))
    assert ollama == Told("0.9.6", {"context_length": 8192})


def test_given_pages_that_hold_something_else_then_nothing_is_told() -> None:
    assert told() == Told()
    odd = told(
        version=page(["0.1"]), props=page({"total_slots": [4], "build_info": "x" * 10_000}), info=page("hello"),
        api__version=page({"version": "a\nb"}), api__ps=page({"models": [None, {"name": 3}]}),
        metrics=lambda: PlainTextResponse("vllm:cache_config_info{"),
    )  # fmt: skip
    assert odd == Told()


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from(["a", "b"]), inner) | st.lists(inner))  # fmt: skip


@given(JSON)
def test_given_any_json_then_what_is_chosen_can_stand_in_a_record(value: Any) -> None:
    found = _chosen(value, ("a", "a.b", "b.a.b"))
    assert set(found) <= {"a", "b"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_given_a_server_that_is_up_when_compared_then_its_settings_are_recorded(tmp_path: Path) -> None:
    with (
        answering(lambda _body: stream("one", "two"), props=page(LLAMA_CPP)) as url,
        Contender.parse(url).up(Place(tmp_path, tmp_path), None, Common()) as up,
    ):
        assert up.version == "b5002-2c3f8b85"
        assert up.configuration["settings"]["total_slots"] == 4
