"""The processes that train together: one, or as many as `accelerate launch` has started, on one machine or several.

What they make together is what one process makes that accumulates as many batches: batch numbers, seeds and the mean of
the gradients are the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from omni.errors import ConfigError


class Losing(nn.Module):
    """A task's loss as a module's forward, which is what data parallelism wraps."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.model, self._task = task.model, (task,)

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        return self._task[0].loss(batch, step)


class Team:
    """`count` processes, of which this one has number `rank`; the one with number 0 writes the files."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.accelerator: Any = None
        if self.count > 1:
            try:
                from accelerate import Accelerator, DistributedDataParallelKwargs
            except ImportError as error:
                raise ConfigError(
                    "several processes need accelerate; install it with: pip install 'omni-empathy[train]'"
                ) from error
            # a batch without reply sound leaves the emotion head out
            whole = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
            self.accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[whole])
        self.rank = int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def prepare(
        self, losing: Losing, optimisers: Sequence[torch.optim.Optimizer]
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """The module to call and the optimisers to step: as they are, or in the way of DDP or FSDP."""
        if not self.accelerator:
            return losing, list(optimisers)
        module, *prepared = self.accelerator.prepare(losing, *optimisers)
        return module, prepared

    def collecting(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Within it gradients are only collected, unless this is the `last` backward before the step."""
        return nullcontext() if last or not self.accelerator else self.accelerator.no_sync(module)

    def clip(self, weights: Sequence[nn.Parameter], norm: float) -> float:
        """Clip the gradients to a norm; returns the norm before."""
        found = (
            self.accelerator.clip_grad_norm_(weights, norm)
            if self.accelerator
            else nn.utils.clip_grad_norm_(weights, norm)
        )
        return float(whole(found))

    def mean(self, value: float) -> float:
        """The mean over all processes."""
        if not self.accelerator:
            return value
        made = torch.tensor([value], device=self.accelerator.device, dtype=torch.float32)
        return float(self.accelerator.reduce(made, "mean"))

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()


def whole(value: Any) -> Tensor:
    """A tensor that may lie in shards over the processes, as one; all processes must ask together."""
    return value.full_tensor() if hasattr(value, "full_tensor") else torch.as_tensor(value)


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor in shards as `other` lies; as it is, if that one is whole too."""
    if not hasattr(other, "full_tensor") or value.shape != other.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)  # type: ignore[attr-defined]
