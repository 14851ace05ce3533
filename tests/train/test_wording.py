"""The word stage: text is read as it is spoken, a small model is trained end to end, and the search is fitted to it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.config import build
from omni.data.corpora.exchanges import held_out
from omni.data.wording import queries, sentences, vocabulary
from omni.errors import DataError
from omni.nn.beam import LexiconDecoder
from omni.phones import UNITS, listener_targets
from omni.train.loop import Trainer
from omni.train.ngrams import mixture_weights
from omni.train.recipe import Recipe, load_recipe
from omni.train.wording import WordsData, WordsTask, fit_confidence, train_words, tune, word_errors

RECIPE = Path(__file__).parents[2] / "recipes" / "mini" / "0_words.yaml"
SAID = ["i miss my dog", "my sister is coming home today", "i lost my job", "what a lovely day", "are you there"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I've got 2 dogs. Mr. Hill doesnt!", ["i've got two dogs", "mister", "hill doesn't"]),
        ("In 1966, at 42nd street", ["in nineteen sixty six at", "street"]),
        ("see https://a.b/c now", ["see", "now"]),
        ("well... ok - it costs $5.50 each", ["well", "okay it costs", "each"]),
        ("🙂 ?!", []),
    ],
)
def test_sentences_are_what_would_be_said(text: str, expected: list[str]) -> None:
    assert [" ".join(words) for words in sentences(text)] == expected


def test_vocabulary_keeps_known_words_and_drops_rare_unknown_ones() -> None:
    corpus = [["hello", "zzyqx"], *[["blorfy"]] * 5]
    words = vocabulary([corpus, [["wug"]]], sure=[["wug"]])
    assert words[3] == "blorfy"
    assert {"hello", "wug"} <= set(words)
    assert "zzyqx" not in words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "librispeech").mkdir()
    (root / "text").mkdir()
    rows = [
        {"id": f"{speaker}-{i}", "audio": "a.flac", "speaker": speaker, "text": text.upper()}
        for speaker in ("19", "32")
        for i, text in enumerate(SAID)
    ]
    (root / "librispeech" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    talk = {"turns": SAID}, {"turns": [{"text": t} for t in reversed(SAID)]}
    for name, lines in (
        ("self_dialogue", talk),
        ("topical_chat_a", talk),
        ("goemotions_a", [{"text": t} for t in SAID]),
    ):
        with gzip.open(root / "text" / f"{name}.jsonl.gz", "wt") as file:
            file.write("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def decoder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> LexiconDecoder:
    out = tmp_path_factory.mktemp("words")
    exchange = {
        "feeling": "plain", "emotion": "neutral", "intensity": "mild", "need": "none", "strategy": "information",
        "intent": "neutral", "style": "neutral", "reply": "Here you are.",
    }  # fmt: skip
    (out / "corpus").mkdir()
    with (out / "corpus" / "a.jsonl").open("w") as file:
        for i in range(30):
            word = "heldout" if held_out(f"situation {i}") else "dog"
            file.write(json.dumps({**exchange, "situation": f"situation {i}", "say": f"Where is my {word}?"}) + "\n")
    recipe = {"exchanges": str(out / "corpus"), "bigrams": 60, "trigrams": 40}
    (out / "words.yaml").write_text(json.dumps({"part": "words", "steps": 1, "learning_rate": 0.1, "data": recipe}))
    report = train_words(data, out, out / "words.yaml")
    assert report["perplexity_read"] < report["words"]
    training, held = queries(out / "corpus")
    assert held
    assert not any("heldout" in s for s in training)
    return LexiconDecoder.load(out / "words.safetensors")


def posteriors(text: str, noise: float, seed: int) -> np.ndarray:
    ids = [u for unit in listener_targets(text) for u in (unit, 0)]
    draw = np.random.default_rng(seed)
    logits = 6.0 * np.eye(len(UNITS))[ids] + noise * draw.standard_normal((len(ids), len(UNITS)))
    return torch.from_numpy(logits).log_softmax(-1).float().numpy()


def test_held_out_words_are_not_learned(decoder: LexiconDecoder) -> None:
    assert "dog" in decoder.model.ids
    assert "heldout" not in decoder.model.ids


def test_tuning_never_makes_the_tuning_clips_worse(decoder: LexiconDecoder) -> None:
    clips = [(posteriors(text, 2.6, i), text) for i, text in enumerate(SAID)]
    bad = decoder.tuned(language_weight=0.0, word_bonus=4.0)
    tuned = tune(bad, clips, rounds=1)
    assert word_errors(tuned, clips, 60) < word_errors(bad, clips, 60)
    assert len(tuned.config.prior) == len(UNITS)


def test_confidence_separates_speech_from_other_sound(decoder: LexiconDecoder) -> None:
    speech = [(posteriors(text, 1.0 + 0.1 * seed, seed), text) for seed, text in enumerate(SAID * 3)]
    draw = np.random.default_rng(9)
    shape = (60, len(UNITS))
    other = [torch.from_numpy(3 * draw.standard_normal(shape)).log_softmax(-1).float().numpy() for _ in range(12)]
    fitted = fit_confidence(decoder, speech, other[:6])
    assert np.mean([fitted.decode(p).understood for p, _ in speech]) > 0.8
    assert not any(fitted.decode(p).understood for p in other[6:])


def test_missing_text_is_named(tmp_path: Path, data: Path) -> None:
    recipe = Recipe("words", 1, 0.1, data={"comments": ["text/nothing_*.gz"]})
    with pytest.raises(DataError, match="nothing_"):
        WordsTask(recipe, data, tmp_path)


def test_the_shares_learn_and_agree_with_expectation_maximisation(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    assert build(WordsData, recipe.data) == WordsData()
    task = WordsTask(recipe, data, tmp_path)
    before = task.validate()["perplexity"]
    Trainer(recipe, task, tmp_path / "run").run()
    assert task.validate()["perplexity"] < before
    expected = mixture_weights(task.models, list(task.held.values()))
    np.testing.assert_allclose(task.model.weights.detach().softmax(0).numpy(), expected, atol=0.08)
    assert LexiconDecoder.load(tmp_path / "run" / "export" / "words.safetensors").model.words == tuple(task.words)


def test_the_debug_twin_takes_two_steps(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, debug=True)
    Trainer(recipe, WordsTask(recipe, data, tmp_path), tmp_path / "run").run()
    assert (tmp_path / "run" / "export" / "words.safetensors").is_file()
