"""The ways to compute a step, and where each of them is possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

EAGER = "eager"


@dataclass(frozen=True, slots=True)
class Mode:
    """One way.

    Attributes:
        compile: what `torch.compile` calls its mode; None: it isn't used.
        captures: it is about CUDA graphs, the compiler's own or the runner's.
    """

    name: str
    about: str
    compile: str | None = None
    captures: bool = False


MODES = {
    mode.name: mode
    for mode in (
        Mode(EAGER, "the runner without a compiler, and without CUDA graphs"),
        Mode("cuda-graphs", "the runner's own CUDA graphs of decode steps, without a compiler", captures=True),
        Mode("default", "torch.compile as it is", "default"),
        Mode(
            "reduce-overhead", "torch.compile, whose code is captured as CUDA graphs", "reduce-overhead", captures=True
        ),
        Mode(
            "max-autotune", "torch.compile that tries kernels, captured as CUDA graphs", "max-autotune", captures=True
        ),
        Mode("max-autotune-no-cudagraphs", "torch.compile that tries kernels", "max-autotune-no-cudagraphs"),
    )
}


def choose(names: Sequence[str]) -> list[Mode]:
    """These modes, eager first as the others are held against it. Raises InvalidRequestError for an unknown name."""
    for name in names:
        if name not in MODES:
            hint = did_you_mean(name, MODES)
            raise InvalidRequestError(f"{name!r} is none of the modes {', '.join(MODES)}.{hint}", param="modes")
    return [mode for mode in MODES.values() if mode.name == EAGER or mode.name in names]


def obstacle(mode: Mode, backend: str) -> str:
    """Why a mode isn't possible on "cpu", "cuda", "rocm" or "mps"; empty if it is."""
    if mode.captures and backend not in {"cuda", "rocm"}:
        return f"needs CUDA graphs, which the {backend} backend hasn't"
    return ""
