"""Adapters: the listener's states and the perceiver's verdict as embeddings of the language model.

Shapes: B batch, S listener states (25 Hz), K slots (12.5 Hz: S / 2), D language-model width, V emotion vector width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.turns import EMOTIONS

STACK = 2


class SpeechAdapter(nn.Module):
    """Stacks k = 2 states and maps them by a two-layer network (the k-frame stacking of Empathy Omni, 2508.18655)."""

    def __init__(self, state_width: int, llm_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(STACK * state_width, 2 * llm_width)
        self.project = nn.Linear(2 * llm_width, llm_width)
        self.norm = nn.LayerNorm(llm_width)

    def slots(self, states: int) -> int:
        """Embeddings that `states` listener states give."""
        return (states + 1) // STACK

    def forward(self, states: Tensor) -> Tensor:
        """[B, S, W] -> [B, K, D]."""
        states = F.pad(states, (0, 0, 0, states.shape[1] % STACK))
        batch, count, width = states.shape
        return self.norm(self.project(F.gelu(self.expand(states.reshape(batch, count // STACK, STACK * width)))))


class EmotionAdapter(nn.Module):
    """One embedding: the posterior-weighted sum of the LLM's own emotion-token embeddings, plus a learned offset.

    The offset (from the emotion vector) is zero at initialisation, so that an untrained adapter already says which
    emotion was perceived in the language model's own terms. An emotion head on the embedding carries the emotion loss.
    """

    def __init__(self, vector: int, llm_width: int) -> None:
        super().__init__()
        self.offset = nn.Linear(vector, llm_width)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.emotion_head = nn.Linear(llm_width, len(EMOTIONS))

    def forward(self, posterior: Tensor, vector: Tensor | None, label_embeddings: Tensor) -> Tensor:
        """posterior [B, 8], vector [B, V] or None, label_embeddings [8, D] -> [B, 1, D]."""
        mixed = posterior @ label_embeddings
        return (mixed if vector is None else mixed + self.offset(vector))[:, None]

    def emotion_logits(self, embedding: Tensor) -> Tensor:
        """[B, 1, D] -> [B, 8]."""
        return self.emotion_head(embedding[:, 0])


def masked_scatter(embeddings: Tensor, ids: Tensor, slot_id: int, sound: Tensor | list[Tensor]) -> Tensor:
    """Put sound embeddings into the places of `slot_id`, in order. embeddings [B, L, D], ids [B, L].

    `sound` [B, K, D], or one [K_b, D] a row. ValueError unless every row has as many slots as embeddings.
    """
    mask = ids == slot_id
    given = [len(row) for row in sound]
    if mask.sum(1).tolist() != given:
        raise ValueError(f"slots per row {mask.sum(1).tolist()} but sound embeddings per row {given}")
    flat = torch.cat(list(sound)) if isinstance(sound, list) else sound.flatten(0, 1)
    return embeddings.masked_scatter(mask[..., None], flat.to(embeddings.dtype))
