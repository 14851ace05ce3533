"""Typed, frozen, strict configuration: unknown keys are errors; every rate and length is derived here.

Units are in the names: `_hz`, `_s`, `_ms`, `_samples`, `_frames`. A preset or a checkpoint's `config.yaml` holds the
same blocks as `OmniConfig`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from omni.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class AudioConfig:
    """Front end shared by the listener and the perceiver, and the limits of a query."""

    sample_rate_hz: int = 16_000
    window_samples: int = 400  # 25 ms
    hop_samples: int = 160  # 10 ms
    fft_samples: int = 512
    mels: int = 80
    shortest_query_s: float = 0.1
    longest_query_s: float = 120.0
    largest_file_mb: float = 200.0

    @property
    def frame_rate_hz(self) -> float:
        """Log-mel frames a second (100)."""
        return self.sample_rate_hz / self.hop_samples


@dataclass(frozen=True)
class ListenerConfig:
    """Conformer over log-mels with a U-shaped frame rate: `outer` layers at 25 Hz, `inner` ones at 12.5 Hz."""

    width: int = 192
    feedforward: int = 768
    heads: int = 4
    kernel_frames: int = 15
    outer_layers: int = 2
    inner_layers: int = 6
    last_layers: int = 2
    dropout: float = 0.1
    window_s: float = 30.0  # longer sound is heard in windows of this length

    subsampling: typing.ClassVar[int] = 4

    @property
    def layers(self) -> int:
        return self.outer_layers + self.inner_layers + self.last_layers


@dataclass(frozen=True)
class PerceiverConfig:
    """Emotion perceiver: a convolutional trunk of its own, a learned sum of the listener's layers, and prosody."""

    width: int = 96
    vector: int = 64
    blocks: int = 4
    kernel_frames: int = 7
    dropout: float = 0.3
    members: int = 4  # small networks whose vectors are averaged; they share the heads
    mixes: int = 4  # learned weighted sums over the listener's layers, side by side
    listener_layers: int = 10
    listener_width: int = 192
    use_trunk: bool = True
    use_layers: bool = True
    use_prosody: bool = True


@dataclass(frozen=True)
class LlmConfig:
    """Small decoder-only model; the sizes of a transformers `Qwen2Config`."""

    vocabulary: int = 8000
    width: int = 256
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 4
    feedforward: int = 768
    copy_heads: int = 0  # pointer heads that take up words from the context; 0: none
    exemplars: int = 0  # written exchanges like the query that are shown before it; 0: none
    exemplars_tried: int = 3  # so many of these are shown side by side, each to as many of the candidates
    context_tokens: int = 512
    history_turns: int = 4
    reply_tokens: int = 60
    reads_match: bool = False  # true once the corpus says how voice and words stand to each other
    temperature: float = 0.5
    top_p: float = 0.9
    candidates: int = 12
    frequency_penalty: float = 1.0  # nats off a content word's next saying for each time it was said in the reply
    int8: bool = True  # linear layers in 8-bit integers when answering; training never is
    forced_penalty: float = 6.0  # nats off a candidate for each place where the likeliest word was not allowed
    blocked_run_words: int = 8  # a run of this many words of a training reply is never said again


@dataclass(frozen=True)
class DecoderConfig:
    """Expressive decoder: reply units, LLM states and style in; acoustic frames (WORLD) out."""

    width: int = 192
    encoder_layers: int = 3
    decoder_layers: int = 4
    heads: int = 4
    feedforward: int = 448
    kernel_frames: int = 7
    dropout: float = 0.05
    speakers: int = 1
    cepstrum: int = 40  # coded spectral envelope
    aperiodicity: int = 1  # coded band aperiodicity at 16 kHz
    frame_ms: float = 5.0
    frames_per_step: int = 2  # frames in a step of 10 ms, the unit of durations
    fold_steps: int = 2  # steps that the frame decoder works on at once
    style_vector: int = 7  # utterance-level prosody, see `models/style.py`
    llm_width: int = 256
    reads_llm_states: bool = False  # true once the gate was trained (stage 2)


@dataclass(frozen=True)
class VocoderConfig:
    """Which vocoder speaks by default, and the neural one's size."""

    kind: str = "world"  # or "neural"
    width: int = 192
    layers: int = 6
    feedforward: int = 512
    kernel_frames: int = 7
    look_ahead_frames: int = 4
    fft_samples: int = 512
    cepstrum: int = 40
    aperiodicity: int = 1
    chunk_frames: int = 60


@dataclass(frozen=True)
class OmniConfig:
    """A checkpoint's or preset's whole configuration."""

    name: str = "omni-mini"
    audio: AudioConfig = field(default_factory=AudioConfig)
    listener: ListenerConfig = field(default_factory=ListenerConfig)
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)


def build(cls: type[T], values: Any, where: str = "config") -> T:
    """Make the dataclass `cls` from plain YAML values, refusing unknown keys and wrong types by name."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a block of keys for {cls.__name__}, got {values!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(names)}")
    made = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}; required: {', '.join(missing)}")
    return cls(**made)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if hint is Any:
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        items = [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a block of keys, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def load(cls: type[T], path: Path) -> T:
    """Read the dataclass `cls` from a YAML file. ConfigError names the file and the key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no such file: {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    return build(cls, values or {}, str(path))


def dump(config: Any) -> str:
    """The YAML text of a configuration dataclass; `build` reads it back to an equal one."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
