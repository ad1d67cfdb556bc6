"""Names of the ways in which models write tool calls, apart from `tool_formats`, which few requests need."""

from typing import Literal

Spelling = Literal["auto", "hermes", "llama3", "mistral", "generic"]
