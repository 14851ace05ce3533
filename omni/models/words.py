"""What the words alone feel like, and whether the voice agrees with them.

A bag of words: each word and each negated word (`not_good`) has a weight for negative, plain and positive; small enough
to read. It is trained on GoEmotions (Demszky et al. 2020, arXiv 2005.00547, CC BY 4.0) by `omni.train.wording`.

Shapes: B batch, L words of a text, K known words and pairs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from omni.errors import ModelError
from omni.files import atomic_write
from omni.turns import MATCHES, Perception

POLARITIES = ("negative", "plain", "positive")
_NEGATORS = frozenset(
    [
        "not",
        "no",
        "never",
        "don't",
        "doesn't",
        "didn't",
        "isn't",
        "wasn't",
        "aren't",
        "can't",
        "won't",
        "couldn't",
        "wouldn't",
        "hardly",
        "without",
    ]
)
#: Beyond these the words, or the voice, count as feeling something. In [0, 1], on the scale of valence.
WORDS_FEEL, VOICE_FEELS = 0.5, 0.22


def tokens(text: str) -> list[str]:
    """Lower-case words; the two after a negator become `not_happy`, since their own weight would mislead."""
    found, reach = [], 0
    for word in re.findall(r"[a-z']+", text.lower().replace("’", "'")):
        found.append(f"not_{word}" if reach else word)
        reach = 2 if word in _NEGATORS else max(0, reach - 1)
    return found


class WordSentiment(nn.Module):
    """Sum of word weights, softmax over POLARITIES."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.places = {word: place for place, word in enumerate(self.vocabulary)}
        self.weights = nn.EmbeddingBag(max(1, len(self.vocabulary)), len(POLARITIES), mode="sum")
        nn.init.zeros_(self.weights.weight)
        self.bias = nn.Parameter(torch.zeros(len(POLARITIES)))

    def indices(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Known words of all texts in a row, and where each text starts; the input of `forward`."""
        rows = [[self.places[t] for t in tokens(text) if t in self.places] for text in texts]
        starts = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)[:-1]
        return torch.tensor([i for r in rows for i in r], dtype=torch.long), starts

    def forward(self, indices: Tensor, starts: Tensor) -> Tensor:
        """Logits [B, 3]."""
        return self.weights(indices, starts) + self.bias

    @torch.no_grad()
    def valence(self, text: str) -> float:
        """P(positive) - P(negative) of the words, in [-1, 1]; zero for a text without a known word."""
        indices, starts = self.indices([text])
        if len(indices) == 0:
            return 0.0
        shares = self(indices, starts).softmax(-1)[0]
        return float(shares[2] - shares[0])

    def save(self, path: Path) -> None:
        """One safetensors file, half precision, vocabulary in its header."""
        tensors = {k: v.detach().half().contiguous() for k, v in self.state_dict().items()}
        with atomic_write(path, force=True) as partial:
            save_file(tensors, partial, metadata={"vocabulary": json.dumps(self.vocabulary)})

    @classmethod
    def load(cls, path: Path) -> WordSentiment:
        """Read what `save` wrote. ModelError when it is missing, damaged or something else."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                vocabulary = json.loads((file.metadata() or {})["vocabulary"])
            model = cls(vocabulary)
            model.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path} is not a word-sentiment file ({error}); fetch or train it again") from error
        return model.eval()


def match(perception: Perception, words_valence: float) -> str:
    """One of MATCHES: does the voice (its valence and arousal) agree with the words' valence in [-1, 1]?

    Words and voice of opposite sign contradict; a voice that feels something adds to words that do not; all else agrees.
    """
    agrees, adds, contradicts = MATCHES
    voice = perception.valence
    feels = abs(voice) >= VOICE_FEELS and perception.emotion not in ("neutral", "calm")
    if not feels:
        return agrees
    if abs(words_valence) < WORDS_FEEL:
        return adds
    return agrees if (voice > 0) == (words_valence > 0) else contradicts


def matched(perception: Perception, text: str, sentiment: WordSentiment) -> Perception:
    """The same perception with `match` set from the words heard."""
    return replace(perception, match=match(perception, sentiment.valence(text)))
