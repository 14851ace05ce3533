"""Whisper as a listener: what transformers itself makes of the window, long sound in windows, wrong rates refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni.backbones.whisper import WhisperListener
from omni.errors import InputError
from omni.turns import Audio
from tests.tiny import voiced_clip


@pytest.fixture(scope="module")
def listener(whisper_folder: Path) -> WhisperListener:
    return WhisperListener.load(whisper_folder)


def test_it_equals_what_transformers_generates(listener: WhisperListener) -> None:
    samples = voiced_clip(2.0)
    extracted = listener.processor(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        ids = listener.model.generate(extracted.input_features, language="en", task="transcribe", do_sample=False)
    wanted = listener.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    heard = listener.listen(Audio(samples)).heard
    assert heard.text == wanted
    assert len(wanted) > 0
    assert 0.0 < heard.confidence < 1.0


def test_the_confidence_is_the_mean_probability_of_the_words(listener: WhisperListener) -> None:
    samples = voiced_clip(1.5, 180.0)
    extracted = listener.processor(samples, sampling_rate=16_000, return_tensors="pt")
    tokenizer = listener.processor.tokenizer
    marks = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    ids = tokenizer.convert_tokens_to_ids(marks)
    probabilities = []
    with torch.inference_mode():
        while len(ids) < 24 and ids[-1] != tokenizer.eos_token_id:  # greedy, a plain loop: 20 tokens after the marks
            logits = listener.model(extracted.input_features, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] not in tokenizer.all_special_ids:
                probabilities.append(float(logits.softmax(-1).max()))
    heard = listener.listen(Audio(samples)).heard
    assert heard.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert heard.confidence == pytest.approx(float(np.exp(np.mean(np.log(probabilities)))), rel=1e-3)


def test_long_sound_is_heard_in_windows(listener: WhisperListener) -> None:
    pause = np.zeros(8000, np.float32)
    parts = [voiced_clip(20.0, 120.0), voiced_clip(20.0, 220.0)]
    long = listener.listen(Audio(np.concatenate([parts[0], pause, parts[1]]))).heard
    alone = [listener.listen(Audio(np.concatenate([part, pause]))).heard.text for part in parts]
    assert long.text.startswith(alone[0][:3])
    assert len(long.text) > max(map(len, alone))


def test_another_sample_rate_is_refused(listener: WhisperListener) -> None:
    with pytest.raises(InputError, match="16000 Hz"):
        listener.listen(Audio(np.zeros(8000, np.float32), 8000))
