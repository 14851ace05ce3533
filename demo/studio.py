"""The models behind the page: presets are loaded when they are first chosen; everything is computed by one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from omni.assistant import Assistant
from omni.preset import OWN, names
from omni.talking.worker import Worker

Result = TypeVar("Result")


class Studio:
    """Assistants by the name of their preset, and the worker that computes for all tabs, a step of each in turn."""

    def __init__(
        self, assistant: Assistant, name: str = OWN, device: str = "auto", worker: Worker | None = None
    ) -> None:
        self.first, self.device, self.worker = name, device, worker or Worker()
        self._own = assistant
        self._other: tuple[str, Assistant] | None = None

    @property
    def presets(self) -> list[str]:
        """Names to choose from, the one that was loaded first at the head."""
        return [self.first, *(name for name in names() if name != self.first)]

    def assistant(self, name: str) -> Assistant:
        """The assistant of a preset. Beside the first one, only the one chosen last is kept.

        ModelError if its weights are missing, with the command that fetches them.
        """
        if name == self.first:
            return self._own
        if self._other is None or self._other[0] != name:
            self._other = (name, self.run(lambda: Assistant.of_preset(name, self.device)))
        return self._other[1]

    def run(self, task: Callable[[], Result]) -> Result:
        """Compute something and wait for it."""
        return self.worker.submit(task).result()

    def steps(self, make: Callable[[], Iterator[Result]]) -> Iterator[Result]:
        """Compute a generator's steps; others have theirs in between."""
        return iter(self.worker.stream(make))
