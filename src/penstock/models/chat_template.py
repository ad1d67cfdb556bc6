"""From a list of messages to the prompt that a model was trained to see."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from jinja2 import Template

    from penstock.models.gguf import GGUFFile
    from penstock.models.tokenizer import Tokenizer

MAX_SOURCE_CHARACTERS = 1 << 20
MAX_PROMPT_CHARACTERS = 1 << 25
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A model's chat template, compiled once; safe to share between threads.

    >>> ChatTemplate.load(path, tokenizer).render([{"role": "user", "content": "Hello"}])
    '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'

    Templates write the begin of text themselves, so encode the result with `add_special_tokens=False`.
    """

    def __init__(self, sources: Mapping[str, str], named_tokens: Mapping[str, str], origin: str) -> None:
        """
        Args:
            sources: Jinja2 source by name; "default" is needed, "tool_use" is taken when there are tools.
            named_tokens: what templates know as `bos_token`, `eos_token` and so on.
            origin: the model's path, for messages.

        Raises ModelFileError for a source that doesn't compile.
        """
        if "default" not in sources:
            raise ModelFileError(
                f"{origin}: has the chat templates {', '.join(sorted(sources))}, but none is the default one."
            )
        self._origin = origin
        self._named_tokens = named_tokens
        self._sources = dict(sources)
        self._templates = {name: _Compiled(source, origin) for name, source in sources.items()}

    @classmethod
    def load(cls, path: Path, tokenizer: Tokenizer) -> Self | None:
        """The template of a GGUF file or a model directory, None if it has none.

        Raises ModelFileError for a template that is damaged.
        """
        if path.is_dir():
            from penstock.models.chat_template_files import directory_sources

            sources = directory_sources(path)
            return cls(sources, tokenizer.named_tokens, str(path)) if sources else None
        from penstock.models.gguf import GGUFFile

        with GGUFFile.open(path) as file:
            return cls.of(file, tokenizer)

    @classmethod
    def of(cls, file: GGUFFile, tokenizer: Tokenizer) -> Self | None:
        """The template of an open GGUF file. Raises ModelFileError as `load` does."""
        from penstock.models.chat_template_files import gguf_sources

        sources = gguf_sources(file.metadata, str(file.path))
        return cls(sources, tokenizer.named_tokens, str(file.path)) if sources else None

    @property
    def source(self) -> str:
        """The text of all its templates, the one for tools included."""
        return "\n".join(self._sources.values())

    def reads(self, variable: str) -> bool:
        """Whether a variable of this name can make a difference."""
        return re.search(rf"\b{re.escape(variable)}\b", self.source) is not None

    @property
    def default_source(self) -> str:
        """The Jinja2 source that messages without tools are rendered by."""
        return self._sources["default"]

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The prompt for these messages.

        Args:
            messages: role, content and what else OpenAI's messages have; content that is a list of text parts
                is joined where the template wants a string.
            tools: JSON schemas, in OpenAI's form.
            add_generation_prompt: end with what begins the assistant's answer.
            kwargs: whatever else the template knows, such as `enable_thinking`.

        Raises InvalidRequestError if the template refuses the messages or can't make anything of them,
        ModelFileError if it does what no template may.
        """
        template = self._templates["tool_use" if tools is not None and "tool_use" in self._templates else "default"]
        return template.render(
            {
                **self._named_tokens,
                "documents": None,
                **kwargs,
                "messages": [_prepared(message, flatten=not template.reads_parts) for message in messages],
                "tools": tools,
                "add_generation_prompt": add_generation_prompt,
            }
        )


class _Compiled:
    """One template."""

    def __init__(self, source: str, origin: str) -> None:
        from jinja2 import TemplateSyntaxError

        from penstock.models.chat_sandbox import ChatEnvironment, limited

        self._origin = origin
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise ModelFileError(f"{origin}: its chat template has {len(source)} characters, which no real one has.")
        try:
            with limited():
                environment = ChatEnvironment()
                self._template: Template = environment.from_string(source)
                self.reads_parts = _loops_over_content(environment.parse(source))
        except TemplateSyntaxError as error:
            raise ModelFileError(f"{origin}: its chat template is wrong in line {error.lineno}: {error}") from error
        except Exception as error:  # a hostile source can break the compiler in any way
            raise ModelFileError(f"{origin}: its chat template doesn't compile: {error!r:.200}") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        from jinja2.exceptions import SecurityError

        from penstock.models.chat_sandbox import TemplateRefusalError, limited

        try:
            with limited():
                return self._joined(self._template.generate(variables))
        except TemplateRefusalError as error:
            raise InvalidRequestError(f"The model's chat template says: {error}", param="messages") from error
        except SecurityError as error:
            raise ModelFileError(f"{self._origin}: its chat template does what it may not: {error}") from error
        except ModelFileError:
            raise
        except Exception as error:  # anything, since the template is a program of its own
            reason = str(error) or type(error).__name__
            raise InvalidRequestError(
                f"The model's chat template can't make a prompt of these messages: {reason}. Check the fields and "
                "their order: many templates want user and assistant to take turns.",
                param="messages",
            ) from error

    def _joined(self, chunks: Any) -> str:
        parts, size = [], 0
        for chunk in chunks:
            size += len(chunk)
            if size > MAX_PROMPT_CHARACTERS:
                raise ModelFileError(
                    f"{self._origin}: its chat template writes more than {MAX_PROMPT_CHARACTERS} characters."
                )
            parts.append(chunk)
        return "".join(parts)


def flatten_content(content: Any) -> str:
    """A message's content as one string: None is empty, text parts are joined by line ends.

    Raises InvalidRequestError for a part that isn't text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text") if isinstance(part, dict) else None
        if kind not in {"text", "input_text", "output_text"} or not isinstance(text, str):
            raise InvalidRequestError(
                f"A content part of type {kind!r} isn't supported by this model. Send text parts only.",
                param="messages",
                code="unsupported_content_part",
            )
        texts.append(text)
    return "\n".join(texts)


def _prepared(message: dict[str, Any], *, flatten: bool) -> dict[str, Any]:
    """The message as templates expect it; reasoning is there under each name that some template reads."""
    prepared = dict(message)
    if flatten and isinstance(message.get("content"), list):
        prepared["content"] = flatten_content(message["content"])
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
    if reasoning is not None:
        prepared["reasoning_content"] = reasoning
        prepared.setdefault("thinking", reasoning)
    return prepared


def _loops_over_content(template: Any) -> bool:
    """Whether the template goes through a content's parts itself."""
    from jinja2 import nodes

    for loop in template.find_all(nodes.For):
        for node in (loop.iter, *loop.iter.find_all((nodes.Getattr, nodes.Getitem, nodes.Name))):
            if isinstance(node, nodes.Getattr) and node.attr == "content":
                return True
            if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content":
                return True
            if isinstance(node, nodes.Name) and node.name == "content":
                return True
    return False
