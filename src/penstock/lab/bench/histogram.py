"""Histograms that add up without loss: high dynamic range, three significant digits.

Whole numbers below 2048 have a bucket each; above, every doubling is divided into 1024 buckets of equal width (Tene,
HdrHistogram; the layout for lowest discernible value 1 and 3 significant digits). A bucket is at most 1/1024 of its
values wide, so its middle is within 0.05 % of each of them, whatever their size. As buckets are the same everywhere,
adding counts up gives exactly the histogram of all values together: percentiles of many clients are those of one that
had seen everything. `encode` writes the interchange format V2, which HdrHistogram's libraries and plotters read.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

RELATIVE_ERROR = 1 / 2048  # of a bucket's middle
_DIGITS = 3
_EXACT_BITS = 11  # numbers of so many bits have a bucket each
_HALF = 1 << (_EXACT_BITS - 1)
_LARGEST = (1 << 53) - 1  # in ns 104 days: up to here a float64 holds every whole number
_HOUR_NS = 3_600_000_000_000
_COOKIE, _COMPRESSED_COOKIE = 0x1C849313, 0x1C849314
_HEAD = struct.Struct(">iiiiqqd")
_OUTER = struct.Struct(">ii")


@dataclass(slots=True, eq=False)
class Histogram:
    """Counts of whole numbers from 0 up.

    >>> histogram = Histogram()
    >>> histogram.record(np.array([3, 5, 5, 4000]))
    >>> histogram.total, histogram.middle_at(3), histogram.middle_at(4)
    (4, 5.0, 4000.5)
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # [buckets up to the highest]

    @property
    def total(self) -> int:
        """Of all counts."""
        return int(self.counts.sum())

    def record(self, values: NDArray[Any], weights: NDArray[np.int64] | None = None) -> None:
        """Count values [n], rounded to whole numbers, once each or `weights` [n] times.

        Raises:
            InvalidRequestError: one is negative, over 2^53 or no number.
        """
        if not len(values):
            return
        whole = np.rint(values)
        if not (whole.min() >= 0 and whole.max() <= _LARGEST):  # NaN is neither
            raise InvalidRequestError(
                f"A histogram counts numbers from 0 to 2^53; got values from {values.min()} to {values.max()}."
            )
        places = bucket_of(whole)
        found = np.zeros(int(places.max()) + 1, np.int64)
        if weights is None:
            found += np.bincount(places, minlength=len(found))
        else:
            np.add.at(found, places, weights)  # bincount would add them as floats
        self._add(found)

    def add(self, other: Histogram) -> None:
        """All that `other` has counted."""
        self._add(other.counts)

    def _add(self, counts: NDArray[np.int64]) -> None:
        sums = np.zeros(max(len(counts), len(self.counts)), np.int64)
        sums[: len(self.counts)] = self.counts
        sums[: len(counts)] += counts
        self.counts = sums  # not in place: what came from another process can't be written

    def bucket_at(self, rank: int) -> int:
        """Of the `rank`-th smallest value, from 1 up to `total`."""
        return int(np.searchsorted(np.cumsum(self.counts), rank))

    def middle_at(self, rank: int) -> float:
        """About the `rank`-th smallest value: the middle of its bucket."""
        low, high = range_of(self.bucket_at(rank))
        return (low + high) / 2

    def below(self, bucket: int) -> int:
        """How many values are in this bucket or below it."""
        return int(self.counts[: bucket + 1].sum())

    def encode(self) -> str:
        """In HdrHistogram's compressed interchange format V2, base64."""
        there = np.flatnonzero(self.counts)
        packed, before = bytearray(), 0
        for place, count in zip(there.tolist(), self.counts[there].tolist(), strict=True):
            if place > before:
                packed += _variable(before - place)  # a negative count is a run of empty buckets
            packed += _variable(count)
            before = place + 1
        highest = max(_HOUR_NS, range_of(len(self.counts))[1])
        inner = _HEAD.pack(_COOKIE, len(packed), 0, _DIGITS, 1, highest, 1.0) + packed
        compressed = zlib.compress(inner, 9)
        return base64.b64encode(_OUTER.pack(_COMPRESSED_COOKIE, len(compressed)) + compressed).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """What `encode` wrote, or another library for the same digits and unit.

        Raises:
            InvalidRequestError: it is no such histogram.
        """
        try:
            data = base64.b64decode(text, validate=True)
            cookie, length = _OUTER.unpack_from(data)
            inner = zlib.decompress(data[_OUTER.size : _OUTER.size + length])
            inner_cookie, nbytes, shift, digits, lowest, _, ratio = _HEAD.unpack_from(inner)
            known = (cookie, inner_cookie, shift, digits, lowest, ratio)
            packed = inner[_HEAD.size :]
            counts = _unpacked(packed) if len(packed) == nbytes else None
        except (ValueError, struct.error, zlib.error) as error:
            raise InvalidRequestError(f"This is no histogram that can be read: {error}.") from error
        if counts is None or known != (_COMPRESSED_COOKIE, _COOKIE, 0, _DIGITS, 1, 1.0):
            raise InvalidRequestError(
                "This is no histogram that can be read: it isn't whole, or not of HdrHistogram's format V2 with"
                f" {_DIGITS} digits from 1."
            )
        return cls(counts)


def bucket_of(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """[n] of whole numbers [n]."""
    bits = np.frexp(values)[1]  # of each number; exact up to 2^53
    scale = np.maximum(bits - _EXACT_BITS, 0).astype(np.int64)
    places: NDArray[np.int64] = (scale << (_EXACT_BITS - 1)) + (values.astype(np.int64) >> scale)
    return places


def range_of(bucket: int) -> tuple[int, int]:
    """The smallest and the largest number in it."""
    scale = max(0, (bucket >> (_EXACT_BITS - 1)) - 1)
    low = (bucket - (scale << (_EXACT_BITS - 1))) << scale
    return low, low + (1 << scale) - 1


def _variable(number: int) -> bytes:
    """ZigZag LEB128 of a 64-bit number, 9 bytes at most: the ninth holds 8 bits."""
    left = (number << 1) ^ (number >> 63)
    written = bytearray()
    while left > 0x7F and len(written) < 8:
        written.append(left & 0x7F | 0x80)
        left >>= 7
    written.append(left)
    return bytes(written)


def _unpacked(packed: bytes) -> NDArray[np.int64]:
    places, counts, place, at = [], [], 0, 0
    while at < len(packed):
        left = shift = 0
        for more in range(9):
            if at == len(packed):
                raise ValueError("it ends within a count")
            byte = packed[at]
            at += 1
            left |= (byte if more == 8 else byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        number = (left >> 1) ^ -(left & 1)
        if number > 0:
            places.append(place)
            counts.append(number)
        place += -number if number < 0 else 1
        if place > 1 << 20:
            raise ValueError("it has more buckets than numbers can have")
    found = np.zeros(places[-1] + 1 if places else 0, np.int64)
    found[places] = counts
    return found
