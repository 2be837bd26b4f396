# SPDX-License-Identifier: Apache-2.0
"""Ask `objcheck` in a guest what its kernel does with an object: argv out, answers in.

Pure: nothing runs here. objcheck prints JSON lines, the last of them `{"type":"end"}`; an answer
without it was cut off (the guest died, a deadline passed) and is never read as a whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeAlias, TypeVar

import msgspec

from harness.errors import HarnessError, UsageError
from harness.objcheck_answers import (
    AttachAnswer,
    AttachedProgram,
    AttachReason,
    FeaturesAnswer,
    HeldMap,
    HotProgram,
    IdsAnswer,
    KernelObject,
    LibbpfLine,
    LoadAnswer,
    LoadedMap,
    ObjectAnswer,
    ObjectMap,
    ProgramAnswer,
    ProgramRun,
    Reason,
    RelocatedProgram,
    Stage,
    TogetherAnswer,
    Uname,
)
from harness.verifierlog import VerifierStats, last_words, parse_verifier_stats

__all__ = [
    "PROGRAM",
    "AttachAnswer",
    "AttachReason",
    "AttachedProgram",
    "FeaturesAnswer",
    "HeldMap",
    "HotProgram",
    "IdsAnswer",
    "KernelObject",
    "LibbpfLine",
    "LoadAnswer",
    "LoadedMap",
    "MapFix",
    "ObjectAnswer",
    "ObjectMap",
    "Options",
    "ProgramAnswer",
    "ProgramRun",
    "Reason",
    "RelocatedProgram",
    "Stage",
    "TogetherAnswer",
    "Uname",
    "Value",
    "VerifierStats",
    "attach_argv",
    "features_argv",
    "hot_argv",
    "ids_argv",
    "last_words",
    "load_argv",
    "maps_argv",
    "parse_attach",
    "parse_features",
    "parse_hot",
    "parse_ids",
    "parse_load",
    "parse_maps",
    "parse_relos",
    "parse_verifier_stats",
    "relos_argv",
    "setting_word",
]

PROGRAM = "objcheck"
Value: TypeAlias = bool | int | str | Sequence[int]


# ---- argv ----


@dataclass(frozen=True, kw_only=True, slots=True)
class MapFix:
    """What the object's own loader changes in a map before it loads; None leaves it alone."""

    name: str
    type: str | None = None
    key_size: int | None = None
    value_size: int | None = None
    max_entries: int | None = None
    unless_map: str = ""  # not where the kernel has this map type

    @property
    def word(self) -> str:
        sizes = (self.key_size, self.value_size, self.max_entries)
        fields = [self.type or "-", *("-" if size is None else str(size) for size in sizes)]
        if self.unless_map:
            fields.append(f"unless=map:{self.unless_map}")
        return f"{self.name}={':'.join(fields)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How an object is loaded. Paths are the guest's."""

    btf: str = ""  # types of a kernel that carries none
    programs: tuple[str, ...] = ()  # empty: all, and together all that are not SEC("?...")
    optional: tuple[str, ...] = ()  # those that are refused alone are left out of together
    maps: tuple[MapFix, ...] = ()
    inner: tuple[MapFix, ...] = ()  # what maps of maps hold, whole, where the object does not say
    settings: Mapping[str, Value] = field(default_factory=dict)
    log_level: int | None = None  # None: figures, and a trace of what is refused; 6: all paths
    log_dir: str = ""  # whole logs, as PROGRAM.log
    log_size: int | None = None  # bytes, of guest memory only as far as filled
    load_timeout_s: int | None = None  # of each load, so that one program costs only its own answer
    tail: int | None = None  # bytes of the trace in the answer


def load_argv(obj: str, options: Options | None = None) -> list[str]:
    """Every program alone, then all together."""
    return [PROGRAM, "load", *_words(options or Options()), obj]


def attach_argv(
    obj: str,
    options: Options | None = None,
    *,
    hold: bool = False,
    stats: bool = False,
    ready_file: str = "",
    expire_s: int | None = None,
) -> list[str]:
    """All together, attached; with `hold` until SIGTERM, SIGINT or `expire_s`."""
    words = _words(options or Options())
    if hold:
        words.append("--hold")
    if stats:
        words.append("--stats")
    if ready_file:
        words += ["--ready-file", ready_file]
    if expire_s is not None:
        words += ["--expire", str(expire_s)]
    return [PROGRAM, "attach", *words, obj]


def relos_argv(obj: str, options: Options | None = None) -> list[str]:
    """What libbpf does with each CO-RE relocation, and the instructions that come out."""
    return [PROGRAM, "dump-relos", *_words(options or Options()), obj]


def hot_argv(obj: str, options: Options | None = None) -> list[str]:
    """How often the verifier goes through each instruction of each program, loaded alone."""
    return [PROGRAM, "hot", *_words(options or Options()), obj]


def features_argv(ksyms: Sequence[str] = ()) -> list[str]:
    """What the kernel can do; for each of `ksyms`, whether it has that symbol."""
    return [PROGRAM, "features", *(word for name in ksyms for word in ("--ksym", name))]


def ids_argv() -> list[str]:
    """The BPF objects that the kernel holds."""
    return [PROGRAM, "ids"]


def maps_argv() -> list[str]:
    """The maps that the kernel holds, with their memory and elements."""
    return [PROGRAM, "maps"]


def setting_word(name: str, value: Value) -> str:
    """`name=value` as objcheck's --set takes it; "str:" marks text for a char array."""
    if isinstance(value, bool):
        return f"{name}={'true' if value else 'false'}"
    if isinstance(value, int | str):
        return f"{name}={value}"
    return f"{name}={','.join(str(item) for item in value)}"


def _words(options: Options) -> list[str]:
    words: list[str] = []
    if options.btf:
        words += ["--btf", options.btf]
    for program in options.programs:
        words += ["--program", program]
    for program in options.optional:
        words += ["--optional", program]
    for fix in options.maps:
        words += ["--map", fix.word]
    for fix in options.inner:
        words += ["--inner", fix.word]
    for name, value in options.settings.items():
        words += ["--set", setting_word(name, value)]
    if options.log_level is not None:
        words += ["--log-level", str(options.log_level)]
    if options.log_dir:
        words += ["--log-dir", options.log_dir]
    if options.log_size is not None:
        words += ["--log-size", str(options.log_size)]
    if options.load_timeout_s is not None:
        words += ["--load-timeout", str(options.load_timeout_s)]
    if options.tail is not None:
        words += ["--tail", str(options.tail)]
    return words


# ---- reading ----


class _Error(msgspec.Struct):
    what: str
    name: str | None
    text: str


class _Type(msgspec.Struct):
    type: str


class _Name(msgspec.Struct):
    name: str


class _Ready(msgspec.Struct):
    pid: int


class _Stats(msgspec.Struct):
    how: str | None


_T = TypeVar("_T")
_USAGE = {"usage", "set", "map", "program"}
_CUT_OFF = "the guest or the command ended early: the console and the deadline say why"


class _Lines:
    """An answer's lines by type, in order."""

    def __init__(self, text: str, command: str, *, partial: bool = False) -> None:
        self.command = command
        self.lines: list[tuple[str, bytes]] = []
        raw = [line.strip() for line in text.split("\n") if line.strip()]
        for number, line in enumerate(raw, start=1):
            content = line.encode(errors="replace")
            try:
                kind = msgspec.json.decode(content, type=_Type).type
            except (ValueError, RecursionError) as error:
                if number == len(raw):
                    break  # cut off in the middle of a line; the end is missing too
                raise HarnessError(
                    f"line {number} of objcheck {command} is not an answer: '{line[:80]}'"
                ) from error
            self.lines.append((kind, content))
        self.ended = any(kind == "end" for kind, _ in self.lines)
        self.errors = list(self.each("error", _Error))
        if self.errors and not self.ended:
            first = self.errors[0]
            kind_of = UsageError if first.what in _USAGE else HarnessError
            raise kind_of(f"objcheck {command}: {first.text.strip()}")
        if not self.ended and not partial:
            self._missing("end")

    def each(self, kind: str, into: type[_T]) -> Iterator[_T]:
        for found, content in self.lines:
            if found == kind:
                yield self.decode(content, into)

    def one(self, kind: str, into: type[_T]) -> _T:
        answer = next(self.each(kind, into), None)
        return self._missing(kind) if answer is None else answer

    def decode(self, content: bytes, into: type[_T]) -> _T:
        try:
            return msgspec.json.decode(content, type=into)
        except (ValueError, RecursionError) as error:
            raise HarnessError(f"objcheck {self.command} answers strangely: {error}") from error

    def _missing(self, kind: str) -> NoReturn:
        missing = f"no '{kind}' line"
        expected = next(self.each("object", ObjectAnswer), None)
        if expected and self.command == "load":
            seen = {program.name for program in self.each("program", _Name)}
            missing = ", ".join(f"'{name}'" for name in expected.programs if name not in seen)
            missing = f"nothing on {missing or 'all together'}"
        raise HarnessError(
            f"the answer of objcheck {self.command} is cut off: {missing}", hint=_CUT_OFF
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(error.text for error in self.errors)


def parse_load(text: str) -> LoadAnswer:
    """The answer to load_argv. HarnessError on one that is cut off, naming what is missing."""
    lines = _Lines(text, "load")
    return LoadAnswer(
        object=lines.one("object", ObjectAnswer),
        programs=tuple(lines.each("program", ProgramAnswer)),
        together=lines.one("together", TogetherAnswer),
        notes=lines.notes,
    )


def parse_attach(text: str, *, holding: bool = False) -> AttachAnswer:
    """The answer to attach_argv; with `holding` as far as it got, `ended` tells."""
    lines = _Lines(text, "attach", partial=holding)
    ready = next(lines.each("ready", _Ready), None)
    stats = next(lines.each("stats", _Stats), None)
    return AttachAnswer(
        object=lines.one("object", ObjectAnswer),
        together=lines.one("together", TogetherAnswer),
        programs=tuple(lines.each("attach", AttachedProgram)),
        stats_how=stats.how if stats else None,
        pid=ready.pid if ready else None,
        runs=tuple({run.name: run for run in lines.each("run", ProgramRun)}.values()),
        ended=lines.ended,
        notes=lines.notes,
    )


def parse_features(text: str) -> FeaturesAnswer:
    """The answer to features_argv."""
    return _Lines(text, "features").one("features", FeaturesAnswer)


def parse_hot(text: str) -> tuple[HotProgram, ...]:
    """The answer to hot_argv. HarnessError on one that is cut off."""
    return tuple(_Lines(text, "hot").each("hot", HotProgram))


def parse_ids(text: str) -> IdsAnswer:
    """The answer to ids_argv."""
    lines = _Lines(text, "ids")
    counts = lines.one("ids", IdsAnswer)
    return IdsAnswer(
        program=counts.program,
        map=counts.map,
        link=counts.link,
        btf=counts.btf,
        objects=tuple(lines.each("id", KernelObject)),
    )


def parse_maps(text: str) -> tuple[HeldMap, ...]:
    """The answer to maps_argv. HarnessError when a map could not be read: none may be missing."""
    lines = _Lines(text, "maps")
    if lines.notes:
        raise HarnessError(f"objcheck maps: {lines.notes[0]}")
    return tuple(lines.each("map", HeldMap))


def parse_relos(text: str) -> tuple[RelocatedProgram, ...]:
    """The answer to relos_argv."""
    lines = _Lines(text, "dump-relos")
    programs: list[RelocatedProgram] = []
    said: list[LibbpfLine] = []
    for kind, content in lines.lines:
        if kind == "program":
            said = []
        elif kind == "libbpf":
            said.append(lines.decode(content, LibbpfLine))
        elif kind == "insns":
            program = lines.decode(content, RelocatedProgram)
            programs.append(replace(program, lines=tuple(said)))
    return tuple(programs)
