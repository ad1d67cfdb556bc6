"""The field manifest against the types of Anthropic's own client, those of its beta included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic.types as a
import anthropic.types.beta as b
import pytest
from anthropic.types import message_create_params as create
from anthropic.types.beta import beta_raw_message_delta_event as delta_event
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create

from support.asking import ask
from support.fake_engine import FakeEngine, write_model
from support.reference_types import difference, fields_of, members, named, tags

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

ANTHROPIC = "https://docs.anthropic.com/"
KINDS: dict[str, Any] = {
    "messages": create.MessageCreateParamsNonStreaming
    | create.MessageCreateParamsStreaming
    | beta_create.MessageCreateParamsNonStreaming
    | beta_create.MessageCreateParamsStreaming,
    "count_tokens": a.MessageCountTokensParams | beta_count.MessageCountTokensParams,
    "AnthropicMessage": a.MessageParam | b.BetaMessageParam,
    "Block": a.TextBlockParam
    | a.ToolUseBlockParam
    | a.ToolResultBlockParam
    | a.ThinkingBlockParam
    | a.RedactedThinkingBlockParam
    | b.BetaTextBlockParam
    | b.BetaToolUseBlockParam
    | b.BetaToolResultBlockParam
    | b.BetaThinkingBlockParam
    | b.BetaRedactedThinkingBlockParam,
    "AnthropicTool": a.ToolParam | b.BetaToolParam,
    "AnthropicToolChoice": a.ToolChoiceParam | b.BetaToolChoiceParam,
    "Thinking": a.ThinkingConfigParam | b.BetaThinkingConfigParam,
    "OutputConfig": a.OutputConfigParam | b.BetaOutputConfigParam,
    "OutputFormat": a.JSONOutputFormatParam | b.BetaJSONOutputFormatParam,
    "AnthropicAnswer": a.Message | b.BetaMessage,
    "TextBlock": a.TextBlock | b.BetaTextBlock,
    "ThinkingBlock": a.ThinkingBlock | b.BetaThinkingBlock,
    "ToolUseBlock": a.ToolUseBlock | b.BetaToolUseBlock,
    "MessageUsage": a.Usage | b.BetaUsage,
    "ThinkingTokens": a.OutputTokensDetails | b.BetaOutputTokensDetails,
    "TokenCount": a.MessageTokensCount | b.BetaMessageTokensCount,
    "MessageEvent": b.BetaRawMessageStreamEvent,
    "EventDelta": b.BetaRawContentBlockDelta | delta_event.Delta,
    "AnthropicErrorDetail": a.ErrorObject,
}
# What the API has beyond its client's types: what older ones had, and what the client handles itself.
BEYOND: dict[str, set[str]] = {
    "messages": {"temperature", "top_p", "top_k"},
    "MessageEvent": {"error"},
    "message_events": {"error", "ping"},
}
HEADERS = {"betas"}  # a parameter of the client's that is sent as a header


@pytest.mark.parametrize("name", KINDS)
def test_each_field_of_the_clients_is_in_the_manifest_and_anthropics_in_the_clients(name: str) -> None:
    missing, invented = difference(name, fields_of(KINDS[name]), BEYOND.get(name, set()))
    assert (missing - HEADERS, invented) == (set(), set())


def test_each_object_of_anthropics_is_held_against_its_type() -> None:
    assert named(ANTHROPIC) == {*KINDS, "message_events"}


def test_each_event_of_the_clients_is_in_the_manifest_and_the_other_way_round() -> None:
    theirs = tags(b.BetaRawMessageStreamEvent)
    assert difference("message_events", theirs, BEYOND["message_events"]) == (set(), set())


READ = {"text", "tool_use", "tool_result", "thinking", "redacted_thinking"}
OTHERS = {tag for kind in members(b.BetaContentBlockParam) for tag in tags(kind)} - READ


def test_a_block_of_another_type_is_a_400_that_names_it(tmp_path: Path) -> None:
    engine = FakeEngine(write_model(tmp_path))
    assert len(OTHERS) > 10
    for role in ("user", "assistant"):
        for kind in sorted(OTHERS):
            turns = [{"role": role, "content": [{"type": kind}]}, {"role": "user", "content": "a"}]
            body = {"model": "Echo-1B", "max_tokens": 5, "messages": turns}
            response = ask(engine, "POST", "/v1/messages", body)
            assert response.status_code == 400
            assert f"'messages[0].content[0]' is of type {kind!r}" in response.json()["error"]["message"]
