"""Events of streams, by the name that each bears as its `type`: those that are sent, and those that never come."""

from __future__ import annotations

from penstock.server.manifest.api import Api
from penstock.server.manifest.field import Manifest, absent, supported

_RESPONSES = "https://developers.openai.com/api/reference/resources/responses/streaming-events"
_MESSAGES = "https://docs.anthropic.com/en/docs/build-with-claude/streaming"
_TOOLS = "the client makes the calls"

_OF_RESPONSES: Manifest = {
    **supported(
        **{
            "response.created": "first",
            "response.in_progress": "second",
            "response.output_item.added": "a message, a call or thinking begins",
            "response.content_part.added": "",
            "response.output_text.delta": "",
            "response.output_text.done": "",
            "response.reasoning_text.delta": "",
            "response.reasoning_text.done": "",
            "response.content_part.done": "",
            "response.function_call_arguments.delta": "",
            "response.function_call_arguments.done": "",
            "response.output_item.done": "",
            "response.completed": "last",
            "response.incomplete": "last, if tokens ran out",
            "response.failed": "last, if something broke",
        }
    ),
    **absent(
        **{
            "error": "`response.failed` tells it",
            "response.queued": "a background response is polled",
            "response.refusal.delta": "nothing is refused",
            "response.refusal.done": "nothing is refused",
            "response.output_text.annotation.added": "nothing is cited",
            "response.compaction.compacting": "nothing sums a conversation up",
        }
    ),
    **absent(
        **{
            f"response.{name}": "nothing sums thinking up"
            for name in (
                *("reasoning_summary_part.added", "reasoning_summary_part.done"),
                *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
            )
        }
    ),
    **absent(
        **{
            f"response.{name}": "only text comes out"
            for name in ("audio.delta", "audio.done", "audio.transcript.delta", "audio.transcript.done")
        }
    ),
    **absent(
        **{
            f"response.{tool}.{step}": _TOOLS
            for tool, steps in {
                "code_interpreter_call": "in_progress interpreting completed",
                "code_interpreter_call_code": "delta done",
                "custom_tool_call_input": "delta done",
                "file_search_call": "in_progress searching completed",
                "image_generation_call": "in_progress generating partial_image completed",
                "mcp_call": "in_progress completed failed",
                "mcp_call_arguments": "delta done",
                "mcp_list_tools": "in_progress completed failed",
                "shell_call_command": "added delta done",
                "shell_call_output_content": "delta done",
                "web_search_call": "in_progress searching completed",
            }.items()
            for step in steps.split()
        }
    ),
}
_OF_MESSAGES: Manifest = {
    **supported(
        message_start="first",
        content_block_start="",
        content_block_delta="",
        content_block_stop="",
        message_delta="how it ended, and the usage",
        message_stop="last",
        error="last, if something broke",
    ),
    **absent(ping="comments keep a stream alive"),
}

EVENTS = (
    Api("response_events", "POST /v1/responses", _OF_RESPONSES, {"": _RESPONSES}),
    Api("message_events", "POST /v1/messages", _OF_MESSAGES, {"": _MESSAGES}),
)
