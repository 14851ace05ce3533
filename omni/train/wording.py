"""Stage `words`: the word model of the listener's beam search, and the search's settings for a trained listener.

Text first: that needs no listener. Then `tune` sets the weights of the search, and `fit_confidence` its
confidence, on speakers that the listener never heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from omni.config import build
from omni.data import wording
from omni.errors import DataError
from omni.nn.beam import LexiconDecoder
from omni.nn.lexicon import Lexicon, pronunciations
from omni.nn.ngram import SPECIAL, UNKNOWN, NgramModel
from omni.train.ngrams import component_gains, encode, estimate, mix, mixture_weights, prune
from omni.train.recipe import Recipe, load_recipe

log = logging.getLogger(__name__)
#: (log-posteriors [S, P], reference words)
Utterance = tuple[np.ndarray, str]


@dataclass(frozen=True)
class WordsData:
    """The `data` block of `recipes/mini/0_words.yaml`. Paths are relative to --data; own texts to the repository."""

    transcripts: str = "librispeech/train.jsonl"
    held_out_speakers: list[str] = field(default_factory=lambda: ["32", "1737", "5789", "7859"])
    dialogues: list[str] = field(
        default_factory=lambda: ["text/self_dialogue.jsonl.gz", "text/topical_chat_*.jsonl.gz"]
    )
    comments: list[str] = field(default_factory=lambda: ["text/goemotions_*.jsonl.gz"])
    exchanges: str = "recipes/mini/corpus"
    prose: str = "recipes/mini/prose"
    vocabulary: int = 60_000
    rare: int = 5  # words without a known pronunciation must occur so often
    bigrams: int = 500_000
    trigrams: int = 900_000
    batch_words: int = 2_000


def _paths(data: Path, patterns: Sequence[str]) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(data.glob(pattern))]
    if not found:
        raise DataError(
            f"no text in {data} matches {', '.join(patterns)}; give the data folder with --data or OMNI_DATA"
        )
    return found


def _own(folder: str) -> Path:
    """A folder of the repository, wherever the command is run."""
    here = Path(folder)
    return here if here.is_dir() else Path(__file__).parents[2] / here


class Mixture(nn.Module):
    """Shares of several language models: a softmax of weights that start equal."""

    def __init__(self, models: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(models))

    def forward(self, gains: Tensor) -> Tensor:
        """Probabilities of words by each model [..., M] -> log-probability by the mixture [...]."""
        return (gains @ self.weights.softmax(0)).clamp_min(1e-12).log()


class WordsTask:
    """Estimates one trigram model a kind of text, and trains their shares on held-out text of two kinds, read and said."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(WordsData, recipe.data, "data")
        settings = self.settings
        read, read_held = wording.transcripts(data / settings.transcripts, set(settings.held_out_speakers))
        said, said_held = wording.queries(_own(settings.exchanges))
        prose = wording.prose(_own(settings.prose))
        talk = wording.turns(_paths(data, settings.dialogues))
        comments = wording.turns(_paths(data, settings.comments))
        corpora = [read, talk, comments, said, *([prose] if prose else [])]
        self.words = wording.vocabulary(corpora, read + said, settings.rare, settings.vocabulary)
        streams = [encode(corpus, self.words) for corpus in corpora]
        self.stream = np.concatenate(streams)
        held = [("read", read_held), ("said", said_held)]
        self.held = {name: encode(text or said, self.words) for name, text in held}
        self.models = [estimate(stream, self.words) for stream in streams]
        self.gains = [torch.from_numpy(g.T.copy()) for g in component_gains(self.models, list(self.held.values()))]
        self.model = Mixture(len(self.models))

    def batch(self, step: int) -> list[Tensor]:
        """Probabilities [N, M] of words drawn from each kind of held-out text."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 99_991 + step)
        size = self.settings.batch_words
        return [g[torch.randint(len(g), (size,), generator=generator)] for g in self.gains]

    def loss(self, batch: list[Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        found = torch.stack([-self.model(gains).mean() for gains in batch])
        return found.mean(), {name: float(v.detach().exp()) for name, v in zip(self.held, found)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Perplexity of the mixture: the mean over both kinds, then each."""
        loss, by_kind = self.loss(self.gains, 0)
        return {"perplexity": float(loss.exp()), **{f"perplexity_{k}": v for k, v in by_kind.items()}}

    def build(self) -> LexiconDecoder:
        """The mixed and pruned model with its lexicon, and untuned settings."""
        shares = self.model.weights.detach().softmax(0).tolist()
        log.info("shares of read, dialogues, comments, exchanges, prose: %s", np.round(shares, 3))
        model = prune(mix(self.models, shares), self.stream, self.settings.bigrams, self.settings.trigrams)
        return LexiconDecoder(model, Lexicon(pronunciations(self.words, skip=len(SPECIAL))))

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.build().save(folder / "words.safetensors")


def train_words(data: Path, out: Path, recipe: Path = Path("recipes/mini/0_words.yaml")) -> dict[str, float]:
    """Train the word model on the text of `data` and the project's exchanges in one go (shares by expectation-
    maximisation), and write OUT/words.safetensors. Returns figures on held-out text. DataError without the corpora."""
    here = recipe if recipe.is_file() else Path(__file__).parents[2] / recipe
    task = WordsTask(load_recipe(here), data, out)
    with torch.no_grad():
        shares = mixture_weights(task.models, list(task.held.values()))
        task.model.weights.copy_(torch.tensor(shares).clamp_min(1e-6).log())
    decoder = task.build()
    out.mkdir(parents=True, exist_ok=True)
    decoder.save(out / "words.safetensors")
    return {
        "words": len(task.words),
        **{f"perplexity_{name}": perplexity(decoder.model, text) for name, text in task.held.items()},
        **{f"unknown_{name}": float((text == UNKNOWN).mean()) for name, text in task.held.items()},
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


#: A clip counts as wholly understood from this share of right words on, for the confidence.
UNDERSTOOD = 0.6


def fit_confidence(
    decoder: LexiconDecoder, speech: Sequence[Utterance], other: Sequence[np.ndarray], strength: float = 0.5
) -> LexiconDecoder:
    """Logistic regression (Newton's method, ridge `strength` on standardised evidence) of how well a clip is understood:
    its share of right words over UNDERSTOOD, at most 1.

    `other` are posteriors of sound that is no English speech: nothing in them can be right. Both kinds weigh the same.
    """
    rows, shares, weights = [], [], []
    for kind in (speech, [(log_probs, "") for log_probs in other]):
        for log_probs, reference in kind:
            best = decoder.search(log_probs)[0]
            if not best.words:
                continue  # without words the confidence is 0
            words = reference.split()
            wrong = torchaudio.functional.edit_distance(best.text.split(), words)
            rows.append(decoder.evidence(log_probs, best))
            shares.append(min(1.0, max(0.0, 1 - wrong / len(words)) / UNDERSTOOD) if words else 0.0)
            weights.append(1.0 / len(kind))
    x, y, w = np.array(rows)[:, 1:], np.array(shares), np.array(weights) * len(rows) / 2
    centre, scale = x.mean(0), x.std(0) + 1e-3
    solution = _logistic(np.concatenate([np.ones((len(x), 1)), (x - centre) / scale], axis=1), y, w, strength)
    slopes = solution[1:] / scale
    fitted = tuple(round(float(v), 4) for v in (solution[0] - slopes @ centre, *slopes))
    return LexiconDecoder(decoder.model, decoder.lexicon, replace(decoder.config, confidence=fitted))


def _logistic(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """Weights of a logistic regression; the first column of `x`, the constant, is not drawn towards zero."""
    ridge = strength * np.diag([1e-6, *[1.0] * (x.shape[1] - 1)])
    solution = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ solution, -30, 30)))
        gradient = x.T @ (weights * (y - p)) - ridge @ solution
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + ridge + 1e-6 * np.eye(len(solution))
        solution = solution + np.linalg.solve(curvature, gradient)
    return solution
