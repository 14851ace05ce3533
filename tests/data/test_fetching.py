"""Fetching corpora from a server on this machine: resumed, checked, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from omni.cli import main
from omni.data import catalogue, fetching
from omni.data.catalogue import CORPORA, Archive, Corpus, find
from omni.data.corpora import empathetic_dialogues, librispeech, ravdess
from omni.data.fetching import get
from omni.errors import DataError, OutputError, UsageError

CHAPTER = "LibriSpeech/dev-clean/1088/134315/1088-134315"
SPEECH = {
    "LibriSpeech/README.TXT": b"read me",
    f"{CHAPTER}.trans.txt": b"1088-134315-0000 AS YOU KNOW\n1088-134315-0001 AND AS I\n",
    f"{CHAPTER}-0000.flac": bytes(range(256)) * 40,
    f"{CHAPTER}-0001.flac": bytes(range(255, -1, -1)) * 40,
}


@dataclass
class Server:
    """Serves `files`. Without `ranges` it always begins at the beginning; `cut` breaks the next answer off half way."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut: bool = False
    redirect: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            server.asked.append((self.path, self.headers.get("Range", "")))
            name = self.path.strip("/").partition("?")[0]
            if server.redirect:
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.end_headers()
                return
            if name not in server.files:
                self.send_error(404)
                return
            body, begin = server.files[name], 0
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and server.ranges:
                begin = int(wanted[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            rest = body[begin:]
            self.wfile.write(rest[: len(rest) // 2] if server.cut else rest)
            if server.cut:
                server.cut = False
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield made
    finally:
        http.shutdown()
        http.server_close()


def tarred(files: dict[str, bytes], *further: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for entry in further:
            tar.addfile(entry)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def publish(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Archive]:
    """Puts a corpus `tiny/part` of one archive into the catalogue and on the server."""

    def put(body: bytes, name: str = "part.tar.gz", proof: str = "dev-clean", inside: str = "LibriSpeech") -> Archive:
        server.files[name] = body
        checksum = f"sha256:{hashlib.sha256(body).hexdigest()}"
        archive = Archive(f"{server.address}/{name}?download=1", len(body), checksum, proof, inside)
        corpus = Corpus("tiny", "a test", "CC0", "https://example.org", "tiny", {"part": archive})
        monkeypatch.setitem(catalogue.CORPORA, "tiny", corpus)
        return archive

    return put


def fetch(folder: Path, name: str = "tiny") -> list[str]:
    """Get it with the licence accepted; returns what was said."""
    said: list[str] = []
    get(name, folder, lambda _: True, said.append, quiet=True)
    return said


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")]


def test_what_was_fetched_is_read_by_the_corpus(publish: Any, tmp_path: Path) -> None:
    publish(tarred(SPEECH))
    assert fetch(tmp_path) == [f"tiny/part -> {tmp_path / 'tiny'}"]
    first, second = librispeech.read(tmp_path / "tiny")
    assert (first.text, second.speaker) == ("AS YOU KNOW", "1088")
    assert first.audio == tmp_path / "tiny/dev-clean/1088/134315/1088-134315-0000.flac"
    assert first.audio.read_bytes() == SPEECH[f"{CHAPTER}-0000.flac"]
    assert (tmp_path / "tiny" / "README.TXT").read_bytes() == b"read me"
    assert hidden(tmp_path) == []


def test_a_zip_without_a_folder_of_its_own(publish: Any, tmp_path: Path) -> None:
    publish(zipped({"Actor_24/03-01-06-02-01-01-24.wav": b"sound"}), "part.zip", "Actor_24", "")
    fetch(tmp_path)
    assert [c.emotion for c in ravdess.read(tmp_path / "tiny")] == ["fearful"]


def test_tables_that_lie_in_a_folder(publish: Any, tmp_path: Path) -> None:
    table = (
        b"conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\nhit:0,1,sad,Rain.,1,It rains.,5,\n"
    )
    publish(tarred({"empatheticdialogues/train.csv": table}), proof="train.csv", inside="empatheticdialogues")
    fetch(tmp_path)
    assert [t.turns for t in empathetic_dialogues.read(tmp_path / "tiny")] == [("It rains.",)]


def test_what_is_there_is_not_fetched_again(publish: Any, server: Server, tmp_path: Path) -> None:
    publish(tarred(SPEECH))
    fetch(tmp_path)
    (said,) = fetch(tmp_path)
    assert "is there already" in said
    assert len(server.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(publish: Any, server: Server, tmp_path: Path) -> None:
    archive = publish(tarred(SPEECH))
    server.cut = True
    with pytest.raises(DataError, match=r"broke off after .* run the same command again"):
        fetch(tmp_path)
    half = (tmp_path / "tiny" / ".part.tar.gz.part").stat().st_size
    assert half == archive.size_bytes // 2
    fetch(tmp_path)
    assert [r for _, r in server.asked] == ["", f"bytes={half}-"]
    assert len(librispeech.read(tmp_path / "tiny")) == 2


def test_a_server_without_ranges_starts_again(publish: Any, server: Server, tmp_path: Path) -> None:
    publish(tarred(SPEECH))
    server.cut, server.ranges = True, False
    with pytest.raises(DataError, match="broke off"):
        fetch(tmp_path)
    fetch(tmp_path)
    assert len(librispeech.read(tmp_path / "tiny")) == 2


@pytest.mark.parametrize("change", [lambda b: b[:-9] + b"x" + b[-8:], lambda b: b + b"more"], ids=["changed", "longer"])
def test_another_file_than_published_is_deleted(
    publish: Any, server: Server, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    archive = publish(tarred(SPEECH))
    server.files[archive.name] = change(server.files[archive.name])
    with pytest.raises(DataError, match=r"published .* it was deleted"):
        fetch(tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tarred({**SPEECH, "../evil": b"x"}), "outside its folder"),
        (tarred({**SPEECH, "LibriSpeech/../../evil": b"x"}), "outside its folder"),
        (tarred({**SPEECH, "/tmp/evil": b"x"}), "outside its folder"),
        (tarred(SPEECH, link("LibriSpeech/evil", "../../../evil")), "is a link"),
        (zipped({**SPEECH, "../evil": b"x"}), "outside its folder"),
        (zipped({**SPEECH, "/evil": b"x"}), "outside its folder"),
        (zipped({**SPEECH, "C:\\evil": b"x"}), "outside its folder"),
        (tarred(SPEECH)[:-40], "damaged"),
        (b"no archive at all", "damaged"),
    ],
    ids=["up", "up-inside", "absolute", "link", "zip-up", "zip-absolute", "zip-drive", "cut", "text"],
)
def test_unsafe_and_damaged_archives_leave_nothing(publish: Any, tmp_path: Path, body: bytes, words: str) -> None:
    publish(body)
    with pytest.raises(DataError, match=words):
        fetch(tmp_path / "data")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not (tmp_path / "data" / "tiny" / "dev-clean").exists()


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_archives_that_swell_are_refused(publish: Any, tmp_path: Path, pack: Callable[..., bytes]) -> None:
    publish(pack({**SPEECH, "LibriSpeech/dev-clean/zeros": bytes(5_000_000)}))
    with pytest.raises(DataError, match="would unpack to more than"):
        fetch(tmp_path)
    assert not (tmp_path / "tiny" / "dev-clean").exists()


def test_an_archive_without_what_it_promises_is_refused(publish: Any, tmp_path: Path) -> None:
    publish(tarred({"Other/file": b"x"}))
    with pytest.raises(DataError, match="holds no LibriSpeech/dev-clean"):
        fetch(tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


def test_the_disk_is_checked_first(
    publish: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tarred(SPEECH))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage._replace(free=fetching.SPARE_BYTES))
    with pytest.raises(OutputError, match=r"GB are needed in .* make room"):
        fetch(tmp_path)
    assert server.asked == []


def test_nothing_is_fetched_without_the_licence(publish: Any, server: Server, tmp_path: Path) -> None:
    publish(tarred(SPEECH))
    with pytest.raises(UsageError, match=r"CC0, was not accepted; read https://example\.org .*--accept-licence"):
        get("tiny", tmp_path, lambda _: False, quiet=True)
    assert server.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_refuses_is_quoted(publish: Any, server: Server, tmp_path: Path) -> None:
    publish(tarred(SPEECH))
    server.files.clear()
    with pytest.raises(DataError, match="the server answered 404"):
        fetch(tmp_path)


def test_only_https_is_read_redirects_too(publish: Any, server: Server, tmp_path: Path) -> None:
    for address in ("http://example.org/a", "file:///etc/passwd", "ftp://example.org/a"):
        with pytest.raises(DataError, match="only https"):
            fetching.open_address(address)
    publish(tarred(SPEECH))
    server.redirect = "http://example.org/part.tar.gz"
    with pytest.raises(DataError, match=r"http://example\.org/part\.tar\.gz is not read"):
        fetch(tmp_path)


def test_the_catalogue_says_where_everything_lies() -> None:
    for corpus in CORPORA.values():
        assert bool(corpus.parts) != bool(corpus.by_hand), corpus.name
        for archive in corpus.parts.values():
            assert archive.url.startswith("https://")
            kind, _, digest = archive.checksum.partition(":")
            assert len(digest) == 2 * hashlib.new(kind).digest_size
    whole, one = find("librispeech")[1], find("librispeech/dev-clean")[1]
    assert (len(whole), list(one)) == (7, ["dev-clean"])
    assert one["dev-clean"].name == "dev-clean.tar.gz"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nothing", 2, "allowed: librispeech, ravdess"),
        ("librispeech/nothing", 2, "allowed: dev-clean, dev-other"),
        ("iemocap", 6, "release form"),
        ("ravdess", 2, "--accept-licence"),
    ],
)
def test_the_command_says_in_one_line_what_to_do(
    name: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "get", name, "--data", str(tmp_path)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_the_command_fetches_and_lists(publish: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tarred(SPEECH))
    assert main(["data", "get", "tiny/part", "--data", str(tmp_path), "--accept-licence"]) == 0
    assert "licence CC0" in capsys.readouterr().out
    assert len(librispeech.read(tmp_path / "tiny")) == 2
    assert main(["data", "get", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CORPORA)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_a_person_is_asked_for_the_licence(
    publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    publish(tarred(SPEECH))
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})(f"{answer}\n"))
    assert main(["data", "get", "tiny", "--data", str(tmp_path)]) == code
    assert (tmp_path / "tiny" / "dev-clean").exists() == (code == 0)
