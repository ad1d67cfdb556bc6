"""Chat templates in the manner of families that write tool calls and thinking, written for these tests."""

from __future__ import annotations

from dataclasses import dataclass

from support.chat_templates import LLAMA_STYLE, MISTRAL_STYLE, QWEN_STYLE
from support.tiny_chat import TEMPLATE

MISTRAL_NAMED_STYLE = """\
{{- bos_token }}
{%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.id | length != 9 %}{{- raise_exception('Ids have nine characters') }}{% endif %}
            {{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' }}
            {{- call.function.arguments | tojson }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + message.tool_call_id + '[TOOL_CONTENT]' + message.content + '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""

# Thinks whenever it answers: the prompt ends inside the thinking.
ALWAYS_THINKING = TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}{# </think> #}")

# Thinks in control tokens, if it likes.
CONTROL_THINKING = TEMPLATE + "{# [THINK][/THINK] #}"


@dataclass(frozen=True)
class FamilyCase:
    """A template, the control tokens that its family has, and what it should be recognised as."""

    template: str
    family: str
    control: tuple[str, ...] = ()
    parallel: bool = True


FAMILIES = {
    "hermes": FamilyCase(QWEN_STYLE, "hermes"),
    "llama3": FamilyCase(LLAMA_STYLE, "llama3", parallel=False),
    "mistral": FamilyCase(MISTRAL_STYLE.replace("[CALLS]", "[TOOL_CALLS]"), "mistral", ("[TOOL_CALLS]",)),
    "mistral-named": FamilyCase(MISTRAL_NAMED_STYLE, "mistral", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")),
    "generic": FamilyCase(TEMPLATE, "generic"),
}
