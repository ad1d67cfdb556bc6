"""How many tokens to draft for a sequence: as many as are likely to pay for their rows.

What: the number of drafts of the next step, from how the sequence's own drafts fared.
Inputs: drafts checked and accepted; how many sequences decode; what a row costs.
Config: none; what a row and a draft cost is the runner's, and follows from the device.
Trade-offs:
    - The j-th draft counts only if all before it are right, so with a chance a for each it brings a**j tokens. It is
      made while that, at what a token costs in this batch, is worth more than its row and its making. In large batches
      a token costs little more than a row, so there only near-certain drafts are made.
    - Old outcomes fade, so that the first sentence of a quotation is noticed soon after a page of new text. What faded
      to nothing is tried again with one draft now and then: the price of noticing.
    - Counts decide, never times: the same requests are drafted for alike on every run.
"""

from __future__ import annotations

MOST = 7  # drafts at once: eight rows are a step that CPUs and GPUs take well
_FADE = 0.9  # of past outcomes at each check
_PRIOR = (0.8, 2.0)  # accepted and checked, before any outcome
_PROBE_EVERY = 48  # tokens without a draft until one is tried


class Governor:
    """One sequence's record.

    Args:
        row_cost: of one more row in a step, as a share of a step of one row.
        draft_cost: of making a draft for one sequence alone, likewise.
    """

    def __init__(self, row_cost: float, draft_cost: float = 0.0) -> None:
        self._row_cost = row_cost
        self._draft_cost = draft_cost
        self._accepted, self._checked = _PRIOR
        self._since = 0

    def drafts(self, decoding: int) -> int:
        """How many tokens to draft in a step of `decoding` sequences; to be asked once a step."""
        chance = self._accepted / self._checked
        token_cost = (1 + self._row_cost * (decoding - 1)) / decoding
        cost = self._row_cost + self._draft_cost * token_cost  # drafts, too, are made for all in one step
        count, gain = 0, chance * token_cost
        while count < MOST and gain > cost:
            count += 1
            gain *= chance
        self._since += 1
        if count == 0 and self._since >= _PROBE_EVERY and token_cost > cost:
            count = 1
        return count

    def learn(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were right. Those after the first wrong one were never checked."""
        self._since = 0
        checked = min(accepted + 1, drafted)
        self._accepted = self._accepted * _FADE + accepted
        self._checked = self._checked * _FADE + checked
