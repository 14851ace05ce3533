"""Word sentiment: negation, saving, and when a voice contradicts its words."""

import pytest
import torch

from omni.errors import ModelError
from omni.models.perceiver import to_perception
from omni.models.words import WordSentiment, match, matched, tokens
from omni.turns import EMOTIONS, MATCHES


@pytest.fixture
def sentiment():
    model = WordSentiment(["bad", "good", "not_good", "train"])
    with torch.no_grad():
        model.weights.weight.copy_(torch.tensor([[3.0, 0, 0], [0, 0, 3.0], [2.0, 0, 0], [0, 1.0, 0]]))
    return model


def voice(emotion: str, share: float = 0.9):
    shares = torch.full((8,), (1 - share) / 7)
    shares[EMOTIONS.index(emotion)] = share
    return to_perception(shares, 0.5)


def test_tokens_mark_the_two_words_after_a_negator():
    assert tokens("I'm NOT so happy today!") == ["i'm", "not", "not_so", "not_happy", "today"]


def test_valence_has_the_sign_of_the_words(sentiment):
    assert sentiment.valence("a good train") > 0.5
    assert sentiment.valence("bad") < -0.5
    assert sentiment.valence("not good") < -0.3
    assert sentiment.valence("zebra") == sentiment.valence("") == 0.0


@pytest.mark.parametrize(
    ("emotion", "words", "wanted"),
    [
        ("happy", 0.8, "agrees"), ("sad", 0.8, "contradicts"), ("happy", -0.8, "contradicts"), ("angry", -0.8, "agrees"),
        ("fearful", 0.0, "adds"), ("neutral", 0.9, "agrees"), ("calm", -0.9, "agrees"), ("neutral", 0.0, "agrees"),
    ],
)  # fmt: skip
def test_match(emotion, words, wanted):
    assert match(voice(emotion), words) == wanted
    assert wanted in MATCHES


def test_an_unsure_voice_never_contradicts():
    assert match(voice("sad", 0.2), 0.9) == "agrees"


def test_matched_fills_the_record(sentiment):
    assert matched(voice("sad"), "good", sentiment).match == "contradicts"


def test_round_trip_and_damage(sentiment, tmp_path):
    path = tmp_path / "words.safetensors"
    sentiment.save(path)
    assert WordSentiment.load(path).valence("a good train") == pytest.approx(
        sentiment.valence("a good train"), abs=1e-3
    )
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match="train it again"):
        WordSentiment.load(path)
    with pytest.raises(ModelError):
        WordSentiment.load(tmp_path / "absent.safetensors")
