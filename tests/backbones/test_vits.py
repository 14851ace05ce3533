"""VITS as the reply voice: what transformers makes, at the reply's rate, in the plan's style, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from omni.backbones.vits import VitsVoice
from omni.models.style import style_for
from omni.turns import STYLES, Style

TEXT = "What did the dog do?"


@pytest.fixture(scope="module")
def voice(vits_folder: Path) -> VitsVoice:
    return VitsVoice.load(vits_folder)


def spoken(voice: VitsVoice, text: str, style: Style) -> np.ndarray:
    return np.concatenate([*voice.speak(text, style), np.zeros(0, np.float32)])


def test_a_neutral_sentence_is_what_transformers_makes(voice: VitsVoice) -> None:
    ids = voice.tokenizer(TEXT, return_tensors="pt").input_ids
    torch.manual_seed(voice.seed)
    with torch.inference_mode():
        wave = voice.model(input_ids=ids).waveform[0]
    assert len(wave) > 10_000
    wanted = resample(wave, 22_050, 16_000).clamp(-1.0, 1.0).numpy()
    assert np.allclose(spoken(voice, TEXT, Style()), wanted, atol=1e-6)


def test_it_is_repeatable_and_leaves_torchs_noise_alone(voice: VitsVoice) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = spoken(voice, TEXT, Style())
    assert torch.equal(torch.rand(1), wanted)
    assert np.array_equal(first, spoken(voice, TEXT, Style()))


def test_the_pace_is_the_models_own(voice: VitsVoice) -> None:
    slow, plain, quick = (len(spoken(voice, TEXT, Style("x", rate=r))) for r in (0.7, 1.0, 1.4))
    assert slow > plain > quick
    assert slow / quick == pytest.approx(2.0, rel=0.25)  # whole frames a letter


@pytest.mark.parametrize("name", STYLES)
def test_every_style_can_be_spoken(voice: VitsVoice, name: str) -> None:
    sound = spoken(voice, "It rained, and we went home.", style_for(name))
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()
    assert 0 < np.abs(sound).max() <= 1.0


def test_numbers_are_read_and_nothing_is_made_of_nothing(voice: VitsVoice) -> None:
    assert len(spoken(voice, "Room 12.", Style())) == len(spoken(voice, "Room twelve.", Style()))
    assert len(spoken(voice, "?!", Style())) == 0
