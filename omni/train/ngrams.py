"""Estimate, mix and prune the word trigrams of `nn/ngram.py` with sorted arrays: no compiled tool is needed.

Shapes: N running words, V words, G bigrams, H trigrams.

Interpolated modified Kneser-Ney (Chen and Goodman 1999, equations 26-27), static linear interpolation of several such
models, and relative-entropy pruning (Stolcke 1998, arXiv cs/0006025, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omni.nn.ngram import END, START, UNKNOWN, NgramModel, find

_TINY = 1e-12


def encode(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> np.ndarray:
    """Sentences of words -> one stream of ids [N], each sentence between START and END."""
    ids = {word: index for index, word in enumerate(words)}
    stream: list[int] = []
    for sentence in sentences:
        stream.append(START)
        stream.extend(ids.get(word, UNKNOWN) for word in sentence)
        stream.append(END)
    return np.array(stream, np.int64)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D(0), D(1), D(2), D(3+) from the counts of counts; absolute discounting when there are too few to say."""
    n1, n2, n3, n4 = (float((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) < 5:
        return np.array([0.0, 0.5, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, 0.0, [0.0, 0.95, 1.8, 2.7])


def _smooth(counts: np.ndarray, contexts: np.ndarray, lower: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Discounted and interpolated probabilities, and the weight of the lower order in each of `size` contexts."""
    discount = _discounts(counts)[np.minimum(counts, 3)]
    total = np.maximum(np.bincount(contexts, counts, minlength=size), _TINY)
    weight = np.bincount(contexts, discount, minlength=size) / total
    weight[np.bincount(contexts, minlength=size) == 0] = 1.0
    return (counts - discount) / total[contexts] + weight[contexts] * lower, weight


def estimate(stream: np.ndarray, words: Sequence[str]) -> NgramModel:
    """A trigram model of a stream of ids (see `encode`), nothing pruned."""
    size = len(words)
    first, second = stream[:-1], stream[1:]
    pairs, pair_counts = np.unique((first * size + second)[second != START], return_counts=True)
    inside = (stream[1:-1] != START) & (stream[2:] != START)
    triples = ((stream[:-2] * size + stream[1:-1]) * size + stream[2:])[inside]
    triples, triple_counts = np.unique(triples, return_counts=True)
    # lower orders count distinct predecessors, except after START, which has none
    tails, distinct = np.unique(triples % size**2, return_counts=True)
    index, _ = find(pairs, tails)
    continuation = pair_counts.copy()
    continuation[index[tails // size != START]] = distinct[tails // size != START]
    ones = np.bincount(pairs % size, minlength=size)
    uniform = np.full(size, 1.0 / (size - 1))
    uniform[START] = 0.0
    unigram, _ = _smooth(ones, np.zeros(size, np.int64), uniform, 1)
    bigram, unigram_backoff = _smooth(continuation, pairs // size, unigram[pairs % size], size)
    heads, _ = find(pairs, triples // size)
    lower, _ = find(pairs, triples % size**2)
    trigram, bigram_backoff = _smooth(triple_counts, heads, bigram[lower], len(pairs))
    return NgramModel(
        words,
        (_log(unigram), _log(unigram_backoff)),
        (pairs, _log(bigram), _log(bigram_backoff)),
        (heads * size + triples % size, _log(trigram)),
    )


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, _TINY))


def _spread(model: NgramModel) -> np.ndarray:
    """The trigrams of a model as keys (u * V + v) * V + w."""
    size = len(model.words)
    return model.bigram_keys[model.trigram_keys // size] * size + model.trigram_keys % size


def rebuild(model: NgramModel, bigrams: np.ndarray, trigrams: np.ndarray) -> NgramModel:
    """The same probabilities for the chosen bigrams and trigrams (masks), with back-offs that sum to one."""
    size = len(model.words)
    trigrams = trigrams & bigrams[model.trigram_keys // size]
    keys, order = model.bigram_keys[bigrams], np.cumsum(bigrams) - 1
    triple_keys = order[model.trigram_keys[trigrams] // size] * size + model.trigram_keys[trigrams] % size
    return normalised(model.words, model.unigram, keys, model.bigram[bigrams], triple_keys, model.trigram[trigrams])


def normalised(
    words: Sequence[str],
    unigram: np.ndarray,
    pairs: np.ndarray,
    bigram: np.ndarray,
    triples: np.ndarray,
    trigram: np.ndarray,
) -> NgramModel:
    """A model whose back-off weights are computed from its probabilities: (1 - seen) / (1 - seen at the lower order)."""
    size = len(words)

    def backoff(contexts: np.ndarray, seen: np.ndarray, lower: np.ndarray, count: int) -> np.ndarray:
        above = 1 - np.bincount(contexts, np.exp(seen.astype(np.float64)), minlength=count)
        below = 1 - np.bincount(contexts, np.exp(lower.astype(np.float64)), minlength=count)
        return np.log(np.clip(above, 1e-4, 1.0) / np.clip(below, 1e-4, 1.0)).clip(max=0.0)

    first = backoff(pairs // size, bigram, unigram[pairs % size], size)
    flat = NgramModel(words, (unigram, first), (pairs, bigram, np.zeros(len(pairs))), (np.zeros(0), np.zeros(0)))
    lower, _ = flat.score(pairs[triples // size] % size, triples % size)
    second = backoff(triples // size, trigram, lower, len(pairs))
    return NgramModel(words, (unigram, first), (pairs, bigram, second), (triples, trigram))


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """Static interpolation of models with one vocabulary: every n-gram of any, probabilities averaged by weight."""
    words, size = models[0].words, len(models[0].words)
    pairs = np.unique(np.concatenate([m.bigram_keys for m in models]))
    spread = np.unique(np.concatenate([_spread(m) for m in models]))
    before, last, word = spread // size**2, spread // size % size, spread % size

    def average(found: list[np.ndarray]) -> np.ndarray:
        return np.log(sum((w * np.exp(f.astype(np.float64)) for w, f in zip(weights, found)), np.float64(0)) + _TINY)

    unigram = average([m.unigram for m in models])
    bigram = average([m.score(pairs // size, pairs % size)[0] for m in models])
    trigram = average([m.score(m.context(before, last), word)[0] for m in models])
    heads, _ = find(pairs, spread // size)
    return normalised(words, unigram, pairs, bigram, heads * size + word, trigram)


def component_gains(models: Sequence[NgramModel], streams: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each held-out stream, the probability of each of its known words by each model [M, N]."""
    gains = []
    for stream in streams:
        known = (stream[2:] != START) & (stream[2:] != UNKNOWN) & (stream[1:-1] != START)
        before, last, word = stream[:-2][known], stream[1:-1][known], stream[2:][known]
        gains.append(np.stack([np.exp(m.score(m.context(before, last), word)[0]) for m in models]).astype(np.float32))
    return gains


def mixture_weights(models: Sequence[NgramModel], streams: Sequence[np.ndarray], rounds: int = 30) -> list[float]:
    """Weights by expectation-maximisation on held-out streams, each stream counting the same."""
    gains = component_gains(models, streams)
    weights = np.full(len(models), 1.0 / len(models))
    for _ in range(rounds):
        weights = np.mean([(weights[:, None] * g / (weights @ g)).mean(1) for g in gains], axis=0)
    return [float(w) for w in weights]


def prune(model: NgramModel, stream: np.ndarray, bigrams: int, trigrams: int) -> NgramModel:
    """Keep about that many n-grams: those whose loss would change the model most (weighted relative entropy).

    `stream` gives how often each history occurs. Bigrams that trigrams continue are kept, even beyond the number.
    """
    size = len(model.words)
    if len(model.trigram) > trigrams:
        heads = model.trigram_keys // size
        counts = _history_counts(model, stream)
        lower, _ = model.score(model.bigram_keys[heads] % size, model.trigram_keys % size)
        loss = _loss(model.trigram, lower, heads, model.bigram_backoff, counts)
        model = rebuild(model, np.ones(len(model.bigram), bool), _largest(loss, trigrams))
    if len(model.bigram) > bigrams:
        heads = model.bigram_keys // size
        counts = np.bincount(stream, minlength=size).astype(np.float64)
        loss = _loss(model.bigram, model.unigram[model.bigram_keys % size], heads, model.unigram_backoff, counts)
        loss[model.continued] = np.inf  # contexts of trigrams stay
        kept = _largest(loss, bigrams) | model.continued
        model = rebuild(model, kept, np.ones(len(model.trigram), bool))
    return model


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def _history_counts(model: NgramModel, stream: np.ndarray) -> np.ndarray:
    index, found = find(model.bigram_keys, stream[:-1] * len(model.words) + stream[1:])
    return np.bincount(index[found], minlength=len(model.bigram_keys)).astype(np.float64) + 0.3


def _loss(
    seen: np.ndarray, lower: np.ndarray, heads: np.ndarray, backoff: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """What removing one n-gram costs in relative entropy, by the closed form of Stolcke (1998), equation 4."""
    p, q = np.exp(seen.astype(np.float64)), np.exp(lower.astype(np.float64))
    above = 1 - np.bincount(heads, p, minlength=len(backoff))
    below = 1 - np.bincount(heads, q, minlength=len(backoff))
    above, below = np.clip(above, 1e-4, 1)[heads], np.clip(below, 1e-4, 1)[heads]
    after = np.log((above + p) / (below + q))
    change = p * (lower + after - seen) + (after - backoff[heads]) * above
    return -counts[heads] * change
