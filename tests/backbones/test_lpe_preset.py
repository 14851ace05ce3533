"""LPE as an assistant: its three views over one tiny model, the sound before the reply, the ways of asking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni import evaluation
from omni.assistant import Assistant
from omni.backbones.lpe import PROMPTS, LpeListener, LpePerceiver, LpeResponder
from omni.backbones.speech_chat import SpeechChat
from omni.backbones.speech_hearing import LpeHearing
from omni.backbones.speech_states import WavlmStates
from omni.data.corpora.exchanges import Exchange
from omni.errors import InputError, ModelError, UsageError
from omni.evaluation import matching, prompting
from omni.evaluation.settings import Settings
from omni.turns import EMOTIONS, Audio, Conversation, Heard
from tests.tiny import make_perception, voiced_clip


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, wavlm_folder: Path) -> Path:
    """Adapters of random weights as the recipe exports them."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(9)
    LpeHearing(WavlmStates.load(wavlm_folder), 32, 16).save(folder)
    (folder / "hearing.yaml").write_text(yaml.safe_dump({"kind": "lpe", "inner": 16}))
    return folder


@pytest.fixture
def chat(chat_folder: Path, wavlm_folder: Path, adapters: Path) -> SpeechChat:
    llm = AutoModelForCausalLM.from_pretrained(chat_folder)
    hearing = LpeHearing(WavlmStates.load(wavlm_folder), 32, 16)
    hearing.restore(adapters)
    return SpeechChat(llm, AutoTokenizer.from_pretrained(chat_folder), hearing)


@pytest.fixture
def preset(tmp_path: Path, chat_folder: Path, wavlm_folder: Path, adapters: Path, checkpoint: Path) -> Path:
    own = {"kind": "omni-mini", "model": str(checkpoint), "licence": "x"}
    lpe = {
        "model": str(chat_folder), "licence": "x", "also": {"wavlm": str(wavlm_folder)},
        "options": {"adapters": str(adapters)},
    }  # fmt: skip
    parts = {p: {"kind": f"lpe-{p}", **lpe} for p in ("listener", "perceiver", "responder")}
    path = tmp_path / "tiny-lpe.yaml"
    path.write_text(yaml.safe_dump({"about": "x", "parts": {**parts, "sentiment": own, "voice": own}}))
    return path


def test_a_query_goes_through_one_model(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = Assistant.of_preset(preset, "cpu")
    parts = assistant.parts
    assert parts.listener.chat is parts.perceiver.chat is parts.responder.chat
    monkeypatch.setattr(Heard, "understood", property(lambda self: True))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)
    first = assistant.reply(Audio(voiced_clip(1.0)), seed=2)
    assert first.heard.sound is not None
    assert first.reply.text
    assert first.reply.audio is not None
    second = assistant.reply(Audio(voiced_clip(0.9, 200)), Conversation((first,)), seed=2)
    assert second.reply.text
    again = assistant.reply(Audio(voiced_clip(1.0)), seed=2)
    assert again.reply.text == first.reply.text


def test_the_listener_gives_words_slots_and_the_verdict(chat: SpeechChat) -> None:
    listener, samples = LpeListener(chat), voiced_clip(0.9)
    listening = listener.listen(Audio(samples))
    slots = chat.hearing(samples).slots
    assert torch.allclose(listening.heard.sound, slots, atol=1e-5)
    perceiver = LpePerceiver(chat)
    assert perceiver.perceive(samples, listening.layers).probabilities == pytest.approx(
        perceiver.perceive(samples).probabilities, abs=1e-4
    )
    with pytest.raises(InputError, match="hears sound of 16000 Hz"):
        listener.listen(Audio(samples, 8000))


def test_long_sound_goes_in_windows(chat: SpeechChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni.backbones.lpe.WINDOW_S", 1.0)
    monkeypatch.setattr("omni.backbones.lpe._LONGEST_TOKENS", 4)
    listening = LpeListener(chat).listen(Audio(voiced_clip(2.6)))
    whole = chat.hearing(voiced_clip(2.6)).slots.shape[1]
    assert listening.heard.sound.shape[1] >= whole  # each window has a slot of tone
    assert listening.layers[0].shape == (1, len(EMOTIONS))


@pytest.mark.parametrize("steps", PROMPTS)
def test_the_sound_stands_before_the_reply(chat: SpeechChat, steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    responder, seen = LpeResponder(chat, steps=steps), make_perception("sad")
    told: list[str] = []
    template = chat.tokenizer.apply_chat_template

    def noting(messages: list, **rest: object) -> object:
        told.append(str(messages))
        return template(messages, **rest)

    monkeypatch.setattr(chat.tokenizer, "apply_chat_template", noting)
    one, two = (torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    readings = [responder._begin(Heard("my dog ran", 0.9, sound=s), seen, Conversation()).logits for s in (one, two)]
    assert not torch.allclose(readings[0], readings[1], atol=1e-3)
    assert PROMPTS[steps] in told[0]
    assert "my dog ran" not in told[0]
    responder._begin(Heard("my dog ran", 0.9), seen, Conversation())
    assert "my dog ran" in told[-1]
    thought = responder._thought(Heard("my dog ran"), seen)
    assert thought == ("Heard: my dog ran\nFelt: sad\n" if steps == "steps" else "")


def test_missing_adapters_are_named(chat_folder: Path, wavlm_folder: Path, tmp_path: Path, chat: SpeechChat) -> None:
    with pytest.raises(ModelError, match=r"no adapters in .*none .*; train them with recipes/lpe"):
        LpeListener.load(chat_folder, wavlm=wavlm_folder, adapters=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="under also: wavlm"):
        LpeListener.load(chat_folder)
    with pytest.raises(ModelError, match="choose from steps, free, none"):
        LpeResponder(chat, steps="some")


def test_ways_of_asking_are_compared(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("dog", "lake", "train", "noise", "cake", "letter", "boat", "lamp", "coat", "song", "bread", "garden")
    held = [
        Exchange(
            f"the {word}", "mixed", "sad", "strong", "seeking", "question", "questioning", "warm", f"My {word} is gone.",
            f"What happened to your {word}?",
        )
        for word in words
    ]  # fmt: skip
    monkeypatch.setattr(Settings, "exchanges", lambda self: (held, held))
    monkeypatch.setattr(prompting, "self_dialogue_documents", lambda path: [f"{a} {b}" for a in words for b in words])
    monkeypatch.setattr(prompting, "Matcher", lambda: matching.Matcher(components=3, minimum_documents=1))
    monkeypatch.setattr(prompting, "speak", lambda text, voice: voiced_clip(0.8))
    monkeypatch.setattr(Heard, "understood", property(lambda self: True))
    (tmp_path / "text").mkdir()
    evaluation.run(["prompting"], tmp_path, out=tmp_path / "out", limit=3, preset=str(preset), device="cpu")
    found = json.loads((tmp_path / "out" / "results" / "prompting.json").read_text())
    (table,) = found["tables"]
    assert [row[0] for row in table["rows"]] == list(PROMPTS)
    assert found["counts"]["exchanges"] == 3
    replies = found["numbers"]["replies"]
    assert all({"said", *PROMPTS} == set(reply) for reply in replies)
    assert any(len({reply[way] for way in PROMPTS}) > 1 for reply in replies)  # the ways do differ
    assert "Ways of asking" in (tmp_path / "out" / "results.md").read_text()


def test_another_assistant_cannot_be_asked_in_ways(assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give one: omni eval prompting --preset"):
        prompting.run(assistant, Settings(tmp_path))
