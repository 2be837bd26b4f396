# SPDX-License-Identifier: Apache-2.0
"""Sources → the subject's object and the guest's programs, built once for each content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from harness import closure, intake, process, subject
from harness.btf import BpfObject, Kind
from harness.btf.elf import MOST_OBJECT_BYTES, Elf
from harness.btf.errors import BtfError
from harness.cache import Cache, sha256_of
from harness.errors import HarnessError, UsageError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.subject import Command, Manifest, Subject
from harness.toolchain import NATIVE, Toolchain

_MAKE_TIMEOUT_S = 300.0
_SOURCE_SUFFIXES = {".c", ".h", ".mk", ".S", ".awk"}
_GUESTBIN = Path(__file__).parent / "guestbin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A subject ready for guests, and the verdict of its `compile` check."""

    subject: Subject
    compile: CheckResult


class CompileError(HarnessError):
    """The subject's own sources do not build."""


def from_manifest(
    path: Path, cache: Cache, on_progress: Callable[[str], None], tools: Toolchain = NATIVE
) -> Built:
    """Build what the manifest `path` describes. Raises CompileError with the compiler's words."""
    manifest = subject.read_manifest(path)
    head = manifest.subject
    started = time.monotonic()
    if head.build == "make":
        directory = _made(path.parent, f"subject-{head.name}", cache, on_progress, tools)
    elif head.build == "":
        directory = path.parent
    else:
        raise UsageError(f"{path}: 'build' must be \"make\" or absent, not '{head.build}'")
    built = Subject(
        manifest=manifest,
        object=_there(directory / head.object, path) if head.object else None,
        loader=_there(directory / head.loader, path) if head.loader else None,
        files=tuple(_there(directory / name, path) for name in head.files),
        baseline=path.parent / head.baseline if head.baseline else None,
        compiler=compiler() if head.build else "",
    )
    _refuse_unknown(built, path)
    return Built(subject=built, compile=_judge(built, time.monotonic() - started))


def _refuse_unknown(built: Subject, manifest: Path) -> None:
    """UsageError for a program that the object does not have: what is said of it would be lost."""
    if built.object is None:
        return
    try:
        known = [program.name for program in BpfObject.from_file(built.object).entry_programs()]
    except BtfError:
        return  # what is wrong with the object is the compile check's business
    for name in built.manifest.programs:
        if name not in known:
            raise UsageError(
                f"{manifest}: [programs.{name}]: '{built.object.name}' has no such program",
                hint=f"it has {', '.join(known)}",
            )


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`; UsageError for one that makes no sense."""
    return subject.read_manifest(path)


def from_object(path: Path) -> Built:
    """A subject of an object that somebody else compiled. UsageError when it is none."""
    built = subject.bare(path)
    return Built(subject=built, compile=_judge(built, 0.0))


def from_commands(name: str) -> Built:
    """A subject without an object of its own: what its commands load is their business."""
    built = subject.of_commands(name)
    return Built(subject=built, compile=_judge(built, 0.0))


def with_commands(built: Built, commands: Sequence[Command], files: Sequence[Path]) -> Built:
    """The same with commands to run, and files for them. UsageError for what cannot be carried."""
    for path in files:
        if not path.exists():
            raise UsageError(f"no file '{path}' to carry into the guest")
    more = subject.with_commands(built.subject, tuple(commands), tuple(files))
    return replace(built, subject=more)


# Programs whose arguments lie in registers: where, the architecture and the object say.
_IN_REGISTERS = ("kprobe", "kretprobe", "uprobe", "uretprobe", "ksyscall", "kretsyscall", "usdt")
_REGISTERS = {"x86_64": frozenset({"di", "rdi"}), "arm64": frozenset({"regs", "user_regs"})}


def unfit(built: Subject, arch: str) -> HarnessError | None:
    """Why the subject, as it was compiled, says nothing about kernels of `arch`; None if it does.

    BPF is the same everywhere, `struct pt_regs` is not: a kprobe compiled with another
    architecture's loads there too, and reads other registers than it means.
    """
    for program in (built.loader, *_drivers(built)):
        machine = closure.machine_of(program) if program is not None else ""
        if program is not None and machine not in ("", closure.MACHINE_OF_ARCH[arch]):
            return HarnessError(
                f"'{program.name}' is a program for {machine}, the kernel is {arch}",
                hint="let its Makefile heed ARCH and CC, or leave this architecture out",
            )
    try:
        read = _registers_of(built.object) if built.object is not None else frozenset()
    except BtfError:
        return None  # what is wrong with the object is the compile check's business
    if read and arch not in read:
        return HarnessError(
            f"the object's probes read the registers of {', '.join(sorted(read))}, the kernel is "
            f"{arch}",
            hint=f"compile it with -D__TARGET_ARCH_{'x86' if arch == 'x86_64' else arch}, or give "
            "the manifest of its sources",
        )
    return None


def _drivers(built: Subject) -> list[Path]:
    return [path for path in built.files if path.name == built.manifest.functional.driver]


def _registers_of(path: Path) -> frozenset[str]:
    """Architectures whose `struct pt_regs` probes of the object were compiled with."""
    known = BpfObject.from_file(path)
    kinds = {program.section_name.partition("/")[0].partition(".")[0].lstrip("?")
             for program in known.entry_programs()}  # fmt: skip
    if known.btf is None or not kinds & set(_IN_REGISTERS):
        return frozenset()
    members = {
        member.name
        for type_id in known.btf.ids_named("pt_regs", Kind.STRUCT)
        for member in known.btf.members(type_id)
    }
    return frozenset(arch for arch, names in _REGISTERS.items() if names & members)


def objcheck(cache: Cache, on_progress: Callable[[str], None], tools: Toolchain = NATIVE) -> Path:
    """The generic loader that runs in guests."""
    return _made(_GUESTBIN, "guestbin", cache, on_progress, tools) / "objcheck"


def compiler() -> str:
    """The BPF compiler's version line, "" without one."""
    try:
        return process.run(["clang", "--version"], timeout_s=20).text.splitlines()[0]
    except (HarnessError, IndexError):
        return ""


def _made(
    source: Path,
    name: str,
    cache: Cache,
    on_progress: Callable[[str], None],
    tools: Toolchain,
) -> Path:
    words = [*tools.make_words]
    if source == _GUESTBIN and tools.libraries:
        words.append(f"LDLIBS={tools.libraries}")
    identity = f"-{tools.arch}-{tools.identity}" if tools.foreign else ""

    def fill(directory: Path) -> None:
        on_progress(f"building {source.name}{f' for {tools.arch}' if tools.foreign else ''}")
        done = process.run(
            ["make", "--no-print-directory", "-C", source, f"OUT={directory}", *words],
            timeout_s=_MAKE_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.status != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise CompileError(
                f"'make -C {source}' failed: {_last_lines(said, 40)}",
                hint="mend the source, or give a compiled object with --object",
            )

    return cache.entry("build", f"{name}-{_inputs_digest(source)}{identity}", fill)


def _inputs_digest(source: Path) -> str:
    """Changes with any source, the compilers and libbpf."""
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        if path.name == "Makefile" or path.suffix in _SOURCE_SUFFIXES:
            digest.update(f"{path.relative_to(source)} {sha256_of(path)}\n".encode())
    for tool in (
        ["clang", "--version"],
        ["cc", "--version"],
        ["pkg-config", "--modversion", "libbpf"],
    ):
        try:
            digest.update(process.run(tool, timeout_s=20, check=False).stdout)
        except HarnessError:
            digest.update(b"none\n")
    return digest.hexdigest()[:20]


def _there(path: Path, manifest: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{manifest}: the build made no '{path.name}'")
    return path


def _judge(built: Subject, duration_s: float) -> CheckResult:
    """Is it a BPF object with BTF and CO-RE records (what every later check stands on)?"""
    if built.object is None:
        return CheckResult(
            check="compile", verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject has no object: only its commands are asked",
        )  # fmt: skip
    sections = _sections(built.object)
    missing = [name for name in (".BTF", ".BTF.ext") if name not in sections]
    size = Figure(name="object size", value=float(built.object.stat().st_size), unit="B")
    if missing:
        return CheckResult(
            check="compile", verdict=Verdict.FAIL, cause=Cause.COMPILE,
            summary=f"no {' and no '.join(missing)} in '{built.object.name}'",
            remedy="compile with clang -target bpf -g -O2",
            figures=(size,), duration_s=duration_s,
        )  # fmt: skip
    return CheckResult(
        check="compile", verdict=Verdict.PASS, summary=compiler(), figures=(size,),
        evidence=(Evidence(title="sections", text=" ".join(sections)),), duration_s=duration_s,
    )  # fmt: skip


def _sections(path: Path) -> list[str]:
    try:
        content = intake.content(path, most_bytes=MOST_OBJECT_BYTES)
        machine = ELFFile(BytesIO(content))["e_machine"]
        if machine != "EM_BPF":
            raise UsageError(
                f"'{path}' is an ELF file for {machine}, not a BPF object",
                hint="compile it with clang -target bpf",
            )
        return [one.name for one in Elf.parse(content, str(path)).sections if one.name]
    except intake.NoFileError as error:
        raise UsageError(
            f"cannot read the object '{path}': {error.why}", hint=error.hint
        ) from error
    except BtfError as error:
        raise UsageError(f"'{path}' is no ELF object: {error.message}") from error
    except (ELFError, ConstructError, LookupError, ValueError, OverflowError) as error:
        raise UsageError(f"'{path}' is no ELF object: {error}") from error


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[-count:])
