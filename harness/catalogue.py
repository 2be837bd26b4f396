# SPDX-License-Identifier: Apache-2.0
"""The kernels we want: `kernels/*.toml` -> `Kernel`, and choosing among them.

One file a series. A file names no patch release: each series means its oldest and its newest one,
which `harness.supply` resolves against what a source offers and `kernels.lock` then pins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from harness import intake
from harness.errors import UsageError

SOURCES_FILE = "sources.toml"  # what all series share: where the snapshot archive is
DEFAULT_WORDS = "core,lts,stable"

_SERIES = re.compile(r"[0-9]{1,3}\.[0-9]{1,4}")
_TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SUITE = re.compile(r"[a-z][a-z0-9./-]*")

_Choice = TypeVar("_Choice", bound=StrEnum)


class Pick(StrEnum):
    """Which patch release of a series."""

    OLDEST = "oldest"
    NEWEST = "newest"


class Tier(StrEnum):
    """How much a series counts (docs: matrix tiers)."""

    CORE = "core"  # the gate requires it
    LTS = "lts"  # later long-term series
    EDGE = "edge"  # everything else: newest stable, release candidates, series between


class Btf(StrEnum):
    """Where the type information of a series' kernels comes from."""

    BUILT_IN = "built-in"  # the image's own .BTF section
    DEBUG_PACKAGE = "debug-package"  # made with pahole from the -dbg package of the same version


class Feature(StrEnum):
    """What a series is too old for, however it was built; the guest's probe checks that."""

    FENTRY = "fentry"
    KPROBE_MULTI = "kprobe-multi"
    RINGBUF = "ringbuf"


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianSource:
    """The Debian mirror that the machine's apt (or the environment) names."""

    suites: tuple[str, ...]  # "bookworm", "bookworm-security", …; all are searched


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSource:
    """Debian's snapshot archive: the whole archive as it was at one moment."""

    timestamp: str  # "20200301T000000Z"
    suites: tuple[str, ...]
    pick: Pick | None  # None: for both


@dataclass(frozen=True, kw_only=True, slots=True)
class OciSource:
    """A container image, or a directory in OCI layout, that holds /boot/vmlinuz*."""

    image: str
    pick: Pick | None


Source = DebianSource | SnapshotSource | OciSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel we want; which release that is, a source decides."""

    name: str  # "5.10-oldest", "5.10-oldest-arm64": unique, safe in file names and image tags
    series: str  # "5.10"
    pick: Pick
    arch: str  # "x86_64" | "arm64"
    tier: Tier
    sources: tuple[Source, ...]  # in the order to try them
    snapshot_url: str  # base of Debian's snapshot archive, no slash at the end
    btf: Btf
    absent: frozenset[Feature]  # what this kernel is expected not to have


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """Every kernel of `kernels/`, by rising series, oldest before newest."""

    kernels: tuple[Kernel, ...]

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kernel.series for kernel in self.kernels))


ARCHS = ("x86_64", "arm64")
EVERY_ARCH = "all"


class Table:
    """A TOML table that names file and key when a value is missing, strange or not understood."""

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self.where = where
        self._values = dict(values)

    def text(self, key: str, *, pattern: re.Pattern[str] | None = None) -> str:
        value = self._values.pop(key, None)
        if not isinstance(value, str) or not value:
            raise UsageError(f"{self.where}: '{key}' must be a text, not {value!r}")
        if pattern is not None and not pattern.fullmatch(value):
            raise UsageError(f"{self.where}: '{key}' has an impossible value '{value}'")
        return value

    def optional_text(self, key: str) -> str:
        return self.text(key) if key in self._values else ""

    def texts(self, key: str, *, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        value = self._values.pop(key, None)
        if not isinstance(value, list) or not value:
            raise UsageError(f"{self.where}: '{key}' must be a list of texts, not {value!r}")
        for item in value:
            if not isinstance(item, str) or (pattern is not None and not pattern.fullmatch(item)):
                raise UsageError(f"{self.where}: '{key}' has an impossible value {item!r}")
        return tuple(str(item) for item in value)

    def number(self, key: str) -> int:
        value = self._values.pop(key, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{self.where}: '{key}' must be a number, not {value!r}")
        return value

    def tables(self, key: str) -> tuple[Table, ...]:
        """The [[key]] tables; none when the key is absent."""
        value = self._values.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise UsageError(f"{self.where}: '{key}' must be [[{key}]] tables")
        return tuple(Table(f"{self.where}: {key} {i}", item) for i, item in enumerate(value, 1))

    def table(self, key: str) -> Table:
        """The [key] table; an empty one when the key is absent."""
        value = self._values.pop(key, {})
        if not isinstance(value, dict):
            raise UsageError(f"{self.where}: '{key}' must be a [{key}] table")
        return Table(f"{self.where}: {key}", value)

    def has(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        """Refuse what nobody asked for: a misspelt key must not pass for a default."""
        for key in self._values:
            raise UsageError(f"{self.where}: unknown key '{key}'")


def read_table(path: Path) -> Table:
    """Parse one TOML file."""
    try:
        content = intake.content(path, most_bytes=intake.SETTINGS_BYTES)
    except intake.NoFileError as error:
        raise UsageError(error.message, hint=error.hint) from error
    try:
        return Table(str(path), intake.toml(content))
    except ValueError as error:  # of TOML or of UTF-8
        raise UsageError(f"'{path}' is not TOML: {error}") from error


def load(directory: Path) -> Catalogue:
    """Parse every `*.toml` of `directory`."""
    paths = sorted(directory.glob("*.toml"))
    if not paths:
        raise UsageError(
            f"no catalogue in '{directory}'", hint="a catalogue is a directory of *.toml files"
        )
    shared = directory / SOURCES_FILE
    snapshot_url = _snapshot_url(shared)
    kernels: list[Kernel] = []
    for path in paths:
        if path == shared:
            continue
        wanted = _series_file(path, snapshot_url)
        if any(kernel.series == wanted[0].series for kernel in kernels):
            raise UsageError(f"{path}: series '{wanted[0].series}' has a file already")
        kernels += wanted
    kernels.sort(key=lambda k: (ARCHS.index(k.arch), series_key(k.series), k.pick is Pick.NEWEST))
    return Catalogue(kernels=tuple(kernels))


def select(
    catalogue: Catalogue,
    words: str = "",
    arch: str = "x86_64",
    *,
    released: Collection[str] | None = None,
) -> list[Kernel]:
    """The kernels that `words` name, in the catalogue's order, none twice.

    words: comma-separated tiers ("core"), series ("5.10": oldest and newest), names
    ("5.10-newest"), "stable" (the newest released series), "all"; empty means the default.
    arch: "x86_64", "arm64", or "all" for the words' kernels of each.
    released: the series known to have a real release (`Lock.released`); without it, the highest
    series of the catalogue passes for the newest stable one.
    """
    if arch not in (*ARCHS, EVERY_ARCH):
        raise UsageError(
            f"unknown architecture '{arch}'", hint=f"there is {', '.join(ARCHS)}, {EVERY_ARCH}"
        )
    mine = [kernel for kernel in catalogue.kernels if arch in (kernel.arch, EVERY_ARCH)]
    chosen: set[str] = set()
    for word in [part.strip() for part in (words.strip() or DEFAULT_WORDS).split(",")]:
        if not word:
            continue
        found = _named(word, mine, catalogue, released)
        if not found:
            raise UsageError(
                f"unknown kernel '{word}'",
                hint=f"there is all, {', '.join(Tier)}, stable, and the series "
                f"{', '.join(dict.fromkeys(kernel.series for kernel in mine))} "
                "with -oldest or -newest",
            )
        chosen |= {kernel.name for kernel in found}
    if not chosen:
        raise UsageError(f"no kernel named in '{words}'", hint="leave it out for the default")
    return [kernel for kernel in catalogue.kernels if kernel.name in chosen]


def series_key(series: str) -> tuple[int, int]:
    """ "5.10" -> (5, 10), for ordering."""
    major, minor = series.split(".")
    return int(major), int(minor)


def _named(
    word: str, mine: list[Kernel], catalogue: Catalogue, released: Collection[str] | None
) -> list[Kernel]:
    if word == "all":
        return mine
    if word in set(Tier):
        return [kernel for kernel in mine if kernel.tier == word]
    if word == "stable":
        newest = {
            arch: newest_stable([k for k in mine if k.arch == arch], released) for arch in ARCHS
        }
        return [k for k in mine if k.series == newest[k.arch] and k.pick is Pick.NEWEST]
    by_name = [k for k in mine if word in (k.series, f"{k.series}-{k.pick}")]
    # A full name says its architecture itself.
    return by_name or [kernel for kernel in catalogue.kernels if kernel.name == word]


def newest_stable(kernels: Iterable[Kernel], released: Collection[str] | None) -> str:
    """The highest series that has a real release, "" when there is none."""
    known = {k.series for k in kernels if released is None or k.series in released}
    return max(known, key=series_key, default="")


def _snapshot_url(path: Path) -> str:
    top = read_table(path)
    snapshot = top.table("snapshot")
    url = snapshot.text("url").rstrip("/")
    snapshot.finish()
    top.finish()
    return url


def _series_file(path: Path, snapshot_url: str) -> list[Kernel]:
    top = read_table(path)
    series = top.text("series", pattern=_SERIES)
    tier = _choice(top, "tier", Tier)
    archs = top.texts("archs")
    for arch in archs:
        if arch not in ARCHS:
            raise UsageError(f"{path}: 'archs' has an impossible value '{arch}'")
    top.optional_text("comment")
    btf = _choice(top, "btf", Btf) if top.has("btf") else Btf.BUILT_IN
    expects = top.table("expects")
    absent = {arch: _absent(expects.table(arch)) for arch in ARCHS}
    everywhere = _absent(expects)
    sources = tuple(_source(table) for table in top.tables("source"))
    top.finish()
    if not sources:
        raise UsageError(f"{path}: no [[source]]", hint="say where the series can be had")
    return [
        Kernel(
            name=f"{series}-{pick}" + ("" if arch == ARCHS[0] else f"-{arch}"),
            series=series, pick=pick, arch=arch, tier=tier, btf=btf, snapshot_url=snapshot_url,
            sources=tuple(source for source in sources if _serves(source, pick)),
            absent=everywhere | absent[arch],
        )
        for arch in archs
        for pick in Pick
    ]  # fmt: skip


def _serves(source: Source, pick: Pick) -> bool:
    return isinstance(source, DebianSource) or source.pick in (None, pick)


def _absent(table: Table) -> frozenset[Feature]:
    names = table.texts("absent") if table.has("absent") else ()
    table.finish()
    unknown = [name for name in names if name not in set(Feature)]
    if unknown:
        raise UsageError(
            f"{table.where}: unknown feature '{unknown[0]}'", hint=f"there is {', '.join(Feature)}"
        )
    return frozenset(Feature(name) for name in names)


def _source(table: Table) -> Source:
    kind = table.text("kind")
    source: Source
    if kind == "debian":
        source = DebianSource(suites=table.texts("suites", pattern=_SUITE))
    elif kind == "snapshot":
        source = SnapshotSource(
            timestamp=table.text("timestamp", pattern=_TIMESTAMP),
            suites=table.texts("suites", pattern=_SUITE),
            pick=_pick(table),
        )
    elif kind == "oci":
        source = OciSource(image=table.text("image"), pick=_pick(table))
    else:
        raise UsageError(
            f"{table.where}: unknown kind '{kind}'", hint="there is debian, snapshot, oci"
        )
    table.finish()
    return source


def _pick(table: Table) -> Pick | None:
    return _choice(table, "pick", Pick) if table.has("pick") else None


def _choice(table: Table, key: str, kind: type[_Choice]) -> _Choice:
    value = table.text(key)
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"{table.where}: '{key}' has an impossible value '{value}'",
            hint=f"there is {', '.join(kind)}",
        ) from None
