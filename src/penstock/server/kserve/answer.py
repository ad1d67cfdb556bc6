"""From a generation's deltas to the output tensors of one response, or of one for each delta."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.server.generation import Choice
from penstock.server.kserve.signature import OUTPUTS
from penstock.server.kserve.tensors import Tensor
from penstock.server.logprobs import LOWEST, prompt_logprobs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.engine.types import PositionLogprobs, RequestOutput
    from penstock.server.generation import Generation
    from penstock.server.kserve.statistics import ModelCounts
    from penstock.server.kserve.tensors import Value
    from penstock.server.kserve.text_request import TextRequest
    from penstock.server.served_model import ModelInUse


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One response; `final` is the last of its request."""

    model: str
    version: str
    id: str
    outputs: list[Tensor]
    final: bool


class Answer:
    """One request's responses: either `whole` or `parts` is used, once.

    Args:
        model: what answers.
        version: of it.
        request: what was asked.
        request_id: the client's own.
        batched: the tensors have a batch dimension.
        generation: of the text.
        counts: where the request is counted.
        arrived: `time.monotonic()` when it did.
    """

    def __init__(
        self,
        model: ModelInUse,
        version: str,
        request: TextRequest,
        generation: Generation,
        counts: ModelCounts,
        *,
        request_id: str,
        batched: bool,
        arrived: float,
    ) -> None:
        self.stream = request.stream
        self._model = model
        self._version = version
        self._request = request
        self._generation = generation
        self._counts = counts
        self._id = request_id
        self._batched = batched
        self._arrived = arrived
        self._scores = [0.0] * generation.n

    async def whole(self) -> InferResponse:
        """The only response. Raises as `Generation.deltas` does; cancelling it aborts the request."""
        choices = self._empty()
        async with aclosing(self._deltas()) as deltas:
            async for index, output in deltas:
                choices[index].add(output)
        return self._response(choices, final=True, prefix=self._request.text if self._request.prepends else "")

    async def parts(self) -> AsyncGenerator[InferResponse, None]:
        """A response for each piece of text of a choice, in which the other choices are empty."""
        gathered, left = self._empty(), self._generation.n
        async with aclosing(self._deltas()) as deltas:
            async for index, output in deltas:
                gathered[index].add(output)
                if output.text or output.finish_reason is not None:
                    left -= output.finish_reason is not None
                    part = self._empty()
                    part[index], gathered[index] = gathered[index], part[index]
                    yield self._response(part, final=left == 0)

    def _empty(self) -> list[Choice]:
        return [Choice(index) for index in range(self._generation.n)]

    async def _deltas(self) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        """The generation's, counted."""
        counts, begun, scheduled = self._counts, time.monotonic(), 0.0
        failed = True
        try:
            async with aclosing(self._generation.deltas()) as deltas:
                async for index, output in deltas:
                    scheduled = scheduled or output.scheduled_time
                    yield index, output
            failed = False
        finally:
            now = time.monotonic()
            (counts.fail if failed else counts.success).add(now - self._arrived)
            if not failed:
                counts.finished(read=begun - self._arrived, queued=scheduled - begun, computed=now - scheduled)

    def _response(self, choices: Sequence[Choice], *, final: bool, prefix: str = "") -> InferResponse:
        began = time.monotonic()
        for choice in choices:
            self._scores[choice.index] += sum(map(_score, choice.logprobs))
        outputs = [self._output(name, choices, prefix) for name in self._request.outputs]
        self._counts.compute_output.ns += int((time.monotonic() - began) * 1e9)
        return InferResponse(self._model.name, self._version, self._id, outputs, final)

    def _output(self, name: str, choices: Sequence[Choice], prefix: str) -> Tensor:
        shape: tuple[int, ...] = (len(choices),)
        values: list[Value]
        match name:
            case "text_output":
                values = [(prefix + choice.text).encode() for choice in choices]
            case "finish_reason":
                values = [(choice.finish_reason or "None").encode() for choice in choices]
            case "logprobs":
                values = [self._logprobs(choice) for choice in choices]
            case "num_input_tokens":
                values, shape = [self._generation.prompt_tokens], (1,)
            case "num_output_tokens":
                values = [len(choice.token_ids) for choice in choices]
            case "output_log_probs":
                rows = [list(map(_score, choice.logprobs)) for choice in choices]
                longest = max(map(len, rows))
                values = [value for row in rows for value in (*row, *([0.0] * (longest - len(row))))]
                shape = (len(choices), longest)
            case _:  # the sums, under either name
                values = list(self._scores)
        return Tensor(name, OUTPUTS[name].datatype, (1, *shape) if self._batched else shape, values)

    def _logprobs(self, choice: Choice) -> bytes:
        """As vLLM's back end writes them."""
        top = self._request.completion.logprobs
        if top is None:
            return b"null"
        return msgspec.json.encode(prompt_logprobs(self._model.engine.tokenizer, choice.logprobs, top))


def _score(position: PositionLogprobs) -> float:
    return max(position.chosen.logprob, LOWEST)
