"""Published models: where they lie on this machine, and fetching them once.

Only weights, configurations and tokenizers are fetched, never code. Weights that exist only as pickles are read once, with
`weights_only`, and kept as safetensors. What a name stood for when it was fetched is written down (`LOCK`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors.torch import save_file

from omni.errors import ModelError
from omni.files import atomic_write

LOCK = "omni-models.lock.json"
CONVERTED = "model.safetensors"
#: What may be fetched of a model.
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")
#: Beside the files themselves so much of the disk stays free.
SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Remote:
    """A published model as the hub describes it: the commit it stands for, and the size of each wanted file."""

    name: str
    commit: str
    files: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.files.values())

    @property
    def pickled(self) -> bool:
        return any(fnmatch(f, p) for f in self.files for p in _PICKLES)


def home() -> Path:
    """Where fetched and converted models are noted: OMNI_HOME, else a folder of the user's cache."""
    given = os.environ.get("OMNI_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(cache) if cache else Path.home() / ".cache") / "omni"


def offline() -> bool:
    """Whether the hub may not be asked (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def locked() -> dict[str, str]:
    """Model -> commit, of everything that was fetched."""
    path = home() / LOCK
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(k): str(v) for k, v in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is not readable ({error}); delete it and fetch the models again") from error


def folder_of(model: str, revision: str | None = None) -> Path:
    """The local folder of a model: itself if it is one, else where it was fetched to. Never asks the network.

    ModelError if it was not fetched.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    commit = revision or locked().get(model)
    converted = _converted(model, commit) if commit else None
    if converted is not None and (converted / CONVERTED).is_file():
        return converted
    try:
        found = Path(snapshot_download(model, revision=commit, local_files_only=True, allow_patterns=list(WANTED)))
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor the name of a published model") from error
    except (LocalEntryNotFoundError, IncompleteSnapshotError) as error:
        raise ModelError(f"{model} is not on this machine") from error
    if not any(found.glob("*.safetensors")):
        raise ModelError(f"{model} has no safetensors on this machine, and nothing else is read")
    return found


def describe(model: str, revision: str | None = None) -> Remote:
    """What would be fetched of a model. ModelError if the hub cannot be asked or refuses."""
    if offline():
        raise ModelError(f"{model} cannot be fetched while HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        found = HfApi().model_info(model, revision=revision, files_metadata=True)
    except GatedRepoError as error:
        raise ModelError(f"{model} is gated: accept its terms on its page and log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{model} was not found on the hub (or is private: log in with `hf auth login`)") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{model}: the hub cannot be reached ({type(error).__name__}); try again") from error
    sizes = {s.rfilename: int(s.size or 0) for s in found.siblings or []}
    return Remote(model, found.sha or "", _wanted(sizes))


def _wanted(sizes: Mapping[str, int]) -> dict[str, int]:
    """Files of the top folder that are fetched; pickles only where there are no safetensors."""
    plain = {n: b for n, b in sizes.items() if "/" not in n and any(fnmatch(n, p) for p in WANTED)}
    if any(n.endswith(".safetensors") for n in plain):
        return plain
    return plain | {n: b for n, b in sizes.items() if any(fnmatch(n, p) for p in _PICKLES)}


def check_space(remotes: Sequence[Remote], folder: Path | None = None) -> None:
    """ModelError unless the disk of the hub's cache holds all of them, pickled ones twice."""
    if folder is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE)
    needed = sum(r.total_bytes * (2 if r.pickled else 1) for r in remotes) + SPARE_BYTES
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{needed / 1e9:.1f} GB are needed in {folder} and {free / 1e9:.1f} GB are free; make room or set HF_HOME"
        )


def fetch(remote: Remote, say: Callable[[str], None] = print) -> Path:
    """Fetch a model (an interrupted fetch goes on where it stopped), convert pickles, note the commit. Returns its folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(remote.name, revision=remote.commit, allow_patterns=list(remote.files)))
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{remote.name}: the download broke off ({type(error).__name__}); run the same command again to go on"
        ) from error
    if remote.pickled:
        say(f"{remote.name}: converting pickled weights to safetensors")
        folder = convert(folder, _converted(remote.name, remote.commit))
    _note(remote)
    return folder


def _note(remote: Remote) -> None:
    home().mkdir(parents=True, exist_ok=True)
    with atomic_write(home() / LOCK, force=True) as path:
        path.write_text(json.dumps(dict(sorted({**locked(), remote.name: remote.commit}.items())), indent=2) + "\n")


def _converted(model: str, commit: str) -> Path:
    return home() / "converted" / model.replace("/", "--") / commit


def convert(folder: Path, out: Path) -> Path:
    """Read pickled weights once with `weights_only` and write safetensors; the other files are copied.

    ModelError if a pickle holds anything but tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(p for pattern in _PICKLES for p in folder.glob(pattern)):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            tensors |= {name: tensor.clone().contiguous() for name, tensor in found.items()}
        except Exception as error:  # whatever a pickle may hold
            raise ModelError(f"{path} holds something other than weights and is not read: {error}") from error
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".bin" and not path.name.endswith(".bin.index.json"):
            shutil.copyfile(path, partial / path.name)
    save_file(tensors, partial / CONVERTED, metadata={"format": "pt"})
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out
