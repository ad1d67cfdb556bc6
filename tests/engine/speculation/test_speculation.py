"""A text is the same with drafts as without, token by token, and comes in fewer steps where it repeats itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ConfigError
from penstock.engine.config import EngineConfig
from penstock.engine.core import EngineCore
from penstock.engine.types import Request, SamplingParams
from support.tiny_chat import write_tiny_chat
from support.tiny_models import write_deeper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.types import RequestOutput

REPEATING = list(b"abcdefgh" * 6)


@pytest.fixture(scope="module", params=["native", "torch"])
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCore]:
    draft, model = write_alike(tmp_path_factory.mktemp("alike"))
    started = make_core(model, runner=request.param, draft_model=str(draft))
    yield started
    started.shutdown()


def write_alike(directory: Path, layers: int = 10) -> tuple[Path, Path]:
    """A small model, and a large one that says the same: its other layers add nothing."""
    small = write_tiny_chat(directory / "small", max_position_embeddings=512)
    return small, write_deeper(small, directory / "large", layers=layers)


def make_core(model: Path, **options: Any) -> EngineCore:
    settings = {"dtype": "float32", "threads": 1, "kv_memory": 16 << 20, "block_size": 4, "runner_cache": False}
    return EngineCore(EngineConfig(model_path=str(model), **{**settings, **options}))


def run(core: EngineCore, *requests: Request) -> dict[str, RequestOutput]:
    """All deltas of each request, as one; they run together."""
    whole: dict[str, RequestOutput] = {}
    for request in requests:
        assert core.add(request) is None
    while core.has_work:
        for output in core.step():
            have = whole.setdefault(output.request_id, output)
            if have is not output:
                have.text += output.text
                have.token_ids += output.token_ids
                have.logprobs = [*(have.logprobs or ()), *(output.logprobs or ())] or None
                have.finish_reason, have.stop_reason = output.finish_reason, output.stop_reason
    core.idle()
    return whole


def asking(name: str, prompt: list[int] = REPEATING, **params: Any) -> Request:
    return Request(request_id=name, prompt_token_ids=prompt, params=SamplingParams(**params))


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "seed": 3},
    "few words": {"temperature": 1.0, "seed": 5, "logit_bias": dict.fromkeys(range(70, 74), 40.0)},
    "penalties": {"temperature": 0.5, "seed": 1, "repetition_penalty": 1.3, "frequency_penalty": 0.7},
    "logprobs": {"temperature": 0.9, "seed": 2, "logprobs": 3, "logit_bias": {70: 40.0, 71: 40.0}},
    "a stop string": {"temperature": 1.0, "seed": 8, "logit_bias": {70: 40.0, 71: 40.0}, "stop": ("bbab", "aaaa")},
    "a stop token": {"temperature": 1.0, "seed": 8, "logit_bias": {70: 40.0, 71: 38.0}, "stop_token_ids": (71,)},
    "a least length": {"temperature": 0, "min_tokens": 30, "logit_bias": {2: 50.0, 70: 40.0}},
    "one token": {"temperature": 0, "max_tokens": 1},
    "two tokens": {"temperature": 0, "max_tokens": 2},
    "a grammar": {"temperature": 1.0, "seed": 4, "grammar": "start: /(ab|ba){2,20}c/"},
    "a grammar and a stop": {"temperature": 1.0, "seed": 4, "grammar": "start: /(ab|ba)*/", "stop": ("abba",)},
}


@pytest.mark.parametrize("speculation", ["ngram", "draft"])
@pytest.mark.parametrize("name", SETTINGS)
def test_text_reason_and_log_probabilities_are_those_without_drafts(
    core: EngineCore, name: str, speculation: str
) -> None:
    params = {"max_tokens": 80, **SETTINGS[name]}
    if "grammar" in params:
        core.add(asking("compiled", **{**params, "max_tokens": 1}))
        while not core.has_work:
            core.poll()
        run(core)
    plain = run(core, asking("a", speculation="off", **params))["a"]
    drafted = run(core, asking("a", speculation=speculation, **params))["a"]
    assert drafted.token_ids == plain.token_ids
    assert (drafted.text, drafted.finish_reason, drafted.stop_reason) == (
        plain.text,
        plain.finish_reason,
        plain.stop_reason,
    )
    assert drafted.logprobs == plain.logprobs or core.config.runner == "torch"


def test_repeated_text_takes_fewer_steps(core: EngineCore) -> None:
    params = {"temperature": 0, "max_tokens": 200, "logit_bias": {70: 60.0}}
    before = core.stats()
    run(core, asking("a", speculation="off", **params))
    plain = core.stats()
    run(core, asking("b", speculation="ngram", **params))
    after = core.stats()
    assert after.draft_tokens - plain.draft_tokens >= after.accepted_draft_tokens - plain.accepted_draft_tokens > 100
    assert plain.draft_tokens == before.draft_tokens
    assert 3 * (after.steps - plain.steps) < plain.steps - before.steps
    assert after.generation_tokens - plain.generation_tokens == 200


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_draft_model_that_thinks_alike_is_right_about_all_it_says(core: EngineCore, temperature: float) -> None:
    """At any temperature: it draws with the same random numbers."""
    before = core.stats()
    run(core, asking("a", list(b"something new"), speculation="draft", temperature=temperature, seed=7, max_tokens=150))
    after = core.stats()
    drafted = after.draft_tokens - before.draft_tokens
    assert drafted == after.accepted_draft_tokens - before.accepted_draft_tokens > 50
    assert after.steps - before.steps < 90


@pytest.mark.parametrize("speculation", ["ngram", "draft"])
def test_a_batch_with_and_without_drafts_and_too_little_memory_says_what_each_says_alone(
    tmp_path: Path, speculation: str
) -> None:
    model = write_tiny_chat(tmp_path / "model", max_position_embeddings=256)
    other = write_tiny_chat(tmp_path / "other", max_position_embeddings=256, num_hidden_layers=1, seed=5)
    core = make_core(model, runner="native", kv_memory=640 << 10, max_num_batched_tokens=64, draft_model=str(other))
    try:
        requests = [
            asking(
                f"{number}", [*REPEATING[number:], 5 + number], temperature=0.7, seed=number, max_tokens=60,
                speculation="off" if number % 3 == 0 else speculation, logit_bias={70: 40.0, 71: 40.0},
            )
            for number in range(9)
        ]  # fmt: skip
        alone = {request.request_id: run(core, request)[request.request_id].token_ids for request in requests}
        together = run(core, *requests)
        stats = core.stats()
        assert stats.preemptions > 0
        assert 0 < stats.accepted_draft_tokens < stats.draft_tokens
        assert {name: output.token_ids for name, output in together.items()} == alone
    finally:
        core.shutdown()


def test_drafts_keep_the_sampled_distribution(core: EngineCore) -> None:
    """A chi-square test of two samples, one drawn with drafts and one without, from other random numbers."""
    words = range(70, 73)
    params = {"temperature": 1.0, "max_tokens": 4, "logit_bias": dict.fromkeys(words, 40.0)}
    prompt = [*REPEATING, *[70, 71, 72] * 4]
    draws = 1500 if core.config.runner == "native" else 250
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    for offset, speculation in ((0, "off"), (1_000_000, "ngram")):
        drafted = core.stats().draft_tokens
        counts[speculation] = Counter(
            tuple(run(core, asking("a", prompt, seed=seed, speculation=speculation, **params))["a"].token_ids)
            for seed in range(offset, offset + draws)
        )
        assert (core.stats().draft_tokens > drafted) == (speculation == "ngram")
    cells = counts["off"].keys() | counts["ngram"].keys()
    statistic = sum(
        (counts["off"][cell] - counts["ngram"][cell]) ** 2 / (counts["off"][cell] + counts["ngram"][cell])
        for cell in cells
    )
    freedom = len(cells) - 1
    assert freedom >= 20
    assert statistic < freedom + 3 * (2 * freedom) ** 0.5, "three standard deviations above what chance gives"


def test_without_a_word_of_the_request_exact_runners_draft(tmp_path: Path) -> None:
    model = write_tiny_chat(tmp_path, max_position_embeddings=256)
    params = {"temperature": 0, "max_tokens": 60, "logit_bias": {70: 60.0}}
    drafted = {}
    for runner, dtype in (("native", "float32"), ("torch", "bfloat16")):
        core = make_core(model, runner=runner, dtype=dtype)
        run(core, asking("a", **params))
        drafted[runner] = core.stats().draft_tokens
        core.shutdown()
    assert drafted["native"] > 0
    assert drafted["torch"] == 0


def test_a_draft_model_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    model = write_tiny_chat(tmp_path / "model", max_position_embeddings=256)
    other = write_tiny_chat(tmp_path / "other", max_position_embeddings=256)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"<|im_end|>"', '"<|end|>"'))
    with pytest.raises(ConfigError, match="another vocabulary") as refused:
        make_core(model, draft_model=str(other))
    assert refused.value.param == "draft_model"
    short = write_tiny_chat(tmp_path / "short", max_position_embeddings=128)
    with pytest.raises(ConfigError, match="--max-model-len 128"):
        make_core(model, draft_model=str(short))
    with pytest.raises(ConfigError, match="--draft-model"):
        make_core(model, speculation="draft")


def test_a_request_for_a_draft_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    core = make_core(write_tiny_chat(tmp_path, max_position_embeddings=256))
    refusal = core.add(asking("a", speculation="draft"))
    assert refusal is not None
    assert (refusal.error_type, refusal.error_param) == ("InvalidRequestError", "speculation")
    assert not core.has_work
    core.shutdown()


def test_a_draft_model_that_breaks_leaves_requests_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draft, model = write_alike(tmp_path, layers=24)
    core = make_core(model, draft_model=str(draft))
    expected = run(core, asking("a", speculation="off", temperature=0, max_tokens=30))["a"].text
    drafts = core.speculator._draft_model
    assert drafts is not None
    monkeypatch.setattr(drafts.runner, "execute", lambda _: 1 / 0)
    closed: list[bool] = []
    shutdown = drafts.runner.shutdown
    monkeypatch.setattr(drafts.runner, "shutdown", lambda: (closed.append(True), shutdown()))
    reserved: list[int] = []
    reserve = core.scheduler.reserve
    monkeypatch.setattr(core.scheduler, "reserve", lambda *asked: reserved.append(asked[1]) or reserve(*asked))
    assert run(core, asking("a", temperature=0, max_tokens=30))["a"].text == expected
    assert "the draft model failed" in caplog.text
    assert len(reserved) == 1, "no blocks are taken for drafts that nobody makes"
    assert closed, "its memory is given back"
    core.shutdown()
    assert len(closed) == 1
