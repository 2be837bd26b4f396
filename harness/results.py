# SPDX-License-Identifier: Apache-2.0
"""What a run found, and its JSON form: the only thing that reports and the gate read."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from harness import intake
from harness.errors import HarnessError, UsageError

SCHEMA = 1
EVIDENCE = "kernels"  # beside results.json: a directory with the evidence of each kernel
_MOST_BYTES = 1 << 30  # 2,000 cells have 60 MB
_PARTIAL = ".km-partial"  # the end of a file's name while it is written


class Verdict(StrEnum):
    """A closed set; "the kernel refused" and "we could not ask" never share one."""

    PASS = "pass"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"  # this kernel cannot, by design, and the subject says so
    SKIPPED = "skipped"  # asked not to
    UNKNOWN = "unknown"  # we could not tell
    UNAVAILABLE = "unavailable"  # the kernel could not be had


class Cause(StrEnum):
    """Why a verdict is not `pass`."""

    NONE = ""
    COMPILE = "compile"
    VERIFIER_REJECTED = "verifier-rejected"
    CORE_RELOCATION = "core-relocation"
    BTF_MISSING = "btf-missing"
    MAP_UNSUPPORTED = "map-unsupported"
    FEATURE_MISSING = "feature-missing"
    ATTACH_FAILED = "attach-failed"
    BEHAVIOUR = "behaviour"
    LIMIT_EXCEEDED = "limit-exceeded"
    KERNEL_SPLAT = "kernel-splat"
    PANIC = "panic"
    HANG = "hang"
    OUT_OF_MEMORY = "out-of-memory"  # the guest's: the subject's doing, or too little was given
    TIMEOUT = "timeout"
    GUEST_LOST = "guest-lost"
    INFRA = "infra"
    HARNESS = "harness"  # we contradict ourselves: a bug of ours
    NOT_ASKED = "not-asked"
    NOT_STARTED = "not-started"  # a command of the subject's, which so says nothing of the kernel
    NOT_REACHED = "not-reached"  # an earlier check's trouble ended the guest
    KERNEL_UNAVAILABLE = "kernel-unavailable"
    FLAKY = "flaky"  # passed and failed on the same inputs


# From what decides most to what decides least.
_ORDER = (
    Verdict.FAIL, Verdict.UNKNOWN, Verdict.UNAVAILABLE, Verdict.UNSUPPORTED, Verdict.PASS,
    Verdict.SKIPPED,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured number."""

    name: str
    value: float
    unit: str  # "1" for counts
    emulated: bool = False  # a time or rate measured under TCG
    limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a person can check a verdict with."""

    title: str
    text: str = ""  # an excerpt
    path: str = ""  # a file, relative to the report's directory


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What one kernel said of one of the subject's programs. None: it does not say."""

    name: str
    verdict: Verdict  # unsupported: refused, and the manifest excuses it here
    why: str = ""  # of a refusal
    insns_processed: int | None = None
    insns_limit: int | None = None  # the manifest's, or the kernel's
    states_total: int | None = None
    states_peak: int | None = None
    states_per_insn: int | None = None  # the most that the kernel kept at one instruction
    marks_read: int | None = None
    stack_bytes: int | None = None  # along the deepest call chain
    stack: tuple[int, ...] = ()  # bytes of each subprogram, the main one first
    verification_us: int | None = None  # emulated where the guest is
    jited_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something about a line of the subject's source."""

    rule: str  # "fixed-offset", "perhaps-fixed-offset", "kernel-version", "unresolved-relocation"
    certain: bool
    message: str
    program: str
    insn: int  # within the program
    file: str = ""  # as the object's BTF names it; "" without line information
    line: int = 0
    text: str = ""  # the source line


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A quantity over time, in equal steps from 0 s."""

    name: str
    unit: str
    step_s: float
    values: tuple[float, ...]
    limit: float | None = None  # in the same unit
    emulated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """A command that a check ran in the guest."""

    command: str  # as a shell reads it
    status: int | None  # None: it did not end in its time, or the guest was lost
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A failure that is known: somebody sees to it, and until a day it decides no exit status."""

    owner: str
    reason: str
    expires: str  # the last day on which it holds, ISO 8601


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """The answer to one check's question on one kernel."""

    check: str
    verdict: Verdict
    cause: Cause = Cause.NONE
    summary: str = ""
    remedy: str = ""
    figures: tuple[Figure, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    programs: tuple[Program, ...] = ()
    findings: tuple[Finding, ...] = ()
    series: tuple[Series, ...] = ()
    commands: tuple[Ran, ...] = ()
    duration_s: float = 0.0
    quarantine: Quarantined | None = None  # of a failure that the manifest quarantines

    @property
    def ours(self) -> bool:
        """Whether trouble of ours, or an interrupt, left it open: another try may tell."""
        return self.verdict is Verdict.UNKNOWN and self.cause in (Cause.INFRA, Cause.GUEST_LOST)

    @property
    def counts(self) -> bool:
        """Whether it decides an exit status."""
        return self.quarantine is None


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFacts:
    """A kernel as it was used; release is empty when it could not be had."""

    name: str
    series: str
    arch: str
    release: str = ""
    source: str = ""
    sha256: str = ""  # of vmlinuz
    btf: str = ""  # "built-in", "detached", "none"
    note: str = ""
    select: str = ""  # what names it on a command line: "--kernels 5.10-oldest"


@dataclass(frozen=True, kw_only=True, slots=True)
class BootFacts:
    """The machine that ran a cell."""

    backend: str
    accelerator: str
    accelerator_reason: str
    qemu: str
    vcpus: int
    memory_mib: int
    boot_s: float
    libbpf: str = ""  # that loaded the object; "" when the guest did not get that far


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One kernel × one subject."""

    kernel: KernelFacts
    boot: BootFacts | None
    checks: tuple[CheckResult, ...]
    console: str = ""  # path relative to the report's directory
    consoles_alone: tuple[str, ...] = ()  # of the sittings that timed checks have for themselves
    attempts: int = 1
    earlier: tuple[str, ...] = ()  # what made earlier attempts unknown
    duration_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # digests of what it depends on, by name

    @property
    def verdict(self) -> Verdict:
        return worst(check.verdict for check in self.checks)

    @property
    def deciding(self) -> CheckResult | None:
        """The first check that has the cell's verdict, None for a cell without checks."""
        return next((check for check in self.checks if check.verdict is self.verdict), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RelocationOutcome:
    """What a relocation becomes on some kernels."""

    kernels: tuple[str, ...]
    status: str  # "resolved", "poisoned", …: harness.btf.relo.Status
    value: int
    width: int = 0  # bytes that a load or store was changed to, 0 if it was not
    target: str = ""  # the kernel's field or type, as libbpf prints it
    reason: str = ""  # why it could not be resolved


@dataclass(frozen=True, kw_only=True, slots=True)
class Relocation:
    """A CO-RE relocation of the subject, and its outcomes: two or more where kernels differ."""

    program: str
    insn: int  # within the program
    kind: str
    path: str  # "struct sock.__sk_common.skc_dport"
    file: str
    line: int
    outcomes: tuple[RelocationOutcome, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectFacts:
    """The object under test."""

    name: str
    path: str
    sha256: str
    programs: tuple[str, ...] = ()
    select: str = ""  # what names it on a command line: "--manifest bpf/x.toml"; "" the default
    sources: str = ""  # where its relative source paths begin, seen from where the run was started
    compiler: str = ""  # of the object; "" where somebody else compiled it
    # sha256 by architecture: an object is compiled for each; `sha256` above is of the first
    objects: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """Who, when, with what."""

    started: str  # ISO 8601, UTC
    duration_s: float
    command: str
    backend: str
    accelerator: str
    accelerator_reason: str
    host: str
    harness: str  # version
    commit: str  # of the project the run was started in, "" outside git
    compiler: str
    lock_sha256: str
    notes: tuple[str, ...] = ()
    questions: dict[str, str] = field(default_factory=dict)  # check → what it asks
    planned: tuple[str, ...] = ()  # kernels of the whole matrix, also those of other shards
    id: str = ""  # of the run, which one that is resumed keeps


class Held(StrEnum):
    """What became of an entry of the manifest's quarantine in a run."""

    ACTIVE = "active"  # it keeps failures from counting
    EXPIRED = "expired"  # what it names fails, and counts again
    STALE = "stale"  # nothing needs it: it matches no kernel, or its check passed everywhere
    IDLE = "idle"  # its check was not asked, or gave no answer: nothing can be said


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantine:
    """An entry of the manifest's quarantine, and what became of it in this run."""

    check: str
    kernels: tuple[str, ...]  # patterns of names
    owner: str
    reason: str
    expires: str  # the last day on which it holds, ISO 8601
    held: Held
    struck: tuple[str, ...] = ()  # kernels on which its check fails, "" for the object itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything that a run found."""

    schema: int
    run: RunFacts
    subject: SubjectFacts
    checks: tuple[CheckResult, ...]  # asked once for the object, not per kernel
    cells: tuple[Cell, ...]
    relocations: tuple[Relocation, ...] = ()
    quarantine: tuple[Quarantine, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return worst([c.verdict for c in self.checks] + [c.verdict for c in self.cells])

    @property
    def check_names(self) -> tuple[str, ...]:
        """Every check that a cell has, in the order of first appearance."""
        return tuple(dict.fromkeys(check.check for cell in self.cells for check in cell.checks))


def joined_relocations(parts: Iterable[Sequence[Relocation]]) -> tuple[Relocation, ...]:
    """Each relocation once; kernels on which it comes to the same stand together."""
    found: dict[tuple[str, int, str, str], Relocation] = {}
    for part in parts:
        for one in part:
            key = (one.program, one.insn, one.kind, one.path)
            known = found.get(key)
            both = (*known.outcomes, *one.outcomes) if known else one.outcomes
            found[key] = replace(known or one, outcomes=_outcomes(both))
    return tuple(found.values())


def _outcomes(outcomes: Sequence[RelocationOutcome]) -> tuple[RelocationOutcome, ...]:
    found: dict[RelocationOutcome, tuple[str, ...]] = {}
    for one in outcomes:
        what = replace(one, kernels=())
        found[what] = tuple(dict.fromkeys((*found.get(what, ()), *one.kernels)))
    return tuple(replace(what, kernels=kernels) for what, kernels in found.items())


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides; unknown when there is none, for an absent cell is not green."""
    found = set(verdicts)
    return next((verdict for verdict in _ORDER if verdict in found), Verdict.UNKNOWN)


def write(run: Run, path: Path) -> None:
    """Write `run` as JSON, whole or not at all."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """Fill a file beside `path`, then rename it. Raises HarnessError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL, delete=False
        ) as file:
            aside = Path(file.name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # that somebody writes it: see remove_partial
                file.write(content)
                file.flush()
                aside.chmod(0o666 & ~_umask())
                aside.rename(path)
            except BaseException:  # an interrupt, too
                aside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise HarnessError(
            f"cannot write '{path}': {error.strerror}", hint="free some space or name another --out"
        ) from error


def _umask() -> int:
    """Ours. umask(2) tells it only by changing it, for every thread."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "Umask":  # since Linux 4.7
                return int(value, 8)
    return 0o022


def remove_partial(directory: Path) -> int:
    """Remove what killed processes left of `write_atomically` anywhere below; how many files."""
    removed = 0
    for path in directory.rglob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


def read(path: Path) -> Run:
    """Parse a results file. Raises UsageError for one that is no result or of another schema."""
    try:
        content = intake.content(path, most_bytes=_MOST_BYTES)
    except intake.NoFileError as error:
        raise UsageError(
            error.message,
            hint=error.hint
            or "inv kernel-matrix writes one; name another with its directory or file",
        ) from error
    try:
        schema = msgspec.json.decode(content, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise UsageError(
                f"'{path}' has results of schema {schema}, this version reads schema {SCHEMA}",
                hint="redraw it with the version of the harness that wrote it",
            )
        return msgspec.json.decode(content, type=Run)
    except (ValueError, RecursionError) as error:  # of msgspec, or of UTF-8
        raise UsageError(f"'{path}' holds no results: {error}") from error


def json_schema() -> bytes:
    """The published schema of `write`'s output (reports/schema/), as JSON Schema 2020-12."""
    described = msgspec.json.schema(Run)
    head: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"kernel-matrix results, schema {SCHEMA}",
        "description": "results.json: what one run found. A reader refuses another 'schema'.",
    }
    described["$defs"]["Run"]["properties"]["schema"]["const"] = SCHEMA
    return msgspec.json.format(msgspec.json.encode(head | described), indent=2) + b"\n"


class _SchemaOnly(msgspec.Struct):
    schema: int
