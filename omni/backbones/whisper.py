"""Words by Whisper (Radford et al. 2022, arXiv 2212.04356), in its fixed window of 30 s.

Shapes: L tokens of a transcript.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor

from omni.audio.vad import segments
from omni.backbones.local import pretrained
from omni.errors import InputError
from omni.models.listener import Listening
from omni.turns import Audio, Heard

WINDOW_S = 30.0


class WhisperListener:
    """A listener over a Whisper model of any size. Longer sound is cut at its quietest points."""

    def __init__(
        self, model: WhisperForConditionalGeneration, processor: WhisperProcessor, language: str | None = "en"
    ) -> None:
        """`language` None lets a multilingual model guess; models of English alone ignore it."""
        self.model, self.processor, self.language = model.eval(), processor, language

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", language: str | None = "en"
    ) -> WhisperListener:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code."""
        model = pretrained(WhisperForConditionalGeneration, folder, dtype, device)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        return cls(model, processor, language)

    @property
    def sample_rate_hz(self) -> int:
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def _multilingual(self) -> bool:
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    def listen(self, audio: Audio) -> Listening:
        """Words of a query; the confidence is the mean probability of the tokens, windows weighted by their length."""
        if audio.sample_rate_hz != self.sample_rate_hz:
            raise InputError(
                f"Whisper hears sound of {self.sample_rate_hz} Hz, this has {audio.sample_rate_hz}; resample it"
            )
        found = [self._window(audio.samples[a:b]) for a, b in segments(audio.samples, WINDOW_S)]
        weights = [max(1, len(text.split())) for text, _ in found]
        text = " ".join(text for text, _ in found if text)
        confidence = float(np.average([c for _, c in found], weights=weights))
        return Listening(Heard(text, confidence if text else 0.0))

    @torch.inference_mode()
    def _window(self, samples: np.ndarray) -> tuple[str, float]:
        extracted = self.processor.feature_extractor(
            samples, sampling_rate=self.sample_rate_hz, return_tensors="pt", return_attention_mask=True
        )
        features = extracted.input_features.to(self.model.device, self.model.dtype)
        known = {"task": "transcribe", "language": self.language} if self._multilingual else {}
        out = self.model.generate(
            features,
            attention_mask=extracted.attention_mask.to(self.model.device),
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **known,
        )
        logits = torch.stack(out["logits"])[:, 0].float()  # [L, vocabulary]
        ids = out["sequences"][0, -len(logits) :]
        text = self.processor.decode(ids, skip_special_tokens=True).strip()
        return text, self._confidence(logits, ids)

    def _confidence(self, logits: Tensor, ids: Tensor) -> float:
        """exp of the mean log-probability of the transcript's tokens [L], marks left out."""
        words = [n for n, i in enumerate(ids.tolist()) if i not in self.processor.tokenizer.all_special_ids]
        return float(logits.log_softmax(-1)[words, ids[words]].mean().exp()) if words else 0.0
