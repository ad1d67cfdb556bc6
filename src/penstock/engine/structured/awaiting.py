"""Requests whose grammar is still being compiled: they wait here, and others go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.engine.structured.grammar import CODE, GrammarCompiler

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.structured.grammar import Compilation, GrammarTokenizer, Matcher
    from penstock.engine.types import Request

TIME_LIMIT_SECONDS = 10.0  # fuel ends a compilation long before, but for a queue of the worst
WARM_UP_SECONDS = 1.0  # of silence, after which the tokenizer for grammars is made


@dataclass(slots=True)
class _Waiting:
    request: Request
    compilation: Compilation
    deadline: float  # time.monotonic()


class AwaitingGrammars:
    """Holds back requests until their grammar is there.

    Args:
        make_tokenizer: called once, in another thread.
        done: called in that thread whenever `ready` has something new to say.
        clock: seconds.
    """

    def __init__(
        self,
        make_tokenizer: Callable[[], GrammarTokenizer],
        done: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compiler = GrammarCompiler(make_tokenizer, done)
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def open(self, request: Request, grammar: str) -> Matcher | None:
        """A matcher for the request if its grammar is there; None: it waits. Raises InvalidRequestError."""
        compilation = self._compiler.compile(grammar)
        matcher = compilation.matcher()
        if matcher is None:
            self._waiting[request.request_id] = _Waiting(request, compilation, self._clock() + TIME_LIMIT_SECONDS)
        return matcher

    def ready(self) -> list[tuple[Request, Matcher | InvalidRequestError]]:
        """Requests that wait no longer, in the order they came, each with its matcher or why there is none."""
        if not self._waiting:
            return []
        now = self._clock()
        found: list[tuple[Request, Matcher | InvalidRequestError]] = []
        for request_id, waiting in list(self._waiting.items()):
            try:
                outcome: Matcher | InvalidRequestError | None = waiting.compilation.matcher()
            except InvalidRequestError as error:
                outcome = error
            if outcome is None and now >= waiting.deadline:
                outcome = InvalidRequestError(
                    f"The grammar was not compiled within {TIME_LIMIT_SECONDS:.0f} seconds. Make it simpler.",
                    param="grammar",
                    code=CODE,
                )
            if outcome is not None:
                self.drop(request_id)
                found.append((waiting.request, outcome))
        return found

    def drop(self, request_id: str) -> None:
        """Forget a request, and its grammar if that waits for its turn and no other request for it."""
        dropped = self._waiting.pop(request_id, None)
        if dropped is not None and all(
            waiting.compilation is not dropped.compilation for waiting in self._waiting.values()
        ):
            self._compiler.abandon(dropped.compilation)

    @property
    def patience(self) -> float | None:
        """Seconds after which `ready` or, if nothing waits, `settle` has something to do; None: whenever `done`."""
        if self._waiting:
            return max(0.0, min(waiting.deadline for waiting in self._waiting.values()) - self._clock())
        return None if self._compiler.is_warm else WARM_UP_SECONDS

    def settle(self) -> None:
        """Nothing came for a while: make what the first grammar would have to wait for."""
        self._compiler.warm_up()

    def close(self) -> None:
        """End the compiling thread."""
        self._compiler.close()
