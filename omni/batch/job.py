"""How the queries of a batch are answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """How every query is answered: by which assistant (as for `omni reply`), in which format, or without sound."""

    model: str | None = None
    preset: str | None = None
    device: str = "auto"
    suffix: str = ".wav"
    text_only: bool = False
