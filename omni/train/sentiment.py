"""Stage `sentiment`: what words alone feel like, from comments labelled with emotions (GoEmotions).

Shapes: B batch, K known words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from omni.config import build
from omni.data.manifest import lines
from omni.errors import DataError
from omni.models.words import WordSentiment, tokens
from omni.train.recipe import Recipe

POSITIVE = frozenset(
    [
        "admiration",
        "amusement",
        "approval",
        "caring",
        "desire",
        "excitement",
        "gratitude",
        "joy",
        "love",
        "optimism",
        "pride",
        "relief",
    ]
)
NEGATIVE = frozenset(
    [
        "anger",
        "annoyance",
        "disappointment",
        "disapproval",
        "disgust",
        "embarrassment",
        "fear",
        "grief",
        "nervousness",
        "remorse",
        "sadness",
    ]
)


@dataclass(frozen=True)
class SentimentData:
    """The `data` block: corpora below --data whose rows have `text` and `emotions` (names)."""

    train: str
    validation: str
    least_count: int = 8
    batch_texts: int = 256


def polarity(emotions: list[str]) -> int | None:
    """0 negative, 1 plain, 2 positive; None for a comment labelled both ways."""
    good, bad = any(e in POSITIVE for e in emotions), any(e in NEGATIVE for e in emotions)
    return None if good and bad else 2 if good else 0 if bad else 1


def read_comments(path: Path) -> list[tuple[str, int]]:
    """(text, polarity) of every comment that has one. DataError for rows without text or emotions."""
    found = []
    for row in lines(path):
        if "text" not in row or "emotions" not in row:
            raise DataError(f"{path}: a row needs text and emotions, got {sorted(row)}")
        kind = polarity(row["emotions"])
        if kind is not None:
            found.append((row["text"], kind))
    return found


class SentimentTask:
    """Trains `WordSentiment`."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(SentimentData, recipe.data, "data")
        self.train = read_comments(data / self.settings.train)
        self.held = read_comments(data / self.settings.validation)
        counts = Counter(t for text, _ in self.train for t in set(tokens(text)))
        self.model = WordSentiment(sorted(t for t, n in counts.items() if n >= self.settings.least_count))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words in a row, where each text starts, polarities [B]."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        chosen = torch.randint(len(self.train), (self.settings.batch_texts,), generator=generator).tolist()
        indices, starts = self.model.indices(self.train[i][0] for i in chosen)
        return indices, starts, torch.tensor([self.train[i][1] for i in chosen])

    def loss(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        indices, starts, truth = batch
        return F.cross_entropy(self.model(indices, starts), truth), {}

    def validate(self) -> dict[str, float]:
        """1 - unweighted average recall of the three polarities on held-out comments."""
        logits = self.model(*self.model.indices(text for text, _ in self.held))
        truth = torch.tensor([kind for _, kind in self.held])
        right = (logits.argmax(-1) == truth).float()
        return {"polarity_missed": 1 - float(torch.stack([right[truth == k].mean() for k in truth.unique()]).mean())}

    def export(self, folder: Path) -> None:
        """`sentiment.safetensors`, half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "sentiment.safetensors")
