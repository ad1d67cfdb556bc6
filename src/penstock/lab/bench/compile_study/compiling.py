"""`torch.compile` around a runner's computation, set up so that it can do its best."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo

from penstock.engine.runners.torch.kv_cache import KVCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.engine.runners.torch.plan import StepPlan
    from penstock.engine.runners.torch.variant import Forward
    from penstock.lab.bench.compile_study.trial import Shapes


def compiler(mode: str, shapes: Shapes, device: str) -> Callable[[Forward], Forward]:
    """What `Variant.compiler` takes.

    Args:
        mode: as `torch.compile` knows it.
        shapes: "automatic": a size that changes becomes a variable of the code; "bucketed": code for each size.
    """

    def compiled(forward: Forward) -> Forward:
        on_cpu = device == "cpu"
        if on_cpu:
            # Makes constants of weights, which the compiler then packs for its products. Without it those read plain
            # weights, several times more slowly than the runner's own do, and there is nothing to tune.
            torch._inductor.config.freezing = True
        for tensor in tensors_of(forward, with_cache=not on_cpu):
            torch._dynamo.mark_static(tensor)
            torch._dynamo.mark_static_address(tensor, guard=on_cpu)

        def compute(plan: StepPlan) -> torch.Tensor:  # so that what is told of it names the plan's fields
            return forward(plan)

        made = torch.compile(compute, mode=mode, dynamic=None if shapes == "automatic" else False)
        return made if on_cpu else _stepwise(made)

    return compiled


def _stepwise(forward: Forward) -> Forward:
    """Tells CUDA graphs that the last step's results are no longer needed."""

    def step(plan: StepPlan) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return forward(plan)

    return step


def tensors_of(value: Any, *, with_cache: bool) -> Iterator[torch.Tensor]:
    """Every tensor that a computation keeps between steps, through Penstock's own objects.

    The KV cache is left out on demand: it is written to, so no constant can be made of it.
    """
    return _walk(value, set(), with_cache=with_cache)


def _walk(value: Any, seen: set[int], *, with_cache: bool) -> Iterator[torch.Tensor]:
    if id(value) in seen or (isinstance(value, KVCache) and not with_cache):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    parts: list[Any] = []
    if isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    elif (owner := getattr(value, "__self__", None)) is not None:  # of a method
        parts = [owner]
    elif type(value).__module__.startswith("penstock."):
        slots = (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()))
        parts = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    for part in parts:
        yield from _walk(part, seen, with_cache=with_cache)
