"""The field manifest against the names of vLLM's fields, kept in `fields/vllm.json` with the version they are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.server.manifest.field import VLLM
from penstock.server.manifest.references import vllm
from support.reference_types import TABLES

pytestmark = pytest.mark.oracle

KEPT = json.loads((Path(__file__).parent / "fields" / "vllm.json").read_text(encoding="utf-8"))
THEIRS: dict[str, set[str]] = {name: set(fields.split()) for name, fields in KEPT["fields"].items()}
_GUIDED = {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
_GUIDED |= {"guided_decoding_backend", "guided_whitespace_pattern"}
# Of versions before, whose clients are still about.
OLDER = {
    "chat": {*_GUIDED, "best_of", "logits_processors"},
    "completions": {*_GUIDED, "logits_processors"},
    "embeddings": {"normalize"},
    "rerank": {"activation"},
    "score": {"activation"},
    "classify": {"activation"},
    "AssistantMessage": {"reasoning_content"},
    "Delta": {"reasoning_content"},
}
OF_ITS_MODELS = {"rerank": {"return_documents", "rank_fields", "max_chunks_per_doc"}}  # Jina's and Cohere's rerankers
# vLLM has these as plain dictionaries, or from transformers.
UNTYPED = {"Message", "ChatDocument", "PromptLogprob", "ReadingUsage", "TokenizerInfo", "tokenizer_info"}
# What vLLM has only of blocks that are refused by their type, and what it tells apart by a type that stands for itself.
ELSEWHERE = {"Block": {"source", "tool", "tool_name"}, "AnthropicAnswer": {"type"}}


def own_of_vllm(name: str) -> set[str]:
    """Fields that the manifest calls vLLM's."""
    table = TABLES[name]
    origin = "" if table.origins[""].startswith(vllm("")) else VLLM
    return {field for field, entry in table.fields.items() if entry.origin == origin}


@pytest.mark.parametrize("name", THEIRS)
def test_each_field_of_vllms_is_in_the_manifest(name: str) -> None:
    assert THEIRS[name] - set(TABLES[name].fields) - ELSEWHERE.get(name, set()) == set(), KEPT["version"]


@pytest.mark.parametrize("name", THEIRS)
def test_each_field_that_the_manifest_calls_vllms_is_one(name: str) -> None:
    beyond = own_of_vllm(name) - THEIRS[name]
    assert beyond == OLDER.get(name, set()) | OF_ITS_MODELS.get(name, set()), KEPT["version"]


def test_every_api_and_object_that_is_said_to_have_fields_of_vllms_is_held_against_them() -> None:
    assert {name for name in TABLES if own_of_vllm(name)} - set(THEIRS) == UNTYPED
