"""Chat templates in the manner of known model families, written for these tests, and messages to render."""

from __future__ import annotations

from typing import Any

LLAMA_STYLE = """\
{{- bos_token }}
{%- if messages and messages[0].role == 'system' %}
    {%- set instructions = messages[0].content | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set instructions = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- if date_string is not defined %}{% set date_string = 'today' %}{% endif %}
{{- '<|head|>system<|/head|>\\n\\n' ~ 'Date: ' ~ date_string ~ '\\n' }}
{%- if tools is not none %}
    {{- 'You may call functions. Answer with {"name": ..., "parameters": ...}.\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) ~ '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- instructions + '<|turn|>' }}
{%- for message in turns %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('Only one tool call at a time, please.') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- (call.arguments | tojson) + '}<|turn|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<|head|>ipython<|/head|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|turn|>' }}
    {%- else %}
        {{- '<|head|>' + message.role + '<|/head|>\\n\\n' + message['content'] | trim + '<|turn|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}
"""

QWEN_STYLE = """\
{%- macro section(name, body) -%}
<{{ name }}>
{{ body }}
</{{ name }}>
{%- endmacro %}
{%- set ns = namespace(last_query=-1, multi=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.multi = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
    {{- '# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}{% continue %}{% endif %}
    {%- if message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content if message.content is string else '' %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- if not reasoning and '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if reasoning and loop.index0 > ns.last_query %}
            {{- section('think', reasoning.strip('\\n')) + '\\n\\n' }}
        {%- endif %}
        {% generation %}{{- content }}{% endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n' if not loop.first or content }}
            {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\\n' + section('tool_response', message.content) }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

MISTRAL_STYLE = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- set users = rest | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in rest %}
    {%- if message.role in ["user", "assistant"] and message.tool_calls is not defined %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("user and assistant must take turns") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == users[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val | tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{% endif %}
                {%- endfor %}
                {{- "}}" }}{{ ", " if not loop.last else "]" }}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system is defined %}{{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception("Tool call ids have nine characters") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}{{ ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {{- '[RESULTS] {"content": ' + message.content | string + '}[/RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool roles are known") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA_STYLE = """\
{{- bos_token -}}
{%- set opening = "" -%}
{%- set turns = messages -%}
{%- if messages and messages[0]["role"] == "system" -%}
    {%- set turns = messages[1:] -%}
    {%- if messages[0]["content"] is string -%}
        {%- set opening = messages[0]["content"] + "\\n\\n" -%}
    {%- else -%}
        {%- set opening = messages[0]["content"][0]["text"] + "\\n\\n" -%}
    {%- endif -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) -%}
        {{- raise_exception("Turns of the user and the assistant must alternate") -}}
    {%- endif -%}
    {%- set role = "model" if message["role"] == "assistant" else message["role"] -%}
    {{- "<start_of_turn>" + role + "\\n" + (opening if loop.first else "") -}}
    {%- if message["content"] is string -%}
        {{- message["content"] | trim -}}
    {%- elif message["content"] is iterable -%}
        {%- for part in message["content"] -%}
            {%- if part["type"] == "text" -%}{{- part["text"] | trim -}}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{- raise_exception("Content must be text or parts") -}}
    {%- endif -%}
    {{- "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<start_of_turn>model\\n" -}}{%- endif -%}
"""

STYLES = {"llama": LLAMA_STYLE, "qwen": QWEN_STYLE, "mistral": MISTRAL_STYLE}  # those that know tools

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wie ist das Wetter in Köln? <b>&amp; 'quotes'</b>",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]

_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "東京"}}}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [{"role": "user", "content": "  Hello <there> & {{ 'you' }}\n"}],
    "with a system prompt": [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello! 👍🏽"},
        {"role": "user", "content": "Bye"},
    ],
    "a tool call": [
        {"role": "user", "content": "Wetter?"},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": '{"sun": true}', "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "Sunny.", "reasoning": "the tool says sun"},
    ],
}
