"""LPE at run time: one frozen instruct model listens, perceives and expresses (Listen, Perceive, Express; arXiv 2501.10937).

Listener, perceiver and responder are three views of one `SpeechChat`: the words are what it writes of the sound, the
emotion is the adapter's own verdict, and the reply follows in the same turn, the sound still before it. Express is a
prompt alone.
Shapes: N samples, K slots, E emotions, H language-model width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni.audio.vad import segments
from omni.backbones.chat import INSTRUCTION, ChatConfig, ChatResponder, _Reading, assistant_message
from omni.backbones.local import pretrained
from omni.backbones.speech_chat import FELT, HEARD, PERCEIVE_TASK, SOUND, STEPS_TASK, SpeechChat
from omni.backbones.speech_hearing import LpeHearing
from omni.backbones.speech_states import SAMPLE_RATE_HZ, WavlmStates
from omni.errors import InputError, ModelError
from omni.models.listener import Listening
from omni.models.perceiver import to_perception
from omni.phones import normalise
from omni.turns import EMOTIONS, Audio, Conversation, Heard, Perception

#: Ways of asking for the reply (LPE found the fixed steps best): all steps named; steps left open; no thought at all.
PROMPTS: dict[str, str] = {
    "steps": STEPS_TASK,
    "free": "Think about what is said and how the voice sounds, then answer.",
    "none": "Answer.",
}
WINDOW_S = 20.0
_LONGEST_TOKENS = 120


@lru_cache(maxsize=1)
def load_chat(folder: Path, wavlm: Path, adapters: Path, dtype: torch.dtype, device: str, bits: int = 0) -> SpeechChat:
    """The model that the three parts share. ModelError if the adapters are missing or of other models."""
    try:
        about = yaml.safe_load((adapters / "hearing.yaml").read_text(encoding="utf-8"))
        inner = int(about["inner"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"no adapters in {adapters} ({error}); train them with recipes/lpe (docs/training.md), or name their folder in a "
            "preset of your own, under options: adapters"
        ) from error
    llm = pretrained(AutoModelForCausalLM, folder, dtype, device, bits)
    width = llm.get_input_embeddings().weight.shape[1]
    hearing = LpeHearing(WavlmStates.load(wavlm, dtype, device), width, inner)
    hearing.restore(adapters)
    return SpeechChat(llm, AutoTokenizer.from_pretrained(folder, local_files_only=True), hearing.to(device).eval())


class _Part:
    """One of the three views."""

    def __init__(self, chat: SpeechChat) -> None:
        self.chat = chat.eval()

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        wavlm: Path | None = None,
        adapters: str = "runs/2_perceive/export",
        bits: int = 0,
    ) -> Any:
        """From local folders; safetensors only, no code. `adapters` is the export of recipes/lpe/2_perceive.yaml.

        `bits` (see `local.pretrained`) must be the same for all three views, which share one model.
        """
        if wavlm is None:
            raise ModelError("name the speech encoder in the preset, under also: wavlm")
        return cls(load_chat(folder, wavlm, Path(adapters), dtype, device, bits))


class LpeListener(_Part):
    """What the model writes of the sound. Its `Listening.layers` are the logits [1, E] of the emotion."""

    def listen(self, audio: Audio) -> Listening:
        """Words of a query of any length, in windows of 20 s; the slots of all windows go on to the responder."""
        if audio.sample_rate_hz != SAMPLE_RATE_HZ:
            raise InputError(f"WavLM hears sound of {SAMPLE_RATE_HZ} Hz, this has {audio.sample_rate_hz}; resample it")
        found = [self._window(audio.samples[a:b]) for a, b in segments(audio.samples, WINDOW_S)]
        weights = [max(1, len(text.split())) for text, _, _, _ in found]
        text = " ".join(text for text, _, _, _ in found if text)
        confidence = float(np.average([c for _, c, _, _ in found], weights=weights)) if text else 0.0
        sound = torch.cat([slots for _, _, slots, _ in found], dim=1)
        emotion = torch.stack([logits for _, _, _, logits in found]).mean(0)
        return Listening(Heard(text, confidence, sound=sound), [emotion])

    @torch.inference_mode()
    def _window(self, samples: np.ndarray) -> tuple[str, float, Tensor, Tensor]:
        heard = self.chat.hearing(samples)
        ids = self.chat.prompt([{"role": "user", "content": f"{SOUND}\n{PERCEIVE_TASK}"}], [heard.slots.shape[1]])
        ids += self.chat.plain(HEARD)
        stops = {self.chat.plain("\n")[0], int(self.chat.tokenizer.eos_token_id)}  # type: ignore[arg-type]
        written, confidence = self.chat.write(self.chat.embed(ids, [heard.slots]), list(stops), _LONGEST_TOKENS)
        text = normalise(str(self.chat.tokenizer.decode(written, skip_special_tokens=True)).split("\n")[0])
        assert heard.emotion is not None
        return text, confidence, heard.slots, heard.emotion.float().cpu()


class LpePerceiver(_Part):
    """The verdict of the emotion adapter. Intensity is the chance that any feeling is heard at all."""

    @torch.inference_mode()
    def perceive(self, samples: np.ndarray, layers: list[Tensor] | None = None) -> Perception:
        """How a clip [N] sounds; `layers` are the logits that the listener has found already."""
        logits = layers[0] if layers else None
        if logits is None or logits.shape[-1] != len(EMOTIONS):
            emotion = self.chat.hearing(np.asarray(samples, np.float32)).emotion
            assert emotion is not None
            logits = emotion.float().cpu()
        shares = logits[0].softmax(-1)
        calm = shares[EMOTIONS.index("neutral")] + shares[EMOTIONS.index("calm")]
        return to_perception(shares, float(1 - calm))


class LpeResponder(ChatResponder):
    """The thought and the reply after the sound itself. Turns without sound (heard by another listener) are told in words."""

    def __init__(self, chat: SpeechChat, config: ChatConfig | None = None, steps: str = "steps") -> None:
        """`steps` is one of PROMPTS. ModelError for another."""
        if steps not in PROMPTS:
            raise ModelError(f"steps {steps!r}; choose from {', '.join(PROMPTS)}")
        super().__init__(chat.llm, chat.tokenizer, config or ChatConfig())
        self.chat, self.steps = chat, steps

    @classmethod
    def load(  # type: ignore[override]
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        wavlm: Path | None = None,
        adapters: str = "runs/2_perceive/export",
        steps: str = "steps",
        reply_tokens: int = 80,
        temperature: float = 0.7,
        bits: int = 0,
    ) -> LpeResponder:
        """From local folders; safetensors only, no code."""
        shared = _Part.load(folder, dtype, device, wavlm, adapters, bits).chat
        return cls(shared, replace(ChatConfig(), reply_tokens=reply_tokens, temperature=temperature), steps)

    def _begin(self, heard: Heard, perception: Perception, conversation: Conversation) -> _Reading:
        messages = [{"role": "system", "content": INSTRUCTION}]
        slots: list[Tensor] = []
        for turn in conversation.turns[-self.config.history_turns :]:
            messages.append({"role": "user", "content": self._told(turn.heard, slots)})
            thought = self._thought(turn.heard, turn.perception)
            messages.append({"role": "assistant", "content": f"{thought}{assistant_message(turn.reply)}"})
        messages.append({"role": "user", "content": self._told(heard, slots)})
        ids = self.chat.prompt(messages, [s.shape[1] for s in slots]) + self._plain(self._thought(heard, perception))
        return self._read(ids, embeddings=self.chat.embed(ids, slots))

    def _told(self, heard: Heard, slots: list[Tensor]) -> str:
        if heard.sound is None:
            return f'The person said: "{heard.text}"\n{PROMPTS[self.steps]}'
        slots.append(heard.sound)
        return f"{SOUND}\n{PROMPTS[self.steps]}"

    def _thought(self, heard: Heard, perception: Perception) -> str:
        """What the model has written down before it plans: nothing but with the fixed steps."""
        return f"{HEARD} {heard.text}\n{FELT} {perception.emotion}\n" if self.steps == "steps" else ""
