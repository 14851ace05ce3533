"""Long tests with the shipped weights: `make soak`. What they measured goes to docs/soak.md."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from omni.assistant import Assistant
from omni.turns import Heard

REPOSITORY = Path(__file__).resolve().parents[2]
_ROWS: dict[str, list[str]] = {}


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line of the report under the test's name."""
    return lambda text: _ROWS.setdefault(request.node.name, []).append(text)


@pytest.fixture(scope="session")
def assistant() -> Assistant:
    loaded = Assistant.load()
    loaded.warm_up()
    return loaded


@pytest.fixture(scope="session")
def queries() -> list[Path]:
    return sorted((REPOSITORY / "examples").glob("*.wav"))


@pytest.fixture(scope="session")
def heard() -> Heard:
    return Heard("i lost my keys in the garden", 0.9)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not _ROWS or os.environ.get("OMNI_SOAK_REPORT", "1") == "0":
        return
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# Soak",
        "",
        "Written by `make soak`: long tests with the shipped weights, too long for every landing.",
        "",
        f"Run {when}, {os.cpu_count()} processor cores; {'all passed' if exitstatus == 0 else '**some failed**'}.",
        "",
        "| test | measured |",
        "|---|---|",
        *(f"| {name.removeprefix('test_').replace('_', ' ')} | {'; '.join(rows)} |" for name, rows in _ROWS.items()),
        "",
    ]
    (REPOSITORY / "docs" / "soak.md").write_text("\n".join(lines), encoding="utf-8")
