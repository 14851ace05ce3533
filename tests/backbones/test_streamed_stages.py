"""Batches from shards: the same after a kill, shared out to processes, of the lengths that were asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from omni.data import manifest
from omni.data.shards import write_shards
from omni.errors import ConfigError, DataError
from omni.train.empathy_omni import RespondTask
from omni.train.loop import Trainer
from omni.train.lpe import LpeTask
from omni.train.recipe import load_recipe
from omni.train.streams import Batches, endless, grouped, mixed
from tests.backbones.empathy_tiny import twin, write_exchanges

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exchanges as a manifest, and the same packed in shards of two."""
    folder = write_exchanges(tmp_path_factory.mktemp("data"))
    write_shards(manifest.read(folder / "exchanges.jsonl"), folder / "shards", 2)
    return folder


@pytest.fixture(scope="module")
def models(chat_folder: Path, whisper_folder: Path, wavlm_folder: Path, hubert_folder: Path) -> dict[str, str]:
    named = {"llm": chat_folder, "whisper": whisper_folder, "wavlm": wavlm_folder, "teacher": hubert_folder}
    return {name: str(folder) for name, folder in named.items()}


def test_epochs_follow_each_other_in_other_orders(data: Path) -> None:
    found = [c.id for c in islice(endless(f"{data}/shards/*.tar", 3), 24)]
    epochs = [found[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(e) == sorted(str(n) for n in range(8)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1


def test_processes_hear_different_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        heard.append({c.id for c in islice(endless(f"{data}/shards/*.tar", 3), 4)})
    assert not heard[0] & heard[1]
    assert len(heard[0] | heard[1]) == 8


def test_batches_out_of_turn_are_those_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> Iterator[list[int]]:
        return grouped(iter(range(100)), 3, 9, lambda _: 1.0)

    batches = Batches(begin)
    in_turn = [batches(n) for n in range(6)]
    assert in_turn[2] == [6, 7, 8]
    again = Batches(begin)
    assert [again(n) for n in (4, 5, 1)] == [in_turn[n] for n in (4, 5, 1)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = Batches(begin)
    assert [shared(n) for n in (0, 2, 4)] == in_turn[:3]  # numbers 1, 3 and 5 are the other process's


def test_streams_are_mixed_by_weight() -> None:
    def same(name: str) -> Iterator[str]:
        while True:
            yield name

    found = list(islice(mixed({"a": 3.0, "b": 1.0}, {"a": same("a"), "b": same("b")}, random.Random(0)), 800))
    assert found.count("a") == pytest.approx(600, abs=50)


def test_a_stage_over_shards_resumes_with_the_identical_next_loss(data: Path, models: dict, tmp_path: Path) -> None:
    shards = {"exchanges": {"shards/*.tar": 2.0, "exchanges.jsonl": 1.0}}
    recipe = replace(twin("1_respond.yaml", models, **shards), steps=2)
    longer = replace(recipe, steps=3, warmup_steps=1, decay_fraction=0.01)
    recipe = replace(longer, steps=2)
    Trainer(recipe, RespondTask(recipe, data, tmp_path / "cache"), tmp_path / "run").run()
    resumed = Trainer(longer, RespondTask(longer, data, tmp_path / "cache"), tmp_path / "run").run()
    straight = Trainer(longer, RespondTask(longer, data, tmp_path / "cache"), tmp_path / "straight").run()
    assert resumed.losses == pytest.approx(straight.losses[2:], rel=1e-5)
    task = RespondTask(longer, data, tmp_path / "cache")
    sounds = [x for n in range(4) for x in task.batch(n) if isinstance(x.reply_sound, bytes)]
    assert sounds  # some do come from shards
    assert all(x.query.speaker != "s1" for n in range(4) for x in task.batch(n))


def test_shards_alone_need_a_manifest_to_validate_on(data: Path, models: dict, tmp_path: Path) -> None:
    recipe = twin("1_respond.yaml", models, exchanges={"shards/*.tar": 1.0})
    with pytest.raises(ConfigError, match=r"data\.validation"):
        RespondTask(recipe, data, tmp_path / "cache")
    named = twin("1_respond.yaml", models, exchanges={"shards/*.tar": 1.0}, validation="exchanges.jsonl")
    task = RespondTask(named, data, tmp_path / "cache")
    assert len(task.held) == 3
    assert task.batch(0)[0].query.sound


def test_lpe_listens_to_shards_too(data: Path, models: dict, tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "lpe" / "1_listen.yaml", debug=True)
    own = {**recipe.data, "llm": models["llm"], "wavlm": models["wavlm"], "clips": ["shards/*.tar"]}
    with pytest.raises(DataError, match=r"data\.validation"):
        LpeTask(replace(recipe, data=own), data, tmp_path / "cache")
    task = LpeTask(replace(recipe, data={**own, "validation": "exchanges.jsonl"}), data, tmp_path / "cache")
    loss, _ = task.loss(task.batch(0), 0)
    assert float(loss.detach()) > 0
    assert {c.id for c in task.batch(1)} == {c.id for c in task.batch(1)}
    mixed_up = {**own, "clips": ["shards/*.tar", "exchanges.jsonl"]}
    with pytest.raises(ConfigError, match="cannot be mixed"):
        LpeTask(replace(recipe, data=mixed_up), data, tmp_path / "cache")
