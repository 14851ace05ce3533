"""Expressive decoder: units, style and the language model's states in; WORLD frames out.

A unit encoder (attention and convolution) feeds predictors of duration, pitch and energy per unit; the units are
stretched to 10 ms steps, and a convolutional frame decoder, which sees two steps folded into one place (half the work for
the same sound), writes two frames of 5 ms per step. Like FastSpeech 2 (Ren et al. 2021) in outline, with pitch as three
knots per unit that a contour runs through, AdaLN for style, and a sigmoid gate through which the language model's states
enter.

Shapes: B batch, L units, T steps of 10 ms, R frames per step, D width, C envelope, A aperiodicity, S style vector, K
knots (3), H language-model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from omni.audio.world import DB_PER_UNIT, Frames
from omni.config import DecoderConfig
from omni.errors import InputError, ModelError
from omni.models.prosody import Contours, contour, shape_prosody
from omni.models.style import vector_of
from omni.models.voice_blocks import AdaptiveNorm, AttentionBlock, ConvBlock, Gate, sinusoids
from omni.phones import VOICE_ID, VOICE_UNITS
from omni.spoken import FEATURES, Spoken
from omni.turns import Style

KNOTS = 3
#: What the frame decoder may add to the contour, in deviations of the voice's log F0; more would be an error.
LARGEST_FINE_PITCH = 0.35
ENVELOPE_FRAMES = 3  # the adversary leaves a jitter from frame to frame, which this moving average takes away
VOICING_FRAMES = 7  # voicing is decided over this stretch (35 ms): shorter gaps and islands are no speech sounds
#: Recordings carry no marks, so '?' and '!' share the sound of a full stop; the contour of '?' is in `prosody`.
_SAME_SOUND = {VOICE_ID["?"]: VOICE_ID["."], VOICE_ID["!"]: VOICE_ID["."]}


@dataclass(frozen=True)
class Prediction:
    """Frame decoder output, normalised: envelope [B, T*R, C], aperiodicity [B, T*R, A], pitch and voicing [B, T*R]."""

    envelope: Tensor
    aperiodicity: Tensor
    pitch: Tensor  # what to add to the contour
    voicing: Tensor  # logit


@dataclass(frozen=True)
class _Plan:
    """What is known of a reply before its frames are decoded: encoded [1, L, D], style vector [1, S], contours, style."""

    encoded: Tensor
    vector: Tensor
    contours: Contours
    style: Style


class ExpressiveDecoder(nn.Module):
    """Units to acoustic frames. `speak` is the way in for one reply; `encode`, `prosody`, `frames` train apart."""

    envelope_mean: Tensor
    envelope_scale: Tensor
    envelope_gain: Tensor
    noise_mean: Tensor
    noise_scale: Tensor
    pitch_mean: Tensor
    pitch_scale: Tensor
    pitch_gain: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, style = config.width, config.style_vector
        self.embed = nn.Embedding(len(VOICE_UNITS), width, padding_idx=0)
        self.place = nn.Linear(FEATURES, width)
        self.embed_speaker = nn.Embedding(config.speakers, width)
        self.encoder = nn.ModuleList()
        for _ in range(config.encoder_layers):
            self.encoder.append(AttentionBlock(width, config.heads, style, config.dropout))
            self.encoder.append(ConvBlock(width, config.feedforward, 5, style, config.dropout))
        self.gate = Gate(width, config.llm_width)
        self.prosody_blocks = nn.ModuleList(ConvBlock(width, config.feedforward, 5, style, 0.2) for _ in range(2))
        self.prosody_norm = AdaptiveNorm(width, style)
        self.prosody_head = nn.Linear(width, 1 + KNOTS + 1)
        ratio, fold = config.frames_per_step, config.fold_steps
        self.enter = nn.Linear(width + 2 * ratio + 4, width)
        self.fold = nn.Linear(fold * width, width)
        self.decoder = nn.ModuleList(
            ConvBlock(width, config.feedforward, config.kernel_frames, style, 0.0) for _ in range(config.decoder_layers)
        )
        self.leave_norm = AdaptiveNorm(width, style)
        self.per_frame = config.cepstrum + config.aperiodicity + 2
        self.output_head = nn.Linear(width, fold * ratio * self.per_frame)
        self.register_buffer("envelope_mean", torch.zeros(config.cepstrum))
        self.register_buffer("envelope_scale", torch.ones(config.cepstrum))
        self.register_buffer("noise_mean", torch.zeros(config.aperiodicity))
        self.register_buffer("noise_scale", torch.ones(config.aperiodicity))
        #: log F0 (nats) mean and scale of the voice; spread that predictions need to reach that of the recordings
        self.register_buffer("pitch_mean", torch.tensor(np.log(180.0), dtype=torch.float32))
        self.register_buffer("pitch_scale", torch.tensor(0.25))
        self.register_buffer("pitch_gain", torch.tensor(1.0))
        #: how much wider the envelope's coefficients are in recordings than in predictions (global variance; Toda and
        #: Tokuda 2007), about the mean of the utterance
        self.register_buffer("envelope_gain", torch.ones(config.cepstrum))

    def encode(
        self,
        units: Tensor,
        features: Tensor,
        mask: Tensor,
        style: Tensor,
        speaker: Tensor,
        llm_states: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """units [B, L], features [B, L, F], mask [B, L, 1], style [B, S], speaker [B], states [B, L, H] -> [B, L, D]."""
        x = self.embed(units) + self.place(features) + 0.3 * sinusoids(units.shape[1], self.config.width, units.device)
        x = self.gate(x + self.embed_speaker(speaker).unsqueeze(1), llm_states, known)
        for block in self.encoder:
            x = block(x, style, mask)
        return x

    def prosody(self, encoded: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, 5]: log of the length in steps, pitch at three knots, energy (both normalised)."""
        x = encoded
        for block in self.prosody_blocks:
            x = block(x, style, mask)
        return self.prosody_head(self.prosody_norm(x, style))

    def frames(self, encoded: Tensor, at: Tensor, local: Tensor, style: Tensor, mask: Tensor) -> Prediction:
        """Frames of stretched units.

        encoded [B, L, D]; at [B, T] unit of each step; local [B, T, 2R + 4] contours of pitch and energy at each frame,
        then place in the unit (`prosody.Contours.local`); style [B, S]; mask [B, T, 1].
        """
        stretched = encoded.gather(1, at.unsqueeze(-1).expand(-1, -1, encoded.shape[-1]))
        x = functional.relu(self.enter(torch.cat((stretched, local), dim=-1))) * mask
        batch, steps, fold = x.shape[0], x.shape[1], self.config.fold_steps
        extra = -steps % fold
        x = self.fold(functional.pad(x, (0, 0, 0, extra)).reshape(batch, -1, fold * x.shape[-1]))
        coarse = functional.pad(mask, (0, 0, 0, extra)).reshape(batch, -1, fold).amax(dim=-1, keepdim=True)
        for block in self.decoder:
            x = block(x, style, coarse)
        out = self.output_head(self.leave_norm(x, style))
        out = out.reshape(batch, -1, self.per_frame)[:, : steps * self.config.frames_per_step]
        sizes = [self.config.cepstrum, self.config.aperiodicity, 1, 1]
        envelope, noise, pitch, voicing = out.split(sizes, dim=-1)
        return Prediction(envelope, noise, pitch.squeeze(-1), voicing.squeeze(-1))

    def speak(
        self,
        units: Spoken,
        style: Style | None = None,
        style_vector: np.ndarray | None = None,
        llm_states: Tensor | None = None,
        unit_to_token: np.ndarray | None = None,
    ) -> Frames:
        """Frames of one reply.

        `style`: exact factors against this model's neutral reading of the same text; `style_vector` float32 [S] replaces
        the style's own AdaLN target. `llm_states` [tokens, H] with `unit_to_token` int64 [L] (-1: none) opens the gate.
        InputError for a reply without words, ModelError for states of another width.
        """
        plan = self._plan(units, style or Style(), style_vector, llm_states, unit_to_token)
        return self._decode(plan, 0, len(plan.contours.at))

    def speak_clauses(
        self,
        units: Spoken,
        style: Style | None = None,
        style_vector: np.ndarray | None = None,
        llm_states: Tensor | None = None,
        unit_to_token: np.ndarray | None = None,
    ) -> Iterator[Frames]:
        """The same frames a clause at a time, the first as soon as it is ready: joined they equal `speak`'s."""
        plan = self._plan(units, style or Style(), style_vector, llm_states, unit_to_token)
        ends = [end // self.config.frames_per_step for end in plan.contours.clause_ends]
        for start, end in zip([0, *ends], ends):
            yield self._decode(plan, start, end)

    @torch.inference_mode()
    def _plan(
        self,
        units: Spoken,
        style: Style,
        style_vector: np.ndarray | None,
        llm_states: Tensor | None,
        unit_to_token: np.ndarray | None,
    ) -> _Plan:
        if not (units.words >= 0).any():
            raise InputError("there is nothing to say: the reply has no words")
        target = vector_of(style) if style_vector is None else np.asarray(style_vector, np.float32)
        if target.shape != (self.config.style_vector,):
            raise ModelError(f"style vector of shape {target.shape}; this voice takes ({self.config.style_vector},)")
        # row 0 speaks in the style, row 1 in neutral: the factors are exact against the latter
        both = torch.from_numpy(np.stack((target, np.zeros_like(target))))
        ids = torch.tensor([[_SAME_SOUND.get(int(u), int(u)) for u in units.units]]).expand(2, -1)
        features = torch.from_numpy(units.features).unsqueeze(0).expand(2, -1, -1)
        mask = torch.ones(2, ids.shape[1], 1)
        states, known = self._by_unit(llm_states, unit_to_token)
        encoded = self.encode(ids, features, mask, both, torch.zeros(2, dtype=torch.long), states, known)
        predicted = self.prosody(encoded, both, mask).numpy()
        scale, gain = float(self.pitch_scale), float(self.pitch_gain)
        shaped = shape_prosody(units, predicted[0], predicted[1], style, scale, gain)
        return _Plan(encoded[:1], both[:1], contour(shaped, self.config.frames_per_step), style)

    def _by_unit(self, states: Tensor | None, unit_to_token: np.ndarray | None) -> tuple[Tensor | None, Tensor | None]:
        if states is None or unit_to_token is None:
            return None, None
        states = states.reshape(-1, states.shape[-1]).float()
        if states.shape[-1] != self.config.llm_width:
            raise ModelError(
                f"language-model states of width {states.shape[-1]}; this voice takes {self.config.llm_width}"
            )
        tokens = torch.from_numpy(np.asarray(unit_to_token, np.int64))
        picked = states[tokens.clamp(0, len(states) - 1)].unsqueeze(0).expand(2, -1, -1)
        return picked, (tokens >= 0).float().unsqueeze(0).expand(2, -1)

    @torch.inference_mode()
    def _decode(self, plan: _Plan, start: int, end: int) -> Frames:
        """Frames of the steps from `start` to `end`, decoded with all the context that reaches them."""
        config, total, ratio = self.config, len(plan.contours.at), self.config.frames_per_step
        reach = config.fold_steps * (config.decoder_layers * (config.kernel_frames // 2) + 1)
        low = max(0, start - reach) // config.fold_steps * config.fold_steps
        high = min(total, -(-(end + reach) // config.fold_steps) * config.fold_steps)
        at = torch.from_numpy(plan.contours.at[low:high])[None]
        local = torch.from_numpy(plan.contours.local[low:high])[None]
        made = self.frames(plan.encoded, at, local, plan.vector, torch.ones(1, at.shape[1], 1))
        cut = slice((start - low) * ratio, (end - low) * ratio)
        return self._finish(made, cut, plan, start * ratio)

    def _finish(self, made: Prediction, cut: slice, plan: _Plan, first: int) -> Frames:
        widened = _smooth(made.envelope, ENVELOPE_FRAMES)[0, cut] * self.envelope_gain
        envelope = (widened * self.envelope_scale + self.envelope_mean).numpy()
        envelope[:, 0] += np.float32(plan.style.energy_db / DB_PER_UNIT)
        noise = (made.aperiodicity[0, cut] * self.noise_scale + self.noise_mean).clamp_max(0.0).numpy()
        last = first + len(envelope)
        fine = made.pitch[0, cut].clamp(-LARGEST_FINE_PITCH, LARGEST_FINE_PITCH).numpy()
        normalised = plan.contours.pitch[first:last] + fine
        pitch = np.exp(normalised * float(self.pitch_scale) + float(self.pitch_mean))
        return Frames(
            envelope=envelope.astype(np.float32),
            aperiodicity=noise.astype(np.float32),
            pitch_hz=np.clip(pitch, 60.0, 600.0).astype(np.float32),
            voiced=(_smooth(made.voicing.clamp(-6, 6).unsqueeze(-1), VOICING_FRAMES)[0, cut, 0] > 0).numpy(),
            frame_ms=self.config.frame_ms,
            clause_ends=tuple(end - first for end in plan.contours.clause_ends if first < end <= last),
        )


def _smooth(values: Tensor, frames: int) -> Tensor:
    """Moving average over time, [B, T, D] -> same; shorter at the ends."""
    return functional.avg_pool1d(values.transpose(1, 2), frames, 1, frames // 2, count_include_pad=False).transpose(
        1, 2
    )
