"""Measures against values worked out by hand, and the properties that they must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import DataError
from omni.evaluation import metrics
from omni.turns import EMOTIONS, FITTING_STYLES

WORDS = st.lists(st.sampled_from(["dog", "ran", "away", "home", "it's"]), max_size=7).map(" ".join)


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("The dog ran away.", "the dog ran away", 0),
        ("the dog ran", "the dog", 1),
        ("the dog ran", "the big dog ran", 1),
        ("the dog ran", "a dog runs", 2),
        ("twenty-one dogs", "twenty one dogs", 0),
        ("dogs", "", 1),
    ],
)
def test_word_errors(said, heard, errors):
    assert metrics.word_errors(said, heard)[0] == errors


@given(WORDS, WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_word_errors_are_a_distance(a, b, c):
    def apart(x, y):
        return metrics.word_errors(x, y)[0]

    assert apart(a, b) == apart(b, a)
    assert (apart(a, b) == 0) == (a == b)
    assert apart(a, c) <= apart(a, b) + apart(b, c)


def test_the_rate_is_over_all_words_together():
    counts = metrics.error_counts(["a b c d", "e"], ["a b c d", "x"])
    assert metrics.ratio(counts) == pytest.approx(1 / 5)
    with pytest.raises(DataError, match="nothing to measure"):
        metrics.ratio(np.zeros((0, 2)))
    with pytest.raises(DataError, match="pair up"):
        metrics.error_counts(["a"], [])


def test_intervals_hold_the_rate_and_shrink_with_more_items():
    draw = np.random.default_rng(0)
    few = np.stack([draw.binomial(10, 0.3, 20), np.full(20, 10)], 1).astype(float)
    many = np.stack([draw.binomial(10, 0.3, 2000), np.full(2000, 10)], 1).astype(float)
    for counts in (few, many):
        low, high = metrics.ratio_interval(counts)
        assert low < metrics.ratio(counts) < high
    width = [np.subtract(*metrics.ratio_interval(c)[::-1]) for c in (few, many)]
    assert width[1] < width[0] / 3
    assert metrics.ratio_interval(few, seed=1) == metrics.ratio_interval(few, seed=1)


def test_the_paired_interval_of_a_constant_gap_is_that_gap():
    ours = np.array([[1.0, 10], [4, 10], [2, 10]])
    theirs = ours + np.array([1.0, 0])
    assert metrics.difference_interval(ours, theirs) == pytest.approx((-0.1, -0.1))


def test_recall_counts_every_class_alike():
    true = ["sad"] * 8 + ["happy"] * 2
    guessed = ["sad"] * 8 + ["sad", "happy"]
    assert metrics.average_recall(true, guessed, ("sad", "happy")) == pytest.approx(0.75)
    assert metrics.average_recall(true, ["sad"] * 10, ("sad", "happy")) == 0.5
    assert metrics.confusion(true, guessed, ("sad", "happy")).tolist() == [[8, 0], [1, 1]]
    assert metrics.average_recall(true, guessed, EMOTIONS) == pytest.approx(
        0.75
    )  # classes that do not occur are left out
    low, high = metrics.recall_interval(true, guessed, EMOTIONS)
    assert low < 0.75 < high <= 1.0


def test_calibration():
    assert metrics.calibration_error([1.0, 1.0, 0.0, 0.0], [True, True, False, False]) == 0.0
    assert metrics.calibration_error([0.9] * 10, [True] * 5 + [False] * 5) == pytest.approx(0.4)
    assert metrics.calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False]) == pytest.approx(0.0)


def test_best_constant_style():
    assert metrics.best_constant(["sad", "fearful", "happy"], FITTING_STYLES) == ("comforting", pytest.approx(2 / 3))
    assert metrics.best_constant(list(EMOTIONS), FITTING_STYLES)[1] == pytest.approx(5 / 8)


def test_known_runs():
    known = ["One two three four five six seven eight nine."]
    copied = "well, two three four five six seven eight NINE then"
    assert metrics.share_with_known_run([copied, "two three four five six seven eight"], known) == 0.5
    assert metrics.share_with_known_run([copied], []) == 0.0


def test_distinct():
    assert metrics.distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert metrics.distinct(["a b", "a b"], 1) == 0.5
    assert metrics.distinct([], 2) == 0.0
