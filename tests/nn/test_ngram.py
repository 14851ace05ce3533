"""The word model: probabilities sum to one, follow their definition, and survive pruning, mixing and the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni.errors import ModelError
from omni.nn.ngram import END, SPECIAL, START, UNKNOWN, NgramModel
from omni.train.ngrams import encode, estimate, mix, mixture_weights, prune

WORDS = [*SPECIAL, "i", "you", "am", "are", "sad", "glad", "so", "today", "we"]


def sentences(seed: int, count: int = 300) -> list[list[str]]:
    draw = np.random.default_rng(seed)
    grammar = {"i": ["am"], "you": ["are"], "we": ["are"], "am": ["sad", "glad", "so"], "are": ["so", "glad"]}
    found = []
    for _ in range(count):
        sentence = [str(draw.choice(["i", "you", "we"], p=[0.6, 0.3, 0.1]))]
        while sentence[-1] not in ("sad", "glad", "today") or draw.random() < 0.3:
            sentence.append(str(draw.choice(grammar.get(sentence[-1], ["sad", "glad", "today"]))))
        found.append(sentence)
    return found


@pytest.fixture(scope="module")
def stream() -> np.ndarray:
    return encode(sentences(0), WORDS)


@pytest.fixture(scope="module")
def model(stream: np.ndarray) -> NgramModel:
    return estimate(stream, WORDS)


def states(model: NgramModel) -> list[int]:
    contexts = np.flatnonzero(model.continued) + len(model.words)
    return [*(s for s in range(len(model.words)) if s != END), *contexts.tolist()]


def assert_normalised(model: NgramModel, tolerance: float = 1e-4) -> None:
    every = np.arange(len(model.words))
    for state in states(model):
        log_probs, _ = model.score(np.full(len(every), state), every)
        assert np.exp(log_probs.astype(np.float64)).sum() == pytest.approx(1.0, abs=tolerance), state


def perplexity(model: NgramModel, text: list[list[str]]) -> float:
    return float(np.exp(-np.concatenate([model.sentence(s) for s in text]).mean()))


def test_every_state_is_a_distribution(model: NgramModel) -> None:
    assert len(states(model)) > len(WORDS)
    assert_normalised(model)


def test_scalars_and_arrays_agree_and_states_follow_the_words(model: NgramModel) -> None:
    ids = [model.ids[w] for w in ("i", "am", "so", "glad")]
    state, one_by_one = model.start, []
    for word in ids:
        score, state = model.score(state, word)
        assert isinstance(score, float)
        one_by_one.append(score)
    contexts = model.context(np.array([START, START, *ids[:2]]), np.array([START, *ids[:3]]))
    contexts[0] = model.start
    scores, after = model.score(contexts, np.array(ids))
    np.testing.assert_allclose(scores, one_by_one, rtol=1e-6)
    assert after[-1] == state


def test_absolute_discounting_by_hand() -> None:
    """Two sentences: too few counts of counts, so D(1) = 0.5 and D(2) = 0.75 are used at every order."""
    words = [*SPECIAL, "a", "b"]
    model = estimate(encode([["a", "b"], ["a"]], words), words)
    a, b = 3, 4
    # continuation counts: a 1 (after <s>), b 1 (after a), </s> 2 (after a and b); 4 in all; 4 words but <s>
    weight = (0.5 + 0.5 + 0.75) / 4
    uni_b = (1 - 0.5) / 4 + weight / 4
    assert np.exp(model.unigram[b]) == pytest.approx(uni_b, rel=1e-5)
    # after a: b and </s> once each (distinct predecessors of the pair: <s> only)
    bi_b = (1 - 0.5) / 2 + (0.5 + 0.5) / 2 * uni_b
    assert np.exp(model.score(a, b)[0]) == pytest.approx(bi_b, rel=1e-5)
    tri_b = (1 - 0.5) / 2 + (0.5 + 0.5) / 2 * bi_b
    state = model.score(model.start, a)[1]
    assert np.exp(model.score(state, b)[0]) == pytest.approx(tri_b, rel=1e-5)


def test_learned_text_is_likelier_than_shuffled_text(model: NgramModel) -> None:
    held = sentences(1, 50)
    shuffled = [list(np.random.default_rng(i).permutation(s)) for i, s in enumerate(held)]
    assert perplexity(model, held) < 0.5 * perplexity(model, shuffled)
    assert perplexity(model, held) < perplexity(prune(model, encode(sentences(0), WORDS), 5, 0), held)


def test_pruning_keeps_distributions_and_the_best(model: NgramModel, stream: np.ndarray) -> None:
    few = prune(model, stream, 20, 10)
    assert len(few.trigram) <= 12
    assert len(few.bigram) <= 22
    assert_normalised(few)
    held = sentences(1, 50)
    worst = prune(model, stream, 20, 0)
    assert perplexity(model, held) <= perplexity(few, held) * 1.001 <= perplexity(worst, held) * 1.01


def test_mixture_is_the_average_and_its_weights_find_the_domain(model: NgramModel) -> None:
    other = estimate(encode([list(reversed(s)) for s in sentences(0)], WORDS), WORDS)
    mixed = mix([model, other], [0.7, 0.3])
    assert_normalised(mixed)
    state = [m.context(np.array([START]), np.array([model.ids["i"]])) for m in (model, other, mixed)]
    word = np.array([model.ids["am"]])
    one, two, both = (np.exp(m.score(s, word)[0][0]) for m, s in zip((model, other, mixed), state))
    assert both == pytest.approx(0.7 * one + 0.3 * two, rel=1e-4)
    weights = mixture_weights([model, other], [encode(sentences(2, 50), WORDS)])
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] > 0.8


def test_disk_round_trip_is_close(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "words.safetensors")
    again = NgramModel.load(tmp_path / "words.safetensors")
    assert again.words == model.words
    np.testing.assert_array_equal(again.trigram_keys, model.trigram_keys)
    for state in states(model):
        every = np.arange(len(WORDS))
        before, after = (m.score(np.full(len(every), state), every) for m in (model, again))
        np.testing.assert_allclose(after[0].clip(-15), before[0].clip(-15), atol=0.15)
        np.testing.assert_array_equal(after[1], before[1])


def test_unknown_words_are_scored(model: NgramModel) -> None:
    assert np.isfinite(model.sentence(["zebra", "am"])).all()
    assert model.sentence(["zebra"])[0] == pytest.approx(model.score(START, UNKNOWN)[0])


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_broken_files_are_refused(model: NgramModel, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "words.safetensors"
    if damage != "missing":
        model.save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    if damage == "other":
        from safetensors.numpy import save_file

        save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"words\.safetensors"):
        NgramModel.load(path)
