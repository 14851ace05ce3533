"""Frozen encoders: Whisper's window and its frames, WavLM's layers, nothing trainable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni.backbones.speech_states import FRAME_SAMPLES, WavlmStates, WhisperStates
from omni.errors import InputError
from tests.tiny import voiced_clip


def test_whisper_gives_the_frames_of_the_clip_in_its_own_window(whisper_folder: Path) -> None:
    from transformers import WhisperModel

    states = WhisperStates.load(whisper_folder)
    samples = voiced_clip(1.7)
    found = states(samples)
    assert found.shape == (1, -(-len(samples) // FRAME_SAMPLES), states.width)
    features = states.extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    model = WhisperModel.from_pretrained(whisper_folder)
    with torch.no_grad():
        whole = model.encoder(features).last_hidden_state
    assert whole.shape[1] == 1500
    assert torch.allclose(found, whole[:, : found.shape[1]], atol=1e-5)
    assert not any(p.requires_grad for p in states.parameters())
    with pytest.raises(InputError, match=r"31\.0 s is longer than Whisper's 30 s"):
        states(voiced_clip(31.0))


def test_wavlm_gives_every_layer(wavlm_folder: Path) -> None:
    states = WavlmStates.load(wavlm_folder)
    samples = voiced_clip(1.2)
    found = states(samples)
    assert found.shape[0] == states.layers == 3
    assert found.shape[1] == 1
    assert abs(found.shape[2] - len(samples) / FRAME_SAMPLES) <= 2
    assert found.shape[3] == states.width
    assert not any(p.requires_grad for p in states.parameters())
    with pytest.raises(InputError, match="too short"):
        states(samples[:100])
