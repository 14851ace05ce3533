"""Groups: the queries that are answered in one go and appear in the output together. Group n follows from the list alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
#: Queries in a group: what a kill can cost, at most, for each process.
SIZE = 8


def count(queries: int) -> int:
    """How many groups there are."""
    return -(-queries // SIZE)


def of(queries: Sequence[T], number: int) -> Sequence[T]:
    """The queries of group `number`."""
    return queries[number * SIZE : (number + 1) * SIZE]


def folder(number: int) -> Path:
    """Where its results go, in the output folder: no folder ever holds more than a thousand others."""
    return Path("replies", f"{number // 1000:04}", f"{number % 1000:03}")
