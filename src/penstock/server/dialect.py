"""What a model's chat template tells of how its answers are written: thinking, tool calls, control tokens."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from penstock.models.thinking import thinking_tags

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.client import EngineClient
    from penstock.models.thinking import ThinkingTags
    from penstock.models.tool_families import Spelling
    from penstock.models.tool_formats.base import ToolFormat


class ChatDialect:
    """One model's dialect, found out when first asked for.

    Args:
        engine: whose template and tokenizer count; it has been started.
        tool_format: the family of its tool calls; "auto": the template tells.
    """

    def __init__(self, engine: EngineClient, tool_format: Spelling = "auto") -> None:
        self._engine = engine
        self._tool_format = tool_format

    @cached_property
    def thinking(self) -> ThinkingTags | None:
        """What the model writes around its thinking; None if its template knows of none."""
        template = self._engine.chat_template
        return None if template is None else thinking_tags(template.source)

    @cached_property
    def tools(self) -> ToolFormat:
        """How the model writes tool calls. Needs a template."""
        from penstock.models.tool_formats.detect import tool_format

        template = self._engine.chat_template
        assert template is not None  # messages have been refused without one
        return tool_format(template, self._tool_format)

    @cached_property
    def system_role(self) -> bool:
        """Whether the model takes a system message."""
        from penstock.models.tool_formats.detect import takes_system_role

        return self._engine.chat_template is not None and takes_system_role(self._engine.chat_template)

    def variables(self, effort: str | None, given: dict[str, Any]) -> dict[str, Any]:
        """Variables for the template: those `given`, and what an effort of reasoning says to it."""
        template = self._engine.chat_template
        if effort is None or template is None:
            return given
        if template.reads("reasoning_effort"):
            return {"reasoning_effort": effort, **given}
        if effort == "none" and template.reads("enable_thinking"):
            return {"enable_thinking": False, **given}
        return given

    def control_tokens(self, markup: Iterable[str]) -> dict[str, int]:
        """Those of the model's control tokens that occur in such markup, by their text."""
        written = "\n".join(markup)
        return {text: token for text, token in self._control_tokens.items() if text in written}

    @cached_property
    def _control_tokens(self) -> dict[str, int]:
        tokenizer = self._engine.tokenizer
        return {tokenizer.token_to_piece(token): token for token in sorted(tokenizer.special_token_ids)}
