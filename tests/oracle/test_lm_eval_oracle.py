"""EleutherAI's lm-eval, unmodified, against the server: the scores that its own `hf` backend gives of the same weights.

Its two ways to ask are tried on both runners: tokens or texts, one by one or several at once; log-likelihoods of
choices, of continuations and of whole texts longer than the context, and generated texts with and without a template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from support.evaluation import DATA, PUBLIC, evaluate, write_public_tasks, write_small_tasks
from support.live_server import serve_model
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

RUNNERS = ("native", "torch")
# What lm-eval keeps free differs: its API backend takes two tokens less of the same setting.
CONTEXT = {"hf": 254, "api": 256}
ASKING: dict[str, dict[str, Any]] = {
    "tokens": {"tokenizer_backend": "remote", "num_concurrent": 4, "batch_size": 3},
    "one by one": {"tokenizer_backend": "remote"},
    "texts": {"tokenizer_backend": "remote", "tokenized_requests": False, "batch_size": 2},
    "own tokenizer": {"tokenizer_backend": "huggingface", "num_concurrent": 2},
}
# How it is asked is the server's business, not the runner's.
WAYS = [*(("native", way) for way in ASKING), ("torch", "tokens"), ("torch", "own tokenizer")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All evaluations by name, in one run of the program."""
    directory = tmp_path_factory.mktemp("evaluation")
    (directory / "model").mkdir()
    model = write_tiny_chat(directory / "model")
    # steps of 64 tokens: long prompts are computed in chunks, beside others
    sizes = {"threads": 1, "kv_memory": 1 << 24, "max_num_batched_tokens": 64, "max_num_seqs": 8}
    engine = {"dtype": "float32", "device": "cpu", **sizes}
    with (
        serve_model(model, runner="native", **engine) as native,
        serve_model(model, runner="torch", **engine) as torch,
    ):
        tasks = write_small_tasks(directory, greedy_words(native.url))
        tasks |= {name: name for name in write_public_tasks(directory, items=4)}
        hf = {"pretrained": str(model), "dtype": "float32", "max_length": CONTEXT["hf"]}
        reference = {"model": "hf", "model_args": hf, "device": "cpu"}
        asked = {
            "hf": {**reference, "tasks": [*tasks.values()]},
            "hf chat": {**reference, "tasks": [tasks["choice"], tasks["generate"]], "apply_chat_template": True},
            **over_http("native", native.url, model, tasks),
            **over_http("torch", torch.url, model, tasks),
        }
        return evaluate(directory, asked)


def over_http(runner: str, url: str, model: Path, tasks: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The evaluations that ask one server."""
    args = {"model": model.name, "max_length": CONTEXT["api"], "max_retries": 1}
    completions = {**args, "base_url": f"{url}/v1/completions"}
    chat = {**args, "base_url": f"{url}/v1/chat/completions", "num_concurrent": 2}
    in_chat = {"apply_chat_template": True, "tasks": [tasks["generate"]]}
    asked: dict[str, dict[str, Any]] = {
        f"{runner} chat": {"model": "local-chat-completions", "model_args": chat, **in_chat}
    }
    for of, name in WAYS:
        if of == runner:
            way = dict(ASKING[name])
            if way["tokenizer_backend"] == "huggingface":
                way["tokenizer"] = str(model)
            # as texts, lm-eval sends windows of tokens decoded, and takes for granted that none cuts a character
            kinds = ("choice", "cloze") if name == "texts" else tasks
            asked[f"{runner} {name}"] = {
                "model": "local-completions",
                "model_args": {**completions, **way},
                "tasks": [tasks[kind] for kind in kinds],
            }
    by_template = {"apply_chat_template": True, "tasks": [tasks["choice"], tasks["generate"]]}
    return {**asked, f"{runner} own template": {**asked[f"{runner} own tokenizer"], **by_template}}


def greedy_words(url: str) -> dict[str, str]:
    """Prompts with what the model says next, where that is plain text."""
    prompts = [f"Word {i}:" for i in range(40)]
    body = {"prompt": prompts, "max_tokens": 2, "temperature": 0}
    choices = httpx.post(f"{url}/v1/completions", json=body, timeout=30).json()["choices"]
    words = {prompt: choice["text"] for prompt, choice in zip(prompts, choices, strict=True)}
    return {prompt: word for prompt, word in words.items() if word.isascii() and word.isprintable() and len(word) == 2}


def flat(items: list[list[list[Any]]]) -> list[Any]:
    """Every response of every item, in order."""
    return [response for responses in items for request in responses for response in request]


@pytest.mark.proves(
    completions="prompt echo logprobs max_tokens temperature seed",
    CompletionLogprobs="token_logprobs top_logprobs",
    tokenize="prompt add_special_tokens",
    Tokenized="tokens",
    TokenizerInfo="bos_token eos_token",
)
@pytest.mark.parametrize(("runner", "way"), WAYS)
def test_log_likelihoods_of_each_item_are_those_of_the_hf_backend(
    results: dict[str, Any], runner: str, way: str
) -> None:
    reference, found = results["hf"], results[f"{runner} {way}"]
    for task in found["items"]:
        if task == "small_generate":
            continue
        expected, given = flat(reference["items"][task]), flat(found["items"][task])
        if task == "small_rolling":
            assert given == pytest.approx(expected, abs=2e-3), "sums over hundreds of tokens"
        else:
            assert [each[0] for each in given] == pytest.approx([each[0] for each in expected], abs=1e-3), task
            assert [each[1] for each in given] == [each[1] for each in expected], f"{task}: what is greedy"
        assert found["scores"][task] == pytest.approx(reference["scores"][task], rel=1e-3), task


def test_the_items_are_such_that_a_mistake_would_show(results: dict[str, Any]) -> None:
    greedy = [each[1] for each in flat(results["hf"]["items"]["small_cloze"])]
    assert {*greedy} == {True, False}
    assert len({round(value, 3) for value in flat(results["hf"]["items"]["small_rolling"])}) == 3
    assert any(text.strip() for text in flat(results["hf"]["items"]["small_generate"]))


@pytest.mark.proves(completions="stop max_tokens", CompletionChoice="text")
@pytest.mark.parametrize(("runner", "way"), [each for each in WAYS if each[1] != "texts"])
def test_generated_texts_are_those_of_the_hf_backend(results: dict[str, Any], runner: str, way: str) -> None:
    reference, found = results["hf"], results[f"{runner} {way}"]
    assert found["items"]["small_generate"] == reference["items"]["small_generate"]
    assert found["scores"]["small_generate"] == reference["scores"]["small_generate"]


@pytest.mark.proves(chat="messages stop max_tokens seed temperature", AssistantMessage="content")
@pytest.mark.parametrize("runner", RUNNERS)
def test_chat_answers_are_those_of_the_hf_backend_with_its_template(results: dict[str, Any], runner: str) -> None:
    expected = results["hf chat"]["items"]["small_generate"]
    assert results[f"{runner} chat"]["items"] == {"small_generate": expected}
    assert results[f"{runner} own template"]["items"]["small_generate"] == expected, "rendered by lm-eval"


@pytest.mark.parametrize("runner", RUNNERS)
def test_choices_in_a_conversation_are_scored_as_by_the_hf_backend(results: dict[str, Any], runner: str) -> None:
    expected = [each[0] for each in flat(results["hf chat"]["items"]["small_choice"])]
    given = [each[0] for each in flat(results[f"{runner} own template"]["items"]["small_choice"])]
    assert given == pytest.approx(expected, abs=1e-3)
    plain = [each[0] for each in flat(results["hf"]["items"]["small_choice"])]
    assert given != pytest.approx(plain, abs=1e-1), "a template makes a difference"


def test_well_known_tasks_were_among_them(results: dict[str, Any]) -> None:
    missing = [name for name in PUBLIC if not (DATA / f"{name}.jsonl").is_file()]
    if missing:
        pytest.skip(f"no copies of {', '.join(missing)} in {DATA.relative_to(DATA.parents[2])}")
    assert {f"public_{name}" for name in PUBLIC} <= results["native tokens"]["items"].keys()
