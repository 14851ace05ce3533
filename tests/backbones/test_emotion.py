"""A published classifier as the perceiver: what transformers computes, in our emotions; labels that are not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni.backbones.emotion import LONGEST_S, EmotionClassifier, label_map
from omni.errors import InputError, ModelError
from omni.turns import COORDINATES, EMOTIONS
from tests.tiny import voiced_clip


def test_it_equals_what_transformers_computes(emotion_folder: Path) -> None:
    perceiver = EmotionClassifier.load(emotion_folder)
    samples = voiced_clip(1.2)
    seen = perceiver.perceive(samples)
    values = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    with torch.inference_mode():
        out = perceiver.model(torch.from_numpy(values)[None], output_hidden_states=True)
    wanted = out.logits[0].softmax(-1).tolist()
    for share, emotion in zip(wanted, ("neutral", "happy", "angry", "sad"), strict=True):
        assert seen.probabilities[emotion] == pytest.approx(share, abs=1e-4)
    assert max(wanted) > 0.3
    assert sum(seen.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert seen.emotion == ("neutral", "happy", "angry", "sad")[int(np.argmax(wanted))]
    assert seen.intensity == pytest.approx(1 - wanted[0], abs=1e-4)
    assert seen.valence == pytest.approx(sum(p * COORDINATES[e][0] for e, p in seen.probabilities.items()))
    assert seen.vector is not None
    assert np.allclose(seen.vector, out.hidden_states[-1][0].mean(0).numpy(), atol=1e-4)


def test_long_sound_is_the_weighted_mean_of_its_pieces(emotion_folder: Path) -> None:
    perceiver = EmotionClassifier.load(emotion_folder)
    halves = [voiced_clip(LONGEST_S * 0.7, 110.0), voiced_clip(LONGEST_S * 0.7, 240.0)]
    gap = np.zeros(8000, np.float32)
    whole = perceiver.perceive(np.concatenate([halves[0], gap, halves[1]]))
    alone = [perceiver.perceive(h).probabilities["happy"] for h in halves]
    assert min(alone) - 0.1 < whole.probabilities["happy"] < max(alone) + 0.1


def test_labels_are_renamed_added_up_and_left_out() -> None:
    found = label_map({0: "Excited", 1: "HAP", 2: "other", 3: "LABEL_3"}, {"LABEL_3": "fear"})
    rows = [[EMOTIONS[i] for i in row.nonzero()[:, 0].tolist()] for row in found]
    assert rows == [["happy"], ["happy"], [], ["fearful"]]


def test_unknown_labels_are_named_with_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"LABEL_0, LABEL_1.*`names`"):
        label_map({0: "LABEL_0", 1: "LABEL_1"})


def test_a_click_is_too_short(emotion_folder: Path) -> None:
    with pytest.raises(InputError, match="too short"):
        EmotionClassifier.load(emotion_folder).perceive(np.zeros(100, np.float32))
