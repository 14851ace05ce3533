"""Sounds, sentences and weights for the tests: very small, made here, the same every time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from omni.audio.world import DB_PER_UNIT
from omni.config import DecoderConfig, ListenerConfig, LlmConfig, OmniConfig, PerceiverConfig, dump
from omni.models.adapter import EmotionAdapter, SpeechAdapter
from omni.models.decoder import ExpressiveDecoder
from omni.models.encoder import SpeechEncoder
from omni.models.exemplars import Exemplars
from omni.models.perceiver import EmotionPerceiver
from omni.models.speech_llm import SpeechLLM
from omni.models.words import WordSentiment
from omni.nn.beam import LexiconDecoder
from omni.nn.lexicon import Lexicon, pronunciations
from omni.nn.ngram import SPECIAL
from omni.nn.sampling import Blocker
from omni.packing import BLOCKS, FILES
from omni.phones import normalise
from omni.text import Vocabulary
from omni.train.ngrams import encode, estimate
from omni.turns import EMOTIONS, Perception

REPOSITORY = Path(__file__).parents[1]
SAMPLE_RATE_HZ = 16_000
TEXTS = (
    "my dog ran away this morning", "i got the job, can you believe it?", "what time does the train leave?",
    "he never said sorry for it.", "we are going to the lake on sunday!", "there was a noise under the stairs",
    "that sounds like a long day.", "what did your friend say about the job?", "look for the dog near the lake.",
    "you waited a long time for this train, i'm sure.", "who else heard the noise?", "sunday at the lake will be lovely!",
)  # fmt: skip


TINY = OmniConfig(
    name="tiny",
    listener=ListenerConfig(width=16, feedforward=16, heads=2, outer_layers=1, inner_layers=1, last_layers=1),
    perceiver=PerceiverConfig(
        width=8, vector=8, blocks=1, members=2, listener_layers=3, listener_width=16, use_layers=True
    ),
    llm=LlmConfig(
        copy_heads=2,
        exemplars=1,
        vocabulary=200,
        width=32,
        layers=2,
        heads=2,
        key_value_heads=2,
        feedforward=48,
        reply_tokens=14,
        candidates=3,
    ),
    decoder=DecoderConfig(width=16, encoder_layers=1, decoder_layers=1, heads=2, feedforward=24, llm_width=32),
)


def _half(module: nn.Module, path: Path, without: str = "") -> None:
    weights = {k: v for k, v in module.state_dict().items() if not without or not k.endswith(without)}
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous().clone() for k, v in weights.items()}, path)


def _write_words(path: Path) -> None:

    sentences = [normalise(t).split() for t in TEXTS]
    words = [*SPECIAL, *sorted({w for s in sentences for w in s})]
    model = estimate(encode(sentences, words), words)
    LexiconDecoder(model, Lexicon(pronunciations(words, len(SPECIAL)))).save(path)


def _voice(config: OmniConfig) -> ExpressiveDecoder:
    """A decoder whose units last about 60 ms, at a level that does not clip."""
    decoder = ExpressiveDecoder(config.decoder)
    with torch.no_grad():
        decoder.prosody_head.bias[0] = math.log(6.0)
        decoder.get_buffer("envelope_mean")[0] = -60.0 / DB_PER_UNIT
    return decoder


def write_runs(runs: Path, seed: int = 0) -> OmniConfig:
    """The exports of a whole training, as `omni pack` reads them, with random weights. Returns the configuration."""

    torch.manual_seed(seed)
    vocabulary = Vocabulary.train(TEXTS * 3, TINY.llm.vocabulary, {"sunday": "Sunday"})
    config = replace(TINY, llm=replace(TINY.llm, vocabulary=len(vocabulary)))
    sentiment = WordSentiment(["lovely", "sorry", "not_lovely"])
    with torch.no_grad():
        sentiment.weights.weight.copy_(torch.tensor([[-2.0, 0.0, 3.0], [2.0, 0.0, -2.0], [2.0, 0.0, -3.0]]))
    hashes = Blocker.learn([normalise(t).split() for t in TEXTS], config.llm.blocked_run_words)
    exemplars = Exemplars(
        [vocabulary.encode(t) for t in TEXTS], [vocabulary.encode(t) for t in TEXTS], [0] * len(TEXTS)
    )
    writers: dict[str, Callable[[Path], Any]] = {
        "listener.safetensors": lambda p: _half(SpeechEncoder(config.listener, config.audio), p),
        "words.safetensors": _write_words,
        "perceiver.safetensors": lambda p: _half(EmotionPerceiver(config.perceiver, config.audio), p),
        "sentiment.safetensors": sentiment.save,
        "language_model.safetensors": lambda p: _half(SpeechLLM(config.llm, vocabulary), p, "lm_head.weight"),
        "tokenizer.json": lambda p: vocabulary.save(p.parent),
        "names.json": lambda p: None,  # written with the tokenizer
        "spoken_before.safetensors": lambda p: save_file({"hashes": hashes}, p, metadata={"size": "6"}),
        "exemplars.safetensors": exemplars.save,
        "speech_adapter.safetensors": lambda p: _half(SpeechAdapter(config.listener.width, config.llm.width), p),
        "emotion_adapter.safetensors": lambda p: _half(EmotionAdapter(config.perceiver.vector, config.llm.width), p),
        "voice.safetensors": lambda p: _half(_voice(config), p),
    }
    for part in FILES:
        folder = runs / part.run / "export"
        folder.mkdir(parents=True, exist_ok=True)
        if part.name in writers:
            writers[part.name](folder / part.name)
        else:
            assert not part.required, f"{part.name} is new in omni.packing; write it here too"
    for block, (run, name) in BLOCKS.items():
        if block != "vocoder":
            (runs / run / "export" / name).write_text(dump(getattr(config, block)), encoding="utf-8")
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "valid_phone_error_rate": 0.5}]
    (runs / "listener" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return config


def voiced_clip(seconds: float = 1.5, pitch_hz: float = 140.0, seed: int = 0) -> np.ndarray:
    """Something like a voice: a pulse train through three formants, four syllables a second, a little breath."""
    count = round(seconds * SAMPLE_RATE_HZ)
    time = np.arange(count) / SAMPLE_RATE_HZ
    draw = np.random.default_rng(seed)
    glide = pitch_hz * (1 + 0.12 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE_HZ
    sound = np.zeros(count)
    for harmonic in range(1, 26):
        frequency = harmonic * glide
        gain = sum(
            np.exp(-(((frequency - f) / w) ** 2)) * g
            for f, w, g in ((600, 220, 1.0), (1400, 280, 0.5), (2500, 400, 0.25))
        )
        sound += (gain + 0.02) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 2 * time) ** 2 * 1.4 - 0.2, 0, 1)
    sound = sound * syllables + 0.003 * draw.standard_normal(count)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def make_perception(emotion: str = "sad", sure: float = 0.8, **values: Any) -> Perception:
    """A perception of one emotion, the rest of the probability shared evenly."""
    rest = (1 - sure) / (len(EMOTIONS) - 1)
    shares = {e: sure if e == emotion else rest for e in EMOTIONS}
    base = Perception(emotion, shares, 0.5, -0.4, 0.1, sure, vector=np.full(TINY.perceiver.vector, 0.1, np.float32))
    return replace(base, **values)
