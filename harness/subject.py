# SPDX-License-Identifier: Apache-2.0
"""The subject of a run: an object, what its manifest says of it, and what goes into the guest."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

from harness import intake
from harness.errors import UsageError

COMMAND_TIMEOUT_S = 60.0
_LONGEST_S = 3600.0  # of a command


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the subject says of one of its programs."""

    optional: bool = False  # it may be refused somewhere without failing the subject
    attach: str = ""
    needs: tuple[str, ...] = ()  # probes: "ksym:udpv6_sendmsg", "map:ringbuf", "insn:atomic_fetch"
    max_insns_processed: int = 1_000_000


class Fallback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another shape of a map, for kernels on which a probe does not hold."""

    unless: str
    type: str
    key_size: int
    value_size: int
    max_entries: int


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A map that a map of maps holds, where its loader says so and not the object."""

    type: str
    key_size: int
    value_size: int
    max_entries: int = 1


class Map(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fallback: Fallback | None = None
    inner: Inner | None = None
    # Struct that begins each record for user space, the octets captured follow it: with it, what
    # a full buffer holds is known.
    record: str = ""


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    source: str = ""
    build: str = ""
    object: str = ""  # "": a subject of commands alone, whose programs bring their own
    loader: str = ""
    files: tuple[str, ...] = ()
    baseline: str = ""  # what its programs cost the verifiers so far, beside the manifest


class Functional(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What exercises the subject in a guest; both are among the subject's files."""

    driver: str = ""  # sends datagrams and says what must be made of each (bpf/README.md)
    corpus: str = ""  # datagrams with the answer that each must get (bpf/README.md)


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an observer promises under load; its presence asks for the traffic checks."""

    offered_per_s: int = 10_000  # what the generator is told to send
    rate_limit: int = 1000  # events a second, all CPUs together
    rate_burst: int = 100  # events at once
    sample_n: int = 10  # 1 in n is kept
    sample_threshold: int = 1000  # datagrams a second above which sampling begins
    leak_events: int = 1_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the subject may cost; None: no limit."""

    memory_mib: float | None = None  # loader's resident memory and its maps
    cpu_share: float | None = None  # of the machine's CPUs, at [traffic] offered_per_s
    insns_growth: float | None = None  # of processed instructions over the baseline; 0.1 = 10 %
    stack_bytes: int | None = None  # along the deepest call chain


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command of the subject's own; exit status 0 passes."""

    name: str
    run: str  # as bash reads it, in the directory with the subject's files
    timeout_s: float = COMMAND_TIMEOUT_S
    attached: bool = False  # run while the object is attached
    needs: tuple[str, ...] = ()  # probes, as a program's: where one does not hold, unsupported


class Quarantine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check that is known to fail on some kernels, until a day, while somebody sees to it."""

    check: str
    kernels: tuple[str, ...]  # names or patterns: "5.4-*"; "*" also for checks of the object
    owner: str
    reason: str
    expires: datetime.date  # the last day on which it holds


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`*.toml` beside an object; unknown keys are refused."""

    subject: _Head
    programs: dict[str, Program] = {}
    maps: dict[str, Map] = {}
    functional: Functional = Functional()
    traffic: Traffic | None = None
    limits: Limits = Limits()
    commands: tuple[Command, ...] = ()
    quarantine: tuple[Quarantine, ...] = ()
    rodata: dict[str, bool | int | tuple[int, ...]] = {}


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object, or commands alone, ready to be carried into a guest."""

    manifest: Manifest
    object: Path | None  # None: only commands, whose programs bring their own
    loader: Path | None = None
    files: tuple[Path, ...] = ()
    baseline: Path | None = None  # where the manifest says; it need not exist yet
    compiler: str = ""  # that made the object, where we made it

    @property
    def name(self) -> str:
        return self.manifest.subject.name

    @property
    def carried(self) -> tuple[Path, ...]:
        """Everything of the subject that goes into the guest, side by side."""
        given = (self.object, self.loader, *self.files)
        return tuple(path for path in given if path is not None)

    @property
    def rodata_words(self) -> list[str]:
        """Settings as `name=value` words for a loader's --set."""
        return [f"{name}={_value(value)}" for name, value in self.manifest.rodata.items()]


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest; UsageError names file and key."""
    try:
        content = intake.content(path, most_bytes=intake.SETTINGS_BYTES)
    except intake.NoFileError as error:
        raise UsageError(
            f"cannot read the manifest '{path}': {error.why}", hint=error.hint
        ) from error
    try:
        manifest = msgspec.convert(intake.toml(content), type=Manifest)
    except ValueError as error:  # of TOML, of UTF-8, of msgspec
        raise UsageError(f"{path}: {error}") from error
    for name in (manifest.functional.driver, manifest.functional.corpus):
        if name and name not in manifest.subject.files:
            raise UsageError(
                f"{path}: [functional] names '{name}', which is not among the subject's files",
                hint=f"add \"{name}\" to 'files' under [subject]",
            )
    _refuse_commands(manifest, str(path))
    _refuse_quarantine(manifest, path)
    if not manifest.subject.object and (manifest.subject.loader or not manifest.commands):
        raise UsageError(
            f"{path}: [subject] names no object",
            hint="name one, or leave 'loader' away too and say what to run in [[commands]]",
        )
    return manifest


def _refuse_quarantine(manifest: Manifest, path: Path) -> None:
    """UsageError for an entry that says too little to be answered for."""
    for number, one in enumerate(manifest.quarantine, 1):
        said = {"check": one.check, "owner": one.owner, "reason": one.reason}
        empty = [name for name, words in said.items() if not words.strip()]
        if not one.kernels or not all(pattern.strip() for pattern in one.kernels):
            empty.append("kernels")
        if empty:
            raise UsageError(
                f"{path}: [[quarantine]] {number}: '{empty[0]}' is empty",
                hint="each entry says check, kernels, owner, reason and expires",
            )


def bare(path: Path) -> Subject:
    """A subject of an object alone: load, verifier, attach, nothing that needs its meaning."""
    name = path.name.removesuffix(".o").removesuffix(".bpf")
    return Subject(manifest=Manifest(subject=_Head(name=name, object=path.name)), object=path)


def of_commands(name: str) -> Subject:
    """A subject without an object; its commands are put in with `with_commands`."""
    return Subject(manifest=Manifest(subject=_Head(name=name)), object=None)


def with_commands(
    subject: Subject, commands: tuple[Command, ...], files: tuple[Path, ...]
) -> Subject:
    """The subject with more commands to run, and files for them. UsageError for what clashes."""
    every = (*subject.files, *files)
    carried = [path.name for path in (subject.object, subject.loader, *every) if path is not None]
    for name in carried:
        if not name:
            raise UsageError("a file has no name", hint="name it, not '.' or '..'")
        if carried.count(name) > 1:
            raise UsageError(
                f"two files are called '{name}'", hint="all lie in one directory of the guest"
            )
    manifest = msgspec.structs.replace(
        subject.manifest, commands=(*subject.manifest.commands, *commands)
    )
    replaced = msgspec.structs.replace(subject, manifest=manifest, files=every)
    _refuse_commands(manifest, "--command", has_object=replaced.object is not None)
    return replaced


def _refuse_commands(manifest: Manifest, where: str, *, has_object: bool = True) -> None:
    """UsageError for commands that make no sense."""
    names = [command.name for command in manifest.commands]
    for command in manifest.commands:
        if not command.name.strip() or not command.run.strip():
            raise UsageError(f"{where}: a command has no name, or nothing to run")
        if names.count(command.name) > 1:
            raise UsageError(f"{where}: two commands are called '{command.name}'")
        if not 0 < command.timeout_s <= _LONGEST_S:
            raise UsageError(
                f"{where}: '{command.name}' may take {command.timeout_s:g} s: "
                f"not between 0 and {_LONGEST_S:g}"
            )
        if command.attached and not (has_object and manifest.subject.object):
            raise UsageError(
                f"{where}: '{command.name}' runs while the object is attached, but there is none",
                hint="name the object, or let the command attach its own",
            )


def _value(value: bool | int | tuple[int, ...]) -> str:
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(int(value))
