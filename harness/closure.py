# SPDX-License-Identifier: Apache-2.0
"""Programs with every library they need: of another file tree, or of this machine in a guest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from elftools.elf.segments import InterpSegment

from harness.errors import HarnessError, UsageError

_MACHINES = {"EM_X86_64": "x86-64", "EM_AARCH64": "arm64", "EM_386": "i386", "EM_BPF": "BPF"}
# Of guests: a kernel's architecture → the machine of its programs, and where their libraries lie.
MACHINE_OF_ARCH = {"x86_64": "x86-64", "arm64": "arm64"}
_GUEST_LIBRARY_DIR = {
    "x86-64": "/usr/lib/x86_64-linux-gnu", "arm64": "/usr/lib/aarch64-linux-gnu"
}  # fmt: skip
_LOCAL_LIBRARY_DIR = "usr/local/lib"
_WEAK = 2  # VER_FLG_WEAK: a version that may be missing (the gABI's symbol versioning)
_STATIC = "link it statically (cc -static; Go: CGO_ENABLED=0; Rust: a musl target)"

_LIBRARY_DIRS = (
    "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib",
    "usr/lib/x86_64-linux-gnu/systemd",
)  # fmt: skip


def closure(root: Path, programs: Iterable[str]) -> dict[str, Path]:
    """Programs of the file tree `root` with every library they need: path in the guest → file.

    programs: absolute paths inside `root`. Raises HarnessError for one that is missing.
    """
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        inside = waiting.pop()
        if inside in found:
            continue
        file = _inside(root, inside)
        found[inside] = file
        interpreter, needed = _dynamic_needs(file)
        if interpreter:
            waiting.append(interpreter)
        waiting += [_library(root, name, needed_by=inside) for name in needed]
    return found


def _inside(root: Path, inside: str) -> Path:
    path = root / inside.lstrip("/")
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise HarnessError(f"'{inside}' is not in the guest's root '{root}'") from error


def _dynamic_needs(file: Path) -> tuple[str, list[str]]:
    """(program interpreter or "", DT_NEEDED names) of an ELF file; nothing for other files."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return "", []
        try:
            elf = ELFFile(stream)
            interpreter = next(
                (s.get_interp_name() for s in elf.iter_segments() if isinstance(s, InterpSegment)),
                "",
            )
            dynamic = elf.get_section_by_name(".dynamic")
            needed = (
                [
                    str(tag.needed)  # type: ignore[attr-defined]  # set by pyelftools at run time
                    for tag in dynamic.iter_tags("DT_NEEDED")
                ]
                if isinstance(dynamic, DynamicSection)
                else []
            )
        except (ELFError, UnicodeDecodeError) as error:
            raise HarnessError(f"'{file}' is a broken ELF file: {error}") from error
    return interpreter, needed


def _library(root: Path, name: str, *, needed_by: str) -> str:
    for directory in _LIBRARY_DIRS:
        if (root / directory / name).exists():
            return f"/{directory}/{name}"
    raise HarnessError(f"no library '{name}', which '{needed_by}' needs, in '{root}'")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dynamic:
    """What an ELF file says of its libraries."""

    machine: str
    interpreter: str  # "" for a library or a static program
    needed: tuple[str, ...]
    wanted: dict[str, tuple[str, ...]]  # library → the versions of its symbols that must be there
    defined: frozenset[str]  # versions of its own symbols


def borrowed(
    files: Iterable[Path], root: Path, host: Path = Path("/"), *, arch: str = "x86_64"
) -> dict[str, Path]:
    """Libraries for the dynamically linked among `files`: path in the guest of `arch` → file.

    A library is taken from the guest's own root where that has it, for its programs need theirs
    too, otherwise from among `files` or from this machine. Raises UsageError for a program that
    would not start with what can be had.
    """
    given = [
        file
        for path in files
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file()
    ]
    own = {path.name: path for path in given}
    found: dict[str, Path] = {}
    waiting = list(given)
    while waiting:
        file = waiting.pop()
        dynamic = _dynamic(file)
        if dynamic is None or dynamic.machine != MACHINE_OF_ARCH[arch]:
            continue
        if dynamic.interpreter:
            if not (root / dynamic.interpreter.lstrip("/")).exists():
                raise UsageError(
                    f"'{file}' wants the ELF interpreter '{dynamic.interpreter}', which guests "
                    "do not have",
                    hint=_STATIC,
                )
            found[dynamic.interpreter] = _inside(root, dynamic.interpreter)
        for name in dynamic.needed:
            inside, library = _borrowed(name, file, dynamic.machine, own, root, host)
            _refuse_older(file, name, dynamic.wanted.get(name, ()), library)
            if inside not in found:
                found[inside] = library
                waiting.append(library)
    return found


def machine_of(file: Path) -> str:
    """The machine that an ELF file is for; "" for other files."""
    dynamic = _dynamic(file)
    return dynamic.machine if dynamic else ""


def _borrowed(
    name: str, needed_by: Path, machine: str, own: dict[str, Path], root: Path, host: Path
) -> tuple[str, Path]:
    """(path in the guest, file) of a library."""
    for directory in _LIBRARY_DIRS:
        if (path := root / directory / name).exists():
            return f"/{directory}/{name}", path.resolve()
    inside = f"{_GUEST_LIBRARY_DIR[machine]}/{name}"
    if name in own:
        return inside, own[name]
    for directory in (*_LIBRARY_DIRS, _LOCAL_LIBRARY_DIR):
        path = host / directory / name
        if path.exists() and machine_of(path.resolve()) == machine:
            return inside, path.resolve()
    raise UsageError(
        f"'{needed_by}' needs the library '{name}', which neither the guest nor this machine has",
        hint=f"{_STATIC}, or carry the library too (--file, 'files')",
    )


def _refuse_older(file: Path, name: str, wanted: Sequence[str], library: Path) -> None:
    dynamic = _dynamic(library)
    missing = [version for version in wanted if dynamic and version not in dynamic.defined]
    if missing:
        raise UsageError(
            f"'{file}' needs {', '.join(missing)} of '{name}', the guest's is older",
            hint=f"{_STATIC}, or build it on Debian trixie or older",
        )


def _dynamic(file: Path) -> _Dynamic | None:
    """None for what is no ELF file, or a broken one: data that a program may be fed with."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        try:
            interpreter, needed = _dynamic_needs(file)
            elf = ELFFile(stream)
            wanted: dict[str, tuple[str, ...]] = {}
            defined: set[str] = set()
            for section in elf.iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    for library, versions in section.iter_versions():
                        wanted[str(library.name)] = tuple(
                            v.name for v in versions if not v["vna_flags"] & _WEAK
                        )
                elif isinstance(section, GNUVerDefSection):
                    for _, names in section.iter_versions():
                        defined.add(next(iter(names)).name)
            machine = str(elf["e_machine"])
        except (HarnessError, ELFError, UnicodeDecodeError, ValueError, OverflowError):
            return None
    return _Dynamic(
        machine=_MACHINES.get(machine, machine), interpreter=interpreter, needed=tuple(needed),
        wanted=wanted, defined=frozenset(defined),
    )  # fmt: skip
