"""An instruct model as the responder: a well-formed thought by the trie, replies in sentences, seeds, history."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from omni.answers import UNCLEAR
from omni.backbones.chat import ChatResponder, _Spoken, assistant_message, user_message
from omni.errors import ConfigError
from omni.text import FIELDS
from omni.turns import EMOTIONS, FITTING_STYLES, Conversation, Heard, Perception, Plan, Reply, Style, Turn

HEARD = Heard("my dog ran away this morning", 0.9)


def seen(emotion: str = "sad") -> Perception:
    return Perception(emotion, {e: float(e == emotion) for e in EMOTIONS}, 0.8, -0.5, -0.3, 0.9, "adds")


@pytest.fixture(scope="module")
def responder(chat_folder: Path) -> ChatResponder:
    return ChatResponder.load(chat_folder, reply_tokens=40, temperature=1.0, top_p=1.0)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_thought_is_well_formed_and_its_style_fits(responder: ChatResponder, emotion: str) -> None:
    answer = responder.answer(HEARD, seen(emotion), Conversation())
    plan = answer.reply.plan
    assert plan.need in FIELDS["need"]
    assert plan.strategy in FIELDS["strategy"]
    assert plan.intent in FIELDS["intent"]
    assert plan.style in FITTING_STYLES[emotion]
    assert answer.reply.style.name == plan.style
    assert answer.thought.heard == HEARD.text
    assert answer.reply.text


def test_the_label_is_the_greedy_way_through_the_trie(responder: ChatResponder) -> None:
    """The same walk by brute force: at every step the likeliest token that begins an allowed label."""
    prompt = responder._plain("Need: seeking\nStrategy:")
    label, reading = responder._label(FIELDS["strategy"], responder._read(prompt))
    written: list[int] = []
    ways = {name: responder._plain(f" {name}") for name in FIELDS["strategy"]}
    with torch.inference_mode():
        while written not in ways.values():
            allowed = {ids[len(written)] for ids in ways.values() if ids[: len(written)] == written}
            logits = responder.model(torch.tensor([prompt + written])).logits[0, -1]
            written.append(max(allowed, key=lambda i: float(logits[i])))
        after = responder.model(torch.tensor([prompt + written])).logits[0, -1]
    assert ways[label] == written
    assert torch.allclose(reading.logits[0], after, atol=1e-4)


def test_a_label_that_begins_another_one_can_be_chosen(
    responder: ChatResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_end, more = responder._plain("\n")[0], responder._plain("s")[0]
    base = responder._plain(" warm")
    ways = {" warm": base, " warms": [*base, more]}
    plain = responder._plain
    monkeypatch.setattr(responder, "_plain", lambda text: ways.get(text) or plain(text))
    for wanted, token in (("warm", line_end), ("warms", more)):
        reading = responder._read(plain("Style:"))
        follow = responder._read

        def read(ids, before=None, token=token, follow=follow):
            found = follow(ids, before)
            return replace(found, logits=found.logits.index_fill(1, torch.tensor([token]), 1000.0))

        monkeypatch.setattr(responder, "_read", read)
        assert responder._label(("warm", "warms"), reading)[0] == wanted
        monkeypatch.setattr(responder, "_read", follow)


def test_the_reply_grows_by_sentences_and_follows_the_seed(responder: ChatResponder) -> None:
    for seed in range(4):
        grown = list(responder.answers(HEARD, seen(), Conversation(), seed))
        for before, after in itertools.pairwise(grown):
            assert after.sentences[:-1] == before.sentences
            assert after.reply.text.startswith(before.reply.text)
        assert grown[-1].reply.text == " ".join(s.text for s in grown[-1].sentences)
        assert grown[-1] == responder.answer(HEARD, seen(), Conversation(), seed)
    texts = {responder.answer(HEARD, seen(), Conversation(), seed).reply.text for seed in range(4)}
    assert len(texts) > 1


def test_sentences_are_cut_where_they_end(responder: ChatResponder, monkeypatch: pytest.MonkeyPatch) -> None:
    script = [*responder._plain(" That's hard. How old was he? Tell me"), next(iter(responder.ends))]
    monkeypatch.setattr("omni.backbones.chat.nucleus", lambda *_: torch.tensor([script.pop(0)]))
    *_, found = responder._sentences(responder._read(responder._plain("Reply:")), 0, _Spoken(responder))
    assert [s.text for s in found] == ["That's hard.", "How old was he?", "Tell me"]


def test_the_first_clause_does_not_wait_for_its_sentence(
    responder: ChatResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " My dog, and the train is late, too. The dog ran away, so late."
    script = [*responder._plain(text), next(iter(responder.ends))]
    monkeypatch.setattr("omni.backbones.chat.nucleus", lambda *_: torch.tensor([script.pop(0)]))
    spoken = _Spoken(responder)
    grown = [
        [s.text for s in found]
        for found in responder._sentences(responder._read(responder._plain("Reply:")), 0, spoken)
    ]
    assert grown[0] == ["My dog, and the train is late,"]  # two words alone are too few
    assert grown[-1][1:] == ["too.", "The dog ran away, so late."]
    assert " ".join(grown[-1]) == text.strip()


def test_a_new_line_ends_the_reply(responder: ChatResponder, monkeypatch: pytest.MonkeyPatch) -> None:
    script = responder._plain(" Good. Yes\nNeed: none")
    monkeypatch.setattr("omni.backbones.chat.nucleus", lambda *_: torch.tensor([script.pop(0)]))
    *_, found = responder._sentences(responder._read(responder._plain("Reply:")), 0, _Spoken(responder))
    assert [s.text for s in found] == ["Good.", "Yes"]


def test_earlier_turns_are_told(responder: ChatResponder) -> None:
    reply = Reply("How long was he gone?", Plan("seeking", "question", "questioning", "warm"), Style("warm"))
    past = Conversation((Turn(Heard("my cat came back"), seen("happy"), reply),))
    text = responder.tokenizer.decode(responder._prompt(HEARD, seen(), past))
    assert user_message(Heard("my cat came back"), seen("happy")) in text
    assert assistant_message(reply) in text
    assert text.index("my cat came back") < text.index(HEARD.text)
    assert text.rstrip().endswith("assistant")


def test_what_was_not_understood_never_reaches_the_model(
    responder: ChatResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "model", None)
    answer = responder.answer(Heard("mumble", 0.1), seen("neutral"), Conversation())
    assert answer.reply.text in UNCLEAR["quiet"]


@pytest.mark.parametrize(("bits", "least"), [(8, 0.98), (4, 0.85)])
def test_fewer_bits_answer_much_the_same(chat_folder: Path, bits: int, least: float, tmp_path: Path) -> None:
    """On a model wide enough for the library's blocks of 64 weights."""
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(1)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, eos_token_id=2, bos_token_id=None, **sizes)
    ).save_pretrained(tmp_path)
    plain, fewer = ChatResponder.load(tmp_path), ChatResponder.load(tmp_path, bits=bits)
    assert {type(m).__name__ for m in fewer.model.modules()} & {"Linear8bitLt", "Linear4bit"}
    ids = plain._plain("My dog ran away.")
    whole, found = (r._read(ids).logits[0] for r in (plain, fewer))
    assert float(torch.cosine_similarity(whole - whole.mean(), found - found.mean(), dim=0)) > least
    assert fewer.answer(HEARD, seen(), Conversation(), 1).reply.text


def test_other_numbers_of_bits_are_refused(chat_folder: Path) -> None:
    with pytest.raises(ConfigError, match="bits: 3 is not possible; choose from 0, 8, 4"):
        ChatResponder.load(chat_folder, bits=3)


def test_a_static_cache_answers_as_one_that_grows(responder: ChatResponder) -> None:
    static = ChatResponder(responder.model, responder.tokenizer, replace(responder.config, static=True))
    for seed in range(3):
        found = static.answer(HEARD, seen(), Conversation(), seed)
        assert found == responder.answer(HEARD, seen(), Conversation(), seed)
    assert static._static is not None
    small = ChatResponder(responder.model, responder.tokenizer, replace(static.config, static_tokens=64))
    assert small.answer(HEARD, seen(), Conversation(), 0) == responder.answer(HEARD, seen(), Conversation(), 0)
    assert small._static is None  # the prompt alone is longer


def test_two_at_once_do_not_share_a_static_cache(responder: ChatResponder) -> None:
    static = ChatResponder(responder.model, responder.tokenizer, replace(responder.config, static=True))
    first = static.answers(HEARD, seen(), Conversation(), 1)
    begun = next(first)
    other = static.answer(HEARD, seen("happy"), Conversation(), 2)
    *_, last = [begun, *first]
    assert last == responder.answer(HEARD, seen(), Conversation(), 1)
    assert other == responder.answer(HEARD, seen("happy"), Conversation(), 2)
    abandoned = static.answers(HEARD, seen(), Conversation(), 1)
    next(abandoned)
    abandoned.close()
    assert static._free.acquire(blocking=False)  # given back
