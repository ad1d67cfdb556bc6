"""What `torch.compile` and CUDA graphs bring the torch runner, what they take, and when that is paid for.

Each mode (`modes.py`) runs in a process of its own (`worker.py`, started by `process.py`), so that no compiled code,
cache or memory of one is there for another. `study.py` puts the processes in an order that cancels drift; `watch.py`
reads what the compiler did, `timing.py` what a step takes, `break_even.py` says when a compile is paid for, `report.py`
and `page.py` what came of it.
"""
