"""Empathy Omni as an assistant: one tiny model hears, thinks and answers, and its voice begins before the reply is whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import DynamicCache

from omni.answers import Answer, Following, Written
from omni.assistant import Assistant
from omni.backbones.code_voice import CodeVoice, load_decoder
from omni.backbones.empathy import EmpathyListener, EmpathyPerceiver, EmpathyResponder
from omni.errors import ModelError
from omni.models.code_decoder import CodeStream
from omni.models.emotion_head import FIRST
from omni.train.empathy_omni import RespondTask, SpeakTask
from omni.train.loop import Trainer
from omni.turns import EMOTIONS, Audio, Conversation, Heard, Style
from tests.backbones.empathy_tiny import twin, write_exchanges
from tests.tiny import make_perception, voiced_clip


@pytest.fixture(scope="module")
def preset(
    chat_folder: Path, whisper_folder: Path, wavlm_folder: Path, hubert_folder: Path, mimi_folder: Path,
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A preset over two trained stages."""
    folder = tmp_path_factory.mktemp("empathy")
    data = write_exchanges(folder)
    models = {
        "llm": str(chat_folder), "whisper": str(whisper_folder), "wavlm": str(wavlm_folder),
        "teacher": str(hubert_folder), "mimi": str(mimi_folder),
    }  # fmt: skip
    for name, task in (("1_respond", RespondTask), ("2_speak", SpeakTask)):
        recipe = twin(f"{name}.yaml", models)
        Trainer(recipe, task(recipe, data, folder / "cache"), folder / name).run()
    also = {k: models[k] for k in ("whisper", "wavlm")}
    options = {"adapters": str(folder / "1_respond" / "export")}
    part = {"model": str(chat_folder), "licence": "x", "also": also, "options": options}
    own = {"kind": "omni-mini", "model": str(checkpoint), "licence": "x"}
    parts = {p: {"kind": f"empathy-{p}", **part} for p in ("listener", "perceiver", "responder")}
    parts["voice"] = {
        **part, "kind": "codes", "also": {**also, "mimi": models["mimi"]},
        "options": {**options, "decoder": str(folder / "2_speak" / "export")},
    }  # fmt: skip
    path = folder / "tiny-empathy.yaml"
    path.write_text(yaml.safe_dump({"about": "x", "parts": {**parts, "sentiment": own}}))
    return path


@pytest.fixture
def assistant(preset: Path, monkeypatch: pytest.MonkeyPatch) -> Assistant:
    monkeypatch.setattr(Heard, "understood", property(lambda self: True))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)
    monkeypatch.setattr("omni.backbones.code_voice.LONGEST_FRAMES", 40)
    return Assistant.of_preset(preset, "cpu")


def test_a_query_goes_through_one_model_to_sound(assistant: Assistant) -> None:
    parts = assistant.parts
    assert isinstance(parts.listener, EmpathyListener)
    assert isinstance(parts.perceiver, EmpathyPerceiver)
    assert isinstance(parts.voice, Following)
    assert parts.listener.chat is parts.perceiver.chat is parts.responder.chat is parts.voice.chat  # type: ignore[attr-defined]
    query = Audio(voiced_clip(1.0))
    first = assistant.reply(query, seed=2)
    assert first.reply.text
    assert first.reply.audio is not None
    assert first.reply.audio.sample_rate_hz == 24_000
    assert len(first.reply.audio.samples) > 1920
    assert sum(first.perception.probabilities.values()) == pytest.approx(1.0, abs=1e-4)
    again = assistant.reply(query, Conversation(), seed=2)
    np.testing.assert_array_equal(again.reply.audio.samples, first.reply.audio.samples)  # type: ignore[union-attr]
    second = assistant.reply(query, Conversation((first,)), seed=2)
    assert second.reply.text


def test_streamed_is_the_whole(assistant: Assistant) -> None:
    query = Audio(voiced_clip(1.0))
    whole = assistant.reply(query, seed=3).reply.audio
    blocks = [query.samples[i : i + 320] for i in range(0, len(query.samples), 320)]
    pieces = list(assistant.stream(blocks, seed=3))
    assert whole is not None
    np.testing.assert_array_equal(np.concatenate(pieces), whole.samples)
    assert len(pieces) > 1


def answers_of(assistant: Assistant, seed: int = 1) -> list[Answer]:
    responder = assistant.parts.responder
    assert isinstance(responder, EmpathyResponder)
    slots = responder.chat.hearing(voiced_clip(0.8)).slots
    heard = Heard("my dog ran away", 0.9, sound=slots)
    return list(responder.answers(heard, make_perception("sad"), Conversation(), seed))


def test_the_voice_begins_before_the_reply_is_whole(assistant: Assistant) -> None:
    answers = answers_of(assistant)
    assert len(answers) > 3
    taken: list[int] = []

    def told() -> Iterator[Answer]:
        for number, answer in enumerate(answers):
            taken.append(number)
            yield answer

    voice = assistant.parts.voice
    assert isinstance(voice, CodeVoice)
    next(voice.follow(told()))
    assert len(taken) < len(answers)


def test_what_is_followed_is_what_one_sequence_gives(assistant: Assistant) -> None:
    """The frames are those of a stream that is given all text at once, and their sound is that of one whole decoding."""
    answers = answers_of(assistant)
    voice = assistant.parts.voice
    assert isinstance(voice, CodeVoice)
    sound = np.concatenate(list(voice.follow(iter(answers))))
    last = answers[-1].written
    assert last is not None
    stream: CodeStream = voice.decoder.stream(voice.chat.head(last.states[None]), voice.seed)
    frames = [*stream.push(last.embeddings[None], last.states[None]), *stream.finish(40)]
    whole = voice.mimi.decode(torch.tensor(frames).T[None])[0]
    np.testing.assert_allclose(sound, whole.clamp(-1, 1).numpy(), atol=2e-5)


def test_states_are_those_of_reading_the_reply_at_once(assistant: Assistant) -> None:
    responder = assistant.parts.responder
    assert isinstance(responder, EmpathyResponder)
    answers = answers_of(assistant)
    for before, after in itertools.pairwise(answers):
        assert before.written is not None
        assert after.written is not None
        torch.testing.assert_close(after.written.states[: len(before.written.states)], before.written.states)
        assert after.reply.text.startswith(before.reply.text.rstrip("\ufffd"))
    assert len(answers[0].written.states) == FIRST  # type: ignore[union-attr]
    plan = answers[-1].thought.plan
    chat = responder.chat
    slots = chat.hearing(voiced_clip(0.8)).slots
    ids = chat.asked(slots.shape[1]) + chat.plain("Heard: my dog ran away\nFelt: sad\n")
    for number, (field, name) in enumerate(
        (("need", "Need"), ("strategy", "Strategy"), ("intent", "Intent"), ("style", "Style"))
    ):
        ids += chat.plain(("\n" if number else "") + f"{name}:") + chat.plain(f" {getattr(plan, field)}")
    ids += chat.plain("\nReply:")
    last = answers[-1].written
    assert last is not None
    with torch.no_grad():
        told = torch.cat([chat.embed(ids, [slots]), last.embeddings[None]], dim=1)
        states = chat.llm.get_decoder()(inputs_embeds=told, use_cache=False).last_hidden_state[0, len(ids) :]
    torch.testing.assert_close(states, last.states, atol=1e-4, rtol=1e-3)


def test_words_that_are_not_its_own_are_read_aloud(assistant: Assistant) -> None:
    voice = assistant.parts.voice
    assert isinstance(voice, CodeVoice)
    plain = assistant.say("The train is late.", Style("neutral"))
    assert plain.sample_rate_hz == 24_000
    assert len(plain.samples) > 1920
    slow = assistant.say("The train is late.", Style("calm", rate=0.5))
    assert len(slow.samples) == pytest.approx(2 * len(plain.samples), rel=0.1)
    assert list(voice.speak("...", Style("neutral"))) == []
    unclear = answers_of(assistant)[0]
    found = list(voice.follow(iter([replace(unclear, written=None, sentences=unclear.sentences)])))
    assert found == [] or all(np.isfinite(f).all() for f in found)


def test_labels_are_weighed_as_one_by_one(assistant: Assistant) -> None:
    chat = assistant.parts.listener.chat  # type: ignore[attr-defined]
    slots = chat.hearing(voiced_clip(0.8)).slots
    before, felt = chat.asked(slots.shape[1]), chat.plain("Felt:")
    ids, cache = before + felt, DynamicCache(config=chat.llm.config)
    with torch.inference_mode():
        chat.llm(inputs_embeds=chat.embed(before, [slots]), past_key_values=cache, use_cache=True)
    found = chat.label_logits(cache, felt, EMOTIONS)
    for label, value in zip(EMOTIONS, found[0].tolist(), strict=True):
        way = chat.plain(f" {label}")
        with torch.no_grad():
            logits = chat.llm(inputs_embeds=chat.embed([*ids, *way], [slots])).logits[0].log_softmax(-1)
        one = sum(float(logits[len(ids) - 1 + n, token]) for n, token in enumerate(way))
        assert value == pytest.approx(one, abs=1e-3)


def test_a_damaged_or_foreign_decoder_is_named(assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no speech decoder in"):
        load_decoder(tmp_path)
    voice = assistant.parts.voice
    assert isinstance(voice, CodeVoice)
    voice.decoder.config = replace(voice.decoder.config, llm_width=31)
    with pytest.raises(ModelError, match="another language model"):
        CodeVoice(voice.chat, voice.decoder, voice.mimi)


def test_a_reply_of_few_tokens_is_voiced_too(assistant: Assistant) -> None:
    answer = answers_of(assistant)[-1]
    written = answer.written
    assert written is not None
    short = replace(answer, written=Written(written.embeddings[:2], written.states[:2]))
    voice = assistant.parts.voice
    assert isinstance(voice, CodeVoice)
    assert sum(map(len, voice.follow(iter([short])))) > 0


def test_a_static_cache_keeps_the_same_states(assistant: Assistant) -> None:
    responder = assistant.parts.responder
    assert isinstance(responder, EmpathyResponder)
    wanted = answers_of(assistant)
    responder.config = replace(responder.config, static=True)
    found = answers_of(assistant)
    assert responder._static is not None
    assert [a.reply.text for a in found] == [a.reply.text for a in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.written is not None
        assert other.written is not None
        torch.testing.assert_close(one.written.states, other.written.states, atol=1e-4, rtol=1e-3)


def test_the_tone_is_weighed_after_all_that_was_written(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the words were cut off at the longest allowed, so that the last one was not read yet."""
    listener = assistant.parts.listener
    assert isinstance(listener, EmpathyListener)
    read: list[list[int]] = []
    weigh = listener.chat.label_logits

    def label_logits(cache: DynamicCache, ids: list[int], labels: tuple[str, ...]) -> torch.Tensor:
        read.append(list(ids))
        return weigh(cache, ids, labels)

    monkeypatch.setattr(listener.chat, "label_logits", label_logits)
    monkeypatch.setattr("omni.backbones.empathy._LONGEST_TOKENS", 3)
    stops: list[int] = []
    write = listener.chat.write
    monkeypatch.setattr(listener.chat, "write", lambda e, _, most, cache: write(e, stops, most, cache))
    listener._window(voiced_clip(0.8))
    felt = listener.chat.plain("\nFelt:")
    assert len(read[0]) == 1 + len(felt)
    assert read[0][1:] == felt
