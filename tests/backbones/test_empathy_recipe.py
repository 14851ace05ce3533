"""The recipes of Empathy Omni on tiny models: both stages, kill and resume, what is frozen, what is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from omni.backbones import lora
from omni.backbones.empathy_chat import EmpathyChat, Exchange, thought_pieces
from omni.data.manifest import Clip, write
from omni.errors import ConfigError, DataError, ModelError
from omni.train.empathy_omni import RespondTask, SpeakTask, _Stage
from omni.train.loop import Trainer
from tests.backbones.empathy_tiny import PLAN, twin, write_exchanges
from tests.train.test_loop import Fragile, Killed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exchanges(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def models(chat_folder: Path, whisper_folder: Path, wavlm_folder: Path, hubert_folder: Path, mimi_folder: Path) -> dict:
    """The five published models, tiny."""
    return {
        "llm": str(chat_folder), "whisper": str(whisper_folder), "wavlm": str(wavlm_folder),
        "teacher": str(hubert_folder), "mimi": str(mimi_folder),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: Path, models: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, two updates each."""
    folder = tmp_path_factory.mktemp("runs")
    for name, task in (("1_respond", RespondTask), ("2_speak", SpeakTask)):
        recipe = twin(f"{name}.yaml", models)
        Trainer(recipe, task(recipe, data, folder / "cache"), folder / name).run()
    return folder


@pytest.mark.parametrize(("name", "task"), [("1_respond", RespondTask), ("2_speak", SpeakTask)])
def test_a_killed_stage_resumes_with_the_identical_next_loss(
    name: str, task: Callable[..., _Stage], runs: Path, data: Path, models: dict, tmp_path: Path
) -> None:
    recipe = replace(twin(f"{name}.yaml", models), steps=4, save_every_s=0.0)
    killed: Any = task(recipe, data, runs / "cache")
    with pytest.raises(Killed):
        Trainer(recipe, Fragile(killed, 2), tmp_path / "killed").run()
    resumed = Trainer(recipe, task(recipe, data, runs / "cache"), tmp_path / "killed").run()  # type: ignore[arg-type]
    straight = Trainer(recipe, task(recipe, data, runs / "cache"), tmp_path / "straight").run()  # type: ignore[arg-type]
    assert resumed.losses == pytest.approx(straight.losses[2:], rel=1e-5)
    wanted = {"nats", "emotion", "spread"} if name == "1_respond" else {"nats", "nats_true_emotion"}
    assert set(resumed.figures) == wanted


def test_the_first_stage_trains_adapters_low_rank_layers_and_head_alone(
    data: Path, models: dict, tmp_path: Path
) -> None:
    recipe = twin("1_respond.yaml", models)
    task = RespondTask(recipe, data, tmp_path / "cache")
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    Trainer(replace(recipe, steps=3), task, tmp_path / "run").run()
    changed = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
    assert all("lora_" in k or k.startswith(("hearing.adapter.", "head.")) for k in changed)
    for part in ("lora_", "hearing.adapter.content.", "hearing.adapter.tone.", "head."):
        assert any(part in k for k in changed), part
    saved = load_file(tmp_path / "run" / "state.safetensors")
    assert any("lora_" in k for k in saved)
    assert not any("base_layer" in k or ".wavlm." in k or ".whisper." in k for k in saved)


def test_the_second_stage_trains_the_speech_decoder_alone(runs: Path, data: Path, models: dict) -> None:
    task = SpeakTask(twin("2_speak.yaml", models), data, runs / "cache")
    assert not any(p.requires_grad for p in task.chat.parameters())
    loss, parts = task.loss(task.batch(0), 0)
    loss.backward()
    assert all(
        p.grad is not None
        for n, p in task.model.named_parameters()
        if not n.startswith("main.embed") and "embed_tokens" not in n
    )
    assert {"first", "others"} == set(parts)
    assert all(p.grad is None for p in task.chat.parameters())


def test_the_share_of_the_heads_own_emotion_rises(
    runs: Path, data: Path, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(twin("2_speak.yaml", models), steps=100)
    task = SpeakTask(recipe, data, runs / "cache")
    batch = task.held[:2]
    given: list[torch.Tensor] = []

    def loss(*args: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        given.append(args[2])
        return args[2].sum(), {}

    monkeypatch.setattr(task.decoder, "loss", loss)
    for step in (0, 100):
        task.loss(batch, step)
    true = task.teacher([x.reply_sound for x in batch if x.reply_sound])
    torch.testing.assert_close(given[0], true)
    assert not torch.allclose(given[1], true, atol=1e-2)


def test_nothing_flows_back_into_the_teacher(data: Path, models: dict, tmp_path: Path) -> None:
    task = RespondTask(twin("1_respond.yaml", models), data, tmp_path / "cache")
    vectors = task.teacher([x.reply_sound for x in task.held if x.reply_sound])
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors.mean(1), torch.zeros(len(vectors)), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.var(1, unbiased=False), torch.ones(len(vectors)), atol=1e-2, rtol=0)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3  # two sounds, two vectors


def test_a_batch_equals_its_members_alone(data: Path, models: dict, tmp_path: Path) -> None:
    task = RespondTask(twin("1_respond.yaml", models), data, tmp_path / "cache")
    task.model.eval()
    batch = task.held[:3]
    told = task.told(task.model, batch)
    with torch.no_grad():
        together = task.model.understand(told)
        for row, exchange in enumerate(told):
            alone = task.model.understand([exchange])
            count = int(alone.tokens[0])
            assert count == int(together.tokens[row])
            torch.testing.assert_close(together.states[row, :count], alone.states[0], atol=1e-4, rtol=1e-3)


def test_checkpointing_changes_nothing_but_memory(data: Path, models: dict, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        recipe = replace(twin("1_respond.yaml", models), checkpointing=checkpointing)
        task = RespondTask(recipe, data, tmp_path / "cache")
        task.model.train()
        assert task.model.llm.is_gradient_checkpointing == checkpointing
        torch.manual_seed(0)
        loss, _ = task.loss(task.batch(0), 0)
        loss.backward()
        found.append({n: p.grad for n, p in task.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_merged_and_apart_are_the_same_model(data: Path, models: dict, tmp_path: Path) -> None:
    recipe = twin("1_respond.yaml", models, merge=True)
    task = RespondTask(replace(recipe, learning_rate=0.01, rates={}), data, tmp_path / "cache")
    Trainer(replace(recipe, steps=3, learning_rate=0.05, rates={}), task, tmp_path / "run").run()
    export = tmp_path / "run" / "export"
    plain = AutoModelForCausalLM.from_pretrained(models["llm"])
    apart = lora.merged(AutoModelForCausalLM.from_pretrained(models["llm"]), export / "lora").eval()
    whole = AutoModelForCausalLM.from_pretrained(export / "llm").eval()
    ids = torch.tensor([[5, 9, 40, 41]])
    with torch.no_grad():
        trained = task.model.eval().llm(ids).logits
        torch.testing.assert_close(apart(ids).logits, trained, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole(ids).logits, trained, atol=1e-4, rtol=1e-4)
        assert (plain(ids).logits - trained).abs().max() > 1e-3
    assert not list(export.rglob("*.bin"))


def test_the_thought_is_written_in_pieces_as_at_run_time() -> None:
    assert "".join(thought_pieces("my dog ran", "sad", PLAN)) == (
        "Heard: my dog ran\nFelt: sad\nNeed: seeking\nStrategy: question\nIntent: questioning\nStyle: warm\nReply:"
    )
    assert "".join(thought_pieces("my dog ran", "sad", None)) == "Heard: my dog ran\nFelt: sad\nReply:"


def test_what_does_not_fit_is_named(runs: Path, data: Path, models: dict, tmp_path: Path, chat_folder: Path) -> None:
    with pytest.raises(ConfigError, match="stage 2 needs the run of stage 1"):
        SpeakTask(twin("2_speak.yaml", models, start_from=""), data, tmp_path / "cache")
    with pytest.raises(ModelError, match="nothing trained in"):
        SpeakTask(twin("2_speak.yaml", models, start_from="other"), data, tmp_path / "cache")
    sound = data / "q0.wav"
    row = Clip(
        "a", sound, "s0", "hello", "sad", duration_s=0.8, extra={"reply": "hi", "plan": {**PLAN, "style": "loud"}}
    )
    write(data / "loud.jsonl", [row])
    with pytest.raises(DataError, match=r"plan\.style 'loud'; choose from"):
        RespondTask(twin("1_respond.yaml", models, exchanges={"loud.jsonl": 1}), data, tmp_path / "cache")
    write(data / "mute.jsonl", [replace(row, extra={"reply": "hi"})])
    with pytest.raises(DataError, match="no exchange has a reply_audio"):
        SpeakTask(twin("2_speak.yaml", models, exchanges={"mute.jsonl": 1}), data, runs / "cache")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        lora.merged(AutoModelForCausalLM.from_pretrained(chat_folder), tmp_path / "lora")


def test_a_loss_without_reply_sound_leaves_the_emotion_out(data: Path, models: dict, tmp_path: Path) -> None:
    task = RespondTask(twin("1_respond.yaml", models), data, tmp_path / "cache")
    silent = [replace(x, reply_sound=None) for x in task.held[:2]]
    loss, figures = task.loss(silent, 0)
    assert figures["emotion"] == 0.0
    assert float(loss.detach()) == pytest.approx(figures["text"])


def test_masked_slots_stand_where_a_plain_loop_puts_them(data: Path, models: dict, tmp_path: Path) -> None:
    model: EmpathyChat = RespondTask(twin("1_respond.yaml", models), data, tmp_path / "cache").model
    slots = torch.randn(1, 3, 32)
    ids = model.asked(3)
    found = model.embed(ids, [slots])[0]
    plain, number = model.llm.get_input_embeddings()(torch.tensor(ids)), 0
    for place, token in enumerate(ids):
        if token == model.slot:
            plain = plain.clone()
            plain[place], number = slots[0, number], number + 1
    torch.testing.assert_close(found, plain)
    assert Exchange(slots, (), "x").slots is slots
