"""Shards: clips packed into tar files that are read from front to back, so that a corpus need not fit the disk.

The WebDataset layout (Aizman et al. 2019, arXiv 2001.01858): `000000017.json`, the row of a manifest, then
`000000017.flac`, the recording as it was, and `000000017.reply.flac`, a spoken reply to it where there is one. Rows and
recordings are all that is decoded; a shard with anything else is refused.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from omni.data.fetching import open_address
from omni.data.manifest import Clip, as_row, from_row
from omni.errors import DataError, ModelError, OutputError, UsageError
from omni.files import atomic_write

#: Kinds of recordings that a shard may hold, by suffix.
SUFFIXES = frozenset({"wav", "flac", "ogg", "opus", "mp3"})
#: What the kind of a reply's recording begins with.
_REPLY = "reply."
#: The largest recording and the largest row that are read.
LARGEST_SOUND_BYTES, LARGEST_ROW_BYTES = 200_000_000, 1_000_000
#: Every tar ends with so many zero bytes.
_END_BYTES = 2 * tarfile.BLOCKSIZE


def write_shards(clips: Iterable[Clip], folder: Path, clips_per_shard: int = 1000) -> list[Path]:
    """Pack clips, in their order, into `folder`/shard-000000.tar and so on; the same clips give the same bytes.

    The folder appears once all shards are written. UsageError for a size below 1, OutputError for a folder that exists,
    DataError for no clips and for one whose file is missing or of a kind that shards do not hold.
    """
    if clips_per_shard < 1:
        raise UsageError(f"{clips_per_shard} clips a shard are too few; give 1 or more")
    if folder.exists():
        raise OutputError(f"{folder} exists already; give the name of a new folder")
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        names: list[str] = []
        numbered = enumerate(clips)
        while batch := list(islice(numbered, clips_per_shard)):
            names.append(f"shard-{len(names):06}.tar")
            with atomic_write(aside / names[-1]) as path, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, clip in batch:
                    _add(tar, f"{number:09}", clip)
        if not names:
            raise DataError("there are no clips to pack; give a manifest that has rows")
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [folder / name for name in names]


def _add(tar: tarfile.TarFile, key: str, clip: Clip) -> None:
    row = json.dumps(as_row(clip), ensure_ascii=False, sort_keys=True).encode("utf-8")
    entries = [(f"{key}.json", row), (f"{key}.{_suffix(clip.audio)}", _bytes(clip.audio, clip.sound))]
    if clip.reply_audio is not None:
        entries.append((f"{key}.{_REPLY}{_suffix(clip.reply_audio)}", _bytes(clip.reply_audio, clip.reply_sound)))
    for name, data in entries:
        entry = tarfile.TarInfo(name)  # its owner and time are zero
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in SUFFIXES:
        raise DataError(f"{path} cannot go into a shard; allowed are {', '.join(sorted(SUFFIXES))}: convert it")
    return suffix


def _bytes(path: Path, sound: bytes | None) -> bytes:
    try:
        return path.read_bytes() if sound is None else sound
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); mend the file or take it out of the manifest") from error


def list_shards(pattern: str) -> list[str]:
    """The shards a pattern stands for, sorted: `DIR/shard-*.tar`, `https://HOST/shard-{000000..000041}.tar`, or both.

    DataError if there is none.
    """
    try:
        import braceexpand
    except ImportError as error:
        raise ModelError("webdataset is not installed: pip install 'omni-empathy[train]'") from error
    try:
        names = list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{pattern!r} is no pattern ({error}); give something like DIR/shard-*.tar") from error
    found = [shard for name in names for shard in ([name] if "://" in name else glob(name))]
    if not found:
        raise DataError(
            f"no shards match {pattern!r}; give something like DIR/shard-*.tar (omni data pack writes them)"
        )
    return sorted(set(found))


def read_shards(
    pattern: str,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    skip: int = 0,
    buffer_clips: int = 500,
) -> Iterator[Clip]:
    """One epoch of clips, `sound` in memory, in an order that depends on nothing but the arguments.

    The shards are shuffled and dealt out to `world` processes, so that no two see the same clip; each then shuffles its
    clips through a buffer of `buffer_clips` (1 keeps their order). The first `skip` clips are left out: after n clips,
    `skip=n` goes on with the one that would have come next. Skipped clips are still read, though not decoded.

    Processes may get different numbers of clips. UsageError for a rank, skip or buffer out of range, DataError for fewer
    shards than processes, a shard that cannot be read, is cut short or holds anything but rows and recordings.
    """
    if not 0 <= rank < world or skip < 0 or buffer_clips < 1:
        raise UsageError(
            f"rank {rank} of {world}, skip {skip}, buffer {buffer_clips}: rank must be from 0 to world - 1, skip 0 or "
            "more, the buffer 1 or more"
        )
    shards = list_shards(pattern)
    if len(shards) < world:
        raise DataError(f"{len(shards)} shards are too few for {world} processes; pack fewer clips into a shard")
    random.Random(f"{seed}:{epoch}").shuffle(shards)
    samples = (sample for shard in shards[rank::world] for sample in _samples(shard))
    order = _shuffled(samples, buffer_clips, random.Random(f"{seed}:{epoch}:{rank}"))
    return (_clip(sample) for sample in islice(order, skip, None))


def _shuffled(samples: Iterator[dict[str, Any]], size: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """The same samples, each drawn from the `size` that were waiting."""
    waiting: list[dict[str, Any]] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= size:
            yield waiting.pop(draw.randrange(len(waiting)))
    while waiting:
        yield waiting.pop(draw.randrange(len(waiting)))


class _Watched:
    """A stream for tarfile that remembers the last bytes read: a tar that lacks its end was cut short."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.last = (self.last + data)[-_END_BYTES:]
        return data

    def ended(self) -> bool:
        """Read what is left and say whether the end of a tar was there."""
        while self.read(1 << 20):
            pass
        return self.last == bytes(_END_BYTES)


def _samples(shard: str) -> Iterator[dict[str, Any]]:
    """Undecoded samples of a shard: `__key__`, `__url__` and bytes by suffix. DataError as in `read_shards`."""
    try:
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ImportError as error:
        raise ModelError("webdataset is not installed: pip install 'omni-empathy[train]'") from error
    try:
        with closing(_open(shard)) as stream:
            watched = _Watched(stream)
            entries = tar_file_expander([{"url": shard, "stream": watched}], select_files=lambda n: _allowed(n, shard))
            # the last sample is held back until the end of the tar was seen
            last = None
            for sample in group_by_keys(entries):
                if last is not None:
                    yield last
                last = sample
            if not watched.ended():
                raise DataError(
                    f"{shard} is cut short, or compressed; shards are plain tar files: fetch or pack it again"
                )
            if last is not None:
                yield last
    except DataError as error:
        raise DataError(_reason(error)) from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{shard} is damaged or cut short ({_reason(error)}); fetch or pack it again") from error


def _reason(error: Exception) -> str:
    """What an error says, without what webdataset adds: the objects it was reading."""
    return str(error.args[0] if error.args else type(error).__name__).partition(" @ <")[0]


def _open(shard: str) -> BinaryIO:
    """A stream of a shard's bytes. webdataset's own opener would run commands that an address names."""
    if "://" in shard:
        return cast(BinaryIO, open_address(shard))
    return Path(shard).open("rb")


def _allowed(name: str, shard: str) -> bool:
    """True, or DataError: webdataset asks it before it reads an entry."""
    _, dot, suffix = name.rpartition("/")[2].partition(".")
    if not dot or suffix.lower().removeprefix(_REPLY) not in SUFFIXES | {"json"} or suffix.lower() == f"{_REPLY}json":
        raise DataError(
            f"{shard} holds {name!r}; only rows (.json) and recordings ({', '.join(sorted(SUFFIXES))}) are read: pack it "
            "again without"
        )
    return True


def _clip(sample: dict[str, Any]) -> Clip:
    key, shard = sample["__key__"], sample["__url__"]
    kinds = [k for k in sample if k in SUFFIXES]
    replies = [k for k in sample if k.startswith(_REPLY)]
    if "json" not in sample or len(kinds) != 1 or len(replies) > 1:
        raise DataError(f"{shard}: {key} needs one row (.json), one recording, and at most one reply's; pack it again")
    sound = max((sample[k] for k in (*kinds, *replies)), key=len)
    if len(sound) > LARGEST_SOUND_BYTES or len(sample["json"]) > LARGEST_ROW_BYTES:
        raise DataError(
            f"{shard}: {key} has {len(sound) / 1e6:.1f} MB of sound and {len(sample['json']) / 1e6:.1f} MB of text; at "
            f"most {LARGEST_SOUND_BYTES / 1e6:.0f} and {LARGEST_ROW_BYTES / 1e6:.0f} MB are read; cut it into shorter clips"
        )
    try:
        sounds = {"sound": sample[kinds[0]]}
        for kind in replies:
            sounds |= {"reply_audio": Path(shard) / f"{key}.{kind}", "reply_sound": sample[kind]}
        return from_row(json.loads(sample["json"]), Path(shard) / f"{key}.{kinds[0]}", **sounds)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{shard}: {key}.json is not a clip ({error}); a row needs at least id and speaker") from error
