"""Checkpoint or preset to wired parts: the only place that knows which implementation stands for which part."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from omni.answering import Responder
from omni.answers import Answering
from omni.backbones.kinds import check, load_part
from omni.checkpoint import Checkpoint, load_weights, open_checkpoint
from omni.config import OmniConfig
from omni.models.adapter import EmotionAdapter
from omni.models.decoder import ExpressiveDecoder
from omni.models.encoder import SpeechEncoder
from omni.models.exemplars import Exemplars
from omni.models.listener import Hearing, Listener
from omni.models.perceiver import EmotionPerceiver, Perceiving
from omni.models.speech_llm import SpeechLLM
from omni.models.vocoder import make_vocoder
from omni.models.voice import ExpressiveVoice, Voice
from omni.models.words import WordSentiment
from omni.nn.beam import LexiconDecoder
from omni.nn.quantising import in_int8
from omni.nn.sampling import Blocker
from omni.preset import OWN, Preset
from omni.text import Vocabulary

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """Everything that an assistant is made of."""

    config: OmniConfig
    listener: Hearing
    perceiver: Perceiving
    sentiment: WordSentiment
    responder: Answering
    voice: Voice


def listening_part(checkpoint: Checkpoint) -> Listener:
    """The encoder and its search for words."""
    config = checkpoint.config
    encoder = SpeechEncoder(config.listener, config.audio)
    load_weights(encoder, checkpoint.weights("listener.safetensors"), "listener.safetensors")
    return Listener(encoder, LexiconDecoder.load(checkpoint.path("words.safetensors")), config.audio)


def perceiving_part(checkpoint: Checkpoint) -> EmotionPerceiver:
    """The perceiver, which also reads the listener's layers where there are any."""
    perceiver = EmotionPerceiver(checkpoint.config.perceiver, checkpoint.config.audio)
    load_weights(perceiver, checkpoint.weights("perceiver.safetensors"), "perceiver.safetensors")
    return perceiver


def sentiment_part(checkpoint: Checkpoint) -> WordSentiment:
    """The valence of words."""
    return WordSentiment.load(checkpoint.path("sentiment.safetensors"))


def answering_part(checkpoint: Checkpoint) -> Responder:
    """The language model, its adapter, its exemplars and its list of known runs of words."""
    config = checkpoint.config
    for name in ("tokenizer.json", "names.json"):
        checkpoint.path(name)
    vocabulary, blocker = Vocabulary.load(checkpoint.folder), None
    if checkpoint.has("spoken_before.safetensors"):
        hashes = checkpoint.weights("spoken_before.safetensors")["hashes"]
        blocker = Blocker(hashes, config.llm.blocked_run_words, vocabulary.pieces)
    llm = SpeechLLM(config.llm, vocabulary, blocker)
    weights = checkpoint.weights("language_model.safetensors")
    load_weights(llm, weights, "language_model.safetensors", optional=("lm_head.weight",))
    llm.model.tie_weights()
    if config.llm.int8:
        in_int8(
            llm.model, but=("down_proj",)
        )  # its inputs have outliers: alone it costs all the likelihood that is lost
    adapter = EmotionAdapter(config.perceiver.vector, config.llm.width)
    if checkpoint.has("emotion_adapter.safetensors"):
        load_weights(adapter, checkpoint.weights("emotion_adapter.safetensors"), "emotion_adapter.safetensors")
    exemplars = None
    if config.llm.exemplars:
        exemplars = Exemplars.from_tensors(checkpoint.weights("exemplars.safetensors"))
    return Responder(llm, adapter, exemplars)


def voicing_part(checkpoint: Checkpoint, vocoder: str | None = None) -> ExpressiveVoice:
    """The expressive decoder with the configured vocoder (or the one named: world, neural)."""
    config = checkpoint.config
    decoder = ExpressiveDecoder(config.decoder)
    load_weights(decoder, checkpoint.weights("voice.safetensors"), "voice.safetensors")
    settings = (
        config.vocoder if vocoder is None else config.vocoder.__class__(**{**vars(config.vocoder), "kind": vocoder})
    )
    weights = checkpoint.weights("vocoder.safetensors") if settings.kind == "neural" else None
    return ExpressiveVoice(decoder, make_vocoder(settings, weights), config.audio.sample_rate_hz)


#: Part of a preset -> how this project's own one is made from a checkpoint.
_OWN_PARTS: dict[str, Callable[[Checkpoint], Any]] = {
    "listener": listening_part, "perceiver": perceiving_part, "sentiment": sentiment_part,
    "responder": answering_part, "voice": voicing_part,
}  # fmt: skip


def assemble_preset(preset: Preset, device: str = "auto") -> Parts:
    """All parts of a preset. ModelError names the part that cannot be loaded, why, and the command that fetches it."""
    check(preset)
    checkpoints: dict[str, Checkpoint] = {}
    found: dict[str, Any] = {}
    for part, spec in preset.parts.items():
        if spec.kind != OWN:
            found[part] = load_part(preset, part, device)
            continue
        if spec.model not in checkpoints:
            checkpoints[spec.model] = open_checkpoint(spec.model)
        found[part] = _OWN_PARTS[part](checkpoints[spec.model])
    config = next((c.config for c in checkpoints.values()), OmniConfig())
    return Parts(replace(config, name=preset.name), **found)


def assemble(checkpoint: Checkpoint, vocoder: str | None = None) -> Parts:
    """All parts of a checkpoint."""
    made = {name: make(checkpoint) for name, make in _OWN_PARTS.items() if name != "voice"}
    return Parts(checkpoint.config, **made, voice=voicing_part(checkpoint, vocoder))
