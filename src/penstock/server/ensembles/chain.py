"""What an ensemble does before its answer is generated: guards judge the prompt, documents are chosen and put into it.

A conversation's question is the last message of its user.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

from msgspec import structs

from penstock.core.errors import InvalidRequestError
from penstock.server.pairs import Pairs
from penstock.server.requests import ContentPart, Message
from penstock.server.served_model import ModelInUse, wrong_kind
from penstock.server.vectors import check_count, counted, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from penstock.server.ensembles.declared import Ensemble, Step
    from penstock.server.ensembles.in_use import EnsembleInUse
    from penstock.server.requests import ChatDocument, ChatRequest
    from penstock.server.served_encoder import EncoderInUse

    Use = Callable[[str], Awaitable[ModelInUse | EncoderInUse]]

BLOCKED = "content_filter"  # as hosted APIs call it when a prompt is filtered
_CITING = "Documents that may help, each under its number. Where you use one, cite it by its number, such as [{}]."


async def run_steps(used: EnsembleInUse, request: ChatRequest) -> ChatRequest:
    """Do all steps but the last; what comes back is what the generator is asked.

    Each model is held while its step lasts, and loaded first if it is asleep.

    Raises:
        InvalidRequestError: a guard refuses the question, or there is nothing to judge or to choose from.
        NotFoundError, EngineDeadError, OverloadedError: a step's model can't serve now.
    """
    question = check_steps(used.ensemble, request)
    documents = request.documents or []
    texts = [document if isinstance(document, str) else _with_title(document) for document in documents]
    kept = [*range(len(texts))]
    priority = request.priority or 0
    for step in used.ensemble.steps[:-1]:
        began = time.monotonic()
        if step.kind == "guard":
            await _judge(used.use, step, question, priority)
            used.end(step, time.monotonic() - began)
        else:
            kept = await _choose(used.use, step, question, {index: texts[index] for index in kept}, priority)
            used.end(step, time.monotonic() - began, kept)
    if not texts:
        return request
    return structs.replace(request, documents=None, messages=_with_documents(request.messages, texts, kept))


def check_steps(ensemble: Ensemble, request: ChatRequest) -> str:
    """The question, if the steps can be done. Raises InvalidRequestError if there is nothing for one of them."""
    documents = request.documents or []
    check_count(len(documents), "documents")
    if ensemble.retrieves and not documents:
        raise InvalidRequestError(
            f"'documents' is missing or empty: {ensemble.name!r} answers from documents that the request brings.",
            param="documents",
            code="missing_field",
        )
    if documents and not ensemble.retrieves:
        raise no_documents(f"{ensemble.name!r} has no step that reads them; put them into a message")
    return _question(request)


def no_documents(why: str) -> InvalidRequestError:
    """For documents that nothing would read."""
    return InvalidRequestError(f"'documents' is not supported: {why}.", param="documents", code="unsupported_parameter")


async def _judge(use: Use, step: Step, question: str, priority: int) -> None:
    """Raises InvalidRequestError if any part of the question is what the step refuses.

    A question that is longer than the classifier reads is judged in pieces that overlap, so that nothing hides behind
    a long beginning.
    """
    model = await use(step.model)
    if isinstance(model, ModelInUse) or model.kind != "classifier":  # swapped since it was checked
        raise wrong_kind(model, "This takes a classifier.")
    inputs = await model.read_pieces(question, "messages")
    check_count(len(inputs), "messages")

    async def work() -> list[bytes]:
        return await encode(model, inputs, priority)

    tokens = sum(len(each.token_ids) for each in inputs)
    vectors = await counted(model.observer, tokens, len(inputs), time.monotonic(), work)
    spec = model.engine.spec
    places = [place for place, label in enumerate(spec.labels) if label in step.refuse]
    for vector in vectors:
        scores = array("f", vector)
        found = {place: scores[place] for place in places if place < len(scores)}
        # Labels that don't exclude each other have probabilities that can't be added.
        together = max(found.values()) if spec.activation == "sigmoid" else sum(found.values())
        if together > step.above:
            label = spec.labels[max(found, key=found.__getitem__)]
            raise InvalidRequestError(
                f"The last message of the user was refused as {label!r}.", param="messages", code=BLOCKED
            )


async def _choose(use: Use, step: Step, question: str, documents: dict[int, str], priority: int) -> list[int]:
    """Which documents go on, the most relevant first. Texts too long for the model are cut to what it reads."""
    model = await use(step.model)
    texts = [*documents.values()]
    pairs = Pairs(
        [question] * len(texts), texts, ["messages"] * len(texts), [f"documents[{index}]" for index in documents]
    )
    began = time.monotonic()
    scores, _ = await pairs.score(model, -1, model.head("step").id, began, priority)
    ranked = sorted(zip(documents, scores, strict=True), key=lambda each: -each[1])
    return [index for index, _ in ranked[: step.keep]]


def _question(request: ChatRequest) -> str:
    asked = [message.content for message in request.messages if message.role == "user"]
    text = ""
    if asked and isinstance(asked[-1], str):
        text = asked[-1]
    elif asked:
        text = "".join(part.text or "" for part in asked[-1] or () if isinstance(part, ContentPart))
    if not text.strip():
        raise InvalidRequestError(
            "The conversation has no last message of the user with text, which this ensemble reads.",
            param="messages",
            code="empty_input",
        )
    return text


def _with_title(document: ChatDocument) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text


def _with_documents(messages: Sequence[Message], texts: Sequence[str], kept: Sequence[int]) -> list[Message]:
    """The conversation, its system message telling the documents too: many templates take only one, at the start.

    Documents keep the numbers that they have in the request, so that a citation means the same to the client.
    """
    told = "\n\n".join([_CITING.format(kept[0]), *(f"[{index}] {texts[index]}" for index in kept)])
    first = messages[0]
    if first.role not in ("system", "developer"):
        return [Message(role="system", content=told), *messages]
    if isinstance(first.content, list):
        content: str | list[ContentPart] = [*first.content, ContentPart(type="text", text="\n\n" + told)]
    else:
        content = f"{first.content}\n\n{told}" if first.content else told
    return [structs.replace(first, content=content), *messages[1:]]
