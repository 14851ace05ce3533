"""Training batches from shards, so that a corpus larger than the disk trains: read in turn, and the same again after a kill.

A batch is a function of its number, as from a manifest; one that is asked for out of turn is found by reading the rows
before it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from typing import Generic, TypeVar

from omni.data.manifest import Clip
from omni.data.shards import read_shards
from omni.errors import DataError

T = TypeVar("T")


def is_shards(name: str) -> bool:
    """Whether a recipe's entry names shards (`DIR/shard-*.tar`, an https address) and not a manifest."""
    return name.endswith(".tar")


def place() -> tuple[int, int]:
    """(rank, number of processes) of this process, as launchers tell it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def endless(pattern: str, seed: int) -> Iterator[Clip]:
    """The clips of shards, epoch after epoch, each in an order of its own; the part of them that is this process's."""
    rank, world = place()
    for epoch in count():
        empty = True
        for clip in read_shards(pattern, seed, epoch, rank, world):
            empty = False
            yield clip
        if empty:
            raise DataError(f"the shards {pattern} hold no clip for process {rank} of {world}; pack fewer into a shard")


def mixed(weights: Mapping[str, float], streams: Mapping[str, Iterator[T]], chance: random.Random) -> Iterator[T]:
    """One after the other from one of the streams, drawn by weight."""
    names = list(weights)
    while True:
        (name,) = chance.choices(names, [weights[n] for n in names])
        yield next(streams[name])


def grouped(items: Iterator[T], seconds: float, most: int, duration_s: Callable[[T], float]) -> Iterator[list[T]]:
    """Lists that last `seconds` or a little more together, of `most` items at most."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if sum(map(duration_s, group)) >= seconds or len(group) == most:
            yield group
            group = []


class Batches(Generic[T]):
    """Batches by number, from a stream that `begin` begins. The numbers are dealt out to the processes in turn."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin, self._stream, self._next = begin, begin(), 0

    def __call__(self, number: int) -> T:
        """Batch `number`."""
        own = number // place()[1]
        if own != self._next:
            self._stream, self._next = islice(self._begin(), own, None), own
        self._next += 1
        return next(self._stream)
