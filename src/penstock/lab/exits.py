"""Exit codes of measurements, apart from those of `core.errors`: what a script may want to tell apart."""

from __future__ import annotations

FAILED = 20  # every request failed; of a comparison, a gate did
INVALID = 21  # the client was late or short of CPU, so the figures can't be believed
INCONCLUSIVE = 22  # a comparison that needs more repeats
CUT = 130  # ended by Ctrl-C; what was measured until then was kept
