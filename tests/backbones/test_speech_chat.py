"""Speech in a prompt: slots where the sound stands, the loss against a plain loop, adapters saved and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from omni.backbones.speech_chat import LISTEN_TASK, SOUND, SpeechChat
from omni.backbones.speech_hearing import DualHearing, LpeHearing, SpeechHearing
from omni.backbones.speech_states import WavlmStates, WhisperStates
from omni.errors import ModelError
from tests.tiny import voiced_clip


@pytest.fixture(params=["lpe", "dual"])
def chat(request: pytest.FixtureRequest, chat_folder: Path, wavlm_folder: Path, whisper_folder: Path) -> SpeechChat:
    llm = AutoModelForCausalLM.from_pretrained(chat_folder)
    torch.manual_seed(1)
    hearing: SpeechHearing = (
        LpeHearing(WavlmStates.load(wavlm_folder), 32, inner=16)
        if request.param == "lpe"
        else DualHearing(WhisperStates.load(whisper_folder), WavlmStates.load(wavlm_folder), 32, inner=16)
    )
    return SpeechChat(llm, AutoTokenizer.from_pretrained(chat_folder), hearing)


def test_slots_stand_where_the_sound_does(chat: SpeechChat) -> None:
    messages = [
        {"role": "user", "content": f"{SOUND} one"}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": f"two {SOUND}"},
    ]  # fmt: skip
    ids = chat.prompt(messages, [3, 2])
    assert ids.count(chat.slot) == 5
    first, second = torch.randn(1, 3, 32), torch.randn(1, 2, 32)
    embedded = chat.embed(ids, [first, second])[0]
    places = [i for i, token in enumerate(ids) if token == chat.slot]
    assert torch.equal(embedded[places], torch.cat([first, second], dim=1)[0])
    table = chat.llm.get_input_embeddings().weight
    for place, token in enumerate(ids):
        if token != chat.slot:
            assert torch.equal(embedded[place], table[token])
    with pytest.raises(ValueError, match="2 sounds in the prompt, slots of 1"):
        chat.prompt(messages, [3])


def test_the_loss_equals_a_plain_loop(chat: SpeechChat) -> None:
    heard = chat.hearing(voiced_clip(0.9))
    loss = chat.log_loss(heard, LISTEN_TASK, "Heard: my dog ran")
    ids = chat.prompt([{"role": "user", "content": f"{SOUND}\n{LISTEN_TASK}"}], [heard.slots.shape[1]])
    written = [*chat.plain("Heard: my dog ran"), chat.tokenizer.eos_token_id]
    nats = []
    for place, token in enumerate(written):
        logits = chat.llm(inputs_embeds=chat.embed([*ids, *written[:place]], [heard.slots])).logits[0, -1]
        nats.append(-float(logits.log_softmax(-1)[token]))
    assert float(loss) == pytest.approx(sum(nats) / len(nats), rel=1e-4)


def test_only_the_adapters_learn(chat: SpeechChat, tmp_path: Path) -> None:
    chat.train()
    assert not chat.llm.training
    samples = voiced_clip(0.8)
    before = {name: value.clone() for name, value in chat.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in chat.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(12):
        heard = chat.hearing(samples)
        loss = chat.log_loss(heard, LISTEN_TASK, "Heard: the train is late")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    changed = {name for name, value in chat.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("hearing.") for name in changed)
    assert not any(name.startswith(("hearing.wavlm", "hearing.whisper")) for name in changed)


def test_adapters_are_saved_and_read_again(chat: SpeechChat, tmp_path: Path) -> None:
    samples = voiced_clip(0.7)
    chat.hearing.save(tmp_path)
    with torch.no_grad():
        saved = chat.hearing(samples).slots
        for module in chat.hearing.adapters().values():
            for weight in module.parameters():
                weight.add_(0.1)
        assert not torch.allclose(chat.hearing(samples).slots, saved, atol=1e-2)
        chat.hearing.restore(tmp_path)
        assert torch.allclose(chat.hearing(samples).slots, saved, atol=1e-2)
    (tmp_path / "adapters.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ModelError, match="cannot be read"):
        chat.hearing.restore(tmp_path)


def test_writing_stops_where_it_should(chat: SpeechChat) -> None:
    heard = chat.hearing(voiced_clip(0.6))
    ids = chat.prompt([{"role": "user", "content": f"{SOUND}\n{LISTEN_TASK}"}], [heard.slots.shape[1]])
    embedded = chat.embed(ids, [heard.slots])
    whole, chance = chat.write(embedded, [], 9)
    assert len(whole) == 9
    assert 0.0 < chance <= 1.0
    stop = next(t for t in whole[1:] if t != whole[0]) if len(set(whole)) > 1 else whole[0]
    cut, _ = chat.write(embedded, [stop], 9)
    assert cut == whole[: whole.index(stop)]
    with torch.no_grad():
        out = chat.llm.generate(
            inputs_embeds=embedded, max_new_tokens=9, do_sample=False, eos_token_id=-1,
            attention_mask=torch.ones(1, embedded.shape[1], dtype=torch.long),
        )  # fmt: skip
    assert out[0].tolist() == whole
