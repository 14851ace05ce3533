"""The expressive decoder: identity at initialisation, exact factors, batch equals singles, the gate, the units."""

import numpy as np
import pytest
import torch

from omni import spoken
from omni.config import DecoderConfig
from omni.errors import InputError, ModelError, UsageError
from omni.models.decoder import ExpressiveDecoder
from omni.models.prosody import shape_prosody
from omni.models.style import TABLE, amount_of, style_for, vector_of
from omni.models.voice_blocks import AdaptiveNorm, Gate
from omni.phones import VOICE_UNITS
from omni.turns import STYLES, Style

CONFIG = DecoderConfig(
    width=32, encoder_layers=2, decoder_layers=2, heads=2, feedforward=48, cepstrum=12, dropout=0.0, llm_width=16
)
TEXT = "Well, I am glad that you told me about it. Shall we walk in the garden tomorrow?"


@pytest.fixture(scope="module")
def decoder() -> ExpressiveDecoder:
    torch.manual_seed(3)
    return ExpressiveDecoder(CONFIG).eval()


def test_adaptive_norm_is_the_plain_norm_at_initialisation() -> None:
    norm, x = AdaptiveNorm(8, 5), torch.randn(2, 4, 8)
    assert torch.equal(norm(x, torch.randn(2, 5)), torch.nn.functional.layer_norm(x, (8,)))


def test_style_vector_changes_nothing_before_training(decoder: ExpressiveDecoder) -> None:
    units = spoken.units(TEXT)
    plain = decoder.speak(units)
    moved = decoder.speak(units, style_vector=np.full(CONFIG.style_vector, 2.0, np.float32))
    assert np.array_equal(plain.envelope, moved.envelope)
    assert np.array_equal(plain.pitch_hz, moved.pitch_hz)


def test_gate_is_closed_without_states_and_opens_unit_by_unit() -> None:
    gate, encoded, outer = Gate(8, 6), torch.randn(1, 3, 8), torch.randn(1, 3, 6)
    assert gate(encoded, None) is encoded
    mixed = gate(encoded, outer, torch.tensor([[1.0, 0.0, 1.0]]))
    assert torch.equal(mixed[0, 1], encoded[0, 1])
    assert not torch.equal(mixed[0, 0], encoded[0, 0])
    with torch.no_grad():
        gate.weigh.bias.fill_(40.0)
    wanted = gate.project(torch.nn.functional.layer_norm(outer, (6,)))
    assert torch.allclose(gate(encoded, outer), wanted)


def test_states_reach_the_frames_and_a_wrong_width_is_named(decoder: ExpressiveDecoder) -> None:
    units = spoken.units("Good morning.")
    places = np.where(units.words >= 0, units.words, -1)
    plain, told = decoder.speak(units), decoder.speak(units, llm_states=torch.randn(2, 16), unit_to_token=places)
    same = len(plain) == len(told) and np.array_equal(plain.envelope, told.envelope)
    assert not same
    with pytest.raises(ModelError, match="takes 16"):
        decoder.speak(units, llm_states=torch.randn(2, 7), unit_to_token=places)


def test_batch_equals_singles(decoder: ExpressiveDecoder) -> None:
    torch.manual_seed(0)
    lengths = (7, 4)
    units = torch.randint(6, len(VOICE_UNITS), (2, 7))
    mask = torch.stack([(torch.arange(7) < n).float() for n in lengths]).unsqueeze(-1)
    features, style, who = torch.rand(2, 7, spoken.FEATURES), torch.randn(2, CONFIG.style_vector), torch.zeros(2).long()
    together = decoder.prosody(decoder.encode(units, features, mask, style, who), style, mask)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        encoded = decoder.encode(units[one, :n], features[one, :n], mask[one, :n], style[one], who[one])
        alone = decoder.prosody(encoded, style[one], mask[one, :n])
        assert torch.allclose(together[row, :n], alone[0], atol=1e-5)


def fake_prediction(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.concatenate((np.log(draw.uniform(4, 14, (count, 1))), draw.normal(size=(count, 4))), axis=1)


@pytest.mark.parametrize("name", STYLES)
def test_factors_are_exact_against_neutral(name: str) -> None:
    units, style = spoken.units(TEXT.replace("?", ".")), style_for(name, 0.7)
    neutral, styled = fake_prediction(len(units.units), 1), fake_prediction(len(units.units), 2)
    base = shape_prosody(units, neutral, neutral, Style(), 0.2, 1.3)
    made = shape_prosody(units, styled, neutral, style, 0.2, 1.3)
    speech = units.words >= 0

    def moments(p):
        weights = np.repeat(p.lengths[speech], 3)
        values = p.pitch[speech].reshape(-1)
        mean = np.average(values, weights=weights)
        return mean, np.sqrt(np.average((values - mean) ** 2, weights=weights)), p.lengths[speech].sum()

    (mean_0, spread_0, steps_0), (mean, spread, steps) = moments(base), moments(made)
    assert steps_0 / steps == pytest.approx(style.rate, rel=0.03)
    # both are measured with each reading's own lengths as weights
    assert spread / spread_0 == pytest.approx(style.pitch_range, rel=0.12)
    assert np.exp((mean - mean_0) * 0.2) == pytest.approx(style.pitch, rel=0.03)


def test_energy_is_added_in_db(decoder: ExpressiveDecoder) -> None:
    units = spoken.units("Good morning.")
    plain, soft = decoder.speak(units), decoder.speak(units, Style("neutral", energy_db=-6.0))
    assert (soft.envelope[:, 0] - plain.envelope[:, 0]).mean() == pytest.approx(-6.0 * np.log(10) / 10, abs=1e-3)


def test_frames_fit_together(decoder: ExpressiveDecoder) -> None:
    frames = decoder.speak(spoken.units(TEXT), style_for("cheerful", 1.0))
    assert frames.envelope.shape == (len(frames), 12)
    assert frames.clause_ends[-1] == len(frames)
    assert len(frames.clauses()) == 3
    assert (frames.pitch_hz >= 60).all()
    assert (frames.aperiodicity <= 0).all()


def test_clauses_equal_the_whole(decoder: ExpressiveDecoder) -> None:
    units, style = spoken.units(TEXT), style_for("warm", 0.8)
    whole, pieces = decoder.speak(units, style), list(decoder.speak_clauses(units, style))
    assert [len(p) for p in pieces] == [end - start for start, end in whole.clauses()]
    for name in ("envelope", "aperiodicity", "pitch_hz", "voiced"):
        joined = np.concatenate([getattr(p, name) for p in pieces])
        assert np.allclose(joined, getattr(whole, name), rtol=1e-4, atol=1e-4)


def test_a_question_rises_and_a_wh_question_does_not(decoder: ExpressiveDecoder) -> None:
    def last_pitch(text: str) -> float:
        return float(decoder.speak(spoken.units(text)).pitch_hz[-30:].mean())

    assert last_pitch("Can you come?") > 1.05 * last_pitch("Can you come.")
    assert last_pitch("When can you come?") == pytest.approx(last_pitch("When can you come."), rel=1e-3)


def test_styles_need_known_names_and_intensities(decoder: ExpressiveDecoder) -> None:
    assert set(TABLE) == set(STYLES)
    assert all(len(entry.target) == CONFIG.style_vector for entry in TABLE.values())
    assert style_for("neutral", 1.0) == Style()
    assert amount_of(style_for("warm", 0.5)) == pytest.approx(1.0)
    assert amount_of(style_for("warm", 0.1)) == pytest.approx(0.6)
    assert not vector_of(Style()).any()
    with pytest.raises(UsageError, match="choose one of"):
        style_for("furious", 0.5)
    with pytest.raises(UsageError, match="0 to 1"):
        style_for("warm", 2.0)
    with pytest.raises(InputError, match="nothing to say"):
        decoder.speak(spoken.units("..."))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I paid $5.20 at 3:05.", "i paid five dollars and twenty cents at three oh five"),
        ("May 21st, 1999", "may twenty first nineteen ninety nine"),
        ("1,234 of 20", "one thousand two hundred and thirty four of twenty"),
        ("Dr. Smith's 3.5% & more", "doctor smith's three point five percent and more"),
        ("It is -4 degrees in the USA", "it is minus four degrees in the u s a"),
    ],
)
def test_numbers_and_signs_are_read(text: str, words: str) -> None:
    assert " ".join(spoken.units(text).text) == words


def test_units_begin_and_end_in_pauses() -> None:
    made = spoken.units('"Oh -- really?" she said, "the apple!"')
    names = [VOICE_UNITS[u] for u in made.units]
    assert names[0] == "sil"
    assert names[-1] == "!"
    assert [n for n in names if n in ",.?!"] == [",", "?", ",", "!"]
    assert len(made.words) == len(names)
    assert made.features.shape == (len(names), spoken.FEATURES)
    the = made.text.index("the")
    assert [names[i] for i in np.flatnonzero(made.words == the)] == ["DH", "IY0"]
    assert spoken.sentences("One. Two? Three") == ["One.", "Two?", "Three"]
