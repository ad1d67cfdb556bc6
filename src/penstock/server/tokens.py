"""POST /tokenize and POST /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.server import fields
from penstock.server.body import BodyReader
from penstock.server.requests import DetokenizeRequest, TokenizeRequest
from penstock.server.responses import Detokenized, Tokenized
from penstock.server.service import json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from penstock.server.service import Service

INLINE_TOKENS = 1024  # fewer take less time than handing them to a thread and back

_tokenize_body = BodyReader(TokenizeRequest, fields.TOKENIZE)
_detokenize_body = BodyReader(DetokenizeRequest, fields.DETOKENIZE)


async def tokenize(http: Request) -> Response:
    """The token ids that a prompt, or a conversation, is for the model."""
    service: Service = http.app.state.service
    request, headers = await _tokenize_body.read(http, service.settings.max_body_bytes)
    model = await service.models.use(request.model)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("Send either 'prompt' or 'messages'.", param="prompt", code="missing_field")
    if request.messages is not None:
        tokens = await model.prompts.from_messages(request, request.messages)
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
