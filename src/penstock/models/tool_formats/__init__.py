"""How model families write tool calls: a file a family, and what they share."""

from typing import Literal

Spelling = Literal["auto", "hermes", "llama3", "mistral", "generic"]
