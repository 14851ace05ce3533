"""Invariants of the shipped corpus, and how it is read, split and grouped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from omni.data.corpora import exchanges as corpus
from omni.data.corpora.exchanges import Exchange, dialogues, held_out, proper_names, read, split
from omni.errors import DataError
from omni.phones import normalise
from omni.text import FIELDS, spoken_form
from omni.turns import EMOTIONS, FITTING_STYLES
from tests.tiny import REPOSITORY

#: The emotion categories of EmpatheticDialogues (Rashkin et al. 2019, arXiv 1811.00207).
FEELINGS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident",
    "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious", "grateful",
    "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud", "sad",
    "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
#: Phrases that sound kind and say nothing, or promise what software cannot do.
CLICHES = (
    "i hear you", "feelings are valid", "must be so hard", "must be hard", "understand how you feel",
    "you're not alone", "you are not alone", "okay to feel", "here for you", "sending hugs", "one day at a time",
    "gentle with yourself", "happens for a reason", "time heals", "stay strong", "hang in there", "reach out",
    "everything will be", "i promise", "as a human", "always be there", "when i was", "i remember when",
    "as an ai", "language model",
)  # fmt: skip


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    return read(REPOSITORY / corpus.FOLDER)


@pytest.fixture(scope="module")
def by_situation(exchanges: list[Exchange]) -> dict[str, list[Exchange]]:
    found: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        found[exchange.situation].append(exchange)
    return found


def test_there_are_enough(exchanges: list[Exchange]) -> None:
    assert len(exchanges) >= 2000
    assert sum(len(d) > 1 for d in dialogues(exchanges)) >= 200


def test_all_feelings_of_empathetic_dialogues_are_there(exchanges: list[Exchange]) -> None:
    assert len(FEELINGS) == 32
    counts = Counter(e.feeling for e in exchanges)
    assert {f: counts[f] for f in FEELINGS if counts[f] < 20} == {}
    assert set(counts) - set(FEELINGS) <= {"mixed", "plain"}


def test_sets_say_the_same_words_in_voices_that_get_other_replies(by_situation: dict[str, list[Exchange]]) -> None:
    sets = [rows for name, rows in by_situation.items() if name.startswith("tone-") and len(rows) > 1]
    good = 0
    for rows in sets:
        assert len({normalise(r.say) for r in rows}) == 1, rows[0].situation
        assert len({r.reply for r in rows}) == len(rows), rows[0].situation
        assert len({r.emotion for r in rows}) == len(rows), rows[0].situation
        good += len(rows) >= 3
    assert good >= 150


def test_labels_are_valid_and_styles_fit_the_voice(exchanges: list[Exchange]) -> None:
    for field, allowed in FIELDS.items():
        assert {getattr(e, field) for e in exchanges} <= set(allowed)
    unfit = [e for e in exchanges if e.style not in FITTING_STYLES[e.emotion]]
    assert unfit == []


@pytest.mark.parametrize("field", ["emotion", "intensity", "need", "strategy", "intent", "style"])
def test_every_label_occurs_often_enough_to_be_learned(exchanges: list[Exchange], field: str) -> None:
    counts = Counter(getattr(e, field) for e in exchanges)
    assert {v: counts[v] for v in FIELDS[field] if counts[v] < 10} == {}


def test_each_emotion_is_met_with_every_fitting_style(exchanges: list[Exchange]) -> None:
    pairs = Counter((e.emotion, e.style) for e in exchanges)
    missing = [(e, s) for e in EMOTIONS for s in FITTING_STYLES[e] if pairs[e, s] < 5]
    assert missing == []


def test_replies_are_short_and_can_be_spoken(exchanges: list[Exchange]) -> None:
    for e in exchanges:
        assert 3 <= len(e.reply.split()) < 35, e.reply
        assert len(e.say.split()) <= 40, e.say
        assert not re.search(r"[^A-Za-z ,.?!'-]", e.reply + e.say), e
        assert e.reply.strip()[-1] in ".?!", e.reply
        assert spoken_form(e.reply)


def test_no_two_replies_share_eight_words_in_a_row(exchanges: list[Exchange]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, exchange in enumerate(exchanges):
        words = normalise(exchange.reply).split()
        for place in range(len(words) - 7):
            run = tuple(words[place : place + 8])
            assert seen.setdefault(run, number) == number, " ".join(run)


def test_replies_are_not_repeated_and_start_in_many_ways(exchanges: list[Exchange]) -> None:
    replies = Counter(normalise(e.reply) for e in exchanges)
    assert replies.most_common(1)[0][1] == 1
    openings = Counter(" ".join(normalise(e.reply).split()[:3]) for e in exchanges)
    phrase, count = openings.most_common(1)[0]
    assert count <= 0.02 * len(exchanges), phrase


@pytest.mark.parametrize("phrase", CLICHES)
def test_no_reply_has_a_cliche(exchanges: list[Exchange], phrase: str) -> None:
    found = [e.reply for e in exchanges if re.search(rf"\b{phrase}\b", e.reply.lower())]
    assert found == []


def test_a_tenth_is_held_out_and_no_situation_is_on_both_sides(exchanges: list[Exchange]) -> None:
    train, held = split(exchanges)
    assert len(train) + len(held) == len(exchanges)
    assert 0.07 <= len(held) / len(exchanges) <= 0.13
    assert not {e.situation for e in train} & {e.situation for e in held}
    assert {e.emotion for e in held} == set(EMOTIONS)
    queries = {normalise(e.say) for e in train}
    assert sum(normalise(e.say) in queries for e in held) <= 0.01 * len(held)


def test_the_split_is_a_function_of_the_name() -> None:
    names = [f"situation-{n}" for n in range(2000)]
    assert [held_out(n) for n in names] == [held_out(n) for n in names]
    assert 150 < sum(map(held_out, names)) < 250


ROW = {
    "situation": "a", "feeling": "sad", "emotion": "sad", "intensity": "mild", "need": "seeking",
    "strategy": "question", "intent": "questioning", "style": "warm", "say": "Anna left.", "reply": "Did Anna call?",
}  # fmt: skip


def row(**changes: str) -> Exchange:
    return Exchange(**{**ROW, **changes})


def test_only_consecutive_rows_of_a_talk_are_one_dialogue() -> None:
    rows = [row(situation=s) for s in ("talk-a", "talk-a", "tone-b", "tone-b", "talk-a", "talk-c", "talk-c")]
    assert [len(d) for d in dialogues(rows)] == [2, 1, 1, 1, 2]


def test_thought_of_an_exchange() -> None:
    thought = row().thought("anna laughed")
    assert (thought.heard, thought.emotion, thought.plan.style) == ("anna laughed", "sad", "warm")
    assert row().thought().heard == "Anna left."


def test_proper_names_are_words_that_are_never_lower_case_inside() -> None:
    rows = [
        row(say="So Anna came on Sunday.", reply="I'm glad Anna came. Will she stay?"),
        row(say="The Will is read.", reply="My will is strong."),
    ]
    names = proper_names(rows)
    assert names == {"anna": "Anna", "sunday": "Sunday"}


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_bad_rows_are_named_with_file_line_and_field(tmp_path: Path) -> None:
    import json

    good = json.dumps(ROW)
    with pytest.raises(DataError, match=r"a\.jsonl:2: style 'jolly'"):
        read(write(tmp_path / "x", good, json.dumps({**ROW, "style": "jolly"})))
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*colour"):
        read(write(tmp_path / "y", json.dumps({**ROW, "colour": "red"})))
    with pytest.raises(DataError, match="no corpus in"):
        read(tmp_path / "nowhere")


def test_what_the_exchanges_write_in_lower_case_is_no_name() -> None:
    rows = [row(say="I like the rice in Rome.", reply="Then cook the rice with Anna.")]
    assert proper_names(rows, {"rice": "Rice", "london": "London"}) == {
        "london": "London",
        "rome": "Rome",
        "anna": "Anna",
    }
