"""POST /tokenize, POST /detokenize and GET /tokenizer_info, in vLLM's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.manifest.tokens import DETOKENIZE, TOKENIZE
from penstock.server.requests import DetokenizeRequest, TokenizeRequest
from penstock.server.responses import Detokenized, Tokenized, TokenizerInfo
from penstock.server.service import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.models.tokenizer import Tokenizer
    from penstock.server.service import Service

INLINE_TOKENS = 1024  # fewer take less time than handing them to a thread and back

_tokenize_body = BodyReader(TokenizeRequest, TOKENIZE)
_detokenize_body = BodyReader(DetokenizeRequest, DETOKENIZE)


async def tokenize(http: Request) -> Response:
    """The token ids that a prompt, or a conversation, is for the model."""
    service: Service = http.app.state.service
    request, headers = await _tokenize_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("Send either 'prompt' or 'messages'.", param="prompt", code="missing_field")
    if request.messages is not None:
        tokens = (await model.prompts.from_messages(request, request.messages)).token_ids
    else:
        special = request.add_special_tokens is not False
        tokens = await model.prompts.from_text(request.prompt or "", add_special_tokens=special)
    pieces = None
    if request.return_token_strs:
        to_piece = model.engine.tokenizer.token_to_piece
        pieces = await model.prompts.aside(lambda: [*map(to_piece, tokens)], quick=len(tokens) <= INLINE_TOKENS)
    limit = model.context
    return json_response(Tokenized(count=len(tokens), max_model_len=limit, tokens=tokens, token_strs=pieces), headers)


async def detokenize(http: Request) -> Response:
    """The text of some token ids, control tokens included."""
    service: Service = http.app.state.service
    request, headers = await _detokenize_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    ids, decode = request.tokens, model.engine.tokenizer.decode
    try:
        text = await model.prompts.aside(
            lambda: decode(ids, skip_special_tokens=False), quick=len(ids) <= INLINE_TOKENS
        )
    except InvalidRequestError as error:
        error.param = "tokens"
        raise
    return json_response(Detokenized(text), headers)


async def tokenizer_info(http: Request) -> Response:
    """What a client needs to count tokens and write prompts as the model does; `model` in the query picks one."""
    service: Service = http.app.state.service
    model = await service.models.use(http.query_params.get("model"))
    tokenizer, template = model.engine.tokenizer, model.engine.chat_template
    named = tokenizer.named_tokens
    eos = named.get("eos_token")
    if eos is None and tokenizer.eos_token_ids:
        eos = tokenizer.token_to_piece(tokenizer.eos_token_ids[0])
    special = [tokenizer.token_to_piece(token) for token in sorted(tokenizer.special_token_ids)]
    before, after = _put_around(tokenizer)
    return json_response(
        TokenizerInfo(
            vocab_size=tokenizer.vocab_size,
            model_max_length=model.context,
            add_bos_token=before,
            add_eos_token=after,
            bos_token=named.get("bos_token"),
            eos_token=eos,
            unk_token=named.get("unk_token"),
            pad_token=named.get("pad_token"),
            sep_token=named.get("sep_token"),
            cls_token=named.get("cls_token"),
            mask_token=named.get("mask_token"),
            additional_special_tokens=[text for text in special if text != eos and text not in named.values()],
            chat_template=None if template is None else template.default_source,
        )
    )


def _put_around(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether a text gets the model's begin of text before it, and an end of text after it."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    before = len(whole) > len(bare) and whole[0] == tokenizer.bos_token_id
    return before, len(whole) - before > len(bare) and whole[-1] in tokenizer.eos_token_ids
