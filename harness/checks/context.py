# SPDX-License-Identifier: Apache-2.0
"""What a check is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.errors import HarnessError
from harness.guest import Guest
from harness.objcheck import FeaturesAnswer, MapFix, Options
from harness.prediction import Types
from harness.results import CheckResult, Evidence, KernelFacts, write_atomically
from harness.subject import Program, Subject

OBJCHECK = "/usr/bin/objcheck"
SUBJECT_DIR = "/subject"
GUEST_BTF = f"{SUBJECT_DIR}/vmlinux.btf"
_KEPT_OTHERWISE = 8192  # bytes of evidence whose file could not be written


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """A booted guest with the subject in it."""

    guest: Guest
    subject: Subject
    kernel: KernelFacts
    features: FeaturesAnswer
    types: Types | None  # the kernel's BTF on the host
    detached_btf: bool  # the kernel has no BTF of its own, GUEST_BTF holds one
    emulated: bool
    evidence_dir: Path  # of this kernel, inside the report's directory
    report_dir: Path
    counted: bool = False  # a ns of the guest's clock is an executed instruction (qemu.Machine)

    @property
    def object(self) -> str:
        """The object's path in the guest; a check that asks for it needs Need.OBJECT."""
        if self.subject.object is None:
            raise HarnessError("the subject has no object")
        return f"{SUBJECT_DIR}/{self.subject.object.name}"

    @property
    def loader(self) -> str:
        """The subject's own loader in the guest, "" without one."""
        return f"{SUBJECT_DIR}/{self.subject.loader.name}" if self.subject.loader else ""

    @property
    def driver(self) -> str:
        """The subject's send driver in the guest, "" without one."""
        name = self.subject.manifest.functional.driver
        return f"{SUBJECT_DIR}/{name}" if name else ""

    @property
    def corpus(self) -> Path | None:
        """The subject's corpus on this machine, None without one."""
        name = self.subject.manifest.functional.corpus
        return next((path for path in self.subject.files if path.name == name), None)

    def options(self) -> Options:
        """How objcheck loads the subject here."""
        manifest = self.subject.manifest
        fixes = [
            MapFix(
                name=name, type=fallback.type, key_size=fallback.key_size,
                value_size=fallback.value_size, max_entries=fallback.max_entries,
                unless_map=fallback.unless.removeprefix("map:"),
            )
            for name, described in manifest.maps.items()
            if (fallback := described.fallback) is not None
        ]  # fmt: skip
        inner = [
            MapFix(
                name=name, type=held.type, key_size=held.key_size, value_size=held.value_size,
                max_entries=held.max_entries,
            )
            for name, described in manifest.maps.items()
            if (held := described.inner) is not None
        ]  # fmt: skip
        optional = tuple(
            name
            for name, program in manifest.programs.items()
            if program.optional or any(self.features.has(need) is False for need in program.needs)
        )
        return Options(
            optional=optional,
            inner=tuple(inner),
            btf=GUEST_BTF if self.detached_btf else "",
            maps=tuple(fixes),
            settings=manifest.rodata,
        )

    def said_of(self, program: str) -> Program:
        """What the manifest says of a program; of one that it does not name, nothing special."""
        return self.subject.manifest.programs.get(program, Program())

    def optional_words(self, programs: Sequence[str]) -> str:
        """What a manifest says so that these programs may be refused."""
        said = ", ".join(f"[programs.{name}] optional = true" for name in programs[:3])
        more = f", … ({len(programs)} in all)" if programs[3:] else ""
        return (
            f"if its loader chooses among alternatives, or does without, say so in a manifest "
            f"(docs/subjects.md): {said}{more}"
        )

    def keep(self, title: str, name: str, content: bytes) -> Evidence:
        """Write a file beside the report and return the evidence that points to it.

        On a full disk the verdict stands all the same, with the end of the file as its evidence.
        """
        path = self.evidence_dir / name
        try:
            write_atomically(path, content)
        except HarnessError as error:
            end = content[-_KEPT_OTHERWISE:].decode(errors="replace")
            return Evidence(title=title, text=f"{error.message}; its end:\n{end}")
        return Evidence(title=title, path=str(path.relative_to(self.report_dir)))


class Need(StrEnum):
    """What a check needs of the subject; the value completes "the subject has no …"."""

    OBJECT = "object"
    LOADER = "loader of its own ([subject] loader)"
    DRIVER = "send driver ([functional] driver)"
    CORPUS = "corpus ([functional] corpus)"
    TRAFFIC = "promise about its rates ([traffic])"
    COMMANDS = "commands to run ([[commands]], --command)"

    def met(self, subject: Subject) -> bool:
        """Whether the subject has it."""
        manifest = subject.manifest
        match self:
            case Need.OBJECT:
                return subject.object is not None
            case Need.LOADER:
                return subject.loader is not None
            case Need.DRIVER:
                return bool(manifest.functional.driver)
            case Need.CORPUS:
                return bool(manifest.functional.corpus)
            case Need.TRAFFIC:
                return manifest.traffic is not None
            case Need.COMMANDS:
                return bool(manifest.commands)


class Where(StrEnum):
    """The sitting that a check is asked in: a boot of its own for all checks of one kind."""

    ORDINARY = "ordinary"  # beside other guests
    ALONE = "alone"  # timed: no other guest shares the machine with it
    # Beside others, instructions taken for time. An accelerator that cannot count them: alone.
    COUNTED = "counted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question, and how it is answered. Every check is root in its guest."""

    name: str
    question: str
    ask: Callable[[Context], CheckResult]
    estimate_s: float  # under TCG on two cores, two guests at once unless alone
    needs: tuple[Need, ...] = ()  # of the subject; without, the check is skipped
    features: tuple[str, ...] = ()  # of the kernel, as a manifest's `needs`; without, unsupported
    where: Where = Where.ORDINARY
    each_boot: bool = False  # asked in the guests of the timed checks too
    thorough: bool = False  # only when asked for: by name, or with --checks all
