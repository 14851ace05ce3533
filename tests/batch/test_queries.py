"""The input list: order, ids, rows with style and history, shards; what cannot be read is named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from omni.batch.queries import Past, Query, digest, read_queries
from omni.errors import DataError, UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"sound")


def test_a_folder_in_order_with_ids_that_are_file_names(tmp_path):
    touch(tmp_path, "b.wav", "a.WAV", "deep/er/c d.flac", ".hidden/x.wav", "notes.txt", "twin.wav", "twin.mp3")
    found = read_queries(str(tmp_path))
    assert [Path(q.source).name for q in found] == ["a.WAV", "b.wav", "c d.flac", "twin.mp3", "twin.wav"]
    assert [q.id for q in found[:2]] == ["a", "b"]
    assert found[2].id.startswith("deep_er_c_d-")
    assert len({q.id for q in found}) == 5
    touch(tmp_path, "zebra.wav")
    assert [q.id for q in read_queries(str(tmp_path))][:5] == [q.id for q in found]
    assert digest(found) == digest(read_queries(str(tmp_path))[:5]) != digest(found[:4])


def test_a_glob_and_nothing(tmp_path):
    touch(tmp_path, "b.wav", "a.wav", "c.mp3")
    assert [q.id for q in read_queries(f"{tmp_path}/*.wav")] == ["a", "b"]
    for wrong in (f"{tmp_path}/*.ogg", f"{tmp_path}/none"):
        with pytest.raises(UsageError, match="nothing at"):
            read_queries(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no queries"):
        read_queries(str(tmp_path / "empty"))


HISTORY = [{"user": "My dog ran away", "reply": "oh no", "emotion": "sad"}]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_manifests(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        rows = [{"audio": "x.wav", "id": "one", "style": "calm", "history": HISTORY}, {"audio": "y.wav"}]
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        cell = json.dumps(HISTORY).replace('"', '""')
        path.write_text(f'audio,id,style,history\nx.wav,one,calm,"{cell}"\ny.wav,,,\n')
    one, two = read_queries(str(path))
    assert one == Query("one", str(tmp_path / "x.wav"), None, "calm", (Past("My dog ran away", "oh no", "sad"),))
    assert two == Query("y", str(tmp_path / "y.wav"))
    assert Query.of_plain(json.loads(json.dumps(one.plain()))) == one


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"style": "shouting"}, "no style 'shouting'"),
        ({"history": [{"user": "a"}]}, "user and reply"),
        ({"history": "["}, "no JSON"),
        ({"history": [{"user": "a", "reply": "b", "emotion": "odd"}]}, "no emotion 'odd'"),
        ({"history": HISTORY * 101}, "up to 100 turns"),
    ],
)
def test_a_bad_row_is_a_query_with_a_problem(tmp_path, row, reason):
    (tmp_path / "list.jsonl").write_text(json.dumps({"audio": "x.wav", **row}))
    (query,) = read_queries(str(tmp_path / "list.jsonl"))
    assert reason in query.problem


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", ":1: not JSON"),
        ("[]", "is no row"),
        ('{"id": "a"}', "names no recording"),
        ('{"audio": "a.wav", "id": "../a"}', "is no id"),
        ('{"audio": "a.wav"}\n{"audio": "A.wav"}', "appears twice"),
        ("x" * 1_000_001, "more than 1,000,000"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path, text, reason):
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_queries(str(tmp_path / "list.jsonl"))


def write_tar(path: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def test_shards(tmp_path):
    write_tar(tmp_path / "s-1.tar", {"2.wav": b"two"})
    write_tar(
        tmp_path / "s-0.tar", {"1.json": b'{"id": "one", "style": "warm"}', "1.flac": b"first", "1.reply.flac": b"no"}
    )
    one, two = read_queries(str(tmp_path))
    assert (one.id, one.style, two.id) == ("one", "warm", "2")
    for query, sound in ((one, b"first"), (two, b"two")):
        offset, size = query.place
        assert Path(query.source).read_bytes()[offset : offset + size] == sound
    whole = (tmp_path / "s-0.tar").read_bytes()
    (tmp_path / "s-0.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"s-0\.tar"):
        read_queries(str(tmp_path / "s-*.tar"))
