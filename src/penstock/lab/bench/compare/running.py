"""Runs in their order, one engine up at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from penstock.core.errors import PenstockError
from penstock.lab.bench.arrivals import ClosedLoop
from penstock.lab.bench.compare.comparison import Comparison, Side
from penstock.lab.bench.compare.judging import Slot, figures_of, reasons_against
from penstock.lab.bench.compare.order import order_of
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.run import for_repeat, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.lab.bench.compare.contenders import Contender
    from penstock.lab.bench.endpoint import Endpoint
    from penstock.lab.bench.engines import Common, Place
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.setup import Load

_WARM_UP_SEED = 1_000_000  # of requests that no run will ask again
_WARM_UP_AT_ONCE = 8
_TRIES = 2  # of a run whose client was late or short of CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a comparison says while it runs. Any may be left out."""

    say: Callable[[str], None] = lambda _line: None
    on_progress: Callable[[int, Progress], None] | None = None  # with the slot's place


def compare(
    contenders: Sequence[Contender],
    load: Load,
    place: Place,
    model: ModelForms | None,
    common: Common,
    *,
    rounds: int,
    margin: float,
    told: Told,
) -> Comparison:
    """Every contender in every round, with the same requests; each round has others.

    An engine is started for each of its runs, so that what a start decides by luck (addresses, plans, clocks) is part
    of the spread. One that fails takes no further part. Ctrl-C ends it; rounds that are complete are kept.

    Raises:
        PenstockError: a server that should be up already isn't, or isn't what it should be, before anything is started.
    """
    sides = {each.name: Side(each) for each in contenders}
    for side in sides.values():
        if side.contender.engine is None:
            with side.contender.up(place, model, common) as up:  # which has nothing to bring down
                side.up = up
    slots: list[Slot] = []
    cut = False
    plan = [(number, name) for number, names in enumerate(order_of(list(sides), rounds)) for name in names]
    try:
        for at, (number, name) in enumerate(plan):
            if not sides[name].failed:
                _slot(sides[name], load, place, model, common, (number, at), slots, told)
            cut = bool(slots) and bool(slots[-1].run.meta["cut"])
            if cut:
                break
    except KeyboardInterrupt:
        cut = True
    return Comparison(sides=sides, load=load, margin=margin, slots=slots, cut=cut)


def _slot(
    side: Side,
    load: Load,
    place: Place,
    model: ModelForms | None,
    common: Common,
    where: tuple[int, int],
    slots: list[Slot],
    told: Told,
) -> None:
    number, _ = where
    name = side.contender.name
    with ExitStack() as stack:
        try:
            if side.up is not None and side.up.child is None:
                up = side.up  # a server that stays up is found and probed once
            else:
                up = side.up = stack.enter_context(side.contender.up(place, model, common))
            if up.ready_s is not None:
                side.ready_s.append(up.ready_s)
            if not side.measured or up.child is not None:
                _warm_up(up.endpoint, load)
            for _ in range(_TRIES):
                slot, measured = _run(name, up.endpoint, load, where, told)
                if up.child is not None:
                    up.child.check_alive()
                if not slot.run.meta["invalid"] or slot.run.meta["cut"]:
                    break
                told.say(f"round {number + 1}: {name}: again, as {slot.run.meta['invalid'][0]}")
        except PenstockError as error:
            side.failed = error.message
            told.say(f"round {number + 1}: {name} failed: {error.message}")
            return
    slots.append(slot)
    side.measured.append(measured)
    shown = f"{slot.figures['output_throughput']:.1f} tokens/s" if "output_throughput" in slot.figures else "nothing"
    told.say(f"round {number + 1}: {name} {up.version}: {shown}" + "".join(f"; {reason}" for reason in slot.reasons))


def _run(name: str, endpoint: Endpoint, load: Load, where: tuple[int, int], told: Told) -> tuple[Slot, Measured]:
    number, at = where
    progress = told.on_progress
    measured = measure(
        endpoint, for_repeat(load.workload, number), load.arrivals, load.manner, count=load.count, slo=load.slo,
        on_progress=None if progress is None else lambda _repeat, seen: progress(at, seen),
    )  # fmt: skip
    run = measured.runs[0]
    run.meta["repeat"] = number
    reasons = () if run.meta["cut"] else reasons_against(run, load.slo)
    if run.meta["cut"]:
        reasons = ("It was cut.",)
    return Slot(number, at, name, run, figures_of(run, load.slo), reasons), measured


def _warm_up(endpoint: Endpoint, load: Load) -> None:
    """Whatever is compiled, packed or paged in by the first requests is done by requests that don't count."""
    at_once = load.arrivals.concurrency if isinstance(load.arrivals, ClosedLoop) else _WARM_UP_AT_ONCE
    requests = islice(for_repeat(load.workload, _WARM_UP_SEED).requests(), at_once)
    manner = Manner(slots=at_once, timeout=load.manner.timeout, keep_alive=load.manner.keep_alive)
    if offer(endpoint, (replace(planned, due=None) for planned in requests), manner).meta["cut"]:
        raise KeyboardInterrupt
