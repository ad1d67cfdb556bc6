"""How a response is made: at once, or in the background, where a crash of the server only delays it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from msgspec import structs

from penstock.core.errors import EngineDeadError, InvalidRequestError, OverloadedError, PenstockError
from penstock.server.conversation import after_steps, prepare_chat
from penstock.server.conversing import converse
from penstock.server.errors import internal_error
from penstock.server.responses_api.answer import ResponseAnswer, failed
from penstock.server.responses_api.store import ResponseStore
from penstock.server.responses_api.translate import chat_request, in_own_words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive

    from penstock.server.registry import ModelRegistry
    from penstock.server.requests import ChatRequest
    from penstock.server.responses_api.objects import ResponseObject
    from penstock.server.responses_api.requests import InputItem, ResponseRequest
    from penstock.server.responses_api.store import StoredResponse
    from penstock.server.served_model import ModelInUse
    from penstock.server.storage import Storage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5  # between tries while the queue is full or the engine is being started again
MOST_UNFINISHED = 1024  # responses of the background, each of which tries for its place in the queue
MOST_CRASHES = 3  # of the engine under one response, which then has failed


async def start_answer(
    store: ResponseStore,
    model: ModelInUse,
    stored: StoredResponse,
    keep: Callable[[ResponseObject], Awaitable[None]],
    *,
    arrived: float,
    receive: Receive | None = None,
) -> ResponseAnswer:
    """Hand a response's conversation to the engine; `receive` is the connection of whoever waits for it.

    Raises InvalidRequestError naming the field at fault, and what the engine refuses a request with.
    """
    history = await _history(store, stored)
    try:
        chat = await after_steps(model, chat_request(stored.request, history), receive)
        chat = await _fitting(model, chat, stored.request)
        conversation = await converse(model, chat, request_id=stored.response.id, arrived=arrived)
    except InvalidRequestError as error:
        raise in_own_words(error) from error
    return ResponseAnswer(
        structs.replace(stored.response, status="in_progress"),
        conversation,
        model.engine.tokenizer,
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        keep=keep,
    )


async def check_answerable(store: ResponseStore, model: ModelInUse, stored: StoredResponse) -> None:
    """Raises InvalidRequestError, as `start_answer` would, for what can be known before anything is computed."""
    history = await _history(store, stored)
    try:
        chat = chat_request(stored.request, history)
        if model.ensemble is None:
            chat = await after_steps(model, chat)
        else:
            from penstock.server.ensembles.chain import check_steps  # few servers have ensembles

            check_steps(model.ensemble.ensemble, chat)
        await prepare_chat(model, await _fitting(model, chat, stored.request))
    except InvalidRequestError as error:
        raise in_own_words(error) from error


async def _history(store: ResponseStore, stored: StoredResponse) -> list[tuple[str, InputItem]]:
    """All items of the conversation, each with the place that errors call it by."""
    previous = stored.request.previous_response_id
    earlier = [] if previous is None else await store.conversation(previous)
    own = ((f"input[{index}]", item) for index, item in enumerate(stored.input))
    return [*(("previous_response_id", item) for item in earlier), *own]


async def _fitting(model: ModelInUse, chat: ChatRequest, request: ResponseRequest) -> ChatRequest:
    return await _shortened(model, chat) if request.truncation == "auto" else chat


async def _shortened(model: ModelInUse, chat: ChatRequest) -> ChatRequest:
    """The conversation without as many of its oldest turns as it takes to fit; instructions stay.

    What is left begins with something that the user said, so that no tool's result loses its call.
    """
    messages = chat.messages
    first = next((at for at, message in enumerate(messages) if message.role not in ("system", "developer")), 0)
    cuts = [first, *(at for at in range(first + 1, len(messages)) if messages[at].role == "user")]

    def cut(at: int) -> ChatRequest:
        return structs.replace(chat, messages=[*messages[:first], *messages[at:]])

    async def fits(at: int) -> bool:
        shorter = cut(at)
        try:
            prompt = await model.prompts.from_messages(shorter, shorter.messages)
        except InvalidRequestError as error:
            if error.code == "context_length_exceeded":
                return False
            raise
        return len(prompt.token_ids) + (chat.max_tokens or 1) <= model.context

    low, high = 0, len(cuts) - 1  # the first cut that fits, or the last of all, which then says that it doesn't
    while low < high:
        middle = (low + high) // 2
        if await fits(cuts[middle]):
            high = middle
        else:
            low = middle + 1
    return cut(cuts[low])


class BackgroundResponses:
    """Makes responses that nobody waits for; `store` has those that are kept.

    Args:
        models: that make them.
        storage: where they are kept.
    """

    def __init__(self, models: ModelRegistry, storage: Storage) -> None:
        self.store = ResponseStore(storage)
        self._models = models
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, model: ModelInUse, stored: StoredResponse) -> ResponseObject:
        """Begin a response; it is kept before this returns.

        Raises InvalidRequestError for what this model can't answer, OverloadedError if too many are unfinished.
        """
        if len(self._tasks) >= MOST_UNFINISHED:
            raise OverloadedError(
                f"{len(self._tasks)} responses are being made in the background, as many as may be. Wait for some.",
                code="too_many_background_responses",
            )
        await check_answerable(self.store, model, stored)
        await self.store.add(stored, unfinished=True)
        self._run(stored)
        return stored.response

    async def take_up(self) -> None:
        """Go on with what servers that are gone have left unfinished."""
        for stored in await self.store.take_up(self._models.names):
            self._run(stored)

    def stop(self, name: str) -> None:
        """End the work on a response, if it is done here."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Leave what is unfinished to the next server."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, stored: StoredResponse) -> None:
        name = stored.response.id
        self._tasks[name] = task = asyncio.create_task(self._make(stored))
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _make(self, stored: StoredResponse) -> None:
        response = structs.replace(stored.response, status="in_progress", output=[])

        async def keep(ended: ResponseObject) -> None:
            await self.store.update(ended, unfinished=False)

        await self.store.update(response, unfinished=True)
        crashes = 0
        while True:
            try:
                model = await self._models.use_for_chat(stored.request.model)
                answer = await start_answer(self.store, model, stored, keep, arrived=time.monotonic())
                await answer.whole()
            except (OverloadedError, EngineDeadError) as error:
                crashes += error.code == "engine_died"
                if crashes < MOST_CRASHES:
                    await asyncio.sleep(PATIENCE_SECONDS)
                    continue
                await keep(failed(response, error))
            except PenstockError as error:
                await keep(failed(response, error))
            except Exception as cause:  # noqa: BLE001 - the boundary of a task that nobody waits for
                await keep(failed(response, internal_error(cause)))
            return
