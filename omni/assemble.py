"""Checkpoint or preset to wired parts: the only place that knows which implementation stands for which part."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from omni.answering import Responder
from omni.checkpoint import Checkpoint, load_weights
from omni.config import OmniConfig
from omni.models.adapter import EmotionAdapter
from omni.models.decoder import ExpressiveDecoder
from omni.models.encoder import SpeechEncoder
from omni.models.exemplars import Exemplars
from omni.models.listener import Listener
from omni.models.perceiver import EmotionPerceiver
from omni.models.speech_llm import SpeechLLM
from omni.models.vocoder import make_vocoder
from omni.models.voice import ExpressiveVoice, Voice
from omni.models.words import WordSentiment
from omni.nn.beam import LexiconDecoder
from omni.nn.quantising import in_int8
from omni.nn.sampling import Blocker
from omni.text import Vocabulary

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """Everything that an assistant is made of."""

    config: OmniConfig
    listener: Listener
    perceiver: EmotionPerceiver
    sentiment: WordSentiment
    responder: Responder
    voice: Voice


def hearing_parts(checkpoint: Checkpoint) -> tuple[Listener, EmotionPerceiver, WordSentiment]:
    """Listener, perceiver and word sentiment alone: what `omni hear` needs."""
    config = checkpoint.config
    encoder = SpeechEncoder(config.listener, config.audio)
    load_weights(encoder, checkpoint.weights("listener.safetensors"), "listener.safetensors")
    decoder = LexiconDecoder.load(checkpoint.path("words.safetensors"))
    perceiver = EmotionPerceiver(config.perceiver, config.audio)
    load_weights(perceiver, checkpoint.weights("perceiver.safetensors"), "perceiver.safetensors")
    sentiment = WordSentiment.load(checkpoint.path("sentiment.safetensors"))
    return Listener(encoder, decoder, config.audio), perceiver, sentiment


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


def assemble(checkpoint: Checkpoint, vocoder: str | None = None) -> Parts:
    """All parts of a checkpoint."""
    listener, perceiver, sentiment = hearing_parts(checkpoint)
    voice = voicing_part(checkpoint, vocoder)
    return Parts(checkpoint.config, listener, perceiver, sentiment, answering_part(checkpoint), voice)
