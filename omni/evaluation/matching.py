"""Which query does a reply belong to? Words and latent semantic analysis (Deerwester et al. 1990), from other texts.

Fitted on the self-dialogue corpus: a document is a few turns of a dialogue, so that words which meet in talk are near
each other. Only evaluation uses it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni.data.corpora.exchanges import Exchange
from omni.data.manifest import lines
from omni.errors import DataError
from omni.phones import normalise

log = logging.getLogger(__name__)
CHOICES = 10  # the true query and nine others
LATENT_WEIGHT = 0.2


class Matcher:
    """Nearness of two texts: cosine of their TF-IDF words plus a little of the cosine in the latent space.

    Latent space alone finds the right one of ten for only 42 % of the corpus's own training replies, words and latent
    space together for 77 % (1,000 drawn from the training exchanges, which chose the weight): a matcher must do well on
    what people wrote before it may judge a model.
    """

    def __init__(self, components: int = 300, minimum_documents: int = 2, seed: int = 0) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.weigh = TfidfVectorizer(
            preprocessor=normalise,
            token_pattern=r"[a-z']+",
            stop_words="english",
            min_df=minimum_documents,
            sublinear_tf=True,
        )
        self.reduce = TruncatedSVD(components, n_iter=2, random_state=seed)

    def fit(self, documents: Sequence[str]) -> Matcher:
        """Learn the space. DataError if there are too few words."""
        try:
            counts = self.weigh.fit_transform(documents)
        except ValueError as error:
            raise DataError(f"the matcher cannot be fitted on {len(documents)} documents: {error}") from error
        if counts.shape[1] <= self.reduce.n_components:
            raise DataError(
                f"the matcher needs more than {self.reduce.n_components} words, the documents have {counts.shape[1]}"
            )
        self.reduce.fit(counts)
        return self

    def scores(self, reply: str, choices: Sequence[str], latent_weight: float | None = LATENT_WEIGHT) -> np.ndarray:
        """Nearness of a reply to each choice: [choices]. `latent_weight` None leaves the words themselves out."""
        words = self.weigh.transform([reply, *choices])  # rows of length one, or empty
        latent = self._latent(words)
        return _near(words[0], words[1:], latent[0], latent[1:], latent_weight)

    def finds(
        self,
        replies: Sequence[str],
        choices: Sequence[Sequence[str]],
        latent_weight: float | None = LATENT_WEIGHT,
    ) -> list[bool]:
        """Whether each reply is nearer to the first of its choices than to any other; a tie is a miss."""
        texts = list(dict.fromkeys([*replies, *(text for row in choices for text in row)]))
        place = {text: index for index, text in enumerate(texts)}
        words = self.weigh.transform(texts)
        latent = self._latent(words)
        found = []
        for reply, row in zip(replies, choices, strict=True):
            others = [place[text] for text in row]
            scores = _near(words[place[reply]], words[others], latent[place[reply]], latent[others], latent_weight)
            found.append(bool(scores[0] > scores[1:].max() + 1e-9))
        return found

    def _latent(self, words: Any) -> np.ndarray:
        """Projections of rows of the term matrix, of length one."""
        latent = self.reduce.transform(words)
        return latent / np.maximum(np.linalg.norm(latent, axis=1, keepdims=True), 1e-9)


def _near(word: Any, words: Any, latent: np.ndarray, latents: np.ndarray, weight: float | None) -> np.ndarray:
    """Nearness of one row to others: by their projections, and by their words unless `weight` is None."""
    near = latents @ latent
    return near if weight is None else np.asarray((words @ word.T).todense()).ravel() + weight * near


def self_dialogue_documents(path: Path, turns: int = 10) -> list[str]:
    """Pieces of `turns` consecutive turns of every dialogue of the corpus."""
    documents: list[str] = []
    for row in lines(path):
        said = [t["text"] if isinstance(t, dict) else t for t in row["turns"]]
        documents.extend(" ".join(said[i : i + turns]) for i in range(0, len(said), turns))
    return documents


def choices_for(exchanges: Sequence[Exchange], pool: Sequence[Exchange], seed: int) -> list[list[str]]:
    """For each exchange its query, then nine queries of other situations of `pool`, drawn by the seed."""
    situations: dict[str, list[str]] = {}
    for exchange in pool:
        situations.setdefault(exchange.situation, []).append(exchange.say)
    if len(situations) < CHOICES:
        raise DataError(f"matching needs {CHOICES} situations to draw from, there are {len(situations)}; raise --limit")
    found, names = [], sorted(situations)
    for index, exchange in enumerate(exchanges):
        draw = random.Random(f"{seed}:{index}:{exchange.situation}")
        others = draw.sample([name for name in names if name != exchange.situation], CHOICES - 1)
        found.append([exchange.say, *(draw.choice(situations[name]) for name in others)])
    return found
