"""Whole files or none: atomic writes."""

import json
import os
import resource
import stat
import subprocess
import sys

import pytest

from omni.errors import OutputError
from omni.files import atomic_write, check_writable, write_bytes, write_json, write_text


def test_the_name_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "reply.json"
    with atomic_write(path) as temporary:
        temporary.write_text("{}")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


def write_and_raise(path, error, force=False):
    with atomic_write(path, force) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_behind_by_an_exception(tmp_path, error):
    path = tmp_path / "reply.wav"
    with pytest.raises(error):
        write_and_raise(path, error)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "reply.wav"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_raise(path, RuntimeError, force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_needs_force(tmp_path):
    path = tmp_path / "reply.wav"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "reply.wav"

    def race():
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"new")
            path.write_bytes(b"somebody else's")

    with pytest.raises(OutputError, match="--force"):
        race()
    assert path.read_bytes() == b"somebody else's"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_devices_and_missing_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "device, pipe or socket"),
        (tmp_path / "no" / "such" / "reply.wav", "mkdir -p"),
        ("reply\0.wav", "cannot write"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(OutputError, match=words):
            write_bytes(path, b"sound", force=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root, who may run the tests
    with pytest.raises(OutputError, match="read-only"):
        check_writable(tmp_path / "reply.wav")


def test_a_folder_that_turns_out_read_only_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="read-only"):
        write_bytes(tmp_path / "reply.wav", b"sound")


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the disk: the write really fails half-way."""
    script = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "from omni.errors import OutputError\nfrom omni.files import write_bytes\n"
        "try:\n    write_bytes(sys.argv[1], bytes(5000))\nexcept OutputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "reply.wav")], capture_output=True, text=True)
    assert "larger than this system allows" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_space_left_is_told_as_such(tmp_path):
    with pytest.raises(OutputError, match="disk is full"):
        write_and_raise(tmp_path / "reply.wav", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_links_are_followed_and_kept(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new", force=True)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_new_files_have_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json_round_trip_and_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"reply": "schön"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"reply": "schön"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()
