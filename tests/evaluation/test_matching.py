"""The matcher finds what belongs together, takes a tie for a miss, and draws its distractors fairly."""

from __future__ import annotations

import gzip
import json

import pytest

from omni.data.corpora.exchanges import Exchange
from omni.errors import DataError
from omni.evaluation.matching import CHOICES, Matcher, choices_for, self_dialogue_documents

TOPICS = {
    "dog": "dog puppy bark leash walk vet tail kennel",
    "train": "train platform ticket station delay conductor carriage rail",
    "cake": "cake oven flour sugar bake butter icing whisk",
}


def exchange(situation: str, say: str) -> Exchange:
    return Exchange(situation, "mixed", "sad", "mild", "none", "other", "neutral", "warm", say, "I see.")


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    documents = []
    for words in TOPICS.values():
        parts = words.split()
        documents += [f"{a} {b}" for a in parts for b in parts if a != b]
    return Matcher(components=5, minimum_documents=1).fit(documents)


def test_words_of_one_topic_find_each_other_without_sharing_any(matcher):
    choices = [["the puppy lost its leash", "the ticket for the rail carriage", "sugar and butter"]]
    assert matcher.finds(["that dog needs a vet"], choices) == [True]
    assert matcher.finds(["that dog needs a vet"], choices, None) == [True]
    assert matcher.finds(["bake it in the oven"], choices) == [False]


def test_a_word_in_common_counts_for_more_than_its_topic(matcher):
    choices = ["the conductor on the train", "sugar"]
    assert matcher.finds(["what did the conductor say"], [choices]) == [True]
    near, far = matcher.scores("conductor", ["conductor", "ticket"])
    assert near == pytest.approx(1.2)  # the same word and the same place
    assert far < 0.3


def test_a_reply_that_says_nothing_finds_nothing(matcher):
    assert matcher.finds(["Oh, I see."], [["the puppy", "the train"]]) == [False]
    assert matcher.finds(["the puppy"], [["the puppy", "the puppy"]]) == [False]


def test_too_little_text_is_refused():
    with pytest.raises(DataError, match="documents"):
        Matcher(components=50, minimum_documents=1).fit(["dog cat", "dog bird"])
    with pytest.raises(DataError, match="documents"):
        Matcher().fit(["", ""])


def test_distractors_come_from_other_situations_and_from_the_seed():
    pool = [exchange(f"s{i}", f"query {i}") for i in range(14)] + [exchange("s0", "the same thing, said otherwise")]
    rows = [pool[0], pool[14], pool[5]]
    found = choices_for(rows, pool, seed=3)
    assert [c[0] for c in found] == [r.say for r in rows]
    for row, options in zip(rows, found):
        assert len(options) == CHOICES == len(set(options))
        others = {e.say for e in pool if e.situation == row.situation}
        assert not others & set(options[1:])
    assert found == choices_for(rows, pool, seed=3) != choices_for(rows, pool, seed=4)
    with pytest.raises(DataError, match="situations"):
        choices_for(rows, pool[:5], seed=3)


def test_dialogues_are_cut_into_pieces(tmp_path):
    path = tmp_path / "talk.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"turns": ["a", {"text": "b"}, "c", "d", "e"]}) + "\n")
    assert self_dialogue_documents(path, turns=2) == ["a b", "c d", "e"]
