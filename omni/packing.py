"""Collect the exports of training runs into a checkpoint folder: files, config, index with hashes and scores, card."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omni.card import card
from omni.checkpoint import INDEX, LARGEST_FILE_BYTES, sha256
from omni.config import OmniConfig, build, dump
from omni.errors import ModelError

CC_BY = "CC BY 4.0"
CC_BY_NC_SA = "CC BY-NC-SA 4.0"


@dataclass(frozen=True)
class PartFile:
    """One file of a checkpoint: the run and name it comes from, the recipe, what it saw, its licence."""

    run: str
    name: str
    recipe: str
    data: str
    licence: str
    required: bool = True


_TALK = "Self-dialogue corpus (BSD-3-Clause), Topical-Chat (CDLA-Sharing 1.0), the project's exchanges (CC0)"
_READ = "mini LibriSpeech (CC BY 4.0), readings by flite and espeak-ng voices"
_FELT = "RAVDESS and Indian EmoSpeech (CC BY-NC-SA 4.0), LibriSpeech (CC BY 4.0)"
FILES: tuple[PartFile, ...] = (
    PartFile("listener", "listener.safetensors", "recipes/mini/0_listener.yaml", _READ, CC_BY),
    PartFile(
        "words",
        "words.safetensors",
        "recipes/mini/0_words.yaml",
        f"{_TALK}, GoEmotions (CC BY 4.0), LibriSpeech transcripts",
        CC_BY,
    ),
    PartFile("perceiver", "perceiver.safetensors", "recipes/mini/0_perceiver_layers.yaml", _FELT, CC_BY_NC_SA),
    PartFile("sentiment", "sentiment.safetensors", "recipes/mini/0_sentiment.yaml", "GoEmotions (CC BY 4.0)", CC_BY),
    PartFile("express", "language_model.safetensors", "recipes/mini/2_express.yaml", _TALK, CC_BY),
    PartFile("express", "tokenizer.json", "recipes/mini/0_language_model.yaml", _TALK, CC_BY),
    PartFile("express", "names.json", "recipes/mini/0_language_model.yaml", _TALK, CC_BY),
    PartFile("express", "spoken_before.safetensors", "recipes/mini/2_express.yaml", "the project's exchanges", "CC0"),
    PartFile(
        "express",
        "exemplars.safetensors",
        "recipes/mini/2_express.yaml",
        "the project's exchanges (training nine tenths)",
        "CC0",
        False,
    ),
    PartFile(
        "listen_perceive", "speech_adapter.safetensors", "recipes/mini/1_listen_perceive.yaml", _READ, CC_BY, False
    ),
    PartFile(
        "listen_perceive",
        "emotion_adapter.safetensors",
        "recipes/mini/1_listen_perceive.yaml",
        _FELT,
        CC_BY_NC_SA,
        False,
    ),
    PartFile("voice_express", "voice.safetensors", "recipes/mini/2_voice.yaml", "LibriSpeech (CC BY 4.0)", CC_BY),
    PartFile("vocoder", "vocoder.safetensors", "recipes/mini/0_vocoder.yaml", "LibriSpeech (CC BY 4.0)", CC_BY, False),
)
#: Configuration block -> (run, file of its export).
BLOCKS = {
    "listener": ("listener", "listener.yaml"),
    "perceiver": ("perceiver", "perceiver.yaml"),
    "llm": ("express", "llm.yaml"),
    "decoder": ("voice_express", "voice.yaml"),
    "vocoder": ("vocoder", "vocoder.yaml"),
}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _scores(run: Path) -> dict[str, Any]:
    """The last validation figures of a run: `export/scores.json` where the task writes one, else its metrics file."""
    own = run / "export" / "scores.json"
    if own.exists():
        return {f"valid_{k}": v for k, v in json.loads(own.read_text(encoding="utf-8")).get("scores", {}).items()}
    path = run / "metrics.jsonl"
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    valid = [r for r in rows if any(k.startswith("valid_") for k in r)]
    return valid[-1] if valid else {}


def pack(runs: Path, out: Path, results: Path | None = Path("docs/results")) -> Path:
    """Copy exports into `out`, write its config, index and card. ModelError names a part that is missing or too large."""
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for part in FILES:
        source = runs / part.run / "export" / part.name
        if not source.exists():
            if part.required:
                raise ModelError(f"{source} is missing: train it first with {part.recipe}")
            continue
        if source.stat().st_size > LARGEST_FILE_BYTES:
            raise ModelError(f"{source} has {source.stat().st_size} bytes; at most {LARGEST_FILE_BYTES} are shipped")
        shutil.copyfile(source, out / part.name)
        (out / part.name).chmod(0o644)
        files[part.name] = {
            "sha256": sha256(out / part.name),
            "recipe": part.recipe,
            "commit": _commit(),
            "data": part.data,
            "licence": part.licence,
            "scores": _scores(runs / part.run),
        }
    values = {
        block: yaml.safe_load((runs / run / "export" / name).read_text(encoding="utf-8"))
        for block, (run, name) in BLOCKS.items()
        if (runs / run / "export" / name).exists()
    }
    config = build(OmniConfig, {"name": out.name, **values}, "the exports' configuration")
    (out / "config.yaml").write_text(dump(config), encoding="utf-8")
    files["config.yaml"] = {"sha256": sha256(out / "config.yaml"), "commit": _commit(), "licence": "Apache-2.0"}
    index = {"name": out.name, "files": files}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(index, results), encoding="utf-8")
    return out / INDEX
