# SPDX-License-Identifier: Apache-2.0
"""Where an object asks which kernel version runs.

Stable trees and distributions carry back-ports, so a version says little of what a kernel has:
6.1.170 has the `udp_flags` that mainline got with 6.7. An object that wants to work there asks for
the thing itself (`bpf_core_field_exists()` and its kin).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from harness.btf.errors import BtfError
from harness.btf.insn import INSN_LEN
from harness.btf.match import Refusal
from harness.btf.object import BpfObject, Program
from harness.btf.refs import ReferenceKind, references
from harness.btf.spec import parse

# libbpf's kconfig extern, and the kernel's variables that hold the release as text.
_EXTERNS: Final = frozenset(
    ("LINUX_KERNEL_VERSION", "linux_banner", "linux_proc_banner", "init_uts_ns")
)
_FIELD: Final = re.compile(
    r"struct (new_utsname|uts_namespace)(___\w+)?\.(name\.)?(release|version)\b"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionQuestion:
    """An instruction that asks for the kernel's version."""

    program: str
    insn: int  # within the program
    what: str  # `LINUX_KERNEL_VERSION`, `struct new_utsname.release`
    file: str  # "" without line information
    line: int
    text: str  # the source line


def version_questions(obj: BpfObject) -> tuple[VersionQuestion, ...]:
    """All of them, by program and instruction. Reading the host's name is none."""
    found: list[VersionQuestion] = []
    for program in obj.programs:
        for insn, reference in sorted(references(obj, program).items()):
            if reference.kind is ReferenceKind.EXTERN and reference.name in _EXTERNS:
                found.append(_at(obj, program, insn, reference.name))
    for record in obj.ext.relocations:
        insn = record.insn_off // INSN_LEN
        owner = obj.program_at(obj.section_index(record.section), insn)
        if owner is None or obj.btf is None:
            continue
        try:
            text = parse(obj.btf, record).text()
        except (Refusal, BtfError):
            continue  # the resolver tells what is wrong with it
        if (field := _FIELD.search(text)) is not None:
            found.append(_at(obj, owner, insn - owner.start, field.group()))
    return tuple(found)


def _at(obj: BpfObject, program: Program, insn: int, what: str) -> VersionQuestion:
    line = obj.line_at(program.section, program.start + insn)
    return VersionQuestion(
        program=program.name, insn=insn, what=what, file=line.file if line else "",
        line=line.line if line else 0, text=line.text.strip() if line else "",
    )  # fmt: skip
