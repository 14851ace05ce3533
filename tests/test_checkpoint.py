"""Checkpoints: packed, opened, checked; whatever is missing, changed or of another size is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import omni.checkpoint
from omni.assemble import assemble, listening_part
from omni.checkpoint import INDEX, load_weights, locate, open_checkpoint, sha256
from omni.errors import ConfigError, ModelError
from omni.models.voice import ExpressiveVoice
from omni.packing import FILES, pack
from tests.tiny import TINY


def reindex(folder: Path, name: str) -> None:
    """Write a changed file's hash into the index, as whoever changed it on purpose would."""
    index = json.loads((folder / INDEX).read_text())
    index["files"][name]["sha256"] = sha256(folder / name)
    (folder / INDEX).write_text(json.dumps(index))


def test_pack_writes_every_part_with_hash_licence_and_scores(checkpoint: Path) -> None:
    index = json.loads((checkpoint / INDEX).read_text())
    required = {p.name for p in FILES if p.required} | {"config.yaml"}
    assert required <= set(index["files"]) <= {p.name for p in checkpoint.iterdir()}
    for name, entry in index["files"].items():
        assert entry["sha256"] == sha256(checkpoint / name)
        assert entry["licence"]
    assert index["files"]["listener.safetensors"]["scores"] == {"step": 2, "valid_phone_error_rate": 0.5}
    assert "NC" in index["files"]["perceiver.safetensors"]["licence"]
    for free in ("listener.safetensors", "language_model.safetensors", "voice.safetensors"):
        assert "NC" not in index["files"][free]["licence"]


def test_the_configuration_is_that_of_the_exports(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    assert opened.config.name == "tiny"
    for block in ("listener", "perceiver", "decoder"):
        assert getattr(opened.config, block) == getattr(TINY, block)
    assert opened.config.llm.width == TINY.llm.width


def test_pack_names_the_part_that_is_missing(runs: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(runs, tmp_path / "runs"))
    (copy / "voice_express" / "export" / "voice.safetensors").unlink()
    with pytest.raises(ModelError, match=r"voice\.safetensors is missing: train it first with recipes/mini/2_voice"):
        pack(copy, tmp_path / "out")


def test_pack_refuses_a_part_that_is_too_large(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni.packing.LARGEST_FILE_BYTES", 1000)
    with pytest.raises(ModelError, match="at most 1000 are shipped"):
        pack(runs, tmp_path / "out")


def test_weights_come_back_in_full_precision(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    floats = opened.weights("listener.safetensors")
    assert {v.dtype for v in floats.values()} == {torch.float32}
    assert opened.weights("spoken_before.safetensors")["hashes"].dtype == torch.int64


def test_a_whole_checkpoint_assembles_in_evaluation_mode(checkpoint: Path) -> None:
    parts = assemble(open_checkpoint(checkpoint))
    assert isinstance(parts.voice, ExpressiveVoice)
    responder = parts.responder
    modules = [parts.listener.encoder, parts.perceiver, responder.llm, parts.voice.decoder, responder.adapter]
    assert not any(m.training for module in modules for m in module.modules())
    assert parts.responder.llm.blocker is not None
    head, embedding = parts.responder.llm.model.lm_head, parts.responder.llm.model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert torch.allclose(head.weight().dequantize(), embedding.weight, atol=1e-3)  # tied after loading, then in int8


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("name", sorted({p.name for p in FILES if p.required} | {"config.yaml"}))
@pytest.mark.parametrize("damage", [flip, cut], ids=["one bit", "cut short"])
def test_any_changed_file_is_noticed(own_checkpoint: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(own_checkpoint / name)
    with pytest.raises(ModelError, match=rf"{name} is corrupt or was changed: sha256 \w+, expected \w+"):
        open_checkpoint(own_checkpoint).path(name)


@pytest.mark.parametrize("name", [p.name for p in FILES if p.required])
def test_any_missing_file_is_named(own_checkpoint: Path, name: str) -> None:
    (own_checkpoint / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        assemble(open_checkpoint(own_checkpoint))


def test_a_file_that_is_no_safetensors_is_refused_although_its_hash_fits(own_checkpoint: Path) -> None:
    import pickle

    (own_checkpoint / "voice.safetensors").write_bytes(pickle.dumps({"a": 1}))
    reindex(own_checkpoint, "voice.safetensors")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        assemble(open_checkpoint(own_checkpoint))


def test_a_huge_file_is_refused_before_it_is_read(own_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni.checkpoint, "LARGEST_FILE_BYTES", 2000)
    with pytest.raises(ModelError, match="a part may have 2000 at most"):
        open_checkpoint(own_checkpoint).path("listener.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"files": []}', '{"files": {"a": {}}}', '{"files": {"a": 3}}', '{"files": 3}',
     '{"files": {"../a": {"sha256": "0"}}}', '{"files": {"a": {"sha256": 3}}}'],
)  # fmt: skip
def test_a_malformed_index_is_refused(own_checkpoint: Path, text: str) -> None:
    (own_checkpoint / INDEX).write_text(text)
    with pytest.raises(ModelError, match=r"index\.json is missing or malformed"):
        open_checkpoint(own_checkpoint)


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    reindex(folder, "config.yaml")


def test_an_unknown_key_of_the_configuration_is_named(own_checkpoint: Path) -> None:
    change_config(own_checkpoint, lambda v: v["llm"].update(wdith=3))
    with pytest.raises(ConfigError, match=r"config\.yaml\.llm: unknown key 'wdith'"):
        open_checkpoint(own_checkpoint)


@pytest.mark.parametrize(
    ("block", "key", "value", "part"),
    [
        ("listener", "width", 24, "listener"),
        ("listener", "inner_layers", 2, "listener"),
        ("perceiver", "blocks", 3, "perceiver"),
        ("llm", "layers", 1, "language_model"),
        ("llm", "width", 48, "language_model"),
        ("decoder", "width", 32, "voice"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    own_checkpoint: Path, block: str, key: str, value: int, part: str
) -> None:
    change_config(own_checkpoint, lambda v: v[block].update({key: value}))
    with pytest.raises(ModelError, match=rf"{part}\.safetensors does not fit the configuration"):
        assemble(open_checkpoint(own_checkpoint))


def test_a_renamed_tensor_is_named(own_checkpoint: Path) -> None:
    path = own_checkpoint / "listener.safetensors"
    tensors = load_file(path)
    tensors["surprise"] = tensors.pop("head.bias")
    save_file(tensors, path)
    reindex(own_checkpoint, "listener.safetensors")
    with pytest.raises(ModelError, match=r"missing \['head\.bias'\], unexpected \['surprise'\]"):
        listening_part(open_checkpoint(own_checkpoint))


def test_load_weights_forgives_only_what_is_optional() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"missing \['bias'\]"):
        load_weights(module, {"weight": torch.zeros(2, 2)}, "a")
    load_weights(module, {"weight": torch.zeros(2, 2)}, "a", optional=("bias",))
    assert not module.training
    with pytest.raises(ModelError, match="size mismatch"):
        load_weights(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "a")


# -- where it is looked for --------------------------------------------------------------------------------------------


def test_omni_home_holds_a_checkpoint_or_a_folder_of_them(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_HOME", str(checkpoint))
    assert locate() == checkpoint
    monkeypatch.setenv("OMNI_HOME", str(checkpoint.parent))
    assert locate("tiny") == checkpoint


def test_where_it_looked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=rf"no checkpoint 'huge' \(looked for index\.json in {tmp_path}/huge"):
        locate("huge")
    with pytest.raises(ModelError, match=r"index\.json is missing or malformed"):
        open_checkpoint(tmp_path)  # a folder, but no checkpoint
