"""Training of the expressive decoder: `voice` (many speakers, then the reply voice) and `voice_express` (with LLM states).

Losses: L1 of normalised frames (weighted by the coefficients' own spread), binary cross-entropy of voicing, L1 of the
predicted prosody, and a least-squares adversary on frames against over-smoothing (Mao et al. 2017; on vocoder
parameters Saito, Takamichi and Saruwatari 2018) with feature matching.

Shapes: B batch, L units, T steps of 10 ms, R frames per step, C envelope, A aperiodicity, S style vector.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from omni.config import DecoderConfig, build, dump
from omni.data.manifest import read
from omni.errors import ConfigError, DataError
from omni.models.decoder import ExpressiveDecoder, Prediction
from omni.models.prosody import UnitProsody, contour
from omni.train.critics import adversary, frame_critic
from omni.train.recipe import Recipe
from omni.train.voice_batch import VoiceBatch, collate, prosody_losses
from omni.train.voice_data import Recording, Span, analyse_all, cut_spans
from omni.train.voice_speaker import Speaker, knots_of, unit_means, utterance_prosody

#: (words of a span) -> states [tokens, H] and, for each word, the token that stands for it; see `VoiceTask.states`.
StatesOf = Callable[[list[str]], tuple[Tensor, list[int]]]

#: Share (in logarithms) of the missing width of the envelope's coefficients that `envelope_gain` gives back: all of it
#: sounds harsh where the prediction is unsure. Chosen by NISQA between 0 (2.6), 0.4 (3.5), 0.6 (3.8), 0.75 (3.5), 1 (2.6).
SHARPENING = 0.6


@dataclass(frozen=True)
class VoiceData:
    """The `data` block of a voice recipe. `voice` is the speaker who is exported; `others` only help."""

    manifest: str = "librispeech/train.jsonl"
    voice: str = "2416"
    others: tuple[str, ...] = ()
    voice_share: float = 0.6  # of the spans in a batch
    held_out_clips: int = 3
    aligner: str = "pocketsphinx"  # or "uniform"
    cache: str = "voice"  # folder of the analyses within the cache
    batch_spans: int = 12
    shortest_span_s: float = 1.2  # the spans of one batch are about equally long, drawn between these two
    longest_span_s: float = 6.0
    start_from: str = ""  # weights to go on from: a run beside this one, or a .safetensors file
    language_model: str = ""  # a run beside this one whose export gives the states of stage 2
    only: tuple[str, ...] = ()  # parts of the decoder (`gate`) that are trained, the others stay as they are; (): all
    adversary_from_step: int = 900
    adversary_weight: float = 0.1


class VoiceModel(nn.Module):
    """What the loop trains: the decoder and its critic. Only the decoder is exported."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.decoder = ExpressiveDecoder(config)
        self.critic = frame_critic(config.cepstrum + config.aperiodicity)


class VoiceTask:
    """Recipe parts `voice` and `voice_express`.

    With `states` (part `voice_express`) the language model's states enter through the gate; half of the batches go
    without, so that the voice still speaks alone.
    """

    def __init__(self, recipe: Recipe, data: Path, cache: Path, states: StatesOf | None = None) -> None:
        self.recipe, self.states = recipe, states
        self.data = build(VoiceData, recipe.data, "data")
        config = build(DecoderConfig, recipe.model, "model")
        names = [self.data.voice, *(s for s in self.data.others if s != self.data.voice)]
        self.config = replace(config, speakers=len(names))
        clips = read(data / self.data.manifest)
        quick = frozenset(names[1:])
        self.speakers: list[Speaker] = []
        for name in names:
            own = [c for c in clips if c.speaker == name]
            if not own:
                raise DataError(
                    f"{data / self.data.manifest} has no clip of speaker {name!r}; it has others: check `voice`"
                )
            recordings = analyse_all(own, cache / self.data.cache, config.cepstrum, self.data.aligner, quick)
            self.speakers.append(Speaker.of(name, recordings))
        torch.manual_seed(recipe.seed)
        self.model = VoiceModel(self.config)
        self._statistics(self.speakers[0])
        if self.data.start_from:
            name = self.data.start_from
            is_file = name.endswith(".safetensors")
            self._start_from(Path(name) if is_file else cache.parent / name / "export" / "voice.safetensors")
        if self.data.only:
            self._freeze_all_but(self.data.only)
        if self.data.language_model and states is None:
            from omni.train.voice_states import WrittenStates

            self.states = WrittenStates(cache.parent / self.data.language_model / "export")
        held = min(self.data.held_out_clips, len(self.speakers[0].recordings) - 1)
        self._train = [s.recordings for s in self.speakers]
        self._held = self._train[0][len(self._train[0]) - held :] if held else self._train[0][:1]
        self._train[0] = self._train[0][: len(self._train[0]) - held] if held else self._train[0]
        spread = self.model.decoder.envelope_scale.sqrt()
        self._weights = spread / spread.mean()

    def _statistics(self, voice: Speaker) -> None:
        decoder = self.model.decoder
        decoder.envelope_mean.copy_(torch.from_numpy(voice.envelope_mean))
        decoder.envelope_scale.copy_(torch.from_numpy(voice.envelope_scale))
        decoder.noise_mean.copy_(torch.from_numpy(voice.noise_mean))
        decoder.noise_scale.copy_(torch.from_numpy(voice.noise_scale))
        decoder.pitch_mean.fill_(voice.pitch_mean)
        decoder.pitch_scale.fill_(voice.pitch_scale)

    def _start_from(self, path: Path) -> None:
        """Weights of an earlier stage; the speaker table keeps the rows that fit, statistics stay this voice's."""
        if not path.is_file():
            raise DataError(f"start_from: no file {path}; run the earlier recipe first")
        weights = {k: v.float() for k, v in load_file(path).items()}
        own = self.model.decoder.state_dict()
        first = weights["embed_speaker.weight"][:1]
        weights["embed_speaker.weight"] = first.expand_as(own["embed_speaker.weight"]).clone()
        kept = {k for k in own if k.endswith(("_mean", "_scale", "_gain"))}
        self.model.decoder.load_state_dict({k: own[k] if k in kept else v for k, v in weights.items()})

    def _freeze_all_but(self, parts: tuple[str, ...]) -> None:
        known = {name for name, _ in self.model.decoder.named_children()}
        if not known.issuperset(parts):
            raise ConfigError(f"data.only: {', '.join(parts)}; the voice's parts are {', '.join(sorted(known))}")
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(name.startswith("critic.") or name.split(".")[1] in parts)

    def batch(self, step: int) -> VoiceBatch:
        """Spans drawn by the step and the recipe's seed."""
        draw = random.Random(self.recipe.seed * 1_000_003 + step)
        rows = []
        room = round(100 * draw.uniform(self.data.shortest_span_s, self.data.longest_span_s))
        # short spans come in greater number, so that every batch has about as much sound
        for _ in range(round(self.data.batch_spans * min(3.0, self.data.longest_span_s * 60 / room))):
            another = len(self.speakers) > 1 and draw.random() >= self.data.voice_share
            who = draw.randrange(1, len(self.speakers)) if another else 0
            recording = draw.choice(self._train[who])
            span = cut_spans(recording, draw, room)
            rows.append(self._row(who, recording, span, draw.random() < 0.2))
        return collate(rows)

    def _row(self, who: int, recording: Recording, span: Span, plain: bool) -> dict:
        speaker, ratio = self.speakers[who], self.config.frames_per_step
        low, total = span.start * ratio, int(span.lengths.sum()) * ratio
        cut = slice(low, low + total)
        pitch, voiced = speaker.pitch(recording, cut)
        envelope = (recording.envelope[cut] - speaker.envelope_mean) / speaker.envelope_scale
        noise = (recording.aperiodicity[cut] - speaker.noise_mean) / speaker.noise_scale
        pause = np.isin(span.units, speaker.pauses)
        knots, energy = knots_of(pitch, span.lengths, ratio), unit_means(envelope[:, 0], span.lengths, ratio)
        drawn = contour(UnitProsody(span.lengths, knots, energy, pause), ratio)
        style = np.zeros(self.config.style_vector, np.float32)
        if not plain:
            style[:] = speaker.z_score(utterance_prosody(pitch, voiced, envelope, span.lengths, pause))
        low_unit = span.first_unit
        words = recording.words[low_unit : low_unit + len(span.units)]
        return {
            "units": span.units, "features": span.features, "speaker": np.array(who), "style": style,
            "log_lengths": np.log(span.lengths), "knots": knots, "energy": energy, "knot_mask": ~pause,
            "at": drawn.at, "local": drawn.local, "envelope": envelope, "aperiodicity": noise,
            "pitch": pitch - drawn.pitch, "voiced": voiced, "words": recording.text, "word_of_unit": words,
        }  # fmt: skip

    def loss(self, batch: VoiceBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        made, prosody = self._run(batch, step)
        parts = {**self._frame_losses(made, batch), **prosody_losses(prosody, batch)}
        total = parts["envelope"] + 0.3 * parts["noise"] + 0.3 * parts["voicing"] + 0.5 * parts["pitch"]
        total = total + 0.3 * parts["length"] + 0.5 * parts["knots"] + 0.3 * parts["energy"]
        if step >= self.data.adversary_from_step and self.data.adversary_weight > 0:
            critic, fool, match = self._adversary(made, batch, step)
            warm = min(1.0, (step - self.data.adversary_from_step) / 100)  # the critic learns before it is listened to
            total = total + critic + warm * self.data.adversary_weight * (fool + match)
            parts |= {"critic": critic, "fool": fool}
        return total, {name: float(value.detach()) for name, value in parts.items()}

    def _run(self, batch: VoiceBatch, step: int) -> tuple[Prediction, Tensor]:
        decoder = self.model.decoder
        heard = self.states is not None and (step % 2 == 0 or bool(self.data.only and self.model.training))
        states, known = self._states(batch) if heard else (None, None)
        encoded = decoder.encode(
            batch.units, batch.features, batch.unit_mask, batch.style, batch.speaker, states, known
        )
        prosody = decoder.prosody(encoded, batch.style, batch.unit_mask)
        return decoder.frames(encoded, batch.at, batch.local, batch.style, batch.step_mask), prosody

    def _states(self, batch: VoiceBatch) -> tuple[Tensor, Tensor]:
        """LLM states [B, L, H] of each unit's word and where there is one [B, L]."""
        assert self.states is not None
        rows = torch.zeros(*batch.units.shape, self.config.llm_width)
        known = torch.zeros(batch.units.shape)
        for index, (words, of_unit) in enumerate(zip(batch.words, batch.word_of_unit)):
            states, token_of_word = self.states(words)
            for place, word in enumerate(of_unit):
                if word >= 0:
                    rows[index, place], known[index, place] = states[token_of_word[word]], 1.0
        return rows, known

    def _frame_losses(self, made: Prediction, batch: VoiceBatch) -> dict[str, Tensor]:
        mask = batch.step_mask.repeat_interleave(self.config.frames_per_step, dim=1)
        count, voiced = mask.sum(), mask.squeeze(-1) * batch.voiced
        off = (made.envelope.float() - batch.envelope).abs() * self._weights
        flat = mask.squeeze(-1)
        cross = functional.binary_cross_entropy_with_logits(made.voicing.float(), batch.voiced, reduction="none")
        return {
            "envelope": (off * mask).sum() / count / off.shape[-1],
            "noise": ((made.aperiodicity.float() - batch.aperiodicity).abs() * mask).sum() / count,
            "voicing": (cross * flat).sum() / count,
            "pitch": ((made.pitch.float() - batch.pitch).abs() * voiced).sum() / voiced.sum().clamp_min(1),
        }

    def _adversary(self, made: Prediction, batch: VoiceBatch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(critic's loss, decoder's loss, feature matching) on one window of up to 128 frames per span."""
        draw = random.Random(step)
        ratio, rows_made, rows_true = self.config.frames_per_step, [], []
        size = min(128, *(int(n) * ratio for n in batch.step_mask.sum(dim=(1, 2)).tolist()))
        for row, steps in enumerate(batch.step_mask.sum(dim=(1, 2)).tolist()):
            low = draw.randrange(int(steps) * ratio - size + 1)
            cut = slice(low, low + size)
            rows_made.append(torch.cat((made.envelope[row, cut], made.aperiodicity[row, cut]), dim=-1))
            rows_true.append(torch.cat((batch.envelope[row, cut], batch.aperiodicity[row, cut]), dim=-1))
        made_frames, recorded = (torch.stack(rows).transpose(1, 2) for rows in (rows_made, rows_true))
        return adversary(self.model.critic, made_frames, recorded)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On clips of the voice that were not trained on: envelope error first; widths of made against recorded."""
        draw = random.Random(7)
        rows = [
            self._row(0, r, cut_spans(r, draw, round(self.data.longest_span_s * 100)), True)
            for r in self._held
            for _ in range(4)
        ]
        batch = collate(rows)
        with_states: dict[str, float] = {}
        if self.states is not None:
            parts = self._measured(batch, 0)[2]
            with_states = {f"{name}_with_states": float(value) for name, value in parts.items()}
        made, prosody, parts = self._measured(batch, 1)
        mask = batch.step_mask.repeat_interleave(self.config.frames_per_step, dim=1).squeeze(-1).bool()
        wide = made.envelope[mask].std(dim=0) / batch.envelope[mask].std(dim=0)
        # the first coefficients carry loudness and vowel: their width is right already
        self.model.decoder.envelope_gain[2:] = (1.0 / wide[2:]).pow(SHARPENING).clamp(1.0, 1.8)
        knots = batch.knot_mask.bool()
        gain = batch.knots[knots].std() / prosody[..., 1:4][knots].std().clamp_min(1e-3)
        self.model.decoder.pitch_gain.fill_(float(gain.clamp(1.0, 1.4)))
        figures = {name: float(value) for name, value in parts.items()}
        return {
            **figures,
            "width_low": float(wide[1:8].mean()),
            "width_high": float(wide[8:].mean()),
            "gain": float(gain),
            **with_states,
        }

    def _measured(self, batch: VoiceBatch, step: int) -> tuple[Prediction, Tensor, dict[str, Tensor]]:
        made, prosody = self._run(batch, step)
        return made, prosody, {**self._frame_losses(made, batch), **prosody_losses(prosody, batch)}

    def export(self, folder: Path) -> None:
        """`voice.safetensors` (half precision, one speaker) and `voice.yaml` (its DecoderConfig)."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = dict(self.model.decoder.state_dict())
        weights["embed_speaker.weight"] = weights["embed_speaker.weight"][:1]
        save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / "voice.safetensors")
        config = replace(
            self.config, speakers=1, reads_llm_states=self.states is not None or self.config.reads_llm_states
        )
        (folder / "voice.yaml").write_text(dump(config), encoding="utf-8")
