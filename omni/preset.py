"""A preset says which implementation and which published model stands for each part of the assistant.

One YAML file each in `omni/presets/`; `--preset` takes a name or the path of a file of one's own. A part's `model` is a
name on the hub or a local folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from omni.config import build
from omni.errors import ConfigError

#: The kind of a part of this project's own; its `model` is a checkpoint.
OWN = "omni-mini"
#: Parts that a preset must name, in the order in which a query passes through them.
PARTS = ("listener", "perceiver", "sentiment", "responder", "voice")


@dataclass(frozen=True)
class PartSpec:
    """One part: the `kind` of implementation, the `model` that it loads, and what that model may be used for.

    `revision` is a commit of the model; None takes what is newest when it is fetched. `also` names further models that the
    implementation needs, each by the name it has there. `options` go to the implementation.
    """

    kind: str
    model: str
    licence: str
    revision: str | None = None
    also: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A named set of parts. `dtype` is auto (bfloat16 on a GPU, float32 else), float32, bfloat16 or float16."""

    name: str
    about: str
    parts: Mapping[str, PartSpec]
    dtype: str = "auto"

    def models(self) -> list[tuple[str, PartSpec]]:
        """(part, spec) of what has to be fetched, each model once."""
        found: dict[tuple[str, str | None], tuple[str, PartSpec]] = {}
        for part, spec in self.parts.items():
            if spec.kind != OWN:
                found.setdefault((spec.model, spec.revision), (part, spec))
                for other in spec.also.values():
                    found.setdefault((other, None), (part, PartSpec(spec.kind, other, "")))
        return list(found.values())


@dataclass(frozen=True)
class _File:
    about: str
    parts: dict[str, Any]
    dtype: str = "auto"


def names() -> list[str]:
    """The presets that are shipped."""
    folder = resources.files("omni") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """A shipped preset by name, or one of your own by the path of its file. ConfigError names what is wrong with it."""
    own = Path(name)
    if own.suffix in (".yaml", ".yml"):
        if not own.is_file():
            raise ConfigError(f"no preset file {name}")
        text, where = own.read_text(encoding="utf-8"), str(own)
    elif name in names():
        text, where = (resources.files("omni") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"), name
    else:
        raise ConfigError(f"no preset {name!r}; choose from {', '.join(names())}, or give the path of a YAML file")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not readable YAML: {error}") from error
    return _preset(own.stem if own.suffix in (".yaml", ".yml") else name, values, where)


def _preset(name: str, values: Any, where: str) -> Preset:
    found = build(_File, values, where)
    unknown = sorted(set(found.parts) - set(PARTS))
    missing = [p for p in PARTS if p not in found.parts]
    if unknown or missing:
        wrong = f"unknown part {unknown[0]!r}" if unknown else f"missing part {missing[0]!r}"
        raise ConfigError(f"{where}: {wrong}; a preset names {', '.join(PARTS)}")
    parts = {part: build(PartSpec, found.parts[part], f"{where}.parts.{part}") for part in PARTS}
    return Preset(name, found.about, parts, found.dtype)
