"""The search is exact when nothing is pruned, finds words in noise, spells out alternatives, and never breaks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.errors import ModelError
from omni.nn.beam import LexiconDecoder, SearchConfig
from omni.nn.lexicon import Lexicon, pronunciations
from omni.nn.ngram import END, SPECIAL, NgramModel
from omni.nn.posteriors import greedy_units
from omni.nn.spotting import keyword_scores
from omni.phones import BOUNDARY, UNIT_ID, UNITS, listener_targets
from omni.train.ngrams import encode, estimate

TEXT = [
    "i miss my dog", "i miss my sister", "my sister has a new dog", "are you coming home today", "i am so glad today",
    "i am so sad", "we are going home", "my mother is at home", "you are a good friend", "what a day", "i lost my job",
]  # fmt: skip
WORDS = [*SPECIAL, *dict.fromkeys(" ".join(TEXT).split()), "write", "right", "eye", "dogs"]


@pytest.fixture(scope="module")
def decoder() -> LexiconDecoder:
    return LexiconDecoder(estimate(encode([t.split() for t in TEXT], WORDS), WORDS))


def posteriors(text: str, noise: float = 0.0, seed: int = 0, boundaries: bool = True) -> np.ndarray:
    """Log-posteriors of a model that says each unit for one state and a blank for one, with noise on its logits."""
    rows = []
    for unit in listener_targets(text):
        if unit == UNIT_ID[BOUNDARY] and not boundaries:
            continue
        rows.extend([unit, 0])
    logits = 6.0 * np.eye(len(UNITS))[rows] + noise * np.random.default_rng(seed).standard_normal(
        (len(rows), len(UNITS))
    )
    return torch.from_numpy(logits).log_softmax(-1).numpy()


@pytest.mark.parametrize("text", TEXT)
def test_clean_posteriors_give_the_words(decoder: LexiconDecoder, text: str) -> None:
    heard = decoder.decode(posteriors(text))
    assert heard.text == text
    assert heard.understood
    assert 1 <= len(heard.alternatives) <= decoder.config.alternatives
    assert len({heard.text, *heard.alternatives}) == len(heard.alternatives) + 1


def test_noise_is_survived_better_than_by_the_greedy_path(decoder: LexiconDecoder) -> None:
    found = greedy = 0
    for seed, text in enumerate(TEXT):
        scores = posteriors(text, 2.2, seed)
        found += decoder.decode(scores).text == text
        greedy += decoder.greedy(scores) == text
    assert found >= 9
    assert greedy <= 5


def test_boundaries_are_evidence_but_not_needed(decoder: LexiconDecoder) -> None:
    assert decoder.decode(posteriors("my sister has a new dog", boundaries=False)).text == "my sister has a new dog"
    strict = decoder.tuned(skip_penalty=3.0).search(posteriors("i am so sad", boundaries=False))[0]
    loose = decoder.tuned(skip_penalty=0.0).search(posteriors("i am so sad", boundaries=False))[0]
    assert strict.text == loose.text
    assert loose.score - strict.score == pytest.approx(9.0, abs=0.3)  # three words without a boundary before them


def test_homophones_are_chosen_by_the_words_around(decoder: LexiconDecoder) -> None:
    found = decoder.decode(posteriors("eye am so glad today"))
    assert found.text == "i am so glad today"
    assert any(text.startswith("eye") for text in found.alternatives)


def exact(scores: np.ndarray, decoder: LexiconDecoder, words: tuple[int, ...]) -> float:
    """Log of the summed probability of every CTC path of every spelling of the words, with the model's weights."""
    config = decoder.config
    spellings: dict[int, list[list[int]]] = {w: [] for w in words}
    for word, units in zip(decoder.lexicon.entry_words, decoder.lexicon.entry_units):
        if word in spellings:
            spellings[word].append([u for u in units.tolist() if u >= 0])
    total = -np.inf
    for choice in itertools.product(*(spellings[w] for w in words)):
        for *skips, open_end in itertools.product((False, True), repeat=max(1, len(words))):
            ids = [u for i, s in enumerate(choice) for u in ([] if i == 0 or skips[i - 1] else [UNIT_ID[BOUNDARY]]) + s]
            ids += [UNIT_ID[BOUNDARY]] if open_end and words else []
            if len(ids) > len(scores) or (open_end and not words):
                continue
            loss = torch.nn.functional.ctc_loss(
                torch.from_numpy(scores)[:, None].double(),
                torch.tensor([ids], dtype=torch.long).reshape(1, -1),
                torch.tensor([len(scores)]),
                torch.tensor([len(ids)]),
                reduction="sum",
            )
            total = np.logaddexp(total, -float(loss) - config.skip_penalty * sum(skips))
    state, language = decoder.model.start, 0.0
    for word in (*words, END):
        score, state = decoder.model.score(state, word)
        language += score
    return float(total + config.language_weight * language + config.word_bonus * len(words))


@pytest.mark.parametrize("seed", range(6))
def test_without_pruning_the_search_is_exact(seed: int) -> None:
    """Against the sum over all word sequences that fit into five states."""
    units = [UNIT_ID[p] for p in ("AA", "B", "IY", "S")]
    # no word starts with a unit that another ends with: two that touch are told apart only by a blank
    lexicon = Lexicon([(3, units[:2]), (4, [units[0], units[3]]), (4, [units[2], units[1]]), (5, units[2:])])
    draw = np.random.default_rng(seed)
    words = [*SPECIAL, "ab", "as", "es"]
    every = [list(c) for n in (1, 2, 3) for c in itertools.product(words[3:], repeat=n)]
    model = estimate(encode([every[i] for i in draw.integers(0, len(every), 200)], words), words)
    config = SearchConfig(beam=5000, width=1e9, units=len(UNITS) - 1, blank_skip=2.0, alternatives=0)
    decoder = LexiconDecoder(model, lexicon, config)
    scores = torch.from_numpy(2.5 * draw.standard_normal((5, len(UNITS))))
    scores[:, [0, 1, *units]] += 2.0
    log_probs = scores.log_softmax(-1).float().numpy()
    best = decoder.search(log_probs)[0]
    sums = {c: exact(log_probs, decoder, c) for n in range(3) for c in itertools.product((3, 4, 5), repeat=n)}
    winner = max(sums, key=lambda c: sums[c])
    assert best.words == winner
    assert best.score == pytest.approx(sums[winner], abs=1e-3)


def test_wider_beams_never_score_worse(decoder: LexiconDecoder) -> None:
    scores = posteriors("are you coming home today", 2.5, 3)
    found = [decoder.search(scores, beam)[0].score for beam in (5, 20, 100, 400)]
    assert found == sorted(found) or max(np.diff(found).clip(max=0)) > -0.05


def test_unknown_sound_gets_less_confidence_than_speech(decoder: LexiconDecoder) -> None:
    flat = np.full((80, len(UNITS)), -np.log(len(UNITS)), np.float32)
    draw = np.random.default_rng(0)
    jumble = torch.from_numpy(6.0 * np.eye(len(UNITS))[draw.integers(0, len(UNITS), 80)]).log_softmax(-1).numpy()
    for scores in (flat, jumble):
        heard = decoder.decode(scores)
        assert 0.0 <= heard.confidence < 0.35
        assert not heard.understood


def test_silence_and_single_states_are_heard_as_nothing(decoder: LexiconDecoder) -> None:
    for states in (1, 40):
        silent = np.full((states, len(UNITS)), -20.0, np.float32)
        silent[:, 0] = 0.0
        heard = decoder.decode(silent)
        assert heard.text == ""
        assert not heard.understood


def test_tensors_and_half_precision_are_taken(decoder: LexiconDecoder) -> None:
    scores = posteriors("we are going home")
    assert decoder.decode(torch.from_numpy(scores).half()).text == "we are going home"


@pytest.mark.parametrize("shape", [(0, len(UNITS)), (5, 7), (5,)])
def test_wrong_shapes_are_refused(decoder: LexiconDecoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="posteriors"):
        decoder.decode(np.zeros(shape, np.float32))


def test_lexicon_round_trip(decoder: LexiconDecoder) -> None:
    again = Lexicon.from_tensors(decoder.lexicon.tensors())
    np.testing.assert_array_equal(again.children, decoder.lexicon.children)
    np.testing.assert_array_equal(again.words, decoder.lexicon.words)
    for word, units in pronunciations(WORDS, skip=3):
        node = 1
        for unit in units:
            node = int(again.children[node, unit])
        start = again.word_start[node]
        assert word in again.words[start : start + again.word_count[node]]


def test_decoder_is_one_file(decoder: LexiconDecoder, tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    decoder.save(path)
    again = LexiconDecoder.load(path)
    scores = posteriors("my mother is at home", 1.0)
    assert again.config == decoder.config
    assert again.decode(scores).text == decoder.decode(scores).text
    path.unlink()
    with pytest.raises(ModelError, match="words"):
        LexiconDecoder.load(path)


def test_lexicon_and_model_must_fit(decoder: LexiconDecoder) -> None:
    small = NgramModel([*SPECIAL, "i"], (np.zeros(4), np.zeros(4)), (np.zeros(0),) * 3, (np.zeros(0),) * 2)
    with pytest.raises(ModelError, match="together"):
        LexiconDecoder(small, decoder.lexicon)


def test_greedy_path_agrees_with_speechbrain() -> None:
    ctc = pytest.importorskip("speechbrain.decoders.ctc")
    scores = posteriors("i lost my job", 3.0, 1)
    expected = ctc.ctc_greedy_decode(torch.from_numpy(scores).exp()[None], torch.ones(1), blank_id=0)[0]
    assert greedy_units(scores) == [int(u) for u in expected]


def test_keywords_are_found_wherever_they_are() -> None:
    said = "some days i want to kill myself you know"
    phrases = ["kill myself", "want to die", "kill yourself", "", "i want to", "kill my dog"]
    for noise, present, absent in ((0.0, 0.9, 0.35), (1.8, 0.7, 0.6)):
        scores = keyword_scores(posteriors(said, noise), phrases)
        assert scores.shape == (len(phrases),)
        assert scores[[0, 4]].min() > present
        assert scores[[1, 2, 3, 5]].max() < absent
        assert scores[3] == 0.0


def test_keyword_needs_a_gap_between_equal_phones_and_enough_states() -> None:
    """Every state says S: "this seat" has S S, which CTC can only say with a blank between."""
    once = np.full((6, len(UNITS)), -9.0, np.float32)
    for state, unit in enumerate(("DH", "IH", "S", "S", "IY", "T")):
        once[state, UNIT_ID[unit]] = 0.0
    gap = np.insert(once, 3, np.where(np.arange(len(UNITS)) == 0, 0.0, -9.0), axis=0)
    assert keyword_scores(gap, ["this seat"])[0] > 0.99
    assert keyword_scores(once, ["this seat"])[0] < 0.5
    assert keyword_scores(once[:2], ["this seat"])[0] == 0.0
