"""The same assistant in several processes of one thread each, so that a long suite uses every core."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from omni.assistant import Assistant
from omni.evaluation.settings import Settings

T = TypeVar("T")
R = TypeVar("R")
#: Below this many items loading the model again costs more than it gains.
WORTH_IT = 24
_assistant: list[Assistant] = []


def each(
    assistant: Assistant, job: Callable[[Assistant, T], R], items: Sequence[T], settings: Settings, what: str
) -> list[R]:
    """`job(assistant, item)` of every item, in order, in `settings.workers` processes. `job` is a module's function."""
    shown: dict[str, Any] = {"desc": what, "total": len(items), "unit": "item"}
    if settings.workers <= 1 or len(items) < WORTH_IT:
        return [job(assistant, item) for item in tqdm(items, **shown)]
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    with ProcessPoolExecutor(settings.workers, context, _load, (settings.where,)) as pool:
        return list(tqdm(pool.map(_run, [job] * len(items), items), **shown))


def _load(where: str | None) -> None:
    torch.set_num_threads(1)
    _assistant.append(Assistant.load(where))


def _run(job: Callable[[Assistant, T], R], item: T) -> R:
    return job(_assistant[0], item)
