"""What every suite is given, and the result that every suite hands back."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omni.data.corpora import exchanges
from omni.errors import DataError

T = TypeVar("T")


@dataclass
class Settings:
    """Options of one run. `limit` takes a sample of that many items, drawn by `seed`; None takes all.

    `shared` carries what one suite made and another needs (the replies); `keep` is a folder where they are kept, so that a
    run that was interrupted goes on.
    """

    data: Path
    where: str | None = None
    limit: int | None = None
    seed: int = 0
    nisqa: Path | None = None
    workers: int = field(default_factory=lambda: min(os.cpu_count() or 1, 2))
    corpus: Path | None = None
    keep: Path | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    def sample(self, items: Sequence[T]) -> list[T]:
        """All items, or `limit` of them drawn by the seed, in their order."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return [items[i] for i in sorted(random.Random(self.seed).sample(range(len(items)), self.limit))]

    def folder(self, name: str) -> Path:
        """A set's folder in the data. DataError when it is missing."""
        found = self.data / name
        if not found.is_dir():
            raise DataError(f"no {name} in {self.data}; give the folder of the data sets with --data or OMNI_DATA")
        return found

    def exchanges(self) -> tuple[list[exchanges.Exchange], list[exchanges.Exchange]]:
        """(training, held-out) exchanges of the project's corpus."""
        here = Path(__file__).parents[2] / exchanges.FOLDER
        folder = self.corpus or (exchanges.FOLDER if exchanges.FOLDER.is_dir() else here)
        return exchanges.split(exchanges.read(folder))


@dataclass(frozen=True)
class Row:
    """One line of the results: what was measured, beside what, against floor and aim (None: there is none)."""

    what: str
    value: str
    beside: str = ""
    floor: str = ""
    aim: str = ""
    floor_met: bool | None = None
    aim_met: bool | None = None


@dataclass(frozen=True)
class Table:
    """Detail under a suite's heading. Cells are text already."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass
class Result:
    """What a suite found. `numbers` for programs, `rows` and `tables` and `notes` for people."""

    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def percent(value: float, digits: int = 1) -> str:
    """0.256 -> '25.6 %'."""
    return f"{100 * value:.{digits}f} %"


def between(interval: tuple[float, float]) -> str:
    """(0.2, 0.3) -> '20.0 to 30.0 %'."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
