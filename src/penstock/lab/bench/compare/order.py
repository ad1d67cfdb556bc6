"""Who runs when, so that what changes with time meets all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def order_of(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Each round has every name once; a round is followed by its mirror image, and pairs of rounds are rotated.

    Two names give AB BA BA AB, in which a drift up to the second order is the same for both after four rounds. Of more
    names, each gets each place in turn.
    """
    plan: list[list[str]] = []
    for number in range(rounds):
        turn = number // 2 % len(names)
        forth = [*names[turn:], *names[:turn]]
        plan.append(forth[::-1] if number % 2 else forth)
    return plan
