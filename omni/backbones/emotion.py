"""How it was said, by a published classifier of emotion in speech: wav2vec 2.0, HuBERT or WavLM with a pooled head.

Shapes: N samples, C the classifier's labels, E emotions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedModel

from omni.audio.vad import segments
from omni.backbones.local import pretrained
from omni.errors import InputError, ModelError
from omni.models.perceiver import to_perception
from omni.turns import EMOTIONS, Perception

#: How corpora name the emotions (IEMOCAP, RAVDESS, CREMA-D, TESS, ESD, MELD) -> ours.
NAMES: dict[str, str] = {
    **{name: name for name in EMOTIONS},
    "neu": "neutral", "hap": "happy", "happiness": "happy", "joy": "happy", "exc": "happy", "excited": "happy",
    "sadness": "sad", "ang": "angry", "anger": "angry", "fea": "fearful", "fear": "fearful", "dis": "disgusted",
    "disgust": "disgusted", "sur": "surprised", "surprise": "surprised", "ps": "surprised",
}  # fmt: skip
#: Sound is heard in pieces of at most so long, because attention is quadratic in it.
LONGEST_S = 20.0


def label_map(labels: Mapping[int, str], names: Mapping[str, str] | None = None) -> Tensor:
    """Matrix [C, E] of zeros and ones that adds the labels' chances up to ours; `names` renames labels first.

    Labels without a counterpart (`other`) are left out. ModelError if none has one.
    """
    found = torch.zeros(len(labels), len(EMOTIONS))
    for index, label in labels.items():
        name = (names or {}).get(label, label).lower()
        if name in NAMES:
            found[int(index), EMOTIONS.index(NAMES[name])] = 1.0
    if not found.any():
        raise ModelError(
            f"none of the classifier's labels ({', '.join(labels.values())}) is known; say in the preset, under "
            f"`names`, which of {', '.join(EMOTIONS)} each one is"
        )
    return found


class EmotionClassifier:
    """A perceiver over a sequence classifier of the transformers library.

    Emotions that the classifier does not know have no chance. It knows no intensity either: what is given is the chance
    that any feeling is heard at all (neither neutral nor calm). The vector is the mean of the last layer's states.
    """

    def __init__(
        self, model: PreTrainedModel, extractor: AutoFeatureExtractor, names: Mapping[str, str] | None = None
    ) -> None:
        self.model, self.extractor = model.eval(), extractor
        self.mapped = label_map({int(k): v for k, v in (model.config.id2label or {}).items()}, names)

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        names: Mapping[str, str] | None = None,
    ) -> EmotionClassifier:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code."""
        model = pretrained(AutoModelForAudioClassification, folder, dtype, device)
        return cls(model, AutoFeatureExtractor.from_pretrained(folder, local_files_only=True), names)

    @property
    def sample_rate_hz(self) -> int:
        return int(self.extractor.sampling_rate)  # type: ignore[attr-defined]

    def perceive(self, samples: Tensor | np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How the clip `samples` [N] sounds; `layers` are not looked at. InputError for a clip shorter than 25 ms."""
        sound = np.asarray(samples, np.float32)
        if len(sound) < 0.025 * self.sample_rate_hz:
            raise InputError(f"a clip of {len(sound)} samples is too short to hear a tone in; give 25 ms or more")
        parts = [(b - a, *self._piece(sound[a:b])) for a, b in segments(sound, LONGEST_S)]
        weights = torch.tensor([float(n) for n, _, _ in parts])[:, None] / sum(n for n, _, _ in parts)
        shares = (torch.stack([p for _, p, _ in parts]) * weights).sum(0)
        vector = (torch.stack([v for _, _, v in parts]) * weights).sum(0)
        calm = shares[EMOTIONS.index("neutral")] + shares[EMOTIONS.index("calm")]
        return to_perception(shares, float(1 - calm), vector)

    @torch.inference_mode()
    def _piece(self, sound: np.ndarray) -> tuple[Tensor, Tensor]:
        """Chances [E] and vector [D] of one piece; alone, without padding: these encoders normalise over the clip."""
        values = self.extractor(sound, sampling_rate=self.sample_rate_hz, return_tensors="pt").input_values  # type: ignore[operator]
        out = self.model(values.to(self.model.device, self.model.dtype), output_hidden_states=True)
        shares = out.logits[0].float().softmax(-1).cpu() @ self.mapped
        return shares / shares.sum().clamp_min(1e-9), out.hidden_states[-1][0].float().mean(0).cpu()
