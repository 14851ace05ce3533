"""Copying words from what was read: a pointer network beside the language model's softmax.

A model of a few million weights rarely learns from its own layers to take up a word that it has just heard; a head
that may point at an earlier token learns it quickly. Pointer-generator networks (See et al. 2017, arXiv 1704.04368) with
several heads, over all earlier tokens as in the pointer sentinel model (Merity et al. 2016, arXiv 1609.07843):

    P(v) = g_0 softmax(W h)_v + sum_k g_k sum_{j: token j = v} attention_k(j),   g = softmax(G h)

A key sees the token, the token before it (so that a copy can go on with the next piece) and the state there.
Shapes: B batch, L new positions, J read positions, D width, H heads, S size of a head, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class CopyHead(nn.Module):
    """Gates, queries and keys of the mixture. `first` ids below it (special tokens) are never copied."""

    def __init__(self, width: int, heads: int, first: int, size: int = 48) -> None:
        super().__init__()
        self.heads, self.size, self.first = heads, size, first
        self.query = nn.Linear(width, heads * size)
        self.key = nn.Linear(3 * width, heads * size)
        self.gate = nn.Linear(width, heads + 1)
        nn.init.zeros_(self.gate.weight)
        with torch.no_grad():
            self.gate.bias.copy_(torch.tensor([2.0] + [0.0] * heads))

    def keys(self, embeddings: Tensor, before: Tensor, states: Tensor) -> Tensor:
        """Embeddings, those of the tokens before, and states, each [B, L, D] -> keys [B, L, H, S]."""
        found = self.key(torch.cat([embeddings, before, states], dim=-1))
        return found.unflatten(-1, (self.heads, self.size))

    def _attend(self, states: Tensor, ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """log g [B, L, H + 1] and g_k times attention_k [B, H, L, J] for the last L of the J positions read."""
        count, read = states.shape[1], ids.shape[1]
        query = self.query(states).unflatten(-1, (self.heads, self.size))
        scores = torch.einsum("blhs,bjhs->bhlj", query, keys).float() / math.sqrt(self.size)
        places = torch.arange(read, device=ids.device)
        seen = places[None, :] <= places[read - count :, None]
        usable = seen[None] & (ids >= self.first)[:, None, :]
        attention = scores.masked_fill(~usable[:, None], -1e4).softmax(-1) * usable[:, None]
        gates = self.gate(states).float().log_softmax(-1)
        return gates, attention * gates[..., 1:].exp().permute(0, 2, 1)[..., None]

    def mixture(self, logits: Tensor, states: Tensor, ids: Tensor, keys: Tensor) -> Tensor:
        """Log-probabilities [B, L, V] from the softmax's logits [B, L, V], states [B, L, D], ids [B, J] and keys."""
        gates, copied = self._attend(states, ids, keys)
        whole = (logits.float().log_softmax(-1) + gates[..., :1]).exp()
        index = ids[:, None, :].expand(-1, logits.shape[1], -1)
        return whole.scatter_add(-1, index, copied.sum(1)).clamp_min(1e-12).log()

    def log_likelihood(self, logits: Tensor, states: Tensor, ids: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [B, L] of targets [B, L], without laying out the vocabulary a second time."""
        gates, copied = self._attend(states, ids, keys)
        same = (ids[:, None, :] == targets[:, :, None])[:, None]
        drawn = (copied * same).sum(dim=(1, 3)).clamp_min(1e-9).log()
        plain = logits.float()
        written = plain.gather(-1, targets[..., None])[..., 0] - plain.logsumexp(-1)
        return torch.logaddexp(written + gates[..., 0], drawn)
