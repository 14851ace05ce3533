"""Batches: everything once an epoch, within the budget, and a function of seed and step alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.data.batching import Schedule, buckets
from omni.errors import DataError

_DRAW = random.Random(1)
LENGTHS = [_DRAW.randrange(20, 900) for _ in range(200)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 2000), st.integers(0, 5))
def test_every_usable_item_comes_once_and_batches_fit(lengths: list[int], budget: int, epoch: int) -> None:
    batches = buckets(lengths, budget, 1, epoch, longest=250)
    usable = [i for i, n in enumerate(lengths) if 0 < n <= 250]
    assert sorted(i for batch in batches for i in batch) == usable
    for batch in batches:
        assert batch
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_padding_is_small() -> None:
    batches = buckets(LENGTHS, 5000, 1, 0)
    padded = sum(max(LENGTHS[i] for i in b) * len(b) for b in batches)
    assert padded < 1.25 * sum(LENGTHS)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    random.seed(1)
    first = buckets(LENGTHS, 3000, 1, 0)
    random.seed(2)
    assert buckets(LENGTHS, 3000, 1, 0) == first
    assert buckets(LENGTHS, 3000, 1, 1) != first
    assert buckets(LENGTHS, 3000, 2, 0) != first
    sizes = [LENGTHS[b[0]] for b in first]
    assert sizes != sorted(sizes)  # not from short to long


def test_schedule_walks_epoch_after_epoch_from_any_step() -> None:
    schedule = Schedule(LENGTHS, 3000, 7)
    walked = [schedule[step] for step in range(100)]
    fresh = Schedule(LENGTHS, 3000, 7)
    for step in (99, 3, 57, 0):  # as after a resume, in any order
        assert fresh[step] == walked[step]
    expected = [b for epoch in range(4) for b in buckets(LENGTHS, 3000, 7, epoch)][:100]
    assert walked[: len(expected)] == expected


def test_items_that_are_too_long_never_come() -> None:
    schedule = Schedule(LENGTHS, 3000, 7, longest=400)
    seen = {i for step in range(60) for i in schedule[step]}
    assert seen == {i for i, n in enumerate(LENGTHS) if n <= 400}


@pytest.mark.parametrize("lengths", [[], [0, 0], [900, 800]])
def test_a_schedule_of_nothing_is_refused_instead_of_waiting_for_ever(lengths: list[int]) -> None:
    with pytest.raises(DataError, match="nothing can be trained"):
        Schedule(lengths, 100, 1, longest=500)
