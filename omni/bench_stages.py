"""What each part of a preset does for one fixed query, on random weights: steps that can be timed, and what writes tokens.

Counts are fixed, so that runs can be compared: no random model would end its reply by itself, or at a fitting place.
Shapes: N samples, L tokens, V vocabulary, T frames.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.generation import GenerationMixin
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutput

from omni.assemble import listening_part, perceiving_part, sentiment_part, voicing_part
from omni.backbones.decoding import StaticCodes, StaticDecoder, StaticWhisper
from omni.backbones.emotion import EmotionClassifier
from omni.backbones.mimi import Mimi
from omni.backbones.random_weights import random_model
from omni.backbones.speech_hearing import DualHearing, LpeHearing
from omni.backbones.speech_states import WavlmStates, WhisperStates
from omni.checkpoint import open_checkpoint
from omni.errors import ModelError
from omni.models.code_decoder import CodeDecoder, CodeDecoderConfig
from omni.models.emotion_head import FIRST
from omni.models.style import style_for
from omni.preset import OWN, PartSpec
from omni.turns import EMOTIONS, Audio

SAMPLE_RATE_HZ = 16_000
QUERY_S = 5.0
#: Rates of spoken English, and of the tokenizers of instruct models on it.
WORDS_A_SECOND, TOKENS_A_WORD = 2.4, 1.3
CLAUSE = "That sounds like a very long day indeed,"
REPLY = (
    f"{CLAUSE} and I can hear how tired it has left you; would you like to tell me what happened, or shall we talk about "
    "something quieter for now?"
)
CLAUSE_WORDS, REPLY_WORDS = len(CLAUSE.split()), len(REPLY.split())
QUERY_TOKENS = math.ceil(QUERY_S * WORDS_A_SECOND * TOKENS_A_WORD)
CLAUSE_TOKENS, REPLY_TOKENS = math.ceil(CLAUSE_WORDS * TOKENS_A_WORD), math.ceil(REPLY_WORDS * TOKENS_A_WORD)
#: Need, strategy, intent and style with the names of their lines.
THOUGHT_TOKENS = 40
#: An instruction and one turn of a conversation; what asks Whisper, an LPE listener and a voice for their writing.
PROMPT_TOKENS, START_TOKENS, TASK_TOKENS, VOICE_TOKENS = 256, 2, 40, 64
#: What VITS's length model gives each letter, and the blank beside it, is set: frames of 16 ms, 11 ids a word.
LETTER_FRAMES, IDS_A_WORD = 2, 11


@dataclass(frozen=True)
class Written:
    """When each token was there, in seconds from the start of reading the prompt."""

    stamps_s: list[float]

    @property
    def prefill_s(self) -> float:
        """Reading the prompt, up to the first token."""
        return self.stamps_s[0]

    @property
    def tokens_a_second(self) -> float:
        """Of the tokens after the first."""
        return (len(self.stamps_s) - 1) / (self.stamps_s[-1] - self.stamps_s[0])


class _Stamps(BaseStreamer):
    """Told of each token as `generate` writes it; it is told of the prompt first."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.stamps_s: list[float] = []

    def put(self, value: Tensor) -> None:
        self.stamps_s.append(time.perf_counter() - self.began)

    def end(self) -> None:
        pass


@dataclass
class Writer:
    """A model that writes `tokens` tokens: over our static cache, and by transformers' own `generate`.

    `prefill` reads the prompt and gives the logits after it; `given` is the same prompt for `generate`.
    """

    model: Any
    decoder: StaticDecoder
    tokens: int
    prefill: Callable[[], Tensor]
    given: Callable[[], dict[str, Any]]
    codebooks: int = 0

    @torch.no_grad()
    def ours(self) -> Written:
        """The likeliest token each time; each is read, as somebody does who speaks it at once."""
        self.decoder.reset()
        synchronise(self.model.device)
        began = time.perf_counter()
        token = self._best(self.prefill())
        stamps = [time.perf_counter() - began]
        while len(stamps) < self.tokens:
            token = self._best(self.decoder.step(token))
            stamps.append(time.perf_counter() - began)
        return Written(stamps)

    @torch.no_grad()
    def generated(self) -> Written:
        """The same by `generate`. ModelError if it stops early."""
        given = self.given()
        least = {} if self.codebooks else {"min_new_tokens": self.tokens}
        synchronise(self.model.device)
        stamps = _Stamps()
        # Whisper's own `generate` is about windows and languages; the plain one is its core
        write = self.model.generate if self.codebooks else lambda **k: GenerationMixin.generate(self.model, **k)
        write(**given, max_new_tokens=self.tokens, **least, do_sample=False, streamer=stamps)
        found = stamps.stamps_s[1:]  # the first is the prompt's
        if len(found) != self.tokens:
            raise ModelError(
                f"generate wrote {len(found)} tokens, not {self.tokens}: this model's end mark was not held back"
            )
        return Written(found)

    def _best(self, logits: Tensor) -> Tensor:
        best = logits.view(max(1, self.codebooks), -1).argmax(-1)
        best.tolist()
        return best


@dataclass
class Stage:
    """One part of a preset: `steps` to be timed, and what writes. `first_tokens` of its tokens make the first sound."""

    model: str
    steps: dict[str, Callable[[], Any]] = field(default_factory=dict)
    writer: Writer | None = None
    first_tokens: int = 0


def synchronise(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def query() -> np.ndarray:
    """Five seconds of noise [N] at about the level of speech."""
    return np.random.default_rng(0).normal(0, 0.05, round(QUERY_S * SAMPLE_RATE_HZ)).astype(np.float32)


@dataclass
class Workshop:
    """Makes stages. Parts that name the same model share it."""

    device: str
    dtype: torch.dtype
    tiny: bool = False
    compiled: bool = False
    made: dict[tuple[str, torch.dtype], Any] = field(default_factory=dict)

    def stage(self, part: str, spec: PartSpec) -> Stage:
        """The stage of a preset's part. ModelError for a part that cannot be measured so."""
        if spec.kind == OWN:
            return self._own(part, spec)
        return {
            "whisper": self._whisper, "emotion": self._emotion, "chat": self._chat, "lpe-listener": self._lpe,
            "lpe-perceiver": lambda spec: Stage(spec.model), "lpe-responder": self._chat, "vits": self._vits,
            "higgs": self._higgs, "empathy-listener": self._dual, "empathy-perceiver": lambda spec: Stage(spec.model),
            "empathy-responder": self._followed, "codes": self._codes,
        }[spec.kind](spec)  # fmt: skip

    def model(self, name: str, dtype: torch.dtype | None = None) -> Any:
        """A model of random weights; the same one when it is asked for again."""
        key = (name, dtype or self.dtype)
        if key not in self.made:
            self.made[key] = random_model(name, key[1], self.device, self.tiny)
        return self.made[key]

    def _ids(self, model: Any, count: int) -> Tensor:
        most = min(model.config.vocab_size, 50_000)  # below every model's marks
        return torch.randint(0, most, (1, count), generator=torch.Generator().manual_seed(1)).to(self.device)

    # -- published models ----------------------------------------------------------------------------------------

    def _whisper(self, spec: PartSpec) -> Stage:
        model, sound = self.model(spec.model), query()
        extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        decoder = StaticWhisper(model, START_TOKENS + QUERY_TOKENS, compiled=self.compiled)
        start = torch.full((1, START_TOKENS), model.config.decoder_start_token_id, device=self.device)

        @torch.inference_mode()
        def encode() -> Tensor:
            found = extractor(sound, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
            return model.model.encoder(found.to(self.device, self.dtype)).last_hidden_state

        states = encode().clone()

        def prefill() -> Tensor:
            decoder.listen(states)
            return decoder.prefill(start)

        def given() -> dict[str, Any]:
            heard: Any = states
            return {"encoder_outputs": BaseModelOutput(last_hidden_state=heard), "decoder_input_ids": start}

        return Stage(spec.model, {"encoder": encode}, Writer(model, decoder, QUERY_TOKENS, prefill, given))

    def _emotion(self, spec: PartSpec) -> Stage:
        extractor: Any = Wav2Vec2FeatureExtractor(do_normalize=True)
        classifier, sound = EmotionClassifier(self.model(spec.model), extractor, spec.options.get("names")), query()
        return Stage(spec.model, {"classifier": lambda: classifier.perceive(sound)})

    def _lpe(self, spec: PartSpec) -> Stage:
        model = self.model(spec.model)
        wavlm = WavlmStates(self.model(spec.also["wavlm"]), Wav2Vec2FeatureExtractor(do_normalize=True))
        width = model.get_input_embeddings().weight.shape[1]
        hearing = LpeHearing(wavlm, width).to(self.device).eval()
        sound = query()

        @torch.inference_mode()
        def hear() -> Tensor:
            return hearing(sound).slots

        count = hear().shape[1] + TASK_TOKENS
        return Stage(spec.model, {"WavLM and adapters": hear}, self._written(model, count, QUERY_TOKENS))

    def _dual(self, spec: PartSpec) -> Stage:
        model, sound = self.model(spec.model), query()
        encoder = self.model(spec.also["whisper"]).model.encoder
        extractor: Any = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
        wavlm = WavlmStates(self.model(spec.also["wavlm"]), Wav2Vec2FeatureExtractor(do_normalize=True))
        width = model.get_input_embeddings().weight.shape[1]
        hearing = DualHearing(WhisperStates(encoder, extractor), wavlm, width).to(self.device).eval()

        @torch.inference_mode()
        def hear() -> Tensor:
            return hearing(sound).slots

        count = hear().shape[1] + PROMPT_TOKENS
        read, labels = self._ids(model, count + QUERY_TOKENS), self._ids(model, 2).expand(len(EMOTIONS), -1)
        kept = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(input_ids=read, past_key_values=kept, use_cache=True, logits_to_keep=1)

        @torch.inference_mode()
        def weigh() -> Tensor:
            cache = copy.deepcopy(kept)
            cache.batch_repeat_interleave(len(EMOTIONS))
            return model(input_ids=labels, past_key_values=cache, use_cache=True).logits

        steps = {"Whisper, WavLM and adapters": hear, "labels of the tone": weigh}
        return Stage(spec.model, steps, self._written(model, count, QUERY_TOKENS))

    def _followed(self, spec: PartSpec) -> Stage:
        found = self._chat(spec)
        found.first_tokens = THOUGHT_TOKENS + FIRST + 1  # the voice begins then
        return found

    def _codes(self, spec: PartSpec) -> Stage:
        model, mimi = self.model(spec.model), Mimi(self.model(spec.also["mimi"], torch.float32))
        width = model.get_input_embeddings().weight.shape[1]
        sizes = {"width": 32, "layers": 1, "heads": 2, "feedforward": 48, "depth_width": 16, "depth_layers": 1,
                 "depth_heads": 2, "depth_feedforward": 24} if self.tiny else {}  # fmt: skip
        emotion = 1024
        torch.manual_seed(0)
        decoder = CodeDecoder(CodeDecoderConfig(width, emotion, **sizes)).to(self.device, self.dtype).eval()
        decoder.head.bias.data[-1] = float("-inf")  # a random model must not end its sound
        rate = mimi.sample_rate_hz / mimi.frame_samples
        vector = torch.zeros(1, emotion, device=self.device, dtype=self.dtype)

        @torch.inference_mode()
        def speak(tokens: int, frames: int) -> float:
            read = torch.zeros(1, tokens, width, device=self.device, dtype=self.dtype)
            stream, sound, made = decoder.stream(vector), mimi.stream(), list[list[int]]()
            for frame in chain(stream.push(read, read), stream.finish(frames)):
                made.append(frame)
                if len(made) == frames:
                    break
            sound.push(torch.tensor(made, device=self.device).T[None]).cpu()
            return frames / rate

        whole = math.ceil(REPLY_WORDS / WORDS_A_SECOND * rate)
        return Stage(spec.model, {"first": lambda: speak(FIRST + 1, 1), "whole": lambda: speak(REPLY_TOKENS, whole)})

    def _chat(self, spec: PartSpec) -> Stage:
        count = THOUGHT_TOKENS + REPLY_TOKENS
        writer = self._written(self.model(spec.model), PROMPT_TOKENS, count)
        return Stage(spec.model, writer=writer, first_tokens=THOUGHT_TOKENS + CLAUSE_TOKENS)

    def _written(self, model: Any, prompt_tokens: int, tokens: int) -> Writer:
        decoder = StaticDecoder(model, prompt_tokens + tokens, compiled=self.compiled)
        ids = self._ids(model, prompt_tokens)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
        return Writer(model, decoder, tokens, lambda: decoder.prefill(ids), lambda: given)

    def _vits(self, spec: PartSpec) -> Stage:
        model = self.model(spec.model, torch.float32)  # as VitsVoice has it
        frames = math.log(LETTER_FRAMES - 0.01)  # rounded up later
        model.duration_predictor.register_forward_hook(lambda _, __, out: torch.full_like(out, frames))

        @torch.inference_mode()
        def speak(words: int) -> float:
            wave = model(self._ids(model, words * IDS_A_WORD)).waveform[0].cpu()
            return wave.shape[-1] / model.config.sampling_rate

        return Stage(spec.model, {"first": lambda: speak(CLAUSE_WORDS), "whole": lambda: speak(REPLY_WORDS)})

    def _higgs(self, spec: PartSpec) -> Stage:
        model, codec = self.model(spec.model), self.model(spec.also["codec"], torch.float32)
        rate, books = codec.config.frame_rate, model.config.num_codebooks
        first, whole = (math.ceil(words / WORDS_A_SECOND * rate) for words in (CLAUSE_WORDS, REPLY_WORDS))
        # a random model must not end its sound: a weight of zeros is never the likeliest of a thousand
        model.audio_lm_head.weight.view(books, model.config.codebook_size, -1)[:, -2:] = 0.0
        decoder = StaticCodes(model, VOICE_TOKENS + whole, compiled=self.compiled)
        ids = self._ids(model, VOICE_TOKENS)
        ids[0, -1] = model.config.audio_bos_token_id
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        @torch.inference_mode()
        def decode(frames: int) -> float:
            codes = torch.randint(0, codec.config.codebook_size, (1, books, frames), device=self.device)
            return codec.decode(codes).audio_values.cpu().shape[-1] / codec.config.sample_rate

        writer = Writer(model, decoder, whole, lambda: decoder.prefill(ids), lambda: given, books)
        return Stage(spec.model, {"first": lambda: decode(first), "whole": lambda: decode(whole)}, writer, first)

    # -- this project's own --------------------------------------------------------------------------------------

    def _own(self, part: str, spec: PartSpec) -> Stage:
        checkpoint, sound = open_checkpoint(spec.model), query()
        if part == "listener":
            listener = listening_part(checkpoint)
            return Stage(spec.model, {"listener": lambda: listener.listen(Audio(sound))})
        if part == "perceiver":
            perceiver = perceiving_part(checkpoint)
            return Stage(spec.model, {"perceiver": lambda: perceiver.perceive(sound, None)})
        if part == "sentiment":
            sentiment = sentiment_part(checkpoint)
            return Stage(spec.model, {"sentiment of the words": lambda: sentiment.valence(REPLY)})
        if part == "voice":
            voice, style = voicing_part(checkpoint), style_for("warm", 0.5)

            def whole() -> float:
                return sum(map(len, voice.speak(REPLY, style))) / voice.sample_rate_hz

            return Stage(spec.model, {"first": lambda: next(voice.speak(CLAUSE, style)), "whole": whole})
        raise ModelError(
            "omni-mini's own responder writes no fixed number of tokens; measure it with `omni bench` alone, or name a "
            "published responder in a preset of your own"
        )
