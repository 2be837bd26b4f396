# SPDX-License-Identifier: Apache-2.0
"""A directory of indexes, one per BTF, by content: opening a known BTF parses nothing.

An index holds the offset of every type record and the sorted name table. It is filled aside and
renamed, under a lock; a damaged one is made again. Hashing a BTF costs more than reading it, so its
digest is remembered by path, size and times, as git does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Final
from zlib import crc32

from filelock import FileLock

from harness import intake
from harness.btf.blob import Header
from harness.btf.btf import Btf
from harness.btf.elf import MOST_VMLINUX_BYTES, read_btf_bytes
from harness.btf.errors import BtfError
from harness.btf.index import NameIndex

logger = logging.getLogger(__name__)

VERSION: Final = 2  # of the layout; another version is another directory
_MAGIC: Final = b"BTFINDEX"
_HEADER: Final = struct.Struct("<8sII4I")  # magic, version, byte order, checksum, counts
_DIGEST_LEN: Final = 32


class IndexStore:
    """Indexes under one directory; any number of processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / f"btf-index-v{VERSION}-{sys.byteorder}"
        self._digests: dict[Path, str] = {}  # of files that must not change while a store lives

    def open(self, path: Path) -> Btf:
        """The BTF in a file (raw or ELF), with its index from the store or put there."""
        data = read_btf_bytes(path)
        return self.wrap(data, str(path), self._digest(path, data))

    def wrap(self, data: bytes, source: str, digest: str = "") -> Btf:
        """As `open`, for raw BTF in memory; `digest` is its sha256 if known."""
        digest = digest or hashlib.sha256(data).hexdigest()
        place = self._root / digest[:2] / digest
        found = _read(place)
        if found is not None and found[0][0] * 4 == Header.parse(data, source).type_len:
            offsets, names = found
            btf = Btf.parse(data, source=source, offsets=offsets)
            btf.names = names
            return btf
        btf = Btf.parse(data, source=source)
        names = btf.names
        try:
            self._fill(place, btf, names)
        except OSError as error:
            # A full disk or a read-only cache costs time, not the answer.
            logger.warning("cannot keep the index of %s: %s", source, error)
        return btf

    def knows(self, path: Path) -> bool:
        """Whether the index of this file is there; never an error."""
        try:
            note = self._note(path)
            digest = note.read_text()
        except (OSError, ValueError):
            return False
        return (self._root / digest[:2] / digest).exists()

    def digest(self, path: Path) -> str:
        """sha256 of a file's contents, remembered while the file is not touched."""
        try:
            if path not in self._digests:
                self._digests[path] = self._digest(path, b"")
            return self._digests[path]
        except intake.NoFileError as error:
            raise BtfError(f"cannot be read: {error.why}", source=str(path)) from error
        except OSError as error:
            raise BtfError(f"cannot be read: {error.strerror}", source=str(path)) from error

    def _digest(self, path: Path, data: bytes) -> str:
        """data: what was read of the file, hashed where that is all of it."""
        note = self._note(path)
        try:
            known = note.read_text()
            if len(known) == 2 * _DIGEST_LEN:
                return known
        except (OSError, ValueError):
            pass
        with intake.opened(path, most_bytes=MOST_VMLINUX_BYTES) as (file, size):
            whole = len(data) == size
            digest = (
                hashlib.sha256(data) if whole else hashlib.file_digest(file, "sha256")
            ).hexdigest()
        try:
            _write(note, digest.encode())
        except OSError as error:
            logger.warning("cannot remember the digest of %s: %s", path, error)
        return digest

    def kept(self, key: str) -> str | None:
        """A text kept under a key (a digest of all it was made from); None when there is none."""
        try:
            return (self._root / "results" / key[:2] / key).read_text()
        except (OSError, ValueError):
            return None

    def has(self, key: str) -> bool:
        """Whether a text is kept under a key."""
        return (self._root / "results" / key[:2] / key).exists()

    def keep(self, key: str, text: str) -> None:
        """Keep a text; a cache that cannot be written is not an error."""
        try:
            _write(self._root / "results" / key[:2] / key, text.encode())
        except OSError as error:
            logger.warning("cannot keep a result: %s", error)

    def _note(self, path: Path) -> Path:
        """Where the digest of a file in its present state is remembered."""
        status = path.stat()
        identity = "\0".join(
            (
                str(path.resolve()),
                *map(
                    str,
                    (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino),
                ),
            )
        )
        return self._root / "seen" / hashlib.sha256(identity.encode()).hexdigest()

    def _fill(self, place: Path, btf: Btf, names: NameIndex) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.parent / "lock"):
            if not place.exists():
                _write(place, _encode(btf.offsets, names))


def _encode(offsets: array[int], names: NameIndex) -> bytes:
    hashes, ids = array("I", names.hashes), array("I", names.ids)
    body = offsets.tobytes() + hashes.tobytes() + ids.tobytes()
    head = _HEADER.pack(_MAGIC, VERSION, 1, crc32(body), len(offsets), len(hashes), 0)
    return head + body


def _read(place: Path) -> tuple[array[int], NameIndex] | None:
    """A stored index; None when there is none or it is damaged (it is then removed)."""
    try:
        data = place.read_bytes()
    except OSError:
        return None
    try:
        magic, version, _, checksum, types, named, _ = _HEADER.unpack_from(data)
    except struct.error:
        magic, version, checksum, types, named = b"", 0, 0, 0, 0
    whole = _HEADER.size + 4 * types + 8 * named == len(data) and types > 0
    body = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC or version != VERSION or not whole or crc32(body) != checksum:
        logger.warning("index %s is damaged: it is made again", place)
        place.unlink(missing_ok=True)
        return None
    offsets = array("I")
    offsets.frombytes(body[: 4 * types])
    words = body[4 * types :].cast("I")
    return offsets, NameIndex(words[:named], words[named:])


def _write(place: Path, data: bytes) -> None:
    """Write aside, then rename."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".filling-{os.getpid()}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
