# SPDX-License-Identifier: Apache-2.0
"""Resolve all CO-RE relocations of an object against one kernel's BTF, exactly as libbpf does.

Order matters: a relocation that matched some of several candidates leaves only those to the later
relocations of the same local type. libbpf stops at the first error; this goes on, with a fresh
candidate list for that type, so that a table has no holes.

`Plan` holds what depends on the object alone; `resolve` runs it against a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harness.btf import patch, values
from harness.btf.btf import Btf
from harness.btf.errors import BtfError
from harness.btf.ext import RelocationRecord
from harness.btf.index import essential_name
from harness.btf.insn import INSN_LEN, Insn
from harness.btf.kinds import Kind, RelocationKind, kind_name
from harness.btf.match import Refusal, kinds_compatible
from harness.btf.object import BpfObject, Program
from harness.btf.refs import call_graph
from harness.btf.spec import Spec, match, parse
from harness.btf.values import LATEST, Rules, Unsatisfied, Value

_MAX_MATCHES: Final = 100_000  # of an object on a kernel; real ones need thousands


class Status(StrEnum):
    """What became of a relocation."""

    RESOLVED = "resolved"  # a target was found
    ABSENT = "absent"  # none was, and that has a value: 0
    POISON = "poison"  # none was: the instruction is invalid, the load goes on
    ERROR = "error"  # libbpf refuses the whole object


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A relocation of the object with what its own BTF says; the same for all targets."""

    number: int  # in file order, over the whole object
    record: RelocationRecord
    program: Program
    insn: int  # within the program
    spec: Spec | None
    old: Value | None  # None: local value cannot be had, see `refusal`
    refusal: Refusal | None  # libbpf fails here whatever the target

    @property
    def text(self) -> str:
        """The local path as libbpf prints it."""
        return self.spec.text() if self.spec else f"[{self.record.type_id}] {self.record.access}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """The outcome of one relocation on one target."""

    number: int  # of its Site
    status: Status
    value: int  # what goes into the instruction (unsigned 64 bits); 0 if poison or error
    width: int  # bytes that a load or store now accesses; 0 where it was not adjusted
    targets: tuple[int, ...]  # ids of all matching target types
    path: str  # the target path as libbpf prints it, "" without a target
    reason: str  # of poison or error


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All relocations of an object on one target, in order, and the patched code."""

    resolutions: tuple[Resolution, ...]
    insns: dict[tuple[int, int], tuple[Insn, ...]]  # by (section index, start) of each program

    @property
    def first_error(self) -> Resolution | None:
        """What libbpf stops at."""
        return next((one for one in self.resolutions if one.status is Status.ERROR), None)

    def code_of(self, program: Program) -> tuple[Insn, ...]:
        """The instructions of a program or subprogram after CO-RE, not yet linked."""
        return self.insns[program.section_index, program.start]


class Plan:
    """The relocations of an object that libbpf would process, parsed once."""

    def __init__(
        self,
        obj: BpfObject,
        *,
        rules: Rules = LATEST,
        autoload_all: bool = False,
        autoload: Sequence[str] | None = None,
    ) -> None:
        """`autoload_all` also loads `SEC("?…")` programs; `autoload` names exactly those to load."""
        self.obj = obj
        self.rules = rules
        self.loads = _loads(autoload_all, autoload)
        sites: list[Site] = []
        sections: dict[str, int] = {}
        local_values: dict[tuple[int, str, int], tuple[Spec | None, Value | None, Refusal | None]]
        local_values = {}
        for record in obj.ext.relocations:
            if record.section not in sections:
                sections[record.section] = obj.section_index(record.section)
            if record.insn_off % INSN_LEN:
                raise BtfError(
                    f"relocation #{record.index} of '{record.section}' is at byte "
                    f"'{record.insn_off}', not at an instruction",
                    field="insn_off",
                    source=".BTF.ext",
                )
            insn = record.insn_off // INSN_LEN
            program = obj.program_at(sections[record.section], insn)
            # No program: the linker dropped a weak function but kept its records.
            if program is None or not (program.subprogram or self.loads(program)):
                continue
            key = (record.type_id, record.access, record.kind)
            if key not in local_values:
                local_values[key] = _local(obj, record, rules)
            spec, old, refusal = local_values[key]
            sites.append(
                Site(
                    number=len(sites),
                    record=record,
                    program=program,
                    insn=insn - program.start,
                    spec=spec,
                    old=old,
                    refusal=refusal,
                )
            )
        self.sites = tuple(sites)
        self._graphs: dict[str, list[Program]] = {}

    def graph(self, program: Program) -> list[Program]:
        """`program` and the functions that are appended to it."""
        if program.name not in self._graphs:
            self._graphs[program.name] = call_graph(self.obj, program)
        return self._graphs[program.name]

    def resolve(self, target: Btf, modules: Sequence[Btf] = ()) -> Outcome:
        """Run against a kernel; `modules` (split on `target`) are asked for types it lacks."""
        if self.obj.btf is not None and target.byte_order != self.obj.byte_order:
            raise BtfError(
                f"is {target.byte_order}-endian, the object '{self.obj.source}' is not",
                offset=0,
                field="magic",
                source=target.source,
            )
        return _Run(self, target, modules).outcome()


def resolve(
    obj: BpfObject, target: Btf, *, modules: Sequence[Btf] = (), rules: Rules = LATEST
) -> Outcome:
    """Resolve every relocation of `obj` on `target`."""
    return Plan(obj, rules=rules).resolve(target, modules)


class _Loads:
    """Which programs a loader would load."""

    def __init__(self, everything: bool, names: frozenset[str] | None) -> None:
        self._everything = everything
        self._names = names

    def __call__(self, program: Program) -> bool:
        if self._names is not None:
            return program.name in self._names
        return self._everything or program.autoload


def _loads(autoload_all: bool, autoload: Sequence[str] | None) -> _Loads:
    return _Loads(autoload_all, None if autoload is None else frozenset(autoload))


def _local(
    obj: BpfObject, record: RelocationRecord, rules: Rules
) -> tuple[Spec | None, Value | None, Refusal | None]:
    """The local path and value; a refusal if libbpf fails on the object's own BTF."""
    spec = None
    try:
        if obj.btf is None:
            raise Refusal("EINVAL", "the object has no BTF")
        if not 0 <= record.type_id < obj.btf.type_count:
            raise Refusal("EINVAL", f"type {record.type_id} does not exist")
        name = obj.btf.name_bytes(record.type_id)
        if record.kind != RelocationKind.TYPE_ID_LOCAL and not name:
            what = kind_name(obj.btf.kind(record.type_id))
            raise Refusal("EINVAL", f"no candidates for the anonymous {what} {record.type_id}")
        spec = parse(obj.btf, record)
        if record.kind == RelocationKind.TYPE_ID_LOCAL:
            return spec, Value(number=record.type_id, validate=False), None
        return spec, values.compute(spec, record.kind, rules), None
    except Refusal as refusal:
        return spec, None, refusal
    except BtfError as error:
        return spec, None, Refusal("EINVAL", error.message)


@dataclass(slots=True)
class _Candidates:
    """The current list for one local type."""

    found: list[tuple[Btf, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What candidates gave, before the instruction is touched."""

    status: Status
    value: Value | None
    conflict: bool
    targets: tuple[int, ...]
    path: str
    reason: str


class _Run:
    def __init__(self, plan: Plan, target: Btf, modules: Sequence[Btf]) -> None:
        self._plan = plan
        self._target = target
        self._modules = modules
        self._candidates: dict[int, _Candidates] = {}
        self._matches = 0
        # A list of at most one candidate is never pruned: equal relocations have equal results.
        self._known: dict[tuple[int, str, int], _Found] = {}
        self._insns = {
            (program.section_index, program.start): list(program.insns)
            for program in plan.obj.programs
        }

    def outcome(self) -> Outcome:
        return Outcome(
            resolutions=tuple(self._resolve(site) for site in self._plan.sites),
            insns={key: tuple(insns) for key, insns in self._insns.items()},
        )

    def _resolve(self, site: Site) -> Resolution:
        targets: tuple[int, ...] = ()
        path = ""
        try:
            found = self._find(site)
            targets, path = found.targets, found.path
            status, reason, value = found.status, found.reason, found.value
            insns = self._insns[site.program.section_index, site.program.start]
            width: int | None = 0
            if value is None or site.old is None:
                patch.poison(insns, site.insn)
            else:
                width = patch.apply(
                    insns, site.insn, site.old, value, width_conflict=found.conflict
                )
            if width is None:
                status, value = Status.POISON, None
                reason = "a load or store cannot be adjusted to the target's type and size"
        except Refusal as refusal:
            self._forget(site.record.type_id)
            status, value, width, reason = Status.ERROR, None, 0, str(refusal)
        return Resolution(
            number=site.number,
            status=status,
            value=value.number if value else 0,
            width=width or 0,
            targets=targets,
            path=path,
            reason=reason,
        )

    def _forget(self, type_id: int) -> None:
        """After an error: the next relocation of this type starts from all candidates again."""
        self._candidates.pop(type_id, None)
        self._known = {key: found for key, found in self._known.items() if key[0] != type_id}

    def _find(self, site: Site) -> _Found:
        record, spec = site.record, site.spec
        if record.kind == RelocationKind.TYPE_ID_LOCAL and site.old is not None:
            return _Found(
                status=Status.RESOLVED,
                value=site.old,
                conflict=False,
                targets=(),
                path="",
                reason="",
            )
        if spec is None or site.old is None:
            raise site.refusal or Refusal("EINVAL", "no path")
        key = (record.type_id, record.access, record.kind)
        if key in self._known:
            return self._known[key]
        candidates = self._list(record.type_id)
        remember = len(candidates.found) < 2
        found = self._match(site, spec, candidates)
        if remember:
            self._known[key] = found
        return found

    def _list(self, type_id: int) -> _Candidates:
        if type_id not in self._candidates:
            local = self._plan.obj.btf
            assert local is not None
            essential = essential_name(local.name_bytes(type_id))
            kind = local.kind(type_id)
            functions = kind == Kind.FUNC
            found = [
                (self._target, candidate)
                for candidate in self._target.ids_of_essential(essential, functions=functions)
                if kinds_compatible(kind, self._target.kind(candidate))
            ]
            for module in () if found else self._modules:
                found += [
                    (module, candidate)
                    for candidate in module.ids_of_essential(essential, functions=functions)
                    if candidate >= module.first_own_id
                    and kinds_compatible(kind, module.kind(candidate))
                ]
            self._candidates[type_id] = _Candidates(found)
        return self._candidates[type_id]

    def _match(self, site: Site, local: Spec, candidates: _Candidates) -> _Found:
        kind, rules, old = site.record.kind, self._plan.rules, site.old
        assert old is not None
        kept: list[tuple[Btf, int]] = []
        first: tuple[Spec, Value] | None = None
        for btf, candidate in candidates.found:
            self._matches += 1
            if self._matches > _MAX_MATCHES:
                raise Refusal("E2BIG", "too many types to try")
            spec = match(local, btf, candidate)
            if spec is None:
                continue
            value = values.compute(spec, kind, rules)
            if first is None:
                first = spec, value
            elif spec.bit_offset != first[0].bit_offset:
                raise Refusal(
                    "EINVAL",
                    f"field offset ambiguity: {spec.bit_offset} != {first[0].bit_offset}",
                )
            elif value.number != first[1].number:
                raise Refusal(
                    "EINVAL",
                    "relocation decision ambiguity: "
                    f"success {value.number} != success {first[1].number}",
                )
            kept.append((btf, candidate))
        if first is None:
            return self._absent(kind, len(candidates.found))
        candidates.found = kept
        spec, value = first
        return _Found(
            status=Status.RESOLVED,
            value=value,
            conflict=values.widths_conflict(local.btf, old, spec.btf, value),
            targets=tuple(candidate for _, candidate in kept),
            path=spec.text(),
            reason="",
        )

    def _absent(self, kind: int, candidates: int) -> _Found:
        why = f"none of {candidates} candidates matches" if candidates else "no type of this name"
        try:
            value = values.compute(None, kind, self._plan.rules)
        except Unsatisfied:
            return _Found(
                status=Status.POISON, value=None, conflict=False, targets=(), path="", reason=why
            )
        return _Found(
            status=Status.ABSENT, value=value, conflict=False, targets=(), path="", reason=why
        )
