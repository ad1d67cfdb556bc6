"""Fields of /tokenize and /detokenize."""

from __future__ import annotations

from penstock.server.manifest.field import Field, Manifest, refused, supported

TOKENIZE: Manifest = {
    **supported(
        model="the served name or an alias; the served model if absent",
        prompt="a text; or `messages`",
        messages="as for chat",
        add_special_tokens="default true for `prompt`, false for `messages`",
        return_token_strs="",
        add_generation_prompt="default true",
        continue_final_message="",
        chat_template_kwargs="",
        tools="as for chat",
    ),
    **refused(chat_template="the model's own template is used"),
    "media_io_kwargs": Field("refused", "only text goes in", ({},)),
    "mm_processor_kwargs": Field("refused", "only text goes in", ({},)),
}

DETOKENIZE: Manifest = supported(model="as for /tokenize", tokens="token ids")
