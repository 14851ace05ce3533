"""Words to phones: inventories, dictionary, rules for unknown words."""

import pytest

from omni.phones import (
    BLANK,
    BOUNDARY,
    UNIT_ID,
    UNITS,
    VOICE_ID,
    VOICE_UNITS,
    dictionary,
    letters_to_sounds,
    listener_targets,
    normalise,
    pronounce,
    unstressed,
)


def test_inventories_have_no_doubles():
    assert len(set(UNITS)) == len(UNITS) == 41
    assert len(set(VOICE_UNITS)) == len(VOICE_UNITS)
    assert (UNIT_ID[BLANK], UNIT_ID[BOUNDARY]) == (0, 1)
    assert VOICE_ID["<pad>"] == 0


def test_every_pronunciation_is_made_of_known_units():
    words = dictionary()
    assert len(words) > 100_000
    assert all(words.values())
    phones = {phone for found in words.values() for pronunciation in found for phone in pronunciation}
    assert phones <= set(VOICE_UNITS)
    assert set(unstressed(tuple(phones))) <= set(UNITS)


def test_common_words():
    assert pronounce("cat")[0] == ("K", "AE1", "T")
    assert len(pronounce("read")) == 2


@pytest.mark.parametrize(("word", "last"), [("omnibus's", "Z"), ("gizmo's", "Z"), ("cat's", "S")])
def test_possessives(word, last):
    assert pronounce(word)[0][-1] == last


@pytest.mark.parametrize("word", ["zorblax", "qwrtz", "x", "''", "snowflakery", "a" * 200])
def test_any_word_has_a_pronunciation(word):
    for phones in pronounce(word):
        assert phones
        assert all(phone in VOICE_ID for phone in phones)
    assert letters_to_sounds(word)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("It\u2019s  a\n'quoted' word", "it's a quoted word"),
        ("twenty-one", "twenty one"),
        ("'cause it's fine", "'cause it's fine"),
        ("... 123 ?!", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_listener_targets():
    cat, dog = [UNIT_ID[p] for p in ("K", "AE", "T")], [UNIT_ID[p] for p in ("D", "AO", "G")]
    assert listener_targets("Cat, dog!") == [*cat, UNIT_ID[BOUNDARY], *dog]
    assert listener_targets("?!") == []
    assert UNIT_ID[BLANK] not in listener_targets("the quick brown fox")
