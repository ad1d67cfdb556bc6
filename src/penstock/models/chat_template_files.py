"""Where model files keep their chat templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError
from penstock.models.hf_tokenizer import read_optional

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GGUF_KEY = "tokenizer.chat_template"


def gguf_sources(metadata: Mapping[str, Any], source: str) -> dict[str, str]:
    """Jinja2 sources by name ("default", "tool_use", ...) in the metadata of the GGUF file `source`.

    Raises ModelFileError for a template that isn't text.
    """
    keys = {"default": GGUF_KEY}
    names = metadata.get("tokenizer.chat_templates", [])
    keys |= {name: f"{GGUF_KEY}.{name}" for name in names if isinstance(name, str)}
    return _only_text({name: metadata[key] for name, key in keys.items() if key in metadata}, source)


def directory_sources(directory: Path) -> dict[str, str]:
    """Those of a model directory; a file of its own comes before tokenizer_config.json, as transformers has it.

    Raises ModelFileError for a template that isn't text.
    """
    configured = read_optional(directory / "tokenizer_config.json").get("chat_template")
    sources = _named(read_optional(directory / "chat_template.json").get("chat_template")) or _named(configured)
    for name, file in [("default", directory / "chat_template.jinja")] + [
        (file.stem, file) for file in sorted((directory / "additional_chat_templates").glob("*.jinja"))
    ]:
        if file.is_file():
            try:
                sources[name] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ModelFileError(f"{file}: can't be read ({error}). Download it again.") from error
    return _only_text(sources, str(directory))


def _named(templates: Any) -> dict[str, Any]:
    """One template, or a list of {"name": ..., "template": ...}."""
    if templates is None:
        return {}
    if isinstance(templates, list):
        return {str(item.get("name")): item.get("template") for item in templates if isinstance(item, dict)}
    return {"default": templates}


def _only_text(sources: dict[str, Any], origin: str) -> dict[str, str]:
    for name, source in sources.items():
        if not isinstance(source, str):
            raise ModelFileError(
                f"{origin}: its chat template {name!r} is a {type(source).__name__}, not text. Download it again."
            )
    return sources
