# SPDX-License-Identifier: Apache-2.0
"""A run's journal in its report directory: what was asked, and each cell as soon as it is finished.

    DIR/journal.json        what was asked, in a person's words; written before anything is built
    DIR/cells/KERNEL.json   a cell, with a digest of each of its inputs

Every file is whole or not there. `--resume DIR` reads them: a cell whose inputs are what they were
is not asked again. Whoever writes holds a flock(2) of the directory, which ends with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from harness import intake, results
from harness.errors import HarnessError, UsageError
from harness.results import Cell, RunFacts, Verdict

SCHEMA = 1
_MOST_BYTES = 256 << 20  # of a file; a cell has 30 kB
FILE = "journal.json"
CELLS = "cells"
# What belongs together: given one of them anew, none of the others is taken from the journal.
_SUBJECT = ("object", "manifest", "commands", "files", "attached", "timeout_s")
_KERNELS = ("kernels", "kernel_dirs", "planned")


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What a person asked for, as typed; a default means that nothing was said."""

    kernels: str = ""  # once it is recorded: the names of those chosen, of this shard
    kernel_dirs: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()  # the whole matrix, of which this may be a shard
    object: str = ""
    manifest: str = ""
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    attached: bool = False
    timeout_s: float = 0.0  # of a command; 0: the default
    backend: str = ""
    jobs: int = 0
    checks: str = ""
    append: tuple[str, ...] = ()
    boot_timeout_s: float = 0.0
    strict: bool = False

    def over(self, recorded: Words) -> Words:
        """What the journal says, where these say nothing."""
        taken = {field.name: getattr(recorded, field.name) for field in fields(self)}
        said = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for group in (_SUBJECT, _KERNELS):
            if said & set(group):
                said |= set(group)
        return replace(self, **{name: taken[name] for name in taken if name not in said})

    def seen_from(self, there: Path, here: Path) -> Words:
        """The same words, typed `there`, for one who is `here`."""
        if there == here:
            return self

        def moved(path: str) -> str:
            return str(there / path) if path else ""

        return replace(
            self, object=moved(self.object), manifest=moved(self.manifest),
            files=tuple(moved(path) for path in self.files),
            kernel_dirs=tuple(moved(path) for path in self.kernel_dirs),
        )  # fmt: skip


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """journal.json."""

    schema: int
    id: str
    directory: str  # that the run was started in
    words: Words
    subject: str = ""  # its name, once it is built
    started: str = ""  # ISO 8601, UTC
    command: str = ""
    finished: bool = False


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """cells/KERNEL.json."""

    schema: int
    id: str  # of the run
    cell: Cell


class _SchemaOnly(msgspec.Struct):
    schema: int


_T = TypeVar("_T", _Head, _Kept)


class Journal:
    """A run that is under way. Not for several threads."""

    def __init__(self, directory: Path, head: _Head, kept: Mapping[str, Cell]) -> None:
        self._directory = directory
        self._head = head
        self._kept = dict(kept)
        self._resumed = bool(head.started)

    def begin(self, subject: str, started: str, command: str) -> None:
        """Note what the run is about; of one that is resumed, only that it goes on.

        Raises UsageError when the journal is about another subject.
        """
        head = self._head
        if head.subject not in ("", subject):
            raise UsageError(
                f"the run in '{self._directory}' is about '{head.subject}', not about '{subject}'",
                hint="start a run of its own, without --resume",
            )
        self._head = msgspec.structs.replace(
            head, subject=subject, started=head.started or started, command=head.command or command,
            finished=False,
        )  # fmt: skip
        self._write_head()

    def told(self, facts: RunFacts) -> RunFacts:
        """The run's facts, as those of the whole run: a resumed one began before."""
        head = self._head
        resumed = (f"resumed {facts.started} by: {facts.command}",) if self._resumed else ()
        return replace(
            facts, id=head.id, started=head.started, command=head.command,
            notes=(*facts.notes, *resumed),
        )  # fmt: skip

    def known(
        self, inputs: Mapping[str, Mapping[str, str]], say: Callable[[str], None]
    ) -> dict[str, Cell]:
        """Of the kernels with these inputs, the cells that need no asking; says why of the others."""
        found: dict[str, Cell] = {}
        for name, now in inputs.items():
            cell = self._kept.get(name)
            if cell is None:
                continue
            why = _again(cell, now)
            if why:
                say(f"{name}: asked again: {why}")
            else:
                found[name] = cell
        if found:
            say(f"resumed: {len(found)} of {len(inputs)} cells are finished: {', '.join(found)}")
        return found

    def keep(self, cell: Cell) -> None:
        """Write a finished cell, which has its inputs. HarnessError when the disk refuses."""
        kept = _Kept(schema=SCHEMA, id=self._head.id, cell=cell)
        results.write_atomically(
            self._directory / CELLS / f"{cell.kernel.name}.json", msgspec.json.encode(kept) + b"\n"
        )

    def end(self) -> None:
        """Note that the results are written."""
        self._head = msgspec.structs.replace(self._head, finished=True)
        self._write_head()

    def _write_head(self) -> None:
        content = msgspec.json.format(msgspec.json.encode(self._head), indent=1)
        results.write_atomically(self._directory / FILE, content + b"\n")


@contextlib.contextmanager
def opened(directory: Path, words: Words, *, resume: bool = False) -> Iterator[Journal]:
    """The journal of a run that writes its report to `directory`, for as long as it runs.

    resume: continue the one that is there; otherwise the cells of an older one are removed.
    Raises UsageError when another process writes there, or there is nothing to resume.
    """
    old = _head(directory) if resume else None
    with _alone(directory):
        results.remove_partial(directory)
        kept: dict[str, Cell] = {}
        if old is not None:
            head = msgspec.structs.replace(old, words=words, directory=str(Path.cwd()))
            kept = _cells(directory, old.id)
        else:
            for path in (directory / CELLS).glob("*.json"):
                path.unlink(missing_ok=True)
            head = _Head(schema=SCHEMA, id=uuid.uuid4().hex, directory=str(Path.cwd()), words=words)
        made = Journal(directory, head, kept)
        made._write_head()
        yield made


def recorded(directory: Path) -> Words:
    """What the run in `directory` was asked. UsageError when there is none, or of another schema."""
    head = _head(directory)
    return head.words.seen_from(Path(head.directory), Path.cwd())


def unfinished(reports: Path) -> list[Path]:
    """Directories below `reports` whose run came to no end and is not under way."""
    found: list[Path] = []
    for path in sorted(reports.glob(f"*/{FILE}")):
        with contextlib.suppress(HarnessError):
            if not path.parent.is_symlink() and not _head(path.parent).finished:
                with _alone(path.parent):
                    found.append(path.parent)
    return found


def settled(cell: Cell) -> bool:
    """Whether asking again would tell nothing new: no trouble of ours, no interrupt in it."""
    return cell.verdict is not Verdict.UNAVAILABLE and not any(c.ours for c in cell.checks)


def _again(cell: Cell, now: Mapping[str, str]) -> str:
    """Why a cell that was kept does not hold for these inputs; "" when it does."""
    if not settled(cell):
        deciding = cell.deciding
        said = deciding.summary.partition("\n")[0] if deciding else ""
        return f"it was {cell.verdict}{f': {said}' if said else ''}"
    names = dict.fromkeys([*cell.inputs, *now])
    other = [name for name in names if cell.inputs.get(name) != now.get(name)]
    return f"not the same {', '.join(other)} as then" if other else ""


def _head(directory: Path) -> _Head:
    path = directory / FILE
    try:
        content = intake.content(path, most_bytes=_MOST_BYTES)
    except intake.NoFileError as error:
        raise UsageError(
            f"'{directory}' has no run to resume: {path.name}: {error.why}",
            hint="name the directory of a report (--out, or reports/<time>)",
        ) from error
    return _decoded(content, path, _Head)


def _decoded(content: bytes, path: Path, kind: type[_T]) -> _T:
    try:
        schema = msgspec.json.decode(content, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise UsageError(
                f"'{path}' is a journal of schema {schema}, this version continues schema {SCHEMA}",
                hint="resume it with the version of the harness that began it",
            )
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as error:  # of msgspec, or of UTF-8
        raise UsageError(f"'{path}' is no journal of a run: {error}") from error


def _cells(directory: Path, run: str) -> dict[str, Cell]:
    """Those of that run; one that cannot be read is as if it had not been asked."""
    found: dict[str, Cell] = {}
    for path in sorted((directory / CELLS).glob("*.json")):
        try:
            kept = _decoded(intake.content(path, most_bytes=_MOST_BYTES), path, _Kept)
        except (intake.NoFileError, UsageError):
            continue
        if kept.id == run and kept.cell.kernel.name == path.stem:
            found[path.stem] = kept.cell
    return found


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory against other runs."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HarnessError(
            f"cannot write the report directory '{directory}': {error.strerror}",
            hint="name another --out",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another run is writing its report to '{directory}'",
                hint="wait for its end, or name another --out",
            ) from None
        yield
    finally:
        os.close(descriptor)
