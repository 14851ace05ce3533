"""Fetching a published archive: resumed where it broke off, checked, unpacked aside, and only then put in its place."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from tqdm import tqdm

from omni import __version__
from omni.data.catalogue import Archive, Corpus, find
from omni.errors import DataError, OutputError, UsageError

#: Beside what is fetched so much of the disk stays free.
SPARE_BYTES = 1_000_000_000
#: An archive that would unpack to more than so many times its size is refused.
MOST_GROWTH = 30
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60


class _NeverInsecure(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only to where `check_address` allows."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(url: str) -> None:
    """DataError unless an address is https, or http on this machine."""
    parts = urlparse(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        raise DataError(f"{url} is not read: only https addresses are; give one of those")


def open_address(url: str, begin: int = 0) -> http.client.HTTPResponse:
    """The answer of a server, asked for what comes from byte `begin` on. DataError if it refuses or is not reached."""
    check_address(url)
    request = urllib.request.Request(url, headers={"User-Agent": f"omni/{__version__}"})
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    try:
        return urllib.request.build_opener(_NeverInsecure).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}; try again later") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url} cannot be reached ({error}); check the connection and try again") from error


def get(
    name: str, data: Path, accepts: Callable[[Corpus], bool], say: Callable[[str], None] = print, quiet: bool = False
) -> None:
    """Fetch and unpack a corpus or a part of it below the folder `data`; what is there already is left alone.

    `accepts` is asked once whether the corpus's licence is accepted. UsageError if it is not or the name is unknown,
    OutputError if the disk is too small, DataError if the corpus has to be got by hand, the download breaks off (the same
    call goes on with it) or is not what was published.
    """
    corpus, parts = find(name)
    folder = data / corpus.folder
    missing = {}
    for part, archive in parts.items():
        if (folder / archive.proof).exists():
            say(f"{corpus.name}/{part} is there already: {folder / archive.proof}")
        else:
            missing[part] = archive
    if not missing:
        return
    if not accepts(corpus):
        raise UsageError(
            f"the licence of {corpus.name}, {corpus.licence}, was not accepted; read {corpus.home} and give "
            "--accept-licence"
        )
    check_space(list(missing.values()), folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part, archive in missing.items():
        path = download(archive, folder, quiet)
        unpack(archive, path, folder)
        path.unlink()
        say(f"{corpus.name}/{part} -> {folder}")


def check_space(archives: list[Archive], folder: Path) -> None:
    """OutputError unless the disk holds the archives, one after the other, and all that is in them."""
    unpacked = sum(int(a.size_bytes * a.growth) for a in archives)
    begun = sum(p.stat().st_size for a in archives if (p := _partial(a, folder)).is_file())
    needed = unpacked + max(a.size_bytes for a in archives) - begun + SPARE_BYTES
    free = _free(folder)
    if free < needed:
        raise OutputError(
            f"{needed / 1e9:.1f} GB are needed in {folder} and {free / 1e9:.1f} GB are free; make room, fetch one part "
            "at a time, or give another folder with --data"
        )


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _partial(archive: Archive, folder: Path) -> Path:
    return folder / f".{archive.name}.part"


def download(archive: Archive, folder: Path, quiet: bool = False) -> Path:
    """The archive as a file in `folder`, whole and checked. What an earlier call left of it is gone on with.

    DataError if it breaks off (what is there is kept) or is not what was published (nothing is kept).
    """
    partial, path = _partial(archive, folder), folder / f".{archive.name}"
    if path.is_file():
        return path
    if partial.is_file() and partial.stat().st_size > archive.size_bytes:
        partial.unlink()
    begin = partial.stat().st_size if partial.is_file() else 0
    if begin < archive.size_bytes:
        _read_rest(archive, partial, begin, quiet)
    size = partial.stat().st_size
    if size < archive.size_bytes:
        raise DataError(
            f"{archive.name} broke off after {size:,} of {archive.size_bytes:,} bytes; run the same command again to go on"
        )
    _check(archive, partial)
    os.replace(partial, path)
    return path


def _read_rest(archive: Archive, partial: Path, begin: int, quiet: bool) -> None:
    """Append to `partial`, or write it anew where the server does not go on from the middle."""
    with open_address(archive.url, begin) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-")
        if answer.status == 206 and not goes_on:
            raise DataError(f"{archive.url}: the server sent another piece than was asked for; delete {partial}")
        bar = tqdm(
            desc=archive.name, total=archive.size_bytes, initial=begin if goes_on else 0, unit="B", unit_scale=True,
            disable=quiet or None,
        )  # fmt: skip
        with bar, partial.open("ab" if goes_on else "wb") as file:
            while file.tell() <= archive.size_bytes:
                try:
                    block = answer.read(_BLOCK_BYTES)
                except (OSError, http.client.HTTPException):
                    break
                if not block:
                    break
                file.write(block)
                bar.update(len(block))


def _check(archive: Archive, path: Path) -> None:
    """DataError, and the file is gone, unless it has the published size and checksum."""
    kind, _, published = archive.checksum.partition(":")
    problem = None
    if path.stat().st_size != archive.size_bytes:
        problem = f"is larger than the published {archive.size_bytes:,} bytes"
    elif kind:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
        if found != published:
            problem = f"has the {kind} {found}, not the published {published}"
    if problem:
        path.unlink()
        raise DataError(f"{archive.name} {problem}; it was deleted: run the same command again, or see {archive.url}")


def unpack(archive: Archive, path: Path, folder: Path) -> None:
    """Unpack `path` beside its place, then move what is in it into `folder`, the proof that it is there last.

    DataError for an archive that is damaged, would write outside its folder or fill the disk; nothing is left of it then.
    """
    aside = folder / f".{archive.name}.unpacked"
    shutil.rmtree(aside, ignore_errors=True)
    most_bytes = min(archive.size_bytes * MOST_GROWTH, _free(folder) - SPARE_BYTES // 2)
    try:
        aside.mkdir()
        (_unzip if zipfile.is_zipfile(path) else _untar)(path, aside, most_bytes)
        root = aside / archive.inside
        if not (root / archive.proof).exists():
            path.unlink()
            place = PurePosixPath(archive.inside, archive.proof)
            raise DataError(
                f"{archive.name} holds no {place} and was deleted; it is not what was published: fetch it again"
            )
        for entry in sorted(root.iterdir(), key=lambda e: e.name == archive.proof):
            if not (folder / entry.name).exists():
                os.replace(entry, folder / entry.name)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{archive.name} is damaged or unsafe and was deleted ({error}); fetch it again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _untar(path: Path, folder: Path, most_bytes: int) -> None:
    total = 0
    with tarfile.open(path) as tar:
        for member in tar:
            total += member.size
            _check_total(total, most_bytes, path)
            _check_inside(member.name, path)
            if not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"{member.name} is a link or a device; only files and folders are unpacked")
            tar.extract(member, folder, filter="data")


def _unzip(path: Path, folder: Path, most_bytes: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_total(sum(m.file_size for m in members), most_bytes, path)
        for member in members:
            _check_inside(member.filename, path)
        for member in members:  # reading stops at file_size, so the sum above holds
            archive.extract(member, folder)


def _check_total(total: int, most_bytes: int, path: Path) -> None:
    if total > most_bytes:
        raise DataError(f"{path} would unpack to more than {most_bytes / 1e9:.1f} GB; make room or delete it")


def _check_inside(name: str, path: Path) -> None:
    """The unpackers would mend such names; an archive that has one is not the one that was published."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or ":" in name:
        path.unlink()
        raise DataError(f"{path.name} would write outside its folder ({name!r}) and was deleted; do not unpack it")
