"""Other ways to compute a step than the runner's own, for those who study them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from penstock.engine.runners.torch.plan import StepPlan

    Forward: TypeAlias = Callable[[StepPlan], Tensor]

Graphs = Literal["auto", "off", "padded"]


@dataclass(frozen=True, slots=True)
class Variant:
    """How the steps of a runner are computed.

    Args:
        compiler: turns the computation of hidden states [rows, hidden] from a plan into another of the same, as
            `torch.compile` does. The weights are left unpacked then, each layer's cache is a tensor of its own, and
            nothing is computed before the first step: a compiler sees what is multiplied and what is written, and
            when it works is for its owner to say.
        graphs: "auto": decode steps are captured as CUDA graphs where there is CUDA; "off": never; "padded": they
            get the fixed shapes of these, and are computed as any other.
    """

    compiler: Callable[[Forward], Forward] | None = None
    graphs: Graphs = "auto"


PLAIN = Variant()
