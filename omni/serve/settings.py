"""What a client may set of a realtime session, and how it is told what is set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from omni.errors import UsageError
from omni.serve.limits import Refusal
from omni.serve.sound import RAW_HZ
from omni.talking.detector import SpeechDetector
from omni.talking.session import Listening

PCM = {"type": "audio/pcm", "rate": RAW_HZ}
TURNS = {
    "threshold": "threshold",
    "silence_duration_ms": "silence_ms",
    "prefix_padding_ms": "prefix_ms",
    "create_response": "answers",
    "interrupt_response": "interrupts",
}


@dataclass(frozen=True)
class Settings:
    """A session's settings. `aloud`: sound is wanted beside the words; `transcribes`: transcripts of what was said."""

    name: str
    model: str
    listening: Listening = field(default_factory=Listening)
    aloud: bool = True
    transcribes: bool = True
    instructions: str = ""

    def plain(self) -> dict[str, Any]:
        """The session object of the Realtime API."""
        turns = {"type": "server_vad", **{theirs: getattr(self.listening, ours) for theirs, ours in TURNS.items()}}
        return {
            "id": self.name,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.model,
            "output_modalities": ["audio"] if self.aloud else ["text"],
            "instructions": self.instructions,
            "audio": {
                "input": {
                    "format": PCM,
                    "transcription": {"model": self.model} if self.transcribes else None,
                    "turn_detection": turns if self.listening.hands_free else None,
                },
                "output": {"format": PCM, "voice": "omni"},
            },
        }


def updated(settings: Settings, asked: Any) -> Settings:
    """The settings after a `session.update`. Refusal, by field, of what there is not."""
    if not isinstance(asked, dict):
        raise _refused("session", "must be an object")
    if asked.get("type", "realtime") != "realtime":
        raise _refused("session.type", f"{asked['type']!r} is not served; use 'realtime'")
    if asked.get("tools"):
        raise _refused("session.tools", "tools are not called here; leave them out")
    if "instructions" in asked:
        settings = replace(settings, instructions=str(asked["instructions"])[:10_000])
    if "output_modalities" in asked:
        settings = replace(settings, aloud=wants_sound(asked["output_modalities"], "session.output_modalities"))
    audio = asked.get("audio") or {}
    if not isinstance(audio, dict):
        raise _refused("session.audio", "must be an object")
    given, made = (audio.get(name) or {} for name in ("input", "output"))
    if not isinstance(given, dict) or not isinstance(made, dict):
        raise _refused("session.audio", "input and output must be objects")
    for name, part in (("input", given), ("output", made)):
        form = part.get("format") or PCM
        if not isinstance(form, dict) or form.get("type") != "audio/pcm" or form.get("rate", RAW_HZ) != RAW_HZ:
            raise _refused(f"session.audio.{name}.format", f"must be audio/pcm at {RAW_HZ} Hz (16 bits, mono)")
    if "transcription" in given:
        settings = replace(settings, transcribes=given["transcription"] is not None)
    if "turn_detection" in given:
        settings = replace(settings, listening=_listening(settings.listening, given["turn_detection"]))
    return settings


def wants_sound(modalities: Any, param: str) -> bool:
    """Whether sound is among the modalities. Refusal unless they are ["audio"] or ["text"]."""
    if modalities not in (["audio"], ["text"]):
        raise _refused(param, 'must be ["audio"] (with its transcript) or ["text"]')
    return modalities == ["audio"]


def _listening(listening: Listening, asked: Any) -> Listening:
    place = "session.audio.input.turn_detection"
    if asked is None:
        return replace(listening, hands_free=False)
    if not isinstance(asked, dict) or asked.get("type") != "server_vad":
        raise _refused(place, "must be null (commit each turn yourself) or of type server_vad")
    changes: dict[str, Any] = {"hands_free": True}
    for theirs, ours in TURNS.items():
        value = asked.get(theirs)
        if value is None:
            continue
        wanted = bool if ours in ("answers", "interrupts") else (int, float)
        if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            raise _refused(f"{place}.{theirs}", f"{value!r} is no {'boolean' if wanted is bool else 'number'}")
        changes[ours] = int(value) if ours.endswith("_ms") else value
    changed = replace(listening, **changes)
    try:
        SpeechDetector(changed.threshold, changed.silence_ms, changed.prefix_ms)
    except UsageError as error:
        raise _refused(place, str(error)) from error
    return changed


def _refused(param: str, message: str) -> Refusal:
    return Refusal(400, "invalid_value", f"{param}: {message}", param)
