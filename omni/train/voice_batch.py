"""A batch of spans of the voice, and the losses of its predicted prosody.

Shapes: B batch, L units, T steps of 10 ms, K knots per unit (3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class VoiceBatch:
    """Spans side by side; padded with zeros, masks are 1 where real."""

    units: Tensor
    features: Tensor
    unit_mask: Tensor
    speaker: Tensor
    style: Tensor
    log_lengths: Tensor
    knots: Tensor
    energy: Tensor
    knot_mask: Tensor
    at: Tensor
    local: Tensor
    step_mask: Tensor
    envelope: Tensor
    aperiodicity: Tensor
    pitch: Tensor
    voiced: Tensor
    words: list[list[str]] = field(default_factory=list)
    word_of_unit: list[np.ndarray] = field(default_factory=list)


def prosody_losses(prosody: Tensor, batch: VoiceBatch) -> dict[str, Tensor]:
    real, spoken = batch.unit_mask.squeeze(-1), batch.knot_mask
    found = prosody.float()
    knots = (found[..., 1:4] - batch.knots).abs().mean(dim=-1)
    return {
        "length": ((found[..., 0] - batch.log_lengths).abs() * real).sum() / real.sum(),
        "knots": (knots * spoken).sum() / spoken.sum(),
        "energy": ((found[..., 4] - batch.energy).abs() * real).sum() / real.sum(),
    }


def collate(rows: list[dict]) -> VoiceBatch:
    made: dict = {"words": [r["words"] for r in rows], "word_of_unit": [r["word_of_unit"] for r in rows]}
    whole = {"units", "speaker", "at"}
    for name in (f.name for f in fields(VoiceBatch)):
        if name in rows[0] and name not in made:
            kind = torch.long if name in whole else torch.float32
            made[name] = (
                pad_sequence([torch.as_tensor(r[name], dtype=kind) for r in rows], batch_first=True)
                if (rows[0][name].ndim)
                else torch.stack([torch.as_tensor(r[name], dtype=kind) for r in rows])
            )
    for name, source in (("unit_mask", "units"), ("step_mask", "at")):
        made[name] = pad_sequence([torch.ones(len(r[source]), 1) for r in rows], batch_first=True)
    return VoiceBatch(**made)
