"""The process of one mode: an `Ask` on standard input, `Told`s on standard output, one a line."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec
import torch

from penstock.core.errors import PenstockError
from penstock.core.limits import read_text
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.torch.runner import TorchRunner
from penstock.engine.runners.torch.variant import Variant
from penstock.lab.bench.compile_study.compiling import compiler
from penstock.lab.bench.compile_study.modes import MODES
from penstock.lab.bench.compile_study.timing import batches_of, blocks_needed, measure
from penstock.lab.bench.compile_study.trial import Answer, Ask, Done, Failed, Memory, Progress
from penstock.lab.bench.compile_study.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.lab.bench.compile_study.trial import Told


def main() -> None:
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what compilers print is no answer

    def tell(what: Told) -> None:
        told.write(msgspec.json.encode(what) + b"\n")
        told.flush()

    ask = msgspec.json.decode(sys.stdin.buffer.read(), type=Ask)
    try:
        tell(Done(answer(ask, lambda words: tell(Progress(words)))))
    except (PenstockError, RuntimeError, MemoryError, OSError) as error:  # what torch and its compilers raise
        import traceback

        traceback.print_exc()
        tell(Failed(reason_of(error)))
        sys.exit(1)


def reason_of(error: BaseException) -> str:
    """In one line: the first of the message, with the kind of error if the message doesn't say it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


def answer(ask: Ask, doing: Callable[[str], None]) -> Answer:
    """Do what is asked in this process."""
    doing("loading the model")
    watch = Watch()
    runner = TorchRunner(_config(ask), variant_of(ask))
    spec = runner.load()
    blocks = blocks_needed(ask.points, ask.block_size)
    runner.allocate(blocks)
    watch.take("loading")
    before = resident_bytes()
    random = Random(ask.seed)
    work = [(point, batches_of(point, ask.block_size, spec.vocab_size, random)) for point in ask.points]
    points = measure(runner, work, ask.rounds, watch, doing)
    on_gpu = ask.device == "cuda"
    memory = Memory(
        before=before,
        after=resident_bytes(),
        peak=peak_bytes(),
        gpu_after=torch.cuda.memory_reserved() if on_gpu else None,
        gpu_peak=torch.cuda.max_memory_reserved() if on_gpu else None,
    )
    return Answer(
        points=tuple(points), compilations=tuple(watch.compilations), breaks=tuple(watch.breaks), memory=memory,
        described=runner.describe(),
    )  # fmt: skip


def variant_of(ask: Ask) -> Variant:
    mode = MODES[ask.mode]
    if mode.compile is None:
        return Variant(graphs="auto" if mode.captures else "off")
    made = compiler(mode.compile, ask.shapes, ask.device)
    return Variant(made, "padded" if ask.shapes == "bucketed" else "off")


def _config(ask: Ask) -> RunnerConfig:
    return RunnerConfig(
        model_path=ask.model_path,
        runner="torch",
        block_size=ask.block_size,
        device=ask.device,
        dtype=ask.dtype,
        threads=ask.threads,
        max_model_len=max(point.length for point in ask.points),
        allow_unverified=True,  # whoever asked has decided that
    )


def resident_bytes() -> int:
    import psutil  # type: ignore[import-untyped]

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Of this process alone: what getrusage calls the peak includes that of the process which started it."""
    for line in read_text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
