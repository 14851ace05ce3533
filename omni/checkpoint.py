"""A checkpoint is a folder: `config.yaml`, one safetensors file a part, `index.json` with hashes, a model card.

Nothing is ever unpickled; every file is checked against the index before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from omni.config import OmniConfig, load
from omni.errors import ModelError

DEFAULT = "omni-mini"
INDEX = "index.json"
#: A safetensors header larger than this is refused before it is parsed.
LARGEST_FILE_BYTES = 45_000_000


def locate(where: str | Path | None = None) -> Path:
    """The folder of a checkpoint: a path, a name under OMNI_HOME or the shipped one. ModelError says where it looked."""
    if where is not None and Path(where).is_dir():
        return Path(where)
    name = str(where or DEFAULT)
    places = [Path(__file__).parents[1] / "checkpoints" / name]
    if os.environ.get("OMNI_HOME"):
        places.insert(0, Path(os.environ["OMNI_HOME"]) / name)
        places.insert(1, Path(os.environ["OMNI_HOME"]))
    with suppress(ModuleNotFoundError):
        places.append(Path(str(resources.files("omni.weights"))) / name)
    for place in places:
        if (place / INDEX).is_file():
            return place
    looked = ", ".join(str(p) for p in places)
    raise ModelError(f"no checkpoint {name!r} (looked for {INDEX} in {looked}); give a folder or set OMNI_HOME")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `index["files"]` maps each file name to its hash, recipe, commit, licence and scores."""

    folder: Path
    config: OmniConfig
    index: dict[str, Any]

    def has(self, name: str) -> bool:
        return name in self.index["files"]

    def path(self, name: str) -> Path:
        """A file of the checkpoint, its hash checked. ModelError if it is missing, changed or too large."""
        path = self.folder / name
        entry = self.index["files"].get(name)
        if entry is None or not path.is_file():
            raise ModelError(f"{self.folder} lacks {name}; the checkpoint is incomplete, fetch it again")
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; a part may have {LARGEST_FILE_BYTES} at most")
        found = sha256(path)
        if found != entry["sha256"]:
            raise ModelError(
                f"{path} is corrupt or was changed: sha256 {found[:12]}, expected {entry['sha256'][:12]}; fetch it again"
            )
        return path

    def weights(self, name: str) -> dict[str, Tensor]:
        """Tensors of a part in float32 (integers stay as they are). ModelError if the file is not safetensors."""
        path = self.path(name)
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own error type
            raise ModelError(f"{path} is not a readable safetensors file: {error}; fetch it again") from error
        return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def open_checkpoint(where: str | Path | None = None) -> Checkpoint:
    """Open a checkpoint folder and read its index and configuration. ModelError or ConfigError on anything unexpected."""
    folder = locate(where)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = index["files"]
        assert all(isinstance(entry["sha256"], str) and Path(name).name == name for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"{folder / INDEX} is missing or malformed ({error}); fetch the checkpoint again") from error
    checkpoint = Checkpoint(folder, OmniConfig(), index)
    return Checkpoint(folder, load(OmniConfig, checkpoint.path("config.yaml")), index)


def load_weights(module: Any, weights: dict[str, Tensor], name: str, optional: tuple[str, ...] = ()) -> None:
    """Copy weights into a module, shapes checked. ModelError names the first key that does not match."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]  # the rest says the same of every other tensor
        raise ModelError(f"{name} does not fit the configuration: {first[0].strip()}") from error
    missing = [m for m in missing if not m.endswith(optional)] if optional else missing
    if missing or unexpected:
        raise ModelError(f"{name} does not fit the configuration: missing {missing[:3]}, unexpected {unexpected[:3]}")
    module.eval()
