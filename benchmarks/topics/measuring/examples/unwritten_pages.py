"""Memory that was never written reads faster than it is: all of its pages are one page of zeros.

python unwritten_pages.py
"""

from __future__ import annotations

import time

import numpy as np

SIZE = 1 << 27  # bytes; greater than any cache


def seconds_to_read(data: np.ndarray) -> float:
    began = time.perf_counter()
    int(data.max())
    return time.perf_counter() - began


def main() -> None:
    unwritten = np.zeros(SIZE // 8, np.int64)
    seconds_to_read(unwritten)  # maps the page of zeros, again and again
    zeros = min(seconds_to_read(unwritten) for _ in range(3))
    unwritten.fill(0)
    written = min(seconds_to_read(unwritten) for _ in range(3))
    print(f"never written: {SIZE / zeros / 1e9:.1f} GB/s; written with zeros: {SIZE / written / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
