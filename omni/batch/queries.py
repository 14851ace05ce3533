"""The input list: which queries there are, in which order, under which ids. A function of the input's names and rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Any

from omni.errors import DataError, UsageError
from omni.models.style import style_for
from omni.turns import EMOTIONS

#: Suffixes by which a folder's recordings are known.
SUFFIXES = frozenset(
    f".{kind}"
    for kind in "wav flac ogg opus mp3 m4a mp4 aac webm wma amr aif aiff au caf w64 rf64".split()  # noqa: SIM905
)
MANIFESTS = (".jsonl", ".csv")
#: An id is a file's name too.
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
MOST_TURNS, LONGEST_TEXT = 100, 2000


@dataclass(frozen=True, slots=True)
class Past:
    """A turn before the query: what the user said, what was replied, and how the user sounded."""

    user: str
    reply: str
    emotion: str = "neutral"


@dataclass(frozen=True, slots=True)
class Query:
    """One query. `source` is its file or, with `place` (offset and size in bytes), the tar file that it lies in.

    `style` replaces the voice style that the assistant would choose. `problem` says why a row cannot be answered.
    """

    id: str
    source: str
    place: tuple[int, int] | None = None
    style: str | None = None
    history: tuple[Past, ...] = ()
    problem: str | None = None

    @classmethod
    def of_plain(cls, values: dict[str, Any]) -> Query:
        """From `plain`, as it was or by way of JSON."""
        place = None if values["place"] is None else (int(values["place"][0]), int(values["place"][1]))
        return cls(**{**values, "place": place, "history": tuple(Past(**past) for past in values["history"])})

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_queries(given: str) -> list[Query]:
    """The queries of a folder, a glob, a recording, a manifest (.jsonl, .csv) or tar shards, in order.

    A row whose style or history is wrong becomes a query with a problem. UsageError if there is nothing by that name;
    DataError for a list without queries, a file that is no manifest, an id that is taken or is no file name.
    """
    path = Path(given)
    names = _names(given)
    if path.is_file() and path.suffix.lower() in MANIFESTS:
        from omni.batch.rows import read_rows

        queries = list(read_rows(path))
    elif any(name.suffix == ".tar" for name in names):
        from omni.batch.tars import read_tars

        queries = list(read_tars([name for name in names if name.suffix == ".tar"]))
    else:
        queries = _recordings(names, path if path.is_dir() else None)
    if not queries:
        raise DataError(f"{given} holds no queries; recordings are known by {', '.join(sorted(SUFFIXES))}")
    _check_ids(queries)
    return queries


def digest(queries: Iterable[Query]) -> str:
    """Hexadecimal SHA-256 of a list of queries (not of their sound)."""
    found = hashlib.sha256()
    for query in queries:
        found.update(json.dumps(query.plain(), sort_keys=True).encode())
    return found.hexdigest()


def _names(given: str) -> list[Path]:
    path = Path(given)
    try:
        if path.is_dir():
            inside = [p for p in path.rglob("*") if _visible(p.relative_to(path))]
            tars = [p for p in inside if p.suffix == ".tar" and p.parent == path]
            return sorted(tars or (p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()))
        if path.is_file():
            return [path]
        found = sorted(Path(name) for name in glob(given, recursive=True) if Path(name).is_file())
    except (OSError, ValueError) as error:
        raise UsageError(f"{given!r} cannot be listed ({error}); check the name") from error
    if "://" in given:
        raise UsageError(f"{given}: only files of this machine are read; fetch the shards first")
    if not found:
        raise UsageError(f"there is nothing at {given!r}; give a folder, a glob in quotes, a manifest or tar shards")
    return found


def _visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _recordings(names: list[Path], folder: Path | None) -> list[Query]:
    """Ids are the names without suffix; names that are no ids, or would share one, get a few digits of their hash."""
    stems = [(n.relative_to(folder) if folder else n).with_suffix("").as_posix() for n in names]
    stems = stems if folder else [Path(stem).name for stem in stems]
    shared = Counter(stem.casefold() for stem in stems)
    queries = []
    for name, stem in zip(names, stems, strict=True):
        given = ID.fullmatch(stem) is not None and shared[stem.casefold()] == 1
        queries.append(Query(stem if given else _id(name, stem, folder), str(name)))
    return queries


def _id(name: Path, stem: str, folder: Path | None) -> str:
    whole = (name.relative_to(folder) if folder else name).as_posix()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[-80:].lstrip("-")
    return f"{plain}-{hashlib.sha256(whole.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def _check_ids(queries: list[Query]) -> None:
    seen: set[str] = set()
    for query in queries:
        if not ID.fullmatch(query.id):
            raise DataError(
                f"{query.id[:120]!r} ({query.source}) is no id; allowed are up to 100 of A-Z a-z 0-9 . _ -, not beginning "
                "with . or -: it names the reply's file"
            )
        if query.id.casefold() in seen:
            raise DataError(
                f"the id {query.id!r} ({query.source}) appears twice; ids must differ, and not by case alone"
            )
        seen.add(query.id.casefold())


def from_row(row: Any, name: str, source: Callable[[str], str], place: tuple[int, int] | None = None) -> Query:
    """The query of a manifest's row {"audio", "id", "style", "history"}; `name` stands for the row in messages.

    `source` tells where its `audio` lies. DataError for a row without recording and for an id that is not a text.
    """
    if not isinstance(row, dict):
        raise DataError(f"{name} is no row; give an object with at least audio")
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio or "\0" in audio:
        raise DataError(f"{name} names no recording; give audio, relative to the manifest's folder")
    identity = row.get("id") or re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(audio).stem)
    if not isinstance(identity, str):
        raise DataError(f"{name}: the id {str(identity)[:60]} is not a text; put it in quotes")
    try:
        style = row.get("style") or None
        if style is not None:
            style_for(style if isinstance(style, str) else str(style)[:60])
        return Query(identity, source(audio), place, style, tuple(_pasts(row.get("history") or ())))
    except DataError as error:
        return Query(identity, source(audio), place, problem=str(error))
    except UsageError as error:
        return Query(identity, source(audio), place, problem=str(error))


def _pasts(history: Any) -> Iterator[Past]:
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the history is no JSON ({error}); give a list of turns") from error
    if not isinstance(history, (list, tuple)) or len(history) > MOST_TURNS:
        raise DataError(f"the history must be a list of up to {MOST_TURNS} turns, oldest first")
    for turn in history:
        user, reply = (turn.get("user"), turn.get("reply")) if isinstance(turn, dict) else (None, None)
        if not (_is_text(user) and _is_text(reply)):
            raise DataError(f"each turn of a history needs user and reply, texts of up to {LONGEST_TEXT} characters")
        emotion = turn.get("emotion") or "neutral"
        if emotion not in EMOTIONS:
            raise DataError(f"no emotion {str(emotion)[:60]!r} in a history; choose one of {', '.join(EMOTIONS)}")
        yield Past(str(user), str(reply), emotion)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST_TEXT
