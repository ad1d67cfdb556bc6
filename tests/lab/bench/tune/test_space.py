"""What may be tried."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import ConfigError
from penstock.engine.settings import EngineSettings
from penstock.lab.bench.tune.space import LOSSY, default_of, default_space, parse_fixed

SPACE = default_space({}, lossy=True)


def test_given_the_usual_space_then_it_holds_nothing_that_changes_answers_and_only_values_the_engine_takes() -> None:
    usual = default_space({})
    names = {each.name for each in usual.searched}
    assert {"max_num_batched_tokens", "max_prefill_tokens_while_decoding", "block_size", "speculation"} <= names
    assert not names & LOSSY
    assert "kv_cache_dtype" in {each.name for each in SPACE.searched}
    for each in SPACE.searched:
        assert each.values[each.default] == default_of(each.name)
        for value in each.values:
            EngineSettings(**{each.name: value})
    assert "threads" not in {each.name for each in default_space({"device": "cuda"}).searched}
    fixed = default_space({"block-size": "32"})
    assert fixed.fixed == {"block_size": 32}
    assert "block_size" not in {each.name for each in fixed.searched}


@given(st.fixed_dictionaries({each.name: st.integers(0, len(each.values) - 1) for each in SPACE.searched}))
def test_given_any_choice_when_written_as_settings_then_it_reads_back_and_names_no_default(places: Any) -> None:
    settings = SPACE.settings(places)
    assert SPACE.places(settings) == places
    assert all(value != default_of(name) for name, value in settings.items())


def test_given_numbers_then_they_are_in_order_and_tried_by_themselves_at_their_ends() -> None:
    (each,) = default_space({}, tried={"max-num-batched-tokens": [8192, 256, "default", 4096]}).searched
    assert each.values == (256, 2048, 4096, 8192)
    assert each.ordered
    assert each.singles == (256, 4096, 8192)
    (each,) = default_space({}, tried={"max_prefill_tokens_while_decoding": [8, 16, 32, 64, 128]}).searched
    assert each.singles == (8, 32, 128)
    (each,) = default_space({}, tried={"pin_threads": ["off", "on"]}).searched
    assert each.singles == ("off", "on")
    assert not each.ordered


@pytest.mark.parametrize(
    ("fixed", "tried", "says"),
    [
        ({}, {"blocksize": [1]}, "no setting 'blocksize'.*block_size"),
        ({}, {"block_size": [0, 16]}, "block_size.*from 1 to 1024"),
        ({}, {"block_size": 16}, "list of values for block_size"),
        ({}, {"block_size": []}, "list of values"),
        ({}, {"block_size": [16]}, "nothing to search"),
        ({}, {"model": ["a", "b"]}, "set it, don't search it"),
        ({}, {"kv_cache_dtype": ["int8"]}, "--allow-lossy"),
        ({}, {"speculation": ["ngram"]}, "--allow-lossy"),
        ({"block_size": "x"}, {"threads": [1]}, "block_size"),
        ({"model": "other"}, {"threads": [1]}, "no setting here"),
        ({"block_size": 8}, {"block-size": [16, 32]}, "both set and searched"),
    ],
)
def test_given_a_space_that_cant_be_then_it_is_refused_with_the_reason(
    fixed: dict[str, Any], tried: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        default_space(fixed, tried=tried)


def test_given_settings_on_the_command_line_then_they_are_read_or_refused() -> None:
    assert parse_fixed(["max-model-len=4096", "memory=2GiB"]) == {"max_model_len": "4096", "memory": "2GiB"}
    assert default_space(parse_fixed(["memory=2GiB"])).fixed == {"memory": 2 << 30}
    for line in ("block-size", "block-size=", "nothing=1"):
        with pytest.raises(ConfigError):
            parse_fixed([line])
