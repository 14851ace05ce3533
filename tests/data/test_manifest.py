"""Manifests: round trips, every bad row named, no speaker in two splits."""

import gzip
import json

import pytest

from omni.data.manifest import Clip, by_speaker, lines, read, write
from omni.errors import DataError


def clip(folder, name, speaker="a", **rest):
    return Clip(name, folder / "audio" / f"{name}.wav", speaker, **rest)


def test_round_trip(tmp_path):
    path = tmp_path / "made" / "train.jsonl"
    clips = [
        clip(path.parent, "1", text="hello", emotion="sad", intensity="strong", duration_s=1.5),
        clip(path.parent, "2", "b", extra={"place": "kitchen", "actor": 3}),
    ]
    write(path, clips)
    assert read(path) == clips
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[0]["audio"] == "audio/1.wav"
    assert "text" not in rows[1]


def test_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"id": "1", "audio": "1.wav", "speaker": "a"}\n\n')
    assert [c.id for c in read(path)] == ["1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "1", "audio": "1.wav", "speaker": "a"}\nnot json', r"a\.jsonl:2: not a clip"),
        ('{"id": "1", "audio": "1.wav"}', r":1: not a clip.*speaker"),
        ('{"id": "1", "speaker": "a"}', ":1: not a clip"),
        ("[1, 2]", ":1: not a clip"),
        ('{"id": "1", "audio": 3, "speaker": "a"}', ":1: not a clip"),
        ('{"id": "1", "audio": "1.wav", "speaker": "a"}\n' * 2, r":2: id '1' appears twice"),
        ("", "has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, words):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read(path)


def test_missing_files_name_the_option(tmp_path):
    with pytest.raises(DataError, match=r"--data or OMNI_DATA"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"--data or OMNI_DATA"):
        list(lines(tmp_path / "none.jsonl.gz"))


def test_no_speaker_is_in_two_splits(tmp_path):
    clips = [clip(tmp_path, str(i), speaker) for i, speaker in enumerate("abcabcd")]
    kept, held = by_speaker(clips, {"b", "d"})
    assert {c.speaker for c in kept} == {"a", "c"}
    assert {c.speaker for c in held} == {"b", "d"}
    assert len(kept) + len(held) == len(clips)


def test_lines_reads_plain_and_gzipped(tmp_path):
    rows = [{"a": 1}, {"b": "ü"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert list(lines(tmp_path / "a.jsonl")) == list(lines(tmp_path / "a.jsonl.gz")) == rows
