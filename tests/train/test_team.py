"""Several processes: two that train together make what one makes that accumulates twice as much, and resume as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from omni.train.loop import optimisers
from omni.train.recipe import Recipe
from omni.train.team import like, whole
from tests.train.test_loop import recipe, spoken  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[2]
SIZES = ("data", "model")


def train(path: Path, data: Path, run: Path, processes: int) -> None:
    """`omni train` in a process of its own, or in several, each told its place as launchers tell it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omni", "train", str(path), "--data", str(data), "--run", str(run)]
    started = []
    for rank in range(processes):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(subprocess.Popen(command, env=environment, cwd=run.parent, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told[-3000:]


def written(path: Path, **values: object) -> Path:
    """A recipe as a file."""
    chosen = recipe(**values)
    kept = ("part", "steps", "learning_rate", "warmup_steps", "bfloat16", "validate_every", "seed", "save_every_s")
    rows = {k: getattr(chosen, k) for k in (*kept, "weight_decay", "accumulate", *SIZES)}
    path.write_text(yaml.safe_dump(rows), encoding="utf-8")
    return path


def test_two_processes_make_what_one_makes_and_go_on_as_one(spoken: Path, tmp_path: Path) -> None:  # noqa: F811
    train(written(tmp_path / "one.yaml", steps=4, accumulate=2), spoken, tmp_path / "one", 1)
    train(written(tmp_path / "two.yaml", steps=2), spoken, tmp_path / "two", 2)
    train(written(tmp_path / "two.yaml", steps=4), spoken, tmp_path / "two", 2)
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    moments = 0
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-4, msg=name)
        moments += "exp_avg" in name
    assert moments
    rows = [json.loads(r) for r in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert len({(r["step"], tuple(sorted(r))) for r in rows}) == len(rows)  # one process writes


def test_rates_go_by_the_longest_beginning_of_a_name() -> None:
    model = nn.ModuleDict({"llm": nn.ModuleDict({"lora": nn.Linear(2, 2)}), "head": nn.Linear(2, 2)})
    chosen = Recipe("x", 10, 2e-4, rates={"llm.": 1e-3, "llm.lora": 5e-5})
    (optimiser,) = optimisers(model, chosen)
    rates = {id(w): g["base_lr"] for g in optimiser.param_groups for w in g["params"]}
    found = {name: rates[id(w)] for name, w in model.named_parameters()}
    assert found == {
        "llm.lora.weight": 5e-5, "llm.lora.bias": 5e-5, "head.weight": 2e-4, "head.bias": 2e-4,
    }  # fmt: skip


def test_what_lies_in_shards_is_gathered_and_dealt_out_again() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain = torch.arange(6.0).reshape(3, 2)
        sharded = distribute_tensor(plain, mesh, [Shard(0)])
        assert torch.equal(whole(sharded), plain)
        again = like(plain + 1, sharded)
        assert again.placements == sharded.placements  # type: ignore[attr-defined]
        assert torch.equal(whole(again), plain + 1)
        assert like(torch.ones(()), sharded).shape == ()  # an optimiser's step count
    finally:
        torch.distributed.destroy_process_group()
        for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_configurations_are_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert str(found.distributed_type).endswith({"ddp": "MULTI_GPU", "fsdp": "FSDP"}[name])
    assert found.mixed_precision == "no"
