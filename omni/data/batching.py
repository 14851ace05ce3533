"""Batches of similar length whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

import random

from omni.errors import DataError


def buckets(lengths: list[int], budget: int, seed: int, epoch: int, longest: int | None = None) -> list[list[int]]:
    """Split indices into batches of about `budget` frames, padding included. Items over `longest` are left out.

    Items are sorted by length with a little noise, cut into batches, and the batches shuffled.
    """
    draw = random.Random(f"{seed}:{epoch}")
    usable = [i for i, n in enumerate(lengths) if n > 0 and (longest is None or n <= longest)]
    usable.sort(key=lambda i: lengths[i] * draw.uniform(0.9, 1.1))
    batches: list[list[int]] = []
    current: list[int] = []
    widest = 0
    for index in usable:
        wider = max(widest, lengths[index])
        if current and wider * (len(current) + 1) > budget:
            batches.append(current)
            current, wider = [], lengths[index]
        current.append(index)
        widest = wider
    if current:
        batches.append(current)
    draw.shuffle(batches)
    return batches


class Schedule:
    """Batch number `step` of an endless run over epochs; nothing to save, since it depends on the step alone.

    DataError when no item can be used.
    """

    def __init__(self, lengths: list[int], budget: int, seed: int, longest: int | None = None) -> None:
        if not any(n > 0 and (longest is None or n <= longest) for n in lengths):
            raise DataError(f"none of the {len(lengths)} items is between 1 and {longest} long; nothing can be trained")
        self.arguments = (lengths, budget, seed)
        self.longest = longest
        self._epochs: dict[int, list[list[int]]] = {}
        self._starts = [0]

    def _epoch(self, number: int) -> list[list[int]]:
        if number not in self._epochs:
            self._epochs = {number: buckets(*self.arguments, number, self.longest)}
        return self._epochs[number]

    def __getitem__(self, step: int) -> list[int]:
        while self._starts[-1] <= step:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        number = next(i for i in range(len(self._starts) - 1) if step < self._starts[i + 1])
        return self._epoch(number)[step - self._starts[number]]
