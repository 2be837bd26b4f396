# SPDX-License-Identifier: Apache-2.0
"""Whether each program of an object can load and attach on a kernel, and why not.

More than "a relocation is poisoned": poison behind a guard is fine, a strong extern that is missing
is not, and an attach target has to exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from harness.btf.data import Extern, ExternKind, MapDefinition, externs, maps
from harness.btf.features import helper, map_type
from harness.btf.guard import Constants, Guard, Reach
from harness.btf.insn import CALL, POISON_IMM, PSEUDO_CALL
from harness.btf.kernel import (
    ExternOutcome,
    KernelView,
    absent_helpers,
    absent_map_types,
    lacks_program_type,
    resolve_extern,
)
from harness.btf.kinds import Kind, RelocationKind
from harness.btf.object import BpfObject, Program
from harness.btf.refs import Reference, ReferenceKind, references
from harness.btf.relo import Outcome, Plan, Resolution, Site, Status
from harness.btf.sections import SectionKind, attach_target, btf_target, section_kind

_KPROBES: Final = ("kprobe+", "kretprobe+")
_FUNCTION: Final = re.compile(r"([A-Za-z0-9_.]+)(\+(0x[0-9a-fA-F]+|[0-9]+))?$")


class Verdict(StrEnum):
    """The answer for a program on a kernel."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"  # the files at hand do not tell
    SKIPPED = "skipped"  # SEC("?…"): not loaded unless asked for


class Cause(StrEnum):
    """Why a verdict is not `pass`."""

    NONE = ""
    RELOCATION = "core-relocation"
    EXTERN = "extern"
    ATTACH = "attach-failed"
    HELPER = "helper-missing"
    MAP = "map-unsupported"
    PROGRAM_TYPE = "program-type"
    SECTION = "section-name"
    COMPLEXITY = "not-analysed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramVerdict:
    """The verdict for one program on one kernel."""

    program: str
    verdict: Verdict
    cause: Cause
    reasons: tuple[str, ...]  # of the verdict, the first decides
    guarded: int  # relocations that are poison but never reached


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectVerdict:
    """The verdict for an object on one kernel."""

    verdict: Verdict  # of loading the object as it is, all autoloaded programs together
    error: str  # what libbpf would stop at before any program is loaded, "" for nothing
    programs: tuple[ProgramVerdict, ...]
    externs: tuple[ExternOutcome, ...]
    absent_maps: tuple[str, ...]  # maps of types that the kernel lacks: the loader must skip them


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a loader changes before the load."""

    rodata: Mapping[str, bytes] = field(default_factory=dict)  # contents by section name
    read_only_maps: bool = True  # False below Linux 5.5: contents of rodata do not prune


class Judge:
    """Judges one object on many kernels; holds what does not depend on the kernel."""

    def __init__(self, plan: Plan, settings: Settings | None = None) -> None:
        self._plan = plan
        self._settings = settings or Settings()
        obj = plan.obj
        self._externs: tuple[Extern, ...] = externs(obj)
        self._maps: tuple[MapDefinition, ...] = maps(obj)
        self._graphs = {one.name: plan.graph(one) for one in obj.entry_programs()}
        self._references = {
            one.name: references(obj, one) for graph in self._graphs.values() for one in graph
        }
        self._optional = frozenset(one.name for one in obj.entry_programs() if not plan.loads(one))
        self._refused_at_open = refused_at_open(obj)
        self._sites: dict[str, list[Site]] = {}
        offsets: dict[tuple[int, int], set[int]] = {}
        for site in plan.sites:
            self._sites.setdefault(site.program.name, []).append(site)
            if site.record.kind == RelocationKind.FIELD_BYTE_OFFSET:
                key = (site.program.section_index, site.program.start)
                offsets.setdefault(key, set()).add(site.insn)
        self._offsets = {key: frozenset(insns) for key, insns in offsets.items()}
        self._reached: dict[tuple[object, ...], Reach] = {}

    @property
    def _object(self) -> BpfObject:
        return self._plan.obj

    def judge(self, kernel: KernelView, outcome: Outcome) -> ObjectVerdict:
        """The verdicts on a kernel; `outcome` is the plan resolved against its BTF."""
        local = self._object.btf
        resolved = tuple(
            resolve_extern(one, local, kernel, self._plan.rules) for one in self._externs
        )
        types = absent_map_types(kernel)
        missing_maps = tuple(one.name for one in self._maps if one.type in types)
        helpers = absent_helpers(kernel)
        constants = Constants(
            rodata=self._settings.rodata,
            read_only_maps=self._settings.read_only_maps,
            kconfig={one.name: one.value for one in resolved if one.value is not None},
            unresolved=self._names(resolved, "absent"),
            resolved=self._names(resolved, "resolved"),
            absent_helpers=helpers,
            absent_maps=frozenset(missing_maps),
        )
        guard = Guard(self._object, outcome.insns, constants, self._offsets)
        error = self._object_error(outcome, resolved)
        programs = tuple(
            self._program(one, kernel, outcome, resolved, guard, constants)
            for one in self._object.entry_programs()
        )
        return ObjectVerdict(
            verdict=_overall(error, programs, self._optional),
            error=error,
            programs=programs,
            externs=resolved,
            absent_maps=missing_maps,
        )

    def _names(self, resolved: Sequence[ExternOutcome], status: str) -> frozenset[str]:
        """Kernel symbols (not kconfig values) with this status."""
        return frozenset(
            outcome.name
            for extern, outcome in zip(self._externs, resolved, strict=True)
            if extern.kind is not ExternKind.KCONFIG and outcome.status == status
        )

    def _object_error(self, outcome: Outcome, resolved: Sequence[ExternOutcome]) -> str:
        """libbpf opens, resolves externs, then relocations; each fails the whole object."""
        if self._refused_at_open:
            return self._refused_at_open
        for extern in resolved:
            if extern.status == "error":
                return f"extern '{extern.name}' {extern.reason}"
        first = outcome.first_error
        if first is None:
            return ""
        site = self._plan.sites[first.number]
        return f"relocation of {site.program.name}+{site.insn} {site.text}: {first.reason}"

    def _program(
        self,
        program: Program,
        kernel: KernelView,
        outcome: Outcome,
        resolved: Sequence[ExternOutcome],
        guard: Guard,
        constants: Constants,
    ) -> ProgramVerdict:
        graph = self._graphs[program.name]
        failures: list[tuple[Cause, str]] = []
        doubts: list[tuple[Cause, str]] = []
        kind = section_kind(program.section_name)
        if kind is None:
            failures.append((Cause.SECTION, f"libbpf knows no section '{program.section_name}'"))
        elif lacks_program_type(kernel, kind.program_type):
            text = f"the kernel has no program type {kind.program_type}"
            failures.append((Cause.PROGRAM_TYPE, text))
        used = {one.name for function in graph for one in self._references[function.name].values()}
        for extern in resolved:
            if extern.name in used and extern.status == "error":
                failures.append((Cause.EXTERN, f"extern '{extern.name}' {extern.reason}"))
        ours = [
            (site, outcome.resolutions[site.number])
            for function in graph
            for site in self._sites.get(function.name, ())
        ]
        failures += [
            (Cause.RELOCATION, f"{_place(site)} {site.text}: {one.reason}")
            for site, one in ours
            if one.status is Status.ERROR
        ]
        guarded = 0
        poison = [(site, one) for site, one in ours if one.status is Status.POISON]
        if poison or self._may_refuse(graph, constants):
            reach = self._reach(program, guard, constants, ours)
            for one in self._refused(graph, outcome, reach.refused, poison):
                # Loaders swap or leave out maps that a kernel lacks: that is theirs to decide.
                (doubts if one[0] is Cause.MAP else failures).append(one)
            reached = {(site.program.name, site.insn) for site, _ in poison} & reach.refused
            guarded = len(poison) - len(reached)
            if not reach.complete:
                doubts.append((Cause.COMPLEXITY, "too many paths to tell what is reachable"))
        if kind is not None:
            _check_target(program, kind, kernel, failures, doubts)
        return _verdict(program, failures, doubts, guarded, program.name in self._optional)

    def _reach(
        self,
        program: Program,
        guard: Guard,
        constants: Constants,
        ours: Sequence[tuple[Site, Resolution]],
    ) -> Reach:
        """What a verifier reaches: the same wherever the same decisions fall."""
        decisions = tuple(
            (one.status, 0 if site.record.kind == RelocationKind.FIELD_BYTE_OFFSET else one.value)
            for site, one in ours
        )
        key = (
            program.name,
            decisions,
            tuple(sorted(constants.kconfig.items())),
            constants.unresolved,
            constants.resolved,
            constants.absent_helpers,
            constants.absent_maps,
        )
        if key not in self._reached:
            self._reached[key] = guard.reach(program)
        return self._reached[key]

    def _may_refuse(self, graph: Sequence[Program], constants: Constants) -> bool:
        return any(
            (insn.code == CALL and insn.src == 0 and insn.imm in constants.absent_helpers)
            for function in graph
            for insn in function.insns
        ) or any(
            reference.name in constants.absent_maps or reference.name in constants.unresolved
            for function in graph
            for reference in self._references[function.name].values()
        )

    def _refused(
        self,
        graph: Sequence[Program],
        outcome: Outcome,
        refused: frozenset[tuple[str, int]],
        poison: Sequence[tuple[Site, Resolution]],
    ) -> list[tuple[Cause, str]]:
        sites = {(site.program.name, site.insn): (site, one) for site, one in poison}
        functions = {one.name: one for one in graph}
        found = []
        for name, insn in sorted(refused):
            if (name, insn) in sites:
                site, one = sites[name, insn]
                text = f"{_place(site)} {site.text} is reachable: {one.reason}"
                found.append((Cause.RELOCATION, text))
                continue
            code = outcome.code_of(functions[name])[insn]
            reference = self._references[name].get(insn)
            found.append(
                _other_refusal(f"{name}+{insn}", code.imm, code.src, reference, self._maps)
            )
        return found


def _other_refusal(
    place: str,
    number: int,
    source: int,
    reference: Reference | None,
    definitions: Sequence[MapDefinition],
) -> tuple[Cause, str]:
    if reference is not None and reference.kind is ReferenceKind.MAP:
        kind = next((one.type for one in definitions if one.name == reference.name), 0)
        text = f"{place} uses map '{reference.name}': no {map_type(kind).name} in this kernel"
        return Cause.MAP, text
    if reference is not None and reference.kind is ReferenceKind.EXTERN_CALL:
        return Cause.EXTERN, f"{place} calls '{reference.name}', which this kernel does not have"
    if number == POISON_IMM and source != PSEUDO_CALL:
        return Cause.RELOCATION, f"{place} is poisoned and reachable"
    return Cause.HELPER, f"{place} calls helper {helper(number).name}, not in this kernel"


def _place(site: Site) -> str:
    return f"{site.program.name}+{site.insn}"


def _verdict(
    program: Program,
    failures: list[tuple[Cause, str]],
    doubts: list[tuple[Cause, str]],
    guarded: int,
    optional: bool,
) -> ProgramVerdict:
    decisive = failures or doubts
    verdict = Verdict.FAIL if failures else Verdict.UNKNOWN if doubts else Verdict.PASS
    if optional and not failures:
        verdict = Verdict.SKIPPED
    return ProgramVerdict(
        program=program.name,
        verdict=verdict,
        cause=decisive[0][0] if decisive else Cause.NONE,
        reasons=tuple(text for _, text in decisive),
        guarded=guarded,
    )


def _overall(error: str, programs: Sequence[ProgramVerdict], optional: frozenset[str]) -> Verdict:
    verdicts = {one.verdict for one in programs if one.program not in optional}
    if error or Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if Verdict.UNKNOWN in verdicts:
        return Verdict.UNKNOWN
    return Verdict.PASS


def _check_target(
    program: Program,
    kind: SectionKind,
    kernel: KernelView,
    failures: list[tuple[Cause, str]],
    doubts: list[tuple[Cause, str]],
) -> None:
    """Whether the function or tracepoint that the section names exists."""
    target = attach_target(program.section_name)
    if kind.attach_btf:
        if kind.program_type == "ext" or not target:
            doubts.append((Cause.ATTACH, "the attach target is set by the loader"))
            return
        module, colon, function = target.rpartition(":")
        name, type_kind = btf_target(kind.attach_type, function if colon else target)
        if find_attach_id(kernel, module, name, type_kind):
            return
        where = f"module {module}" if module else "the kernel's BTF"
        failures.append((Cause.ATTACH, f"'{name}' is not in {where}"))
    elif kind.pattern in _KPROBES and target:
        found = _FUNCTION.match(target)
        if found is None:
            failures.append((Cause.ATTACH, f"'{target}' is no function name"))
        elif kernel.symbols is not None:
            if found[1] not in kernel.symbols:
                failures.append((Cause.ATTACH, f"'{found[1]}' is no kernel symbol"))
        elif not kernel.btf.find(found[1], Kind.FUNC):
            text = f"'{found[1]}' is not in the kernel's BTF, and no System.map is at hand"
            doubts.append((Cause.ATTACH, text))
    elif (
        kind.program_type in ("raw_tracepoint", "raw_tracepoint_writable")
        and target
        and not kernel.btf.find(f"btf_trace_{target}", Kind.TYPEDEF)
    ):
        doubts.append((Cause.ATTACH, f"no tracepoint '{target}' in the kernel's BTF"))


def refused_at_open(obj: BpfObject) -> str:
    """Why libbpf 1.x would not even open an object that can be read; "" if it would."""
    if obj.elf.section("maps") is not None:
        return "legacy map definitions in section 'maps'"
    for program in obj.entry_programs():
        if program.local:
            return f"program '{program.name}' is static"
    return ""


def find_attach_id(kernel: KernelView, module: str, name: str, kind: Kind) -> int:
    """The BTF id that libbpf finds for an attach target, 0 for none."""
    if not module or "vmlinux".startswith(module):
        found = kernel.btf.find(name, kind)
        if found:
            return found
    for one in kernel.modules:
        if module and not one.source.startswith(module):
            continue
        own = [number for number in one.ids_named(name, kind) if number >= one.first_own_id]
        if own:
            return own[0]
    return 0
