"""Higgs Audio v2 as the reply voice: directions for every style, the model's own codes, sliders laid over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from omni.backbones.higgs import DIRECTIONS, HiggsVoice, beyond
from omni.models.style import style_for
from omni.turns import STYLES, Style

TEXT = "What did the dog do?"


@pytest.fixture(scope="module")
def voice(higgs_folders: tuple[Path, Path]) -> HiggsVoice:
    folder, codec = higgs_folders
    return HiggsVoice.load(folder, codec=codec, seed=8)


def spoken(voice: HiggsVoice, text: str, style: Style) -> np.ndarray:
    return np.concatenate([*voice.speak(text, style), np.zeros(0, np.float32)])


def test_every_style_has_its_direction(voice: HiggsVoice) -> None:
    assert set(DIRECTIONS) == set(STYLES)
    told = {style: str(voice.conversation(TEXT, style)) for style in STYLES}
    assert len(set(told.values())) == len(STYLES)
    assert all(TEXT in text for text in told.values())


def test_the_sound_is_what_transformers_makes(voice: HiggsVoice) -> None:
    conversation = voice.conversation(TEXT, "warm")
    inputs = voice.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )  # fmt: skip
    torch.manual_seed(voice.seed)
    with torch.inference_mode():
        codes = voice.model.generate(**inputs, max_new_tokens=80, do_sample=True, temperature=voice.temperature)
    wave = voice.processor.batch_decode(codes)[0].reshape(-1)
    wanted = resample(wave, 24_000, 16_000).clamp(-1, 1).numpy()
    made = spoken(voice, TEXT, style_for("warm", 0.8))
    assert len(wanted) > 400
    assert np.allclose(made[: len(wanted)], wanted, atol=1e-5)


def test_it_is_repeatable_and_leaves_torchs_noise_alone(voice: HiggsVoice) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = spoken(voice, TEXT, Style())
    assert torch.equal(torch.rand(1), wanted)
    assert np.array_equal(first, spoken(voice, TEXT, Style()))
    assert not np.array_equal(first, spoken(voice, TEXT, style_for("cheerful")))
    assert len(spoken(voice, "...", Style())) == 0


def test_only_what_goes_beyond_a_style_is_laid_over() -> None:
    for name in STYLES:
        for intensity in (0.0, 0.3, 1.0):
            left = beyond(style_for(name, intensity))
            assert (left.pitch, left.pitch_range, left.rate, left.energy_db) == (1.0, 1.0, 1.0, 0.0)
    warm = style_for("warm", 1.0)
    assert beyond(Style("warm", warm.pitch * 1.2, warm.pitch_range, warm.rate, 0.0)).pitch == pytest.approx(1.2)
    assert beyond(Style("neutral", rate=0.8, energy_db=2.0)) == Style("neutral", rate=0.8, energy_db=2.0)
