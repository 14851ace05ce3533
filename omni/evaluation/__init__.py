"""`omni eval`: one suite for each row of the results, their figures as JSON, and the page that shows them."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.errors import UsageError

log = logging.getLogger(__name__)
#: Suite -> module with `run(assistant, settings) -> Result`; run in this order.
SUITES: dict[str, str] = {
    "hearing": "omni.evaluation.hearing",
    "perceiving": "omni.evaluation.perceiving",
    "replying": "omni.evaluation.replying",
    "voicing": "omni.evaluation.voicing",
    "styling": "omni.evaluation.styling",
}
#: Suites that are run only when they are named.
NAMED: dict[str, str] = {"prompting": "omni.evaluation.prompting"}


def chosen(suites: Sequence[str]) -> list[str]:
    """The suites that are asked for, in the order of SUITES; none or `all` means every one. UsageError for a name."""
    for name in suites:
        if name != "all" and name not in SUITES | NAMED:
            raise UsageError(f"no suite {name!r}; choose from all, {', '.join(SUITES | NAMED)}")
    every = not suites or "all" in suites
    return [name for name in SUITES if every or name in suites] + [name for name in NAMED if name in suites]


def run(
    suites: Sequence[str],
    data: Path,
    where: str | None = None,
    out: Path = Path("docs"),
    limit: int | None = None,
    seed: int = 0,
    nisqa: Path | None = None,
    keep: Path | None = None,
    preset: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Run suites on a checkpoint, or on a preset in this one process. Returns the numbers.

    OUT/results/SUITE.json is written after each, and OUT/results.md. `limit` takes a fixed sample of that many items a suite,
    for a quick look; such figures are marked in the page. `keep` is a folder where replies are kept as they are made: the same
    command goes on after an interruption.
    """
    names = chosen(suites)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: give 1 or more, or leave it out for everything")
    from omni.assistant import Assistant
    from omni.evaluation.report import render, save
    from omni.evaluation.settings import Settings

    assistant = Assistant.load(where) if preset is None else Assistant.of_preset(preset, device)
    assistant.warm_up()
    settings = Settings(data, where, limit, seed, nisqa, keep=keep)
    options: dict[str, Any] = {"model": assistant.config.name, "limit": limit, "seed": seed}
    if preset is not None:
        settings.workers = 1
        options["preset"] = preset
    numbers: dict[str, Any] = {}
    for name in names:
        began = time.perf_counter()
        result = importlib.import_module((SUITES | NAMED)[name]).run(assistant, settings)
        result.counts["runtime_s"] = round(time.perf_counter() - began)
        save(out, name, result, options, where)
        numbers[name] = {k: v for k, v in result.numbers.items() if k != "replies"}
        log.info("%s took %d s", name, result.counts["runtime_s"])
    render(out)
    return numbers
