"""The one training loop: deterministic batches by step, checkpoints that resume with the identical next loss.

A run folder holds `state.safetensors` (weights, optimiser, averages; step and best score in its header),
`metrics.jsonl`, `curve.png`, `tensorboard/` and the export. Nothing is pickled; the state is written to a temporary name and
renamed. Several processes train as one that accumulates as many batches (`team.py`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from omni.errors import ModelError
from omni.train.recipe import Recipe
from omni.train.team import Losing, Team, like, whole

log = logging.getLogger(__name__)


class Task(Protocol):
    """What a stage brings to the loop."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def batch(self, step: int) -> Any:
        """Training batch number `step`: a function of the step and the recipe's seed alone."""

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss and figures to log."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out speakers or texts; the first one is the score, lower is better."""

    def export(self, folder: Path) -> None:
        """Write the trained part for use (half precision safetensors and what it needs)."""


@dataclass
class Result:
    """How a run ended."""

    step: int
    losses: list[float]
    figures: dict[str, float]


def rate_at(step: int, recipe: Recipe) -> float:
    """Multiplier of the learning rate: linear warm-up, constant, linear fall to zero (warmup-stable-decay)."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    fall = max(1, round(recipe.steps * recipe.decay_fraction))
    return min(1.0, max(0.0, (recipe.steps - step) / fall))


def optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices when the recipe asks for it (Jordan et al. 2024), AdamW for everything else.

    Each group keeps its own full rate in `base_lr`: that of the longest prefix in `recipe.rates` that a weight's name has.
    """
    matrices: list[nn.Parameter] = []
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        hidden = weight.ndim == 2 and min(weight.shape) > 64 and not any(k in name for k in ("embed", "head", "output"))
        if recipe.muon_learning_rate and hidden:
            matrices.append(weight)
            continue
        rate = recipe.rates.get(max((p for p in recipe.rates if name.startswith(p)), key=len, default=""))
        decay = recipe.weight_decay if weight.ndim >= 2 else 0.0
        groups.setdefault((recipe.learning_rate if rate is None else rate, decay), []).append(weight)
    made = [{"params": w, "weight_decay": d, "lr": r, "base_lr": r} for (r, d), w in groups.items()]
    # matrices before vectors, as in runs that were begun before there were several rates
    made.sort(key=lambda group: group["weight_decay"] == 0.0)  # type: ignore[arg-type, return-value]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(made, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-9)]
    if matrices:
        rate = recipe.muon_learning_rate
        group = {"params": matrices, "base_lr": rate}
        found.append(
            torch.optim.Muon([group], lr=rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found


class Average:
    """Exponential moving average of the trained weights (Polyak and Juditsky 1992), with a start-up correction."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        names = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [names[n].detach() for n in self.weights], 1 - decay)

    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averages; call twice to undo."""
        names = dict(model.named_parameters())
        with torch.no_grad():
            for name, average in self.weights.items():
                kept = names[name].detach().clone()
                names[name].copy_(average)
                average.copy_(kept)


class Trainer:
    """Runs a recipe's task in a run folder."""

    def __init__(self, recipe: Recipe, task: Task, folder: Path, team: Team | None = None) -> None:
        self.recipe, self.task, self.folder, self.team = recipe, task, folder, team or Team()
        self.losing, self.optimisers = self.team.prepare(Losing(task), optimisers(task.model, recipe))
        self.average = Average(task.model, recipe.average_decay) if recipe.average_decay else None
        self.step, self.best = 0, math.inf
        folder.mkdir(parents=True, exist_ok=True)
        self.board = _board(folder) if self.team.first else None

    def run(self, minutes: float | None = None) -> Result:
        """Train from the saved step to `recipe.steps`, or for `minutes`; then validate, save and export."""
        self.resume()
        started, saved = time.monotonic(), time.monotonic()
        losses: list[float] = []
        figures: dict[str, float] = {}
        bar = tqdm(
            total=self.recipe.steps,
            initial=self.step,
            unit="step",
            desc=self.recipe.part,
            mininterval=5,
            disable=not self.team.first,
        )
        while self.step < self.recipe.steps:
            losses.append(self._advance(bar))
            out_of_time = minutes is not None and time.monotonic() - started > minutes * 60
            if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps or out_of_time:
                figures = self._validate()
            if time.monotonic() - saved > self.recipe.save_every_s:
                self.save()
                saved = time.monotonic()
            if out_of_time:
                break
        bar.close()
        self.save()
        return Result(self.step, losses, figures)

    def _advance(self, bar: tqdm) -> float:
        began, total = time.monotonic(), 0.0
        extra: dict[str, float] = {}
        self.task.model.train()
        parts = self.recipe.accumulate * self.team.count
        for part in range(self.recipe.accumulate):
            number = self.step * parts + part * self.team.count + self.team.rank
            torch.manual_seed(self.recipe.seed * 1_000_003 + number)
            batch = self.task.batch(number)
            with self.team.collecting(self.losing, last=part == self.recipe.accumulate - 1):
                with torch.autocast(
                    "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, self.recipe.bfloat16
                ):
                    loss, extra = self.losing(batch, self.step)
                (loss / self.recipe.accumulate).backward()
            total += float(loss.detach()) / self.recipe.accumulate
        total = self.team.mean(total)
        weights = [p for p in self.task.model.parameters() if p.requires_grad]
        norm = self.team.clip(weights, self.recipe.clip_norm)
        scale = rate_at(self.step, self.recipe)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * scale
            if math.isfinite(norm):
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average:
            self.average.update(self.task.model, self.step)
        bar.update()
        bar.set_postfix(loss=f"{total:.3f}", **{k: f"{v:.3g}" for k, v in list(extra.items())[:2]})
        if self.step % 10 == 0:
            self._log(loss=total, norm=norm, step_s=time.monotonic() - began, **extra)
        return total

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.task.model.eval()
        if self.average:
            self.average.swap(self.task.model)
        figures = self.task.validate()
        score = next(iter(figures.values()))
        improved = score <= self.best
        self.best = min(score, self.best)
        if (improved or not self.recipe.export_best) and self.team.first:
            self.task.export(self.folder / "export")
        if self.average:
            self.average.swap(self.task.model)
        self._log(**{f"valid_{k}": v for k, v in figures.items()})
        if self.team.first:
            log.info("step %d: %s", self.step, figures)
            draw_curve(self.folder)
        self.team.wait()
        return figures

    def _log(self, **figures: float) -> None:
        row = {"step": self.step, **{k: round(float(v), 6) for k, v in figures.items()}}
        if not self.team.first:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, self.step)

    @property
    def _unsaved(self) -> tuple[str, ...]:
        """What the names of frozen weights begin with that have files of their own (`unsaved` of the task)."""
        return getattr(self.task, "unsaved", ())

    def _saved(self) -> dict[str, Tensor]:
        """The model's weights that belong into the state: what is trained, and what has no file of its own."""
        trained = {n for n, p in self.task.model.named_parameters() if p.requires_grad}
        state = self.task.model.state_dict()
        return {n: t for n, t in state.items() if n in trained or not n.startswith(self._unsaved)}

    def save(self) -> None:
        """Write the whole state so that `resume` goes on with the identical next loss."""
        tensors = {f"model.{n}": t.detach() for n, t in self._saved().items()}
        for index, optimiser in enumerate(self.optimisers):
            for key, state in optimiser.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"optimiser.{index}.{key}.{name}"] = value
        if self.average:
            tensors |= {f"average.{n}": t for n, t in self.average.weights.items()}
        gathered = {k: whole(t).contiguous().clone() for k, t in tensors.items()}
        if self.team.first:
            partial = self.folder / "state.safetensors.partial"
            save_file(gathered, partial, metadata={"step": str(self.step), "best": repr(self.best)})
            os.replace(partial, self.folder / "state.safetensors")
        self.team.wait()

    def resume(self) -> None:
        """Load the run folder's state if it has one. ModelError if it belongs to another model."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return
        from safetensors import safe_open

        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        try:
            wanted = self._saved()
            found = {k[6:]: t for k, t in tensors.items() if k.startswith("model.")}
            missing = set(wanted) - set(found)
            found = {n: like(t, wanted[n]) if n in wanted else t for n, t in found.items()}
            self.task.model.load_state_dict(found, strict=not self._unsaved)
            if missing:
                raise RuntimeError(f"missing\n{sorted(missing)[0]}")
        except RuntimeError as error:
            first = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
            raise ModelError(f"{path} is from another model; choose another --run folder ({first})") from error
        for index, optimiser in enumerate(self.optimisers):
            plain: dict[str, Any] = optimiser.state_dict()
            state: dict[int, dict[str, Tensor]] = {}
            weights = [w for group in optimiser.param_groups for w in group["params"]]
            for key, value in tensors.items():
                if key.startswith(f"optimiser.{index}."):
                    _, _, number, name = key.split(".", 3)
                    state.setdefault(int(number), {})[name] = like(value, weights[int(number)])
            optimiser.load_state_dict({**plain, "state": state})
        if self.average:
            for name, weight in self.average.weights.items():
                weight.copy_(tensors.get(f"average.{name}", weight))
        self.step, self.best = int(meta["step"]), float(meta["best"])
        if self.team.first:
            _truncate(self.folder / "metrics.jsonl", self.step)


def _board(folder: Path) -> Any:
    """A writer for TensorBoard below a run's folder; None without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]


def _truncate(path: Path, step: int) -> None:
    """Drop logged rows later than `step`, which a kill left behind."""
    if path.exists():
        rows = [r for r in path.read_text(encoding="utf-8").splitlines() if json.loads(r)["step"] <= step]
        path.write_text("".join(r + "\n" for r in rows), encoding="utf-8")


def draw_curve(folder: Path) -> None:
    """`curve.png` of the logged losses and validation figures; nothing happens without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    rows = [json.loads(r) for r in path.read_text(encoding="utf-8").splitlines()]
    names = ["loss", *sorted({k for r in rows for k in r if k.startswith("valid_")})]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names):
        points = [(r["step"], r[name]) for r in rows if name in r]
        if points:
            axis.plot(*zip(*points), marker="." if name != "loss" else None)
        axis.set_title(name)
        axis.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=80)
    pyplot.close(figure)
