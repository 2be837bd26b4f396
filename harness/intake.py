# SPDX-License-Identifier: Apache-2.0
"""Files and words that somebody else made: read in bounds, shown without effect.

A file is opened without waiting for anybody (a FIFO would), has to be a regular one (a device has
no end) and is read up to a limit. Text from outside loses what a terminal would obey before a
person sees it. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from harness.errors import HarnessError

MIB = 1 << 20
SETTINGS_BYTES = 4 * MIB  # a manifest, a policy, a catalogue's file, a lock: kilobytes, really

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Control characters (ESC and CR among them, and the C1 set that some terminals obey), half
# surrogates, line and paragraph separators, and what turns the direction of writing around.
_UNSEEN = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff"
    "\ue000-\ufefe\uff00-\ufffd\U00010000-\U000dffff\U000f0000-\U0010ffff]"
)
# A CI takes commands from a job's output: GitHub from a line that begins with "::" (blanks before
# it do not count), it and Azure also from "##[" and "##vso[" anywhere in one.
_COMMAND = re.compile(r"^(\s*)::|##(?=\[|vso\[)", re.MULTILINE)


class NoFileError(HarnessError):
    """What was named cannot be read as a file: missing, no regular file, too large."""

    def __init__(self, path: Path, why: str, *, hint: str = "") -> None:
        super().__init__(f"cannot read '{path}': {why}", hint=hint)
        self.why = why


@contextlib.contextmanager
def opened(
    path: Path, *, most_bytes: int, least_bytes: int = 0
) -> Iterator[tuple[BufferedReader, int]]:
    """The regular file at `path` (a link is followed), and its size. NoFileError for others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        kind = "a socket or a device" if error.errno == errno.ENXIO else ""
        raise NoFileError(path, f"it is {kind}" if kind else f"{error.strerror}") from error
    except ValueError as error:  # a NUL in its name
        raise NoFileError(path, str(error)) from error
    try:
        size = _size(path, os.fstat(descriptor), least_bytes, most_bytes)
        file = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file, size


def _size(path: Path, status: os.stat_result, least_bytes: int, most_bytes: int) -> int:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for test, word in _KINDS if test(status.st_mode)), "no regular file")
        raise NoFileError(path, f"it is {kind}", hint="name a regular file")
    if status.st_size > most_bytes:
        raise _too_large(path, most_bytes, f"{status.st_size:,}")
    if status.st_size < least_bytes:
        raise NoFileError(path, f"{status.st_size} bytes are too few")
    return status.st_size


def content(path: Path, *, most_bytes: int) -> bytes:
    """What the file holds; one that grows meanwhile, or tells no size as in /proc, is held too."""
    with opened(path, most_bytes=most_bytes) as (file, size):
        try:
            found = file.read(size + 1)  # as much memory as there is to read
            while size < len(found) <= most_bytes and (more := file.read(MIB)):
                found += more
        except OSError as error:
            raise NoFileError(path, f"{error.strerror}") from error
    if len(found) > most_bytes:
        raise _too_large(path, most_bytes, f"over {most_bytes:,}")
    return found


def _too_large(path: Path, most_bytes: int, found: str) -> NoFileError:
    return NoFileError(
        path, f"it has {found} bytes, the most that is read is {most_bytes:,}",
        hint="is it the right file?",
    )  # fmt: skip


def text(path: Path, *, most_bytes: int) -> str:
    """The same as text; what is no UTF-8 is replaced."""
    return content(path, most_bytes=most_bytes).decode(errors="replace")


def toml(written: bytes) -> dict[str, object]:
    """A TOML document. ValueError says what is wrong with it, whatever that is."""
    try:
        return tomllib.loads(written.decode())
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def plain(words: str) -> str:
    """Text from outside without what controls a terminal or turns writing around, nor XML's taboos."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", words.replace("\r\n", "\n"))


def shown(words: str) -> str:
    """Text from outside as a terminal, or the log of a CI, may have it."""
    return _COMMAND.sub(_defused, plain(words))


def line(words: str, most: int = 2000) -> str:
    """The same on one line, and not longer than that."""
    flat = " ".join(shown(words).split())
    return flat if len(flat) <= most else f"{flat[:most]}…"


def markdown(words: str) -> str:
    """The same within a line or a table of Markdown: no link, image, markup, HTML, nor mention."""
    out = line(words, len(words)).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "|`*[]#~":
        out = out.replace(mark, f"\\{mark}")
    out = re.sub(r"@(?=\w)", "@\N{ZERO WIDTH SPACE}", out)  # GitHub writes to whom it names
    # Within a word an underscore is one; dns_monitor stays readable.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", out)


def _defused(found: re.Match[str]) -> str:
    return f"{found[1]}\\::" if found[0].endswith("::") else "#\\#"
