"""Objectives: pure functions of tensors, each with its equation and source.

Shapes: B batch, S states, P units, U target length, V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ctc(logits: Tensor, lengths: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006, eq. 14), mean over the batch per target unit.

    logits [B, S, P], lengths [B], targets [B, U], sizes [B]; impossible items (too few states) count zero.
    """
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probabilities, targets, lengths, sizes, blank=0, reduction="mean", zero_infinity=True)


def next_token(logits: Tensor, targets: Tensor, ignore: int = -100) -> Tensor:
    """Cross-entropy of the next token. logits [B, L, V], targets [B, L] already shifted, `ignore` is not scored."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=ignore)


def scored_nats(log_likelihood: Tensor, targets: Tensor, ignore: int = -100) -> Tensor:
    """Mean negative log-likelihood of the targets that are scored. Both [B, L]."""
    scored = targets != ignore
    return -(log_likelihood * scored).sum() / scored.sum().clamp_min(1)


def emotion_vector(predicted: Tensor, target: Tensor, mse: float = 0.6, cosine: float = 0.4) -> Tensor:
    """0.6 MSE + 0.4 (1 - cosine), Empathy Omni's released emotion loss (arXiv 2508.18655). [B, D] each; zero when equal."""
    away = 1 - F.cosine_similarity(predicted, target, dim=-1)
    return mse * F.mse_loss(predicted, target) + cosine * away.mean()


def listen_perceive(text_loss: Tensor, emotion_loss: Tensor, weight: float = 0.1) -> Tensor:
    """L = L_decoder + 0.1 L_emotion (Listen, Perceive, Express; arXiv 2501.10937)."""
    return text_loss + weight * emotion_loss


def masked_l1(predicted: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Mean absolute error over kept positions. [B, T] or [B, T, D], keep bool [B, T]."""
    if predicted.ndim == 3:
        keep = keep[..., None].expand_as(predicted)
    return (predicted - target).abs()[keep].mean() if bool(keep.any()) else torch.zeros((), device=predicted.device)
