"""Strict configuration: round trips, unknown keys, wrong types."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from omni.config import AudioConfig, ListenerConfig, OmniConfig, build, dump, load
from omni.errors import ConfigError, ModelError


def test_round_trip_through_a_file(tmp_path):
    config = OmniConfig(name="other", audio=AudioConfig(mels=64, longest_query_s=60.0))
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(OmniConfig, path) == config


def test_an_empty_file_gives_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert load(OmniConfig, path) == OmniConfig()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"audio": {"melz": 80}}, "unknown key 'melz'; allowed: sample_rate_hz"),
        ({"audio": {"mels": "80"}}, r"config\.audio\.mels: expected int, got '80'"),
        ({"audio": {"mels": 80.5}}, r"config\.audio\.mels: expected int"),
        ({"audio": {"mels": True}}, r"config\.audio\.mels: expected int"),
        ({"audio": {"longest_query_s": False}}, "expected float"),
        ({"audio": None}, "expected a block of keys for AudioConfig"),
        ({"perceiver": {"use_trunk": 1}}, "expected bool"),
        ([], "expected a block of keys"),
    ],
)
def test_mistakes_are_named(values, words):
    with pytest.raises(ConfigError, match=words):
        build(OmniConfig, values)


def test_whole_numbers_do_for_floats():
    made = build(AudioConfig, {"longest_query_s": 60})
    assert made.longest_query_s == 60.0
    assert isinstance(made.longest_query_s, float)


@dataclass(frozen=True)
class Example:
    name: str
    sizes: tuple[int, ...] = (1, 2)
    limit: float | None = None
    extra: dict[str, int] | None = None


def test_lists_options_and_required_keys():
    made = build(Example, {"name": "a", "sizes": [3, 4], "limit": 2, "extra": {"b": 1}})
    assert made == Example("a", (3, 4), 2.0, {"b": 1})
    assert build(Example, {"name": "a", "limit": None}).limit is None
    with pytest.raises(ConfigError, match="missing key 'name'"):
        build(Example, {})
    with pytest.raises(ConfigError, match=r"sizes\[1\]: expected int, got 'x'"):
        build(Example, {"name": "a", "sizes": [1, "x"]})
    with pytest.raises(ConfigError, match="expected a list"):
        build(Example, {"name": "a", "sizes": 3})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(OmniConfig, tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("audio: [unclosed")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not readable YAML"):
        load(OmniConfig, path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load(OmniConfig, path)


def test_derived_values_and_immutability():
    assert AudioConfig().frame_rate_hz == 100.0
    assert ListenerConfig(outer_layers=1, inner_layers=2, last_layers=3).layers == 6
    with pytest.raises(FrozenInstanceError):
        AudioConfig().mels = 3  # type: ignore[misc]


def test_code_of_exit():
    assert ConfigError("x").exit_code == ModelError("x").exit_code == 5
