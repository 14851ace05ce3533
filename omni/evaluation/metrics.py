"""Measures as pure functions of lists and arrays: word errors, recall, calibration, diversity, intervals.

Shapes: I items, C classes, R bootstrap draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from omni.errors import DataError
from omni.phones import normalise


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(substitutions + deletions + insertions, words of the reference) after `phones.normalise` of both."""
    said, heard = normalise(reference).split(), normalise(hypothesis).split()
    previous = list(range(len(heard) + 1))
    for row, word in enumerate(said, 1):
        current = [row]
        for column, other in enumerate(heard, 1):
            kept = previous[column - 1] + (word != other)
            current.append(min(kept, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1], len(said)


def error_counts(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    """`word_errors` of each pair: float [I, 2]. DataError if the two lists differ in length."""
    if len(references) != len(hypotheses):
        raise DataError(f"{len(references)} references but {len(hypotheses)} hypotheses; they must pair up")
    return np.array([word_errors(r, h) for r, h in zip(references, hypotheses)], float).reshape(-1, 2)


def ratio(counts: np.ndarray) -> float:
    """Sum of column 0 over sum of column 1 of [I, 2]: the rate over all items together. DataError without items."""
    if len(counts) == 0 or counts[:, 1].sum() <= 0:
        raise DataError("nothing to measure: no items, or no words in any of them")
    return float(counts[:, 0].sum() / counts[:, 1].sum())


def _draws(items: int, draws: int, seed: int) -> np.ndarray:
    """How often each item is drawn: [R, I]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(items, np.full(items, 1.0 / items), size=draws)


def ratio_interval(counts: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `ratio` by drawing items with replacement (Bisani and Ney 2004, ICASSP)."""
    weights = _draws(len(counts), draws, seed)
    found = (weights @ counts[:, 0]) / np.maximum(weights @ counts[:, 1], 1e-9)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def difference_interval(ours: np.ndarray, theirs: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of ratio(ours) - ratio(theirs) on the same items, each draw taking both (paired bootstrap)."""
    weights = _draws(len(ours), draws, seed)
    rates = [(weights @ c[:, 0]) / np.maximum(weights @ c[:, 1], 1e-9) for c in (ours, theirs)]
    low, high = np.percentile(rates[0] - rates[1], [2.5, 97.5])
    return float(low), float(high)


def confusion(true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Counts int [C, C]: rows are the true classes, columns the predicted."""
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), int)
    for real, guess in zip(true, predicted, strict=True):
        counts[place[real], place[guess]] += 1
    return counts


def recalls(counts: np.ndarray) -> np.ndarray:
    """Recall of each class [C] from `confusion`; NaN for a class without items."""
    totals = counts.sum(axis=1)
    return np.where(totals > 0, np.diag(counts) / np.maximum(totals, 1), np.nan)


def average_recall(true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> float:
    """Unweighted average recall over the classes that occur: chance is one over their number."""
    return float(np.nanmean(recalls(confusion(true, predicted, classes))))


def recall_interval(
    true: Sequence[str], predicted: Sequence[str], classes: Sequence[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of `average_recall` by drawing items with replacement within each class."""
    generator = np.random.default_rng(seed)
    counts = confusion(true, predicted, classes)
    totals = counts.sum(axis=1)
    drawn = [generator.binomial(n, hit / n, draws) / n for n, hit in zip(totals, np.diag(counts)) if n > 0]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return float(low), float(high)


def calibration_error(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599, equation 5)."""
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if len(sure) == 0:
        raise DataError("nothing to measure: no predictions")
    places = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(sure[places == b].mean() - right[places == b].mean()) * (places == b).mean() for b in np.unique(places)]
    return float(np.sum(gaps))


def best_constant(true: Sequence[str], fitting: Mapping[str, Collection[str]]) -> tuple[str, float]:
    """The one answer that fits most of the true labels, and the share that it fits; ties by name."""
    counts = Counter(answer for label in true for answer in fitting[label])
    answer = min(counts, key=lambda a: (-counts[a], a))
    return answer, counts[answer] / len(true)


def runs_of_words(text: str, size: int) -> set[tuple[str, ...]]:
    """Every run of `size` consecutive words of a text."""
    words = normalise(text).split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def share_with_known_run(texts: Sequence[str], known: Sequence[str], size: int = 8) -> float:
    """Share of texts that have `size` consecutive words in common with any known text."""
    seen = set().union(*(runs_of_words(k, size) for k in known)) if known else set()
    return float(np.mean([bool(runs_of_words(t, size) & seen) for t in texts])) if texts else 0.0


def distinct(texts: Sequence[str], size: int) -> float:
    """Different n-grams over all n-grams (distinct-n of Li et al. 2016, arXiv 1510.03055)."""
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = normalise(text).split()
        grams.extend(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    return len(set(grams)) / len(grams) if grams else 0.0
