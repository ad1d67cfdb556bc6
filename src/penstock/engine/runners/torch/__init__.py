"""The torch runner: one generic decoder on CPU, CUDA, ROCm or MPS. `runner.TorchRunner` is its door."""

from __future__ import annotations

import os

# Between two parallel regions GNU OpenMP's threads spin before they sleep. Waking a sleeping one costs more than
# the gap between two of a layer's operations, so too short a spin halves the speed of a machine with cores to
# spare; too long a one takes the very core that the thread waited for needs, when the server and its clients share
# the cores. 10,000 turns, a few hundred microseconds, bridge the gaps within a step and no more.
# The library reads this when torch loads it, so it has to be set before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
