"""Stage `words`: the word model of the listener's beam search, and the search's settings for a trained listener.

Text first: `train_words` needs no listener. Then `tune` sets the weights of the search, and `fit_confidence` its
confidence, on speakers that the listener never heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torchaudio

from omni.config import load
from omni.data import wording
from omni.errors import DataError
from omni.nn.beam import LexiconDecoder
from omni.nn.lexicon import Lexicon, pronunciations
from omni.nn.ngram import SPECIAL, UNKNOWN, NgramModel
from omni.train.ngrams import encode, estimate, mix, mixture_weights, prune

log = logging.getLogger(__name__)
#: (log-posteriors [S, P], reference words)
Utterance = tuple[np.ndarray, str]


@dataclass(frozen=True)
class WordsRecipe:
    """`recipes/mini/0_words.yaml`. Paths are relative to --data; `exchanges` to the repository."""

    part: str = "words"
    transcripts: str = "librispeech/train.jsonl"
    held_out_speakers: list[str] = field(default_factory=lambda: ["32", "1737", "5789", "7859"])
    dialogues: list[str] = field(
        default_factory=lambda: ["text/self_dialogue.jsonl.gz", "text/topical_chat_*.jsonl.gz"]
    )
    comments: list[str] = field(default_factory=lambda: ["text/goemotions_*.jsonl.gz"])
    exchanges: str = "recipes/mini/corpus"
    vocabulary: int = 60_000
    rare: int = 5  # words without a known pronunciation must occur so often
    bigrams: int = 500_000
    trigrams: int = 900_000


def _paths(data: Path, patterns: Sequence[str]) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(data.glob(pattern))]
    if not found:
        raise DataError(
            f"no text in {data} matches {', '.join(patterns)}; give the data folder with --data or OMNI_DATA"
        )
    return found


def train_words(data: Path, out: Path, recipe: Path | WordsRecipe | None = None) -> dict[str, float]:
    """Train the word model on the text of `data` and the project's exchanges, and write it with its lexicon to
    OUT/words.safetensors. Returns perplexities on held-out text, by name. DataError when a corpus is missing."""
    settings = load(WordsRecipe, recipe) if isinstance(recipe, Path) else recipe or WordsRecipe()
    read, read_held = wording.transcripts(data / settings.transcripts, set(settings.held_out_speakers))
    here = Path(settings.exchanges)
    said, said_held = wording.queries(here if here.is_dir() else Path(__file__).parents[2] / settings.exchanges)
    talk = wording.turns(_paths(data, settings.dialogues))
    comments = wording.turns(_paths(data, settings.comments))
    corpora = [read, talk, comments, said]
    words = wording.vocabulary(corpora, read + said, settings.rare, settings.vocabulary)
    streams = [encode(corpus, words) for corpus in corpora]
    held = {"read": encode(read_held, words), "said": encode(said_held, words)}
    models = [estimate(stream, words) for stream in streams]
    weights = mixture_weights(models, list(held.values()))
    log.info("mixture of read, dialogues, comments, exchanges: %s", np.round(weights, 3))
    model = prune(mix(models, weights), np.concatenate(streams), settings.bigrams, settings.trigrams)
    out.mkdir(parents=True, exist_ok=True)
    decoder = LexiconDecoder(model, Lexicon(pronunciations(words, skip=len(SPECIAL))))
    decoder.save(out / "words.safetensors")
    return {
        "words": len(words),
        **{f"perplexity_{name}": perplexity(model, text) for name, text in held.items()},
        **{f"unknown_{name}": float((text == UNKNOWN).mean()) for name, text in held.items()},
    }


def perplexity(model: NgramModel, stream: np.ndarray) -> float:
    """Perplexity a known word, ends of sentences included, of a stream made by `encode`."""
    counted = (stream[1:] != 0) & (stream[1:] != UNKNOWN)
    before = np.concatenate([[0], stream[:-2]])
    state = np.where(stream[:-1] == 0, model.start, model.context(before, stream[:-1]))
    return float(np.exp(-model.score(state[counted], stream[1:][counted])[0].mean()))


def word_errors(decoder: LexiconDecoder, utterances: Sequence[Utterance], beam: int | None = None) -> float:
    """Word error rate of the best hypotheses."""
    errors = total = 0
    for log_probs, reference in utterances:
        words = reference.split()
        errors += torchaudio.functional.edit_distance(decoder.search(log_probs, beam)[0].text.split(), words)
        total += len(words)
    return errors / max(1, total)


#: What `tune` tries for each setting, in this order, each from the best so far.
STEPS: dict[str, tuple[float, ...]] = {
    "language_weight": (-0.2, 0.2),
    "word_bonus": (-0.8, 0.8),
    "skip_penalty": (-0.8, 0.8),
    "prior_weight": (-0.1, 0.1),
}


def log_prior(utterances: Sequence[Utterance]) -> tuple[float, ...]:
    """Log of the mean posterior of each unit [P], rounded: how often the listener believes in it at all."""
    mean = np.mean(np.concatenate([np.exp(p.astype(np.float64)) for p, _ in utterances]), axis=0)
    return tuple(round(float(v), 2) for v in np.log(mean + 1e-4))


def tune(
    decoder: LexiconDecoder,
    utterances: Sequence[Utterance],
    rounds: int = 2,
    beam: int = 60,
    report: Callable[[str], None] = log.info,
) -> LexiconDecoder:
    """Coordinate descent of the word error rate over STEPS, halved in each round; ties keep what there is."""
    config = replace(decoder.config, prior=log_prior(utterances))
    decoder = LexiconDecoder(decoder.model, decoder.lexicon, config)
    best = word_errors(decoder, utterances, beam)
    for turn in range(rounds):
        for name, steps in STEPS.items():
            for step in steps:
                while True:
                    value = round(getattr(decoder.config, name) + step / 2**turn, 3)
                    if value < 0 and name in ("prior_weight", "skip_penalty", "language_weight"):
                        break
                    tried = decoder.tuned(**{name: value})
                    error = word_errors(tried, utterances, beam)
                    report(f"{name} {value}: {error:.4f} (best {best:.4f})")
                    if error >= best:
                        break
                    best, decoder = error, tried
    return decoder


def fit_confidence(
    decoder: LexiconDecoder, speech: Sequence[Utterance], other: Sequence[np.ndarray], strength: float = 1.0
) -> LexiconDecoder:
    """Logistic regression (Newton's method, ridge `strength`) of the share of right words on the evidence.

    `other` are posteriors of sound that is no English speech: nothing in them can be right. Both kinds weigh the same.
    """
    rows, shares, weights = [], [], []
    for kind in (speech, [(log_probs, None) for log_probs in other]):
        for log_probs, reference in kind:
            best = decoder.search(log_probs)[0]
            if not best.words:
                continue
            words = reference.split() if reference else []
            wrong = torchaudio.functional.edit_distance(best.text.split(), words) if words else 1
            rows.append(decoder.evidence(log_probs, best))
            shares.append(max(0.0, 1 - wrong / len(words)) if words else 0.0)
            weights.append(1.0 / max(1, len(kind)))
    x, y, w = np.array(rows), np.array(shares), np.array(weights) * len(rows) / 2
    ridge = strength * np.diag([0.0, *[1.0] * (x.shape[1] - 1)])
    solution = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ solution, -30, 30)))
        gradient = x.T @ (w * (y - p)) - ridge @ solution
        curvature = (x * (w * p * (1 - p))[:, None]).T @ x + ridge + 1e-6 * np.eye(len(solution))
        solution = solution + np.linalg.solve(curvature, gradient)
    fitted = tuple(round(float(v), 3) for v in solution)
    return LexiconDecoder(decoder.model, decoder.lexicon, replace(decoder.config, confidence=fitted))
