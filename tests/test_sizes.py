"""Parameters of the published models, counted on the meta device, beside what their makers state."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from omni.cli import main
from omni.preset import load_preset, names
from omni.sizes import licence, of_preset, parameters, published

KEPT = sorted(
    p.name.removesuffix(".json").replace("--", "/", 1)
    for p in (resources.files("omni") / "assets" / "models").iterdir()
    if p.name.endswith(".json")
)


@pytest.mark.parametrize("model", KEPT)
def test_a_count_is_what_the_makers_state(model: str) -> None:
    found = published(model)
    assert found is not None
    assert found["model"] == model
    assert found["source"]
    assert found["licence"]
    counted = parameters(model)
    assert counted is not None
    if found["parameters_stated"]:
        assert counted == pytest.approx(found["parameters_stated"], rel=0.05)


def test_every_model_of_the_presets_is_known() -> None:
    for name in names():
        for _, spec in load_preset(name).models():
            found = published(spec.model)
            assert found is not None, spec.model
            assert licence(spec).lower().replace("-", " ") == found["licence"].lower().replace("-", " ")


def test_an_unknown_model_has_no_size() -> None:
    assert parameters("org/none") is None


def test_sizes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--presets"]) == 0
    told = capsys.readouterr().out
    assert "openai/whisper-small.en" in told
    assert "CC BY-NC 4.0" in told
    assert "nothing is fetched" in told
    assert main(["info", "--presets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    cascade = rows["cascade"]
    assert cascade["parameters"] == sum(m["parameters"] for m in cascade["models"])
    assert cascade["weights_bytes"]["cpu"] == 4 * cascade["parameters"] == 2 * cascade["weights_bytes"]["cuda"]
    assert rows["omni-mini"]["models"] == []
    assert of_preset(load_preset("cascade")).parameters == cascade["parameters"]
