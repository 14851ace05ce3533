"""Shards: what was packed comes out, in an order that can be repeated, shared out and gone on with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omni.audio.io import load_clip
from omni.cli import main
from omni.data import manifest
from omni.data.manifest import Clip
from omni.data.shards import read_shards, write_shards
from omni.errors import DataError, OutputError, UsageError

CLIPS, CLIPS_PER_SHARD = 23, 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Clips of one tone each, FLAC and WAV, whose manifest is `train.jsonl` beside them."""
    folder = tmp_path_factory.mktemp("corpus")
    made = []
    for number in range(CLIPS):
        path = folder / "audio" / f"{number:02}.{'flac' if number % 2 else 'wav'}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.sin(np.arange(1600) * (0.05 + 0.01 * number)) * 0.5, 16_000)
        extra = {"place": "kitchen", "actor": number} if number % 3 else {}
        made.append(Clip(f"a/{number}.x", path, f"s{number % 4}", f"wörd {number}", "sad", duration_s=0.1, extra=extra))
    manifest.write(folder / "train.jsonl", made)
    return made


@pytest.fixture(scope="module")
def pattern(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("packed") / "shards"
    write_shards(clips, folder, CLIPS_PER_SHARD)
    return f"{folder}/shard-*.tar"


def ids(pattern: str, **options: Any) -> list[str]:
    return [clip.id for clip in read_shards(pattern, **options)]


def test_a_round_trip_equals_the_manifest(clips: list[Clip], pattern: str) -> None:
    found = sorted(read_shards(pattern), key=lambda c: int(c.id[2:-2]))
    assert [replace(f, audio=c.audio, sound=None) for f, c in zip(found, clips, strict=True)] == clips
    for read, packed in zip(found, clips, strict=True):
        assert read.sound == packed.audio.read_bytes()
        assert np.array_equal(load_clip(read.source), load_clip(packed.source))


def test_a_reply_travels_with_its_query(clips: list[Clip], tmp_path: Path) -> None:
    folder = clips[0].audio.parent.parent
    spoken = [replace(c, reply_audio=r.audio) for c, r in zip(clips[:3], clips[3:6], strict=True)]
    manifest.write(folder / "spoken.jsonl", spoken)
    assert manifest.read(folder / "spoken.jsonl") == spoken
    write_shards(spoken, tmp_path / "spoken", 2)
    found = {c.id: c for c in read_shards(f"{tmp_path}/spoken/*.tar")}
    for clip in spoken:
        assert clip.reply_audio is not None
        assert found[clip.id].reply_source == clip.reply_audio.read_bytes()
        assert found[clip.id].source == clip.audio.read_bytes()


def test_the_same_clips_give_the_same_bytes(clips: list[Clip], pattern: str, tmp_path: Path) -> None:
    again = write_shards(iter(clips), tmp_path / "again", CLIPS_PER_SHARD)
    assert [p.name for p in again] == [f"shard-{n:06}.tar" for n in range(6)]
    for path in again:
        first = Path(pattern).parent / path.name
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(first.read_bytes()).digest()


def test_what_was_read_can_be_packed_again(clips: list[Clip], pattern: str, tmp_path: Path) -> None:
    write_shards(read_shards(pattern, seed=1), tmp_path / "mixed", 10)
    assert ids(f"{tmp_path}/mixed/*.tar", seed=5, buffer_clips=1) != ids(pattern)
    assert sorted(ids(f"{tmp_path}/mixed/*.tar")) == sorted(c.id for c in clips)


def test_the_order_is_a_function_of_seed_and_epoch(clips: list[Clip], pattern: str) -> None:
    first = ids(pattern, seed=3, epoch=2)
    assert first == ids(pattern, seed=3, epoch=2)
    assert sorted(first) == sorted(c.id for c in clips)
    assert len({tuple(ids(pattern, seed=s, epoch=e)) for s in (3, 4) for e in (2, 5)}) == 4


def test_the_buffer_mixes_shards(clips: list[Clip], pattern: str) -> None:
    """Without it the clips of a shard stay together and in order."""
    shard = {clip.id: number // CLIPS_PER_SHARD for number, clip in enumerate(clips)}

    def changes(**options: Any) -> int:
        found = [shard[name] for name in ids(pattern, **options)]
        return sum(a != b for a, b in pairwise(found))

    assert changes(buffer_clips=1) == 5
    assert changes(buffer_clips=12) > 9


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_the_clips(clips: list[Clip], pattern: str, world: int) -> None:
    shares = [ids(pattern, seed=1, epoch=4, rank=rank, world=world) for rank in range(world)]
    assert all(shares)
    assert sorted(name for share in shares for name in share) == sorted(c.id for c in clips)


@pytest.mark.parametrize("skip", [0, 1, 7, 11, 12, 30])
@pytest.mark.parametrize("buffer_clips", [1, 5, 500])
def test_skipping_goes_on_identically(pattern: str, skip: int, buffer_clips: int) -> None:
    options: dict[str, Any] = {"seed": 2, "epoch": 1, "rank": 1, "world": 2, "buffer_clips": buffer_clips}
    assert ids(pattern, **options, skip=skip) == ids(pattern, **options)[skip:]


def test_skipped_clips_are_not_decoded(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr("omni.data.shards.from_row", lambda row, *_, **__: decoded.append(row["id"]))
    list(read_shards(pattern, skip=20))
    assert len(decoded) == CLIPS - 20


def shard(path: Path, *entries: tuple[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return str(path)


ROW = json.dumps({"id": "1", "speaker": "a"}).encode()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("1.json", ROW), ("1.pickle", b"cos\nsystem\n(S'true'\ntR.")], r"holds '1\.pickle'; only rows"),
        ([("1.json", ROW), ("1.flac", b"x"), ("1.pyd", b"x")], r"holds '1\.pyd'"),
        ([("1.json", ROW), ("1.flac", b"x"), ("1.json.gz", b"x")], r"holds '1\.json\.gz'"),
        ([("LICENCE", b"x")], "holds 'LICENCE'"),
        ([("1.json", ROW)], "1 needs one row"),
        ([("1.flac", b"x")], "1 needs one row"),
        ([("1.json", ROW), ("1.flac", b"x"), ("1.wav", b"x")], "1 needs one row"),
        ([("1.json", ROW), ("1.json", ROW), ("1.flac", b"x")], "duplicate"),
        ([("1.json", b"not json"), ("1.flac", b"x")], r"1\.json is not a clip"),
        ([("1.json", b"[1]"), ("1.flac", b"x")], r"1\.json is not a clip"),
        ([("1.json", b'{"id": "1"}'), ("1.flac", b"x")], r"1\.json is not a clip .*speaker"),
    ],
)
def test_a_shard_with_anything_else_is_refused(tmp_path: Path, entries: list[tuple[str, bytes]], words: str) -> None:
    path = shard(tmp_path / "bad.tar", *entries)
    with pytest.raises(DataError, match=words) as raised:
        list(read_shards(path))
    assert str(tmp_path / "bad.tar") in str(raised.value)
    assert "object at" not in str(raised.value)


def test_entries_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "large.tar", ("1.json", ROW), ("1.flac", bytes(2000)))
    assert len(list(read_shards(path))) == 1
    monkeypatch.setattr("omni.data.shards.LARGEST_SOUND_BYTES", 1999)
    with pytest.raises(DataError, match="cut it into shorter clips"):
        list(read_shards(path))


def test_a_truncated_shard_is_one_clear_error(pattern: str, tmp_path: Path) -> None:
    """Wherever it is cut: within a recording, within a header, between two entries, before the end of the tar."""
    whole = (Path(pattern).parent / "shard-000001.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        starts = [member.offset for member in tar] + [len(whole.rstrip(bytes(1))) // 512 * 512 + 512]
    cuts = [0, 100, *starts[1:], starts[3] + 100, starts[3] + 700]
    for cut in cuts:
        path = tmp_path / f"{cut}.tar"
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"(damaged or )?cut short") as raised:
            list(read_shards(str(path)))
        assert str(path) in str(raised.value), cut
        assert "object at" not in str(raised.value)


def test_a_clip_that_is_no_sound_is_named(tmp_path: Path) -> None:
    (clip,) = read_shards(shard(tmp_path / "a.tar", ("1.json", ROW), ("1.flac", b"no sound")))
    with pytest.raises(DataError, match=r"a\.tar/1\.flac cannot be read"):
        load_clip(clip.source, name=str(clip.audio))


def test_addresses_that_name_commands_are_refused(tmp_path: Path) -> None:
    """webdataset itself would run the first."""
    with pytest.raises(DataError, match="no shards match"):
        list(read_shards(f"pipe:touch {tmp_path}/ran"))
    with pytest.raises(DataError, match="only https"):
        list(read_shards("s3://bucket/shard-000000.tar"))
    assert list(tmp_path.iterdir()) == []


def test_options_out_of_range(clips: list[Clip], pattern: str, tmp_path: Path) -> None:
    for options in ({"rank": 2, "world": 2}, {"rank": -1}, {"skip": -1}, {"buffer_clips": 0}):
        with pytest.raises(UsageError, match="rank must be"):
            read_shards(pattern, **options)
    with pytest.raises(DataError, match="6 shards are too few for 7 processes"):
        read_shards(pattern, world=7)
    with pytest.raises(DataError, match="no shards match"):
        read_shards(f"{tmp_path}/*.tar")
    with pytest.raises(UsageError, match="too few"):
        write_shards(clips, tmp_path / "out", 0)
    with pytest.raises(OutputError, match="exists already"):
        write_shards(clips, tmp_path)


def test_a_clip_that_cannot_be_packed_leaves_nothing(clips: list[Clip], tmp_path: Path) -> None:
    lost = replace(clips[5], audio=clips[5].audio.with_name("lost.flac"))
    with pytest.raises(DataError, match=r"lost\.flac cannot be read"):
        write_shards([*clips[:5], lost], tmp_path / "out", 2)
    with pytest.raises(DataError, match="convert it"):
        write_shards([replace(lost, audio=Path("a.mp4"))], tmp_path / "out")
    with pytest.raises(DataError, match="no clips to pack"):
        write_shards([], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_packs_a_manifest(clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = clips[0].audio.parents[1] / "train.jsonl"
    assert main(["data", "pack", str(rows), str(tmp_path / "out"), "--clips-per-shard", "10"]) == 0
    assert capsys.readouterr().out == f"23 clips in 3 shards: {tmp_path}/out/shard-*.tar\n"
    assert sorted(ids(f"{tmp_path}/out/shard-{{000000..000002}}.tar")) == sorted(c.id for c in clips)
