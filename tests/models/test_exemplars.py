"""Exemplars: the nearest by TF-IDF as a library computes it, tone breaks ties, files round-trip, damage is named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer

from omni.errors import ModelError
from omni.models.exemplars import TONE_WEIGHT, Exemplars
from omni.text import Vocabulary
from omni.turns import EMOTIONS, INTENSITIES
from tests.tiny import TEXTS

FLAT = [1 / len(EMOTIONS)] * len(EMOTIONS)


def many(count: int = 300) -> Exemplars:
    draw = random.Random(3)
    queries = [[draw.randrange(60) for _ in range(draw.randint(1, 12))] for _ in range(count)]
    return Exemplars(queries, [[n % 60] for n in range(count)], [n % len(EMOTIONS) for n in range(count)])


def only(emotion: str) -> list[float]:
    return [float(e == emotion) for e in EMOTIONS]


def test_the_similarity_is_the_cosine_that_scikit_learn_computes() -> None:
    exemplars = many()
    texts = [" ".join(f"t{i}" for i in query) for query in exemplars.queries]
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", binary=True)
    known = vectorizer.fit_transform(texts)
    for query in ([3, 4, 5], [1, 1, 59, 7], [12]):
        wanted = (known @ vectorizer.transform([" ".join(f"t{i}" for i in query)]).T).toarray()[:, 0]
        found = exemplars.similarity(query, FLAT) - TONE_WEIGHT / len(EMOTIONS)
        assert np.allclose(found, wanted, atol=1e-6)


def test_an_exchange_finds_itself_first_and_can_be_left_out() -> None:
    exemplars = Exemplars([[1, 2, 3], [1, 2, 4], [5, 6]], [[1], [2], [3]], [0, 0, 0])
    assert exemplars.nearest([1, 2, 4], FLAT, 2) == [1, 0]
    assert exemplars.nearest([1, 2, 4], FLAT, 2, without=[1]) == [0, 2]
    assert exemplars.nearest([1], FLAT, 9, without=[0, 1, 2]) == []


def test_of_two_exchanges_with_the_same_words_the_one_in_the_same_tone_is_found() -> None:
    exemplars = Exemplars([[7, 8], [7, 8]], [[1], [2]], [EMOTIONS.index("sad"), EMOTIONS.index("happy")])
    assert exemplars.nearest([7, 8], only("sad")) == [0]
    assert exemplars.nearest([7, 8], only("happy")) == [1]


def test_unknown_tokens_and_an_empty_query_find_something_without_an_error() -> None:
    exemplars = many(20)
    assert len(exemplars.nearest([10_000], FLAT)) == 1
    assert len(exemplars.nearest([], FLAT, 3)) == 3


def test_what_is_shown_is_heard_and_said_with_the_nearest_last() -> None:
    vocabulary = Vocabulary.train(TEXTS * 3, 200)
    queries, replies = [vocabulary.encode(t) for t in TEXTS[:3]], [vocabulary.encode(t) for t in TEXTS[3:6]]
    shown = Exemplars(queries, replies, [0, 1, 2]).shown(queries[2], [2, 0], vocabulary)
    assert vocabulary.decode(shown) == " ".join([TEXTS[0], TEXTS[3], TEXTS[2], TEXTS[5]])
    marks = [i for i in shown if i in {vocabulary.ids[m] for m in ("<|user|>", "<|listen|>", "<|say|>", "<|end|>")}]
    names = {i: t for t, i in vocabulary.ids.items()}
    assert [names[m] for m in marks] == ["<|user|>", "<|listen|>", "<|say|>", "<|end|>"] * 2
    likeness = [names[i] for i in shown if names[i].startswith("<intensity")]
    assert likeness == ["<intensity:mild>", "<intensity:strong>"]


def test_likeness_grows_with_the_words_that_are_shared() -> None:
    exemplars = many()
    query = [1, 2, 3, 4, 5, 6, 7, 8]
    levels = [exemplars.likeness(query, query[:count] + [30 + n for n in range(8 - count)]) for count in range(9)]
    assert levels == sorted(levels, key=INTENSITIES.index)
    assert {levels[0], levels[4], levels[8]} == set(INTENSITIES)
    assert exemplars.likeness([], query) == "mild"


def test_files_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    exemplars = many()
    exemplars.save(tmp_path / "exemplars.safetensors")
    tensors = load_file(tmp_path / "exemplars.safetensors")
    again = Exemplars.from_tensors(tensors)
    assert (again.queries, again.replies) == (exemplars.queries, exemplars.replies)
    assert np.allclose(again.similarity([3, 9], only("sad")), exemplars.similarity([3, 9], only("sad")))
    for broken in ({"queries": tensors["queries"][:-1]}, {"tones": tensors["tones"][:-1]}):
        with pytest.raises(ModelError, match=r"exemplars\.safetensors is damaged"):
            Exemplars.from_tensors({**tensors, **broken})
    with pytest.raises(ModelError, match="damaged"):
        Exemplars.from_tensors({k: v for k, v in tensors.items() if k != "replies"})


def test_as_many_queries_as_replies_are_needed() -> None:
    with pytest.raises(ValueError, match="as many of each"):
        Exemplars([[1]], [[1], [2]], [0])
