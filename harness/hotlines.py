# SPDX-License-Identifier: Apache-2.0
"""Which source line costs the verifier how many processed instructions. Pure.

The guest counts by instruction of the program as libbpf loads it: the program itself, then each
subprogram that it calls, in the order in which libbpf appends them. The object's `.BTF.ext` says
which source line an instruction of the file belongs to; `layout` joins the two.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tabulate import tabulate

from harness.btf import BpfObject, Program
from harness.btf.insn import CALL, INSN_LEN, LDIMM64, PSEUDO_CALL
from harness.objcheck_answers import HotProgram

_SHOWN_LINES = 25
_TEXT = ".text"


@dataclass(frozen=True, kw_only=True, slots=True)
class HotLine:
    """A line of the source, and what the verifier did for it."""

    file: str  # as the object's BTF names it; "" of instructions without line information
    line: int
    text: str
    function: str
    processed: int  # instructions, over all paths
    most: int  # visits of its most visited instruction: on how many paths it lies, about

    @property
    def place(self) -> str:
        """As compilers write it. Line 0: instructions that the compiler gives to no line."""
        return f"{self.file}:{self.line}" if self.line else f"{self.file or 'no file'}: no line"


def layout(obj: BpfObject, name: str) -> list[tuple[Program, int]]:
    """For each instruction of a loaded program the function and the index within it.

    As libbpf's bpf_object__reloc_code does it: depth first, each subprogram once, where the first
    instruction that refers to it is met.
    """
    main = next(p for p in obj.programs if p.name == name and not p.subprogram)
    placed: list[Program] = [main]
    _append_called(obj, main, placed)
    return [(program, index) for program in placed for index in range(len(program.insns))]


def hot_lines(obj: BpfObject, hot: HotProgram) -> list[HotLine]:
    """The lines of a program, the dearest first. Empty where the guest's program is another one."""
    places = layout(obj, hot.name)
    if len(places) != hot.insns:
        return []  # a newer libbpf that appends what ours does not
    found: dict[tuple[str, int, str], HotLine] = {}
    for insn, times in hot.by_insn.items():
        program, index = places[insn]
        info = obj.line_at(program.section, program.start + index)
        file = posixpath.normpath(info.file) if info and info.file else ""
        line, text = (info.line, info.text) if info else (0, "")
        key = (file, line, program.name)
        before = found.get(key)
        found[key] = HotLine(
            file=file, line=line, text=text, function=program.name,
            processed=times + (before.processed if before else 0),
            most=max(times, before.most if before else 0),
        )  # fmt: skip
    return sorted(found.values(), key=lambda line: (-line.processed, line.file, line.line))


def render(hot: HotProgram, lines: Iterable[HotLine]) -> str:
    """A table for people, with the sum that shows whether everything was counted."""
    shown = list(lines)
    rows = [
        [
            line.place,
            line.function,
            f"{line.processed:,}",
            f"{100 * line.processed / hot.counted:.1f} %" if hot.counted else "–",
            f"{line.most:,}",
            line.text[:100],
        ]
        for line in shown[:_SHOWN_LINES]
    ]
    rest = shown[_SHOWN_LINES:]
    if rest:
        rest_sum = sum(line.processed for line in rest)
        share = f"{100 * rest_sum / hot.counted:.1f} %" if hot.counted else "–"
        rows.append([f"{len(rest)} more lines", "", f"{rest_sum:,}", share, "", ""])
    table = tabulate(
        rows, headers=("line", "function", "processed", "share", "most visited", "source"),
        tablefmt="simple", disable_numparse=True, colalign=("left", "left", "right", "right", "right"),
    )  # fmt: skip
    return f"{hot.name}: {coverage(hot)}\n\n{table}\n" if rows else f"{hot.name}: {coverage(hot)}\n"


def coverage(hot: HotProgram) -> str:
    """How much of the verifier's work was counted, in words."""
    processed = hot.stats.processed if hot.stats else None
    if processed is None:
        return "the kernel printed no figures" if hot.ok else f"not verified: {hot.reason}"
    if hot.whole:
        return f"all {processed:,} processed instructions counted"
    why = f"the trace did not fit into {hot.log_bytes:,} bytes" if hot.truncated else "they differ"
    return f"{hot.counted:,} of {processed:,} processed instructions counted: {why}"


# ---- libbpf's order ----


def _append_called(obj: BpfObject, program: Program, placed: list[Program]) -> None:
    for target in _called(obj, program):
        if target not in placed:
            placed.append(target)
            _append_called(obj, target, placed)


def _called(obj: BpfObject, program: Program) -> Iterator[Program]:
    """The subprograms that a function's instructions refer to, in their order."""
    symbols = _symbols_at(obj, program.section_index)
    text = obj.section_index(_TEXT)
    for index, insn in enumerate(program.insns):
        call = insn.code == CALL and insn.src == PSEUDO_CALL
        symbol = symbols.get((program.start + index) * INSN_LEN)
        if symbol is not None:
            section, value = symbol
            # A call counts in instructions, an address in bytes; both from the symbol.
            bytes_in = value + (insn.imm + 1) * INSN_LEN if call else value + insn.imm
            pointer = insn.code == LDIMM64 and section == text
            target = obj.program_at(section, bytes_in // INSN_LEN) if call or pointer else None
        elif call:
            target = obj.program_at(program.section_index, program.start + index + insn.imm + 1)
        else:
            target = None
        if target is not None and target.subprogram:
            yield target


def _symbols_at(obj: BpfObject, section_index: int) -> Mapping[int, tuple[int, int]]:
    """Byte offset of a relocated instruction → (section, value) of its symbol."""
    by_index = {symbol.index: symbol for symbol in obj.symbols}
    return {
        relocation.offset: (symbol.section, symbol.value)
        for relocation in obj.relocations.get(section_index, ())
        if (symbol := by_index.get(relocation.symbol)) is not None
    }
