"""CTC posteriors as arrays, and what they say without any search. Shapes: S states (25 Hz), P CTC units."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from omni.errors import ModelError
from omni.phones import UNITS

_LEAST = -60.0  # log-posteriors below this (or minus infinity) are as good as impossible


def greedy_units(log_probs: np.ndarray | Tensor) -> list[int]:
    """The best free path of log-posteriors [S, P]: repeats merged, blanks dropped."""
    ids = as_scores(log_probs).argmax(axis=1).tolist()
    return [unit for index, unit in enumerate(ids) if unit and (index == 0 or unit != ids[index - 1])]


def as_scores(log_probs: np.ndarray | Tensor) -> np.ndarray:
    """Log-posteriors as a checked float32 array [S, P]. ModelError for another shape."""
    scores = log_probs.detach().float().cpu().numpy() if isinstance(log_probs, Tensor) else np.asarray(log_probs)
    if scores.ndim != 2 or scores.shape[1] != len(UNITS) or not len(scores):
        raise ModelError(f"posteriors have shape {scores.shape}; expected [states, {len(UNITS)}] with a state or more")
    return np.maximum(scores.astype(np.float32), _LEAST)
