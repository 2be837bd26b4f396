# SPDX-License-Identifier: Apache-2.0
"""What objcheck answers: the fields of its JSON lines, decoded strictly."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.errors import HarnessError, UsageError
from harness.verifierlog import VerifierStats, last_words


class Stage(StrEnum):
    """Where a load stopped."""

    OPEN = "open"
    BTF = "btf"
    MAP = "map"
    CORE_RELOCATION = "core-relocation"
    VERIFIER = "verifier"
    LOAD = "load"


class Reason(StrEnum):
    """Why a load stopped."""

    OBJECT_INVALID = "object-invalid"
    KERNEL_BTF_MISSING = "kernel-btf-missing"  # and the object needs it
    KERNEL_BTF_UNREADABLE = "kernel-btf-unreadable"
    BTF_REFUSED = "btf-refused"  # the object's own, by the kernel
    MAP_UNSUPPORTED = "map-unsupported"  # no such map type
    MAP_REFUSED = "map-refused"
    MAP_NOT_CREATED = "map-not-created"
    CORE_RELOCATION = "core-relocation"  # an instruction that could not be relocated is reached
    VERIFIER_REJECTED = "verifier-rejected"
    HELPER_UNSUPPORTED = "helper-unsupported"  # by this kernel, or for this program type
    INSTRUCTION_UNSUPPORTED = "instruction-unsupported"  # refused even in dead code
    PROGRAM_TOO_COMPLEX = "program-too-complex"  # the limit of processed instructions
    TIMEOUT = "timeout"  # the verifier was still at work: nothing is known of its answer
    PROGRAM_TOO_LONG = "program-too-long"
    PROGRAM_TYPE_UNSUPPORTED = "program-type-unsupported"
    ATTACH_TARGET_MISSING = "attach-target-missing"  # fentry and its kin resolve it at load
    ATTACH_TARGET_UNSET = "attach-target-unset"  # the object's own loader names it
    EXTERN_UNRESOLVED = "extern-unresolved"
    PERMISSION = "permission"
    OUT_OF_MEMORY = "out-of-memory"
    BPF_UNAVAILABLE = "bpf-unavailable"
    LOAD_REFUSED = "load-refused"


class AttachReason(StrEnum):
    """Why a loaded program is not attached."""

    NO_AUTO_ATTACH = "no-auto-attach"  # its section names no target: not a failure
    NO_SYMBOL = "no-symbol"
    NO_TRACEPOINT = "no-tracepoint"
    NO_TRACEFS = "no-tracefs"
    NO_TARGET = "no-target"
    UNSUPPORTED = "unsupported"  # this kind of attachment, by this kernel
    PERMISSION = "permission"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectMap:
    """A map after the fixes, before the kernel sees it."""

    name: str
    map_type: str
    key_size: int
    value_size: int
    max_entries: int
    retyped: bool
    internal: bool  # .rodata, .data, .bss
    sized: bool = False  # the object leaves its size to its loader; the smallest was taken


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectAnswer:
    """What libbpf sees in the object."""

    path: str
    btf: str | None
    libbpf: str
    programs: tuple[str, ...]
    maps: tuple[ObjectMap, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedMap:
    """A map in the kernel; memory as fdinfo's memlock counts it."""

    name: str
    map_type: str
    key_size: int
    value_size: int
    max_entries: int
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramAnswer:
    """One program loaded alone."""

    name: str
    section: str | None
    prog_type: str | None
    insns: int
    optional: bool
    ok: bool
    errno: int
    errno_name: str | None
    stage: Stage | None
    reason: Reason | None
    message: str  # libbpf's warnings
    load_us: int  # of the whole object's load; emulated where the guest is
    relocation: str | None  # the one that libbpf could not resolve
    verified_insns: int | None  # bpf_prog_info, since v5.16: equals stats.processed
    xlated_bytes: int | None
    jited_bytes: int | None
    stack_chain: int | None  # bytes of the deepest call chain, not rounded as the kernel does
    log_level: int
    log_bytes: int  # of the trace
    log_truncated: bool  # a trace overflowed; `ok` was learnt again without it
    log_file: str | None
    log: str  # tail of the trace, if there was one
    summary: str  # end of the log of the load that decided
    stats: VerifierStats | None

    @property
    def why(self) -> str:
        """Of a refusal, the one line that says most; "" of a success."""
        return _why(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TogetherAnswer:
    """The object loaded as its loader would."""

    programs: tuple[str, ...]
    ok: bool
    errno: int
    errno_name: str | None
    stage: Stage | None
    reason: Reason | None
    message: str
    load_us: int
    failed_program: str | None
    maps: tuple[LoadedMap, ...] = ()
    map_memory_bytes: int | None = None
    relocation: str | None = None
    log_truncated: bool = False
    log: str = ""
    summary: str = ""
    stats: VerifierStats | None = None

    @property
    def why(self) -> str:
        """Of a refusal, the one line that says most; "" of a success."""
        return _why(self)


def _why(answer: ProgramAnswer | TogetherAnswer) -> str:
    if answer.ok:
        return ""
    if answer.relocation:
        return f"failed to resolve CO-RE relocation {answer.relocation}"
    words = last_words(answer.summary)
    if words:
        return words
    # the first warning is the cause, the rest follows from it
    lines = [line for line in answer.message.splitlines() if "Retrying without BTF" not in line]
    return lines[0].removeprefix("libbpf: ") if lines else answer.errno_name or ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadAnswer:
    """All of `objcheck load`."""

    object: ObjectAnswer
    programs: tuple[ProgramAnswer, ...]
    together: TogetherAnswer
    notes: tuple[str, ...] = ()  # what objcheck itself could not do, such as write a log file


@dataclass(frozen=True, kw_only=True, slots=True)
class AttachedProgram:
    name: str
    section: str
    prog_type: str
    ok: bool
    errno: int
    errno_name: str | None
    reason: AttachReason | None
    message: str

    @property
    def failed(self) -> bool:
        """Refused, as opposed to left for its own loader to attach."""
        return not self.ok and self.reason is not AttachReason.NO_AUTO_ATTACH


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramRun:
    """Run time statistics, since statistics were switched on."""

    name: str
    run_cnt: int
    run_time_ns: int
    recursion_misses: int  # 0 before v5.12, and for kprobes before v6.7


@dataclass(frozen=True, kw_only=True, slots=True)
class AttachAnswer:
    """`objcheck attach`, whole, or as far as it got while it holds (`ended` is false)."""

    object: ObjectAnswer
    together: TogetherAnswer
    programs: tuple[AttachedProgram, ...]
    stats_how: str | None  # "enable-stats", "sysctl"; None: not asked for, or not to be had
    pid: int | None  # once it holds
    runs: tuple[ProgramRun, ...]  # the last of each program
    ended: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Uname:
    release: str
    version: str
    machine: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesAnswer:
    """`objcheck features`: probed by doing, never by version."""

    uname: Uname
    libbpf: str
    cpus: int  # possible
    cpus_online: int
    memory_bytes: int
    btf_vmlinux: bool
    btf_vmlinux_bytes: int | None
    map_mmap: bool
    perf_link: bool
    kprobe_multi: bool
    fentry: bool
    verified_insns: bool
    log_keeps_tail: bool
    run_stats: str | None
    kprobe_pmu: bool
    tracefs: bool
    kallsyms: bool
    jit_enable: int | None
    unprivileged_bpf_disabled: int | None
    insns: dict[str, bool]
    map_types: frozenset[str]
    prog_types: frozenset[str]
    helpers: dict[str, frozenset[str]]  # by program type; "has", not "may be used here"
    ksyms: dict[str, bool | None]
    config: dict[str, str] | None  # None: the kernel does not show it

    def has(self, probe: str) -> bool | None:
        """`map:T`, `prog:T`, `helper:NAME`, `insn:NAME`, `ksym:NAME`; None: cannot tell."""
        kind, _, name = probe.partition(":")
        match kind:
            case "map":
                return name in self.map_types
            case "prog":
                return name in self.prog_types
            case "helper":
                return any(name in helpers for helpers in self.helpers.values())
            case "insn" if name in self.insns:
                return self.insns[name]
            case "ksym":
                return self.ksyms.get(name)
        raise UsageError(
            f"unknown probe '{probe}'",
            hint=f"map:, prog:, helper:, ksym:, or insn: with one of {', '.join(self.insns)}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelObject:
    """A BPF object that the kernel holds. `of`: its type; of a BTF "kernel" or "program"."""

    kind: str
    id: int
    name: str | None
    of: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IdsAnswer:
    """`objcheck ids`. A count of None: the kernel has no such walk (links before v5.8)."""

    program: int | None
    map: int | None
    link: int | None
    btf: int | None
    objects: tuple[KernelObject, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldMap:
    """A map that the kernel holds, in `objcheck maps`."""

    id: int
    name: str  # at most 15 characters
    of: str | None  # its type; None: a type that objcheck does not know
    key_size: int
    value_size: int
    max_entries: int
    prealloc: bool  # without BPF_F_NO_PREALLOC
    memlock_bytes: int | None  # what fdinfo says; before v6.4 0 for ring buffers of v5.11 on
    elements: int | None  # None: of this type they do not come and go, or cannot be walked
    more: bool  # there are more, the walk ended


@dataclass(frozen=True, kw_only=True, slots=True)
class HotProgram:
    """How often the verifier went through each instruction of a program loaded alone."""

    name: str
    ok: bool
    errno: int
    reason: Reason | None
    insns: int  # of the program as loaded, subprograms behind it
    truncated: bool  # the trace did not fit: `counts` are of its beginning, since v6.4 of its end
    log_bytes: int  # of the trace, as far as it fitted
    load_us: int
    counted: int  # the sum of the counts
    counts: tuple[int, ...]  # instruction, times, instruction, times, …
    stats: VerifierStats | None

    @property
    def by_insn(self) -> dict[int, int]:
        """Instruction → how often; those that the verifier never came to are absent."""
        return dict(zip(self.counts[::2], self.counts[1::2], strict=True))

    @property
    def whole(self) -> bool:
        """Every processed instruction is counted: the trace adds up to the kernel's own figure."""
        processed = self.stats.processed if self.stats else None
        return not self.truncated and self.counted == processed


@dataclass(frozen=True, kw_only=True, slots=True)
class LibbpfLine:
    level: str  # "warn", "info", "debug"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RelocatedProgram:
    """One program after libbpf's relocations; map fds and addresses are this process's own."""

    name: str
    section: str
    count: int
    ok: bool  # the kernel took it
    errno: int
    stage: Stage | None
    reason: Reason | None
    hex: str
    lines: tuple[LibbpfLine, ...] = ()

    @property
    def insns(self) -> bytes:
        """8 bytes each, in the guest's byte order."""
        try:
            return bytes.fromhex(self.hex)
        except ValueError as error:
            raise HarnessError(f"the instructions of '{self.name}' are no hex: {error}") from error
