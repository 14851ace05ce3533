"""What the page remembers while a tab is open: its conversations, by name. Nothing is written to a disk.

One `Visit` is one browser tab. Its token is the only key to it; when the tab closes, all of it is forgotten.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from omni.assistant import Progress
from omni.errors import UsageError
from omni.turns import Audio, Conversation, Turn

#: More tabs than this at once: the one that has been silent longest is forgotten.
MOST_VISITS = 64
LONGEST_NAME = 60


@dataclass
class Talk:
    """One conversation and what its queries sounded like."""

    name: str
    conversation: Conversation = field(default_factory=Conversation)
    queries: list[Audio] = field(default_factory=list)

    def add(self, turn: Turn, query: Audio) -> None:
        """Remember one more exchange."""
        self.conversation = self.conversation.with_turn(turn)
        self.queries.append(query)


class Visit:
    """The conversations of one tab, and which of them is going on."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._count, self.again_count = 0, 0
        self.progress: Progress | None = None
        self.again: Audio | None = None
        self.preset: str | None = None
        self.autoplay = False  # whether the page plays the last reply by itself
        self.talks: list[Talk] = []
        self.talk = self.new()

    @property
    def last(self) -> Turn | None:
        """The last whole turn of the present conversation."""
        turns = self.talk.conversation.turns
        return turns[-1] if turns else None

    def take(self, progress: Progress, talk: Talk) -> None:
        """Show how far a turn of `talk` is; a whole one is remembered there."""
        self.progress = None if progress.turn else progress
        if progress.turn:
            talk.add(progress.turn, progress.query)
            self.again = None

    def respoken(self, audio: Audio) -> None:
        """The last reply, spoken in another style."""
        self.again, self.again_count = audio, self.again_count + 1

    def new(self) -> Talk:
        """Begin another conversation."""
        self._count += 1
        self.talk = Talk(f"Conversation {self._count}")
        self.talks.append(self.talk)
        self._fresh()
        return self.talk

    def _fresh(self) -> None:
        self.progress, self.again = None, None

    def choose(self, name: str) -> None:
        """Go on with the conversation of that name. UsageError if there is none."""
        found = [talk for talk in self.talks if talk.name == name]
        if not found:
            raise UsageError(f"there is no conversation {name!r}; choose one of {', '.join(self.names)}")
        self.talk = found[0]
        self._fresh()

    def rename(self, name: str) -> None:
        """Give the present conversation another name. UsageError for one that is empty, too long or taken."""
        name = " ".join(name.split())
        if not 1 <= len(name) <= LONGEST_NAME:
            raise UsageError(f"a name has 1 to {LONGEST_NAME} characters, this one {len(name)}; write another")
        if any(talk.name == name for talk in self.talks if talk is not self.talk):
            raise UsageError(f"there is a conversation {name!r} already; choose another name")
        self.talk.name = name

    def delete(self) -> None:
        """Forget the present conversation; the latest other one goes on, or a new one."""
        self.talks.remove(self.talk)
        if self.talks:
            self.talk = self.talks[-1]
            self._fresh()
        else:
            self.new()

    @property
    def names(self) -> list[str]:
        """Of all conversations, oldest first."""
        return [talk.name for talk in self.talks]


class Visits:
    """All open tabs by token."""

    def __init__(self, most: int = MOST_VISITS) -> None:
        self._found: OrderedDict[str, Visit] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def open(self) -> Visit:
        """A new visit; the one that was silent longest is forgotten when there are too many."""
        visit = Visit()
        with self._lock:
            self._found[visit.token] = visit
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return visit

    def get(self, token: str) -> Visit:
        """The visit with that token. UsageError if it was forgotten or never was."""
        with self._lock:
            if token not in self._found:
                raise UsageError("this page was forgotten, as it was idle or the demo started anew; reload it")
            self._found.move_to_end(token)
            return self._found[token]

    def close(self, token: str) -> None:
        """Forget a visit."""
        with self._lock:
            self._found.pop(token, None)

    def __len__(self) -> int:
        return len(self._found)
