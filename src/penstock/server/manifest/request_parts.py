"""Fields of what requests hold, for the generating endpoints."""

from __future__ import annotations

from penstock.server import requests
from penstock.server.manifest.api import Part
from penstock.server.manifest.field import VLLM, Field, no_effect, refused, supported
from penstock.server.manifest.references import openai_streaming_parameter, vllm

_CREATE = openai_streaming_parameter("chat/subresources/completions", "chat.completions").partition("{")[0]
_ASKED = {"": _CREATE + "messages", VLLM: vllm("openai_compatible_server/#chat-api")}
_TOOLS = {"": _CREATE + "tools", VLLM: vllm("openai_compatible_server/#chat-api")}
_TOOL_CHOICE = {"": _CREATE + "tool_choice"}
_LOADED = "all tools are always before the model"

REQUEST_PARTS = (
    Part(
        requests.StreamOptions,
        {
            **supported(include_usage="a last chunk has `usage`"),
            **supported(VLLM, continuous_usage_stats="each chunk has `usage`"),
            **no_effect(include_obfuscation="nothing is padded"),
        },
        {"": _CREATE + "stream_options", VLLM: _ASKED[VLLM]},
    ),
    Part(
        requests.Message,
        {
            **supported(
                role="system, developer (read as system), user, assistant, tool",
                content="a text or a list of text parts; an assistant's may be missing",
                name="for the template",
                tool_calls="an assistant's, for the template",
                tool_call_id="a tool's, for the template",
            ),
            **supported(VLLM, reasoning_content="an assistant's, for the template", reasoning="as `reasoning_content`"),
            "function_call": Field("refused", "use `tool_calls`"),
            "audio": Field("refused", "only text goes in"),
            **no_effect(refusal="an assistant's"),
        },
        _ASKED,
    ),
    Part(
        requests.ContentPart,
        {
            **supported(type="`text`; others are refused", text=""),
            **no_effect(prompt_cache_breakpoint="prefixes are cached without it"),
        },
        _ASKED,
    ),
    Part(
        requests.ChatDocument,
        supported(text="", title="stands before the text"),
        {"": _ASKED[VLLM]},
    ),
    Part(
        requests.ToolCall,
        supported(id="", type="`function`", function=""),
        _ASKED,
    ),
    Part(
        requests.FunctionCall,
        supported(name="", arguments="JSON in a string, or an object; templates get the object"),
        _ASKED,
    ),
    Part(
        requests.ResponseFormat,
        supported(type="`text`, `json_object`, `json_schema`", json_schema=""),
        {"": _CREATE + "response_format"},
    ),
    Part(
        requests.JsonSchemaFormat,
        supported(
            schema="what can't be enforced is refused by name",
            name="of no account",
            description="of no account",
            strict="of no account: every schema is enforced",
        ),
        {"": _CREATE + "response_format"},
    ),
    Part(
        requests.StructuredOutputs,
        {
            **supported(
                json="a JSON schema, or a string that holds one",
                regex="",
                choice="",
                grammar="EBNF",
                json_object="",
                disable_any_whitespace="of JSON",
            ),
            **refused(
                disable_additional_properties="say it in the schema",
                whitespace_pattern="use `disable_any_whitespace`",
                structural_tag="use `grammar`",
            ),
        },
        {"": vllm("structured_outputs/")},
    ),
    Part(
        requests.Tool,
        {**supported(type="`function`; others are refused", function=""), **no_effect(VLLM, defer_loading=_LOADED)},
        _TOOLS,
    ),
    Part(
        requests.FunctionDefinition,
        {
            **supported(
                name="up to 128 letters, digits, and any of `_.:/-`",
                description="",
                parameters="a JSON schema of an object; none at all: no arguments",
                strict="true refuses what can't be enforced, which is otherwise named in the header of ignored fields",
            ),
            **no_effect(VLLM, defer_loading=_LOADED),
        },
        _TOOLS,
    ),
    Part(requests.NamedTool, supported(type="`function`", function=""), _TOOL_CHOICE),
    Part(requests.NamedFunction, supported(name=""), _TOOL_CHOICE),
    Part(
        requests.ToolChoice,
        supported(type="`function` or `allowed_tools`", function="", allowed_tools=""),
        _TOOL_CHOICE,
    ),
    Part(requests.AllowedTools, supported(mode="`auto` or `required`", tools=""), _TOOL_CHOICE),
)
