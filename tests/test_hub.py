"""Fetching published models from a hub that runs on this machine."""

from __future__ import annotations

import contextlib
import pickle
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni import hub
from omni.cli import main
from omni.errors import ModelError
from tests.fake_hub import COMMIT, FakeHub, serving


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Three models: one in safetensors (with code and a pickle beside them), one pickled, one with an evil pickle."""
    models = {name: tmp_path / "models" / name.replace("/", "_") for name in ("org/safe", "org/old", "org/evil")}
    for folder in models.values():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "modeling_evil.py").write_text("raise SystemExit")
    save_file({"weight": torch.arange(50_000.0)}, models["org/safe"] / "model.safetensors")
    torch.save({"weight": torch.ones(3)}, models["org/safe"] / "pytorch_model.bin")
    torch.save({"weight": torch.ones(3), "tied": torch.ones(3)}, models["org/old"] / "pytorch_model.bin")
    (models["org/evil"] / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
    with serving(models, tmp_path / "cache", monkeypatch) as found:
        yield found


def test_only_weights_and_configurations_are_fetched(served: FakeHub) -> None:
    with pytest.raises(ModelError, match="org/safe is not on this machine"):
        hub.folder_of("org/safe")
    remote = hub.describe("org/safe")
    assert remote.commit == COMMIT
    assert set(remote.files) == {"config.json", "model.safetensors"}
    assert remote.total_bytes > 200_000
    folder = hub.fetch(remote)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert hub.locked() == {"org/safe": COMMIT}
    served.asked.clear()
    assert hub.folder_of("org/safe") == folder
    assert hub.folder_of(str(folder)) == folder
    assert not served.asked


def test_pickled_weights_become_safetensors(served: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub.fetch(hub.describe("org/old"))
    assert "converting pickled weights" in capsys.readouterr().out
    assert hub.folder_of("org/old") == folder
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors")["tied"].tolist() == [1, 1, 1]


def test_a_pickle_with_anything_else_is_not_read(served: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"pytorch_model\.bin holds something other than weights"):
        hub.fetch(hub.describe("org/evil"))
    assert "code ran" not in capsys.readouterr().out
    assert hub.locked() == {}
    with pytest.raises(ModelError, match="is not on this machine"):
        hub.folder_of("org/evil")


def test_an_interrupted_fetch_goes_on_where_it_stopped(served: FakeHub) -> None:
    served.cut = "model.safetensors"
    remote = hub.describe("org/safe")
    with contextlib.suppress(ModelError):  # the library may try again by itself
        hub.fetch(remote)
    folder = hub.fetch(remote)
    assert load_file(folder / "model.safetensors")["weight"].tolist()[-1] == 49_999
    assert sum(path.endswith("/model.safetensors") for path in served.asked) == 2


def test_what_cannot_be_fetched_is_said(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="org/none was not found on the hub"):
        hub.describe("org/none")
    with pytest.raises(ModelError, match="neither a folder nor the name"):
        hub.folder_of("no/such/folder")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="while HF_HUB_OFFLINE is set"):
        hub.describe("org/safe")


def test_the_disk_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage(9e9, 0, 3e9))
    small = hub.Remote("a/b", "c", {"model.safetensors": 1_900_000_000})
    hub.check_space([small], tmp_path / "not" / "there" / "yet")
    pickled = hub.Remote("a/b", "c", {"pytorch_model.bin": 1_100_000_000})
    with pytest.raises(ModelError, match=r"3\.2 GB are needed .* 3\.0 GB are free; make room or set HF_HOME"):
        hub.check_space([pickled], tmp_path)


def test_a_damaged_lock_is_named(served: FakeHub) -> None:
    hub.home().mkdir(parents=True)
    (hub.home() / hub.LOCK).write_text("[1")
    with pytest.raises(ModelError, match=r"is not readable .* delete it"):
        hub.folder_of("org/safe")


def test_download_says_what_it_fetches(served: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    parts = dict.fromkeys(
        ("listener", "perceiver", "sentiment", "voice"), "{kind: omni-mini, model: omni-mini, licence: x}"
    )
    lines = "".join(f"  {p}: {text}\n" for p, text in parts.items())
    own.write_text(f"about: mine\nparts:\n{lines}  responder: {{kind: chat, model: org/safe, licence: MIT}}\n")
    assert main(["download", str(own), "--dry-run"]) == 0
    assert "responder  org/safe  0.00 GB  MIT" in capsys.readouterr().out
    assert hub.locked() == {}
    assert main(["download", str(own)]) == 0
    assert "org/safe -> " in capsys.readouterr().out
    assert hub.locked() == {"org/safe": COMMIT}
    assert main(["download", "omni-mini"]) == 0
    assert "needs nothing" in capsys.readouterr().out
    assert main(["download", "no-such-preset"]) == 5
    assert "choose from cascade, " in capsys.readouterr().err
