"""Presets: chosen by name or file, parts replaced one by one, wired over tiny models of the published architectures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import yaml

from omni.assistant import Assistant
from omni.backbones.kinds import check, chosen_device, chosen_dtype
from omni.backbones.whisper import WhisperListener
from omni.cli import main
from omni.errors import ConfigError, ModelError
from omni.models.listener import Listening
from omni.preset import PARTS, load_preset, names
from omni.turns import Audio, Conversation, Heard
from tests.tiny import voiced_clip


@pytest.fixture
def cascade(
    tmp_path: Path, checkpoint: Path, whisper_folder: Path, emotion_folder: Path, chat_folder: Path, vits_folder: Path
) -> Path:
    """The file of a preset over tiny models in folders; the sentiment is the tiny checkpoint's."""
    parts = {
        "listener": {"kind": "whisper", "model": str(whisper_folder), "licence": "x"},
        "perceiver": {"kind": "emotion", "model": str(emotion_folder), "licence": "x"},
        "sentiment": {"kind": "omni-mini", "model": str(checkpoint), "licence": "x"},
        "responder": {"kind": "chat", "model": str(chat_folder), "licence": "x", "options": {"reply_tokens": 24}},
        "voice": {"kind": "vits", "model": str(vits_folder), "licence": "x", "options": {"seed": 3}},
    }
    path = tmp_path / "tiny-cascade.yaml"
    path.write_text(yaml.safe_dump({"about": "tiny models", "parts": parts}))
    return path


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights make out no words; what they hear is given."""
    monkeypatch.setattr(WhisperListener, "listen", lambda self, audio: Listening(Heard("my dog ran away", 0.9)))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)


def changed(path: Path, part: str, **values: object) -> Path:
    """A copy of the preset with one part changed."""
    found = yaml.safe_load(path.read_text())
    found["parts"][part] |= values
    copy = path.with_name("changed.yaml")
    copy.write_text(yaml.safe_dump(found))
    return copy


def test_every_shipped_preset_names_parts_that_exist() -> None:
    assert {"cascade", "cascade-mms", "omni-mini"} <= set(names())
    for name in names():
        assert load_preset(name).name == name
        preset = load_preset(name)
        check(preset)
        assert tuple(preset.parts) == PARTS
        assert all(spec.licence for spec in preset.parts.values())
    assert load_preset("omni-mini").models() == []
    assert [part for part, _ in load_preset("cascade").models()] == ["listener", "perceiver", "responder"]


@pytest.mark.usefixtures("understood")
def test_a_query_goes_through_every_published_part(cascade: Path, tmp_path: Path) -> None:
    assistant = Assistant.of_preset(cascade, "cpu")
    assistant.warm_up()
    query = Audio(voiced_clip(1.2))
    turn = assistant.reply(query, seed=4)
    assert assistant.config.name == "tiny-cascade"
    assert turn.heard.text == "my dog ran away"
    assert sum(turn.perception.probabilities.values()) == pytest.approx(1.0, abs=1e-3)
    assert turn.reply.text
    assert turn.reply.audio is not None
    assert len(turn.reply.audio.samples) > 800
    again = assistant.reply(query, Conversation((turn,)), seed=4)
    assert again.reply.audio is not None
    streamed = list(assistant.stream([query.samples[i : i + 320] for i in range(0, len(query.samples), 320)], seed=4))
    assert sum(map(len, streamed)) == len(turn.reply.audio.samples)


@pytest.mark.usefixtures("understood")
def test_the_command_line_takes_a_preset(
    cascade: Path, clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reply.wav"
    assert main(["reply", str(clips["low"]), "-o", str(out), "--preset", str(cascade), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["heard"]["text"] == "my dog ran away"
    assert soundfile.info(out).frames > 800
    assert main(["hear", str(clips["low"]), str(clips["short"]), "--preset", str(cascade)]) in (0, 3)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["perceived"]
    assert main(["hear", str(clips["low"]), "--preset", str(cascade), "--model", "x"]) == 2
    assert "leave out --model" in capsys.readouterr().err
    assert main(["hear", str(clips["low"]), "--device", "cuda"]) == 2


def test_any_part_can_be_one_of_omni_mini(cascade: Path, checkpoint: Path) -> None:
    for part in PARTS:
        own = changed(cascade, part, kind="omni-mini", model=str(checkpoint), options={})
        assistant = Assistant.of_preset(own, "cpu")
        assert assistant.hear(Audio(voiced_clip(0.8)))[1].probabilities


def test_a_part_that_cannot_be_loaded_is_one_message(cascade: Path, tmp_path: Path, chat_folder: Path) -> None:
    missing = changed(cascade, "responder", model="org/nowhere")
    with pytest.raises(
        ModelError, match=r"preset changed, responder: org/nowhere is not on this machine; .* omni download"
    ):
        Assistant.of_preset(missing, "cpu")
    damaged = Path(shutil.copytree(chat_folder, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match=r"preset changed, responder: .* is no chat model that can be read \("):
        Assistant.of_preset(changed(cascade, "responder", model=str(damaged)), "cpu")
    (damaged / "model.safetensors").unlink()
    (damaged / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="is no chat model that can be read"):
        Assistant.of_preset(changed(cascade, "responder", model=str(damaged)), "cpu")


def test_presets_with_mistakes_are_refused(cascade: Path, tmp_path: Path) -> None:
    for values, wrong in (
        ({"kind": "vits"}, "responder cannot be 'vits'; choose from chat, empathy-responder, lpe-responder, omni-mini"),
        ({"options": {"tempo": 1}}, "responder takes no option 'tempo'; its options are reply_tokens, temperature"),
        ({"weights": "x"}, "unknown key 'weights'"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            Assistant.of_preset(changed(cascade, "responder", **values), "cpu")
    found = yaml.safe_load(cascade.read_text())
    del found["parts"]["voice"]
    own = tmp_path / "voiceless.yaml"
    own.write_text(yaml.safe_dump(found))
    with pytest.raises(ConfigError, match="missing part 'voice'"):
        load_preset(str(own))
    own.write_text("parts: [")
    with pytest.raises(ConfigError, match="is not readable YAML"):
        load_preset(str(own))
    with pytest.raises(ConfigError, match="no preset 'casscade'; choose from cascade"):
        load_preset("casscade")
    with pytest.raises(ConfigError, match="no preset file"):
        load_preset(str(tmp_path / "none.yaml"))


def test_devices_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == "cpu"
    assert chosen_dtype("auto", "cpu") == torch.float32
    assert chosen_dtype("auto", "cuda:1") == torch.bfloat16
    with pytest.raises(ConfigError, match="not on this machine"):
        chosen_device("cuda:77")
    with pytest.raises(ConfigError, match="dtype 'float8'"):
        chosen_dtype("float8", "cpu")
