"""The voice of the end-to-end presets: a speech decoder that reads the language model as it writes, and a codec.

Shapes: L tokens, H language-model width, T frames, C codebooks, n samples of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchaudio.functional import resample

from omni.answers import Answer, Written
from omni.audio.restyling import restyle
from omni.audio.world import SAMPLE_RATE_HZ as WORLD_HZ
from omni.backbones.empathy import TRAINED, shared
from omni.backbones.empathy_chat import EmpathyChat
from omni.backbones.mimi import Mimi, MimiStream
from omni.config import build
from omni.errors import ModelError
from omni.models.code_decoder import CodeDecoder, CodeDecoderConfig, CodeStream
from omni.models.emotion_head import FIRST
from omni.turns import Style

WEIGHTS, ABOUT = "decoder.safetensors", "decoder.yaml"
SPOKEN = "runs/2_speak/export"
#: A reply is at most this long, for a decoder that does not find its end.
LONGEST_FRAMES = 400
#: Frames that are decoded together after the first one: fewer calls, pieces of 320 ms.
GROUP_FRAMES = 4


def save_decoder(decoder: CodeDecoder, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to(dtype).contiguous() for k, v in decoder.state_dict().items()}, folder / WEIGHTS)
    (folder / ABOUT).write_text(yaml.safe_dump(asdict(decoder.config)), encoding="utf-8")


def load_decoder(folder: Path) -> CodeDecoder:
    """What `save_decoder` wrote. ModelError if it is missing or damaged."""
    try:
        sizes = yaml.safe_load((folder / ABOUT).read_text(encoding="utf-8"))
        decoder = CodeDecoder(build(CodeDecoderConfig, sizes, str(folder / ABOUT)))
        decoder.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # yaml, safetensors and torch raise their own kinds
        first = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            f"no speech decoder in {folder} ({first}); train recipes/empathy_omni/2_speak.yaml (docs/training.md), or name its "
            "folder in a preset of your own, under options: decoder"
        ) from error
    return decoder.eval()


class CodeVoice:
    """A `models.voice.Voice` that also follows answers as they are written.

    The emotion of the reply is the head's, read off the first tokens; the plan's style shapes only texts that `speak` is given.
    """

    def __init__(self, chat: EmpathyChat, decoder: CodeDecoder, mimi: Mimi, seed: int = 0) -> None:
        """ModelError if the decoder is of another language model."""
        if (decoder.config.llm_width, decoder.config.emotion) != (chat.head.squeeze.in_features, chat.head.emotion):
            raise ModelError("the speech decoder was trained with another language model; name the one it fits")
        self.chat, self.decoder, self.mimi, self.seed = chat, decoder.eval(), mimi, seed

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        whisper: Path | None = None,
        wavlm: Path | None = None,
        mimi: Path | None = None,
        adapters: str = TRAINED,
        decoder: str = SPOKEN,
        seed: int = 0,
    ) -> CodeVoice:
        """From local folders; safetensors only, no code. `decoder` is the export of recipes/empathy_omni/2_speak.yaml."""
        if mimi is None:
            raise ModelError("name the codec in the preset, under also: mimi")
        chat = shared(folder, dtype, device, whisper, wavlm, adapters)
        return cls(chat, load_decoder(Path(decoder)).to(device, dtype), Mimi.load(mimi, dtype, device), seed)

    @property
    def sample_rate_hz(self) -> int:
        return self.mimi.sample_rate_hz

    # -- speaking ------------------------------------------------------------------------------------------------

    def speak(
        self, text: str, style: Style, states: Tensor | None = None, starts: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """See `Voice`; the language model reads the text aloud. A style other than neutral is laid over the whole of it."""
        if not any(c.isalnum() for c in text):
            return
        pieces = self._following(iter([self.chat.aloud(text)]))
        if (style.pitch, style.pitch_range, style.rate, style.energy_db) == (1.0, 1.0, 1.0, 0.0):
            yield from pieces
            return
        sound = torch.from_numpy(np.concatenate([*pieces, np.zeros(0, np.float32)]))
        if len(sound):
            shaped = restyle(resample(sound, self.sample_rate_hz, WORLD_HZ).numpy(), style)
            yield resample(torch.from_numpy(shaped), WORLD_HZ, self.sample_rate_hz).numpy()

    def follow(self, answers: Iterator[Answer]) -> Iterator[np.ndarray]:
        """See `Following`."""
        for first in answers:
            if first.written is None:  # not the model's own words
                for sentence in first.sentences:
                    yield from self.speak(sentence.text, first.reply.style)
                return

            def written(first: Answer = first) -> Iterator[Written]:
                yield from (a.written for a in chain([first], answers) if a.written is not None)

            yield from self._following(written())

    @torch.inference_mode()
    def _following(self, written: Iterator[Written]) -> Iterator[np.ndarray]:
        """Sound of what is written, each time all of it so far. The first FIRST tokens say how it shall sound."""
        sound = self.mimi.stream()
        group: list[list[int]] = []
        most = 1  # the first frame is heard at once
        for frame in self._frames(written):
            group.append(frame)
            if len(group) == most:
                yield self._decoded(sound, group)
                group, most = [], GROUP_FRAMES
        if group:
            yield self._decoded(sound, group)

    def _frames(self, written: Iterator[Written]) -> Iterator[list[int]]:
        stream: CodeStream | None = None
        now: Written | None = None
        read = 0
        for now in written:
            if len(now.states) >= FIRST:
                stream = stream or self._stream(now)
                yield from stream.push(now.embeddings[None, read:], now.states[None, read:])
                read = len(now.states)
        if now is None or not len(now.states):
            return
        stream = stream or self._stream(now)
        yield from stream.push(now.embeddings[None, read:], now.states[None, read:])
        yield from stream.finish(LONGEST_FRAMES)

    def _stream(self, now: Written) -> CodeStream:
        emotion = self.chat.head(now.states[None])
        return self.decoder.stream(emotion.to(self.decoder.begin.dtype), self.seed)

    def _decoded(self, sound: MimiStream, frames: list[list[int]]) -> np.ndarray:
        codes = torch.tensor(frames, device=self.decoder.begin.device).T[None]
        return sound.push(codes)[0].float().clamp(-1, 1).cpu().numpy()
