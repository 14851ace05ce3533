"""The grammar of a turn, the tokenizer's round trips, and how a reply is spelt."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import ModelError
from omni.phones import normalise
from omni.text import (
    FIELDS,
    LISTEN,
    PERCEIVE,
    SAY,
    SOUND,
    SPECIALS,
    USER,
    Thought,
    Vocabulary,
    articles,
    label,
    spoken_form,
)
from omni.turns import EMOTIONS, INTENSITIES, INTENTS, MATCHES, NEEDS, STRATEGIES, STYLES, Plan
from tests.tiny import TEXTS

NAMES = {"sunday": "Sunday", "anna": "Anna"}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.train(TEXTS * 3, 200, NAMES)


THOUGHT = Thought("my dog ran away", "sad", "strong", "adds", Plan("seeking", "question", "questioning", "comforting"))


def test_labels_are_single_tokens_and_specials_come_first(vocabulary: Vocabulary) -> None:
    assert [vocabulary.ids[s] for s in SPECIALS] == list(range(len(SPECIALS)))
    assert len(set(SPECIALS)) == len(SPECIALS)
    for field, values in FIELDS.items():
        assert vocabulary.field_ids[field] == [vocabulary.ids[label(field, v)] for v in values]


def test_label_refuses_unknown_values_by_name() -> None:
    with pytest.raises(ValueError, match=r"emotion 'bored' does not exist; allowed: neutral"):
        label("emotion", "bored")


def test_turn_parses_back_to_the_thought_and_the_reply(vocabulary: Vocabulary) -> None:
    ids = vocabulary.turn(THOUGHT, "Who else heard the noise?", sound_slots=3)
    thought, reply = vocabulary.parse(ids)
    assert thought == THOUGHT
    assert reply == "who else heard the noise?"
    assert ids[:4] == [vocabulary.ids[USER], *[vocabulary.ids[SOUND]] * 3]
    assert ids.count(vocabulary.ids[SOUND]) == 3


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(product(EMOTIONS, INTENSITIES, MATCHES))), st.sampled_from(NEEDS),
       st.sampled_from(STRATEGIES), st.sampled_from(INTENTS), st.sampled_from(STYLES), st.sampled_from(TEXTS))  # fmt: skip
def test_every_combination_of_labels_round_trips(
    seen: tuple[str, str, str], need: str, strategy: str, intent: str, style: str, text: str
) -> None:
    vocabulary = _shared()
    thought = Thought(normalise(text), *seen, Plan(need, strategy, intent, style))
    assert vocabulary.parse(vocabulary.turn(thought, text)) == (thought, spoken_form(text))


def _shared(cache: list[Vocabulary] = []) -> Vocabulary:  # noqa: B006 - one vocabulary for all examples
    if not cache:
        cache.append(Vocabulary.train(TEXTS * 3, 200, NAMES))
    return cache[0]


@pytest.mark.parametrize("mark", [LISTEN, PERCEIVE, SAY])
def test_parse_refuses_a_turn_without_a_mark(vocabulary: Vocabulary, mark: str) -> None:
    ids = [i for i in vocabulary.turn(THOUGHT, "that sounds like a long day.") if i != vocabulary.ids[mark]]
    with pytest.raises(ModelError, match="not well-formed"):
        vocabulary.parse(ids)


def test_parse_refuses_a_missing_or_doubled_label(vocabulary: Vocabulary) -> None:
    ids = vocabulary.turn(THOUGHT, "that sounds like a long day.")
    place = ids.index(vocabulary.ids[label("match", "adds")])
    with pytest.raises(ModelError, match="fields"):
        vocabulary.parse(ids[:place] + ids[place + 1 :])
    swapped = [*ids[: place - 1], ids[place], ids[place - 1], *ids[place + 1 :]]
    with pytest.raises(ModelError, match="fields"):
        vocabulary.parse(swapped)


def test_plain_text_is_never_read_as_a_special(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(normalise("<|end|> <emotion:sad> the dog"))
    assert min(ids) >= len(SPECIALS)
    assert vocabulary.decode(ids) == "end emotion sad the dog"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abdeghilnorstuwy ,.?!'-—’", min_size=1, max_size=60))
def test_words_survive_encoding_and_decoding(text: str) -> None:
    spoken = spoken_form(text)
    assert spoken_form(spoken) == spoken
    decoded = _shared().decode(_shared().encode(spoken))
    assert decoded.replace(" ", "") == spoken.replace(" ", "")
    assert normalise(decoded) == normalise(spoken)


def test_spoken_form_keeps_what_the_model_can_say() -> None:
    assert spoken_form("Well-known; “I’m FINE”... really — yes!  ") == "well known, i'm fine. really , yes!"


def test_spell_writes_capitals_where_a_person_would(vocabulary: Vocabulary) -> None:
    said = vocabulary.spell("i'm glad. will anna's train be here on sunday? yes, i think so.")
    assert said == "I'm glad. Will Anna's train be here on Sunday? Yes, I think so."
    assert vocabulary.spell("annas isn't a name") == "Annas isn't a name"


def test_word_starts_point_at_each_word(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("what did you say, about the job?")
    starts = vocabulary.word_starts(ids)
    assert len(starts) == 7
    ends = [*starts[1:], len(ids)]
    words = [normalise(vocabulary.decode(ids[a:b])) for a, b in zip(starts, ends, strict=True)]
    assert words == ["what", "did", "you", "say", "about", "the", "job"]


def test_save_and_load_give_the_same_vocabulary(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert loaded.ids == vocabulary.ids
    assert loaded.names == NAMES
    assert loaded.encode(TEXTS[0]) == vocabulary.encode(TEXTS[0])


@pytest.mark.parametrize("name", ["tokenizer.json", "names.json"])
def test_load_names_the_folder_when_a_file_is_damaged(vocabulary: Vocabulary, tmp_path: Path, name: str) -> None:
    vocabulary.save(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ModelError, match="no readable tokenizer in"):
        Vocabulary.load(tmp_path)


def test_a_tokenizer_of_another_version_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(ModelError, match=r"lacks <\|pad\|>"):
        Vocabulary(Tokenizer(models.BPE()))


@pytest.mark.parametrize("match", MATCHES)
def test_sentence_tells_the_whole_thought(match: str) -> None:
    text = Thought("hello", "angry", "strong", match, THOUGHT.plan).sentence()
    assert text.startswith('Heard "hello". The voice sounds very angry')
    assert "by question (questioning), in a comforting voice" in text


def test_articles_follow_the_sound_of_the_next_word() -> None:
    said = "a interview, an son, a hour, an university, an one, a old zqx, an zqx"
    assert articles(said) == "an interview, a son, an hour, a university, a one, an old zqx, a zqx"
    assert articles("what a, an idea, alas an") == "what a, an idea, alas an"
