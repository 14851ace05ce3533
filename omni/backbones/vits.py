"""A reply voice by VITS (Kim, Kong and Son 2021, arXiv 2106.06103), quick on a processor.

It cannot be told how to speak, but for the pace; pitch, its range and the level are laid over what it says.
Shapes: n samples of a piece.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample
from transformers import AutoTokenizer, PreTrainedTokenizerBase, VitsModel

from omni.audio.restyling import restyle
from omni.audio.world import SAMPLE_RATE_HZ
from omni.backbones.local import pretrained
from omni.spoken import spell_out
from omni.turns import Style

SHORTEST_SAMPLES = SAMPLE_RATE_HZ // 20


class VitsVoice:
    """A `models.voice.Voice` over a VITS model whose tokenizer reads letters (the MMS voices of Pratap et al. 2023)."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model: VitsModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> None:
        """The same text and style sound the same: the model's noise is drawn from `seed`."""
        self.model, self.tokenizer, self.seed = model.eval(), tokenizer, seed
        self._one = threading.Lock()  # the pace is a setting of the model, and the noise is torch's own

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> VitsVoice:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code.

        `dtype` is not followed: the model is small enough for float32 anywhere.
        """
        model = pretrained(VitsModel, folder, device=device)
        return cls(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), seed)

    def speak(
        self, text: str, style: Style, states: Tensor | None = None, starts: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """See `Voice`; the whole sentence in one piece, since the model looks both ways."""
        ids = self.tokenizer(spell_out(text), return_tensors="pt").input_ids
        if ids.numel() == 0 or not any(c.isalpha() for c in text):
            return
        sound = self._sound(ids.to(self.model.device), style.rate)
        if len(sound) < SHORTEST_SAMPLES:
            sound = np.pad(sound, (0, SHORTEST_SAMPLES - len(sound)))
        yield restyle(sound, replace(style, rate=1.0))

    @torch.inference_mode()
    def _sound(self, ids: Tensor, rate: float) -> np.ndarray:
        with self._one, torch.random.fork_rng():
            usual = self.model.speaking_rate
            torch.manual_seed(self.seed)
            try:
                self.model.speaking_rate = usual * rate
                wave = self.model(input_ids=ids).waveform[0].float().cpu()
            finally:
                self.model.speaking_rate = usual
        return resample(wave, self.model.config.sampling_rate, SAMPLE_RATE_HZ).clamp(-1.0, 1.0).numpy()
