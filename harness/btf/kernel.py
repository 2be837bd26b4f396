# SPDX-License-Identifier: Apache-2.0
"""What a kernel offers an object, read from its BTF (and, where given, its config and symbols).

The kernel's own enums `bpf_func_id`, `bpf_map_type`, `bpf_prog_type` are in its BTF: what they list
is there, vendor backports included; no version is compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.btf.btf import Btf
from harness.btf.data import Extern, ExternKind, KconfigType, kconfig_type
from harness.btf.features import HELPERS, MAP_TYPES, PROGRAM_TYPES
from harness.btf.index import essential_name
from harness.btf.kinds import Kind
from harness.btf.match import Refusal, types_compatible
from harness.btf.values import Rules

_RELEASE: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_U64: Final = 1 << 64


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelView:
    """A kernel to resolve against; everything but the BTF may be unknown."""

    name: str
    btf: Btf
    modules: tuple[Btf, ...] = ()  # split on `btf`; `source` is the module's name
    config: Mapping[str, str] | None = None  # CONFIG_X → y, m, 12, "text" as in a .config
    symbols: frozenset[str] | None = None  # of System.map or kallsyms
    release: str = ""  # `6.1.0-47-cloud-amd64`
    _cache: dict[str, frozenset[str] | None] = field(default_factory=dict, repr=False)

    def enumerators(self, enum: str) -> frozenset[str] | None:
        """Names in one of the kernel's enums; None when its BTF has no such enum."""
        if enum not in self._cache:
            found = self.btf.find(enum, Kind.ENUM) or self.btf.find(enum, Kind.ENUM64)
            self._cache[enum] = (
                frozenset(one.name for one in self.btf.enumerators(found)) if found else None
            )
        return self._cache[enum]

    def find(self, name: str, kind: Kind) -> tuple[Btf, int] | None:
        """A type of vmlinux, or else of a module."""
        found = self.btf.find(name, kind)
        if found:
            return self.btf, found
        for module in self.modules:
            own = [one for one in module.ids_named(name, kind) if one >= module.first_own_id]
            if own:
                return module, own[0]
        return None


def parse_config(text: str) -> dict[str, str]:
    """CONFIG_X → value of a `.config`; options that are not set are absent."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.startswith("CONFIG_"):
            found[name] = value
    return found


def parse_system_map(text: str) -> frozenset[str]:
    """Symbols of a System.map or /proc/kallsyms."""
    return frozenset(
        parts[2] for parts in (line.split() for line in text.splitlines()) if len(parts) >= 3
    )


def version_code(release: str) -> int | None:
    """KERNEL_VERSION() of a release, its patch level capped at 255; None if it is not one."""
    found = _RELEASE.match(release)
    if found is None:
        return None
    major, minor, patch = int(found[1]), int(found[2]), int(found[3] or 0)
    return major << 16 | minor << 8 | min(patch, 255)


# -- features ---------------------------------------------------------------------------------


def absent_helpers(kernel: KernelView) -> frozenset[int]:
    """Numbers of helpers that the kernel lacks; empty when its BTF does not tell."""
    names = kernel.enumerators("bpf_func_id")
    if names is None:
        return frozenset()
    absent = {number for number, one in enumerate(HELPERS) if f"BPF_FUNC_{one.name}" not in names}
    if 113 in absent:
        # libbpf turns probe_read_{kernel,user}[_str] into the older probe_read[_str].
        absent -= {112, 113, 114, 115}
    return frozenset(absent)


def absent_map_types(kernel: KernelView) -> frozenset[int]:
    """Numbers of map types that the kernel lacks."""
    names = kernel.enumerators("bpf_map_type")
    if names is None:
        return frozenset()
    return frozenset(
        number
        for number, one in enumerate(MAP_TYPES)
        if f"BPF_MAP_TYPE_{one.name.upper()}" not in names
    )


def lacks_program_type(kernel: KernelView, name: str) -> bool:
    """Whether the kernel's enum says that it has no such program type."""
    names = kernel.enumerators("bpf_prog_type")
    known = any(one.name == name for one in PROGRAM_TYPES)
    return names is not None and known and f"BPF_PROG_TYPE_{name.upper()}" not in names


# -- externs ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternOutcome:
    """What an extern resolves to."""

    name: str
    status: str  # `resolved`, `absent` (weak), `error` (the object does not load), `unknown`
    value: int | None  # of a kconfig extern, None when not known
    type_id: int  # of the kernel's VAR or FUNC, 0 for none
    reason: str


def resolve_extern(
    extern: Extern, local: Btf | None, kernel: KernelView, rules: Rules
) -> ExternOutcome:
    """As libbpf's bpf_object__resolve_externs; `local` is the object's BTF."""
    if extern.kind is ExternKind.UNKNOWN or local is None:
        return _outcome(extern, "error", reason="is not described by the object's BTF")
    if extern.kind is ExternKind.KCONFIG:
        return _kconfig(extern, local, kernel)
    if extern.kind is ExternKind.KSYM:
        if kernel.symbols is None:
            return _outcome(extern, "unknown", reason="no symbols of this kernel are known")
        if extern.name in kernel.symbols:
            return _outcome(extern, "resolved")
        return _missing(extern, "is no kernel symbol")
    kfunc = extern.kind is ExternKind.KFUNC
    name = extern.name
    if kfunc and rules.kfunc_flavours:
        name = essential_name(name.encode()).decode()
    found = kernel.find(name, Kind.FUNC if kfunc else Kind.VAR)
    if found is None:
        return _missing(extern, f"is no {'function' if kfunc else 'variable'} of the kernel's BTF")
    btf, type_id = found
    target = btf.reference(type_id)
    try:
        fits = types_compatible(local, extern.type_id, btf, target if kfunc else btf.skip(target))
    except Refusal:
        fits = False
    if fits:
        return _outcome(extern, "resolved", type_id=type_id)
    if kfunc:
        return _missing(extern, "has another prototype in this kernel")
    return _outcome(extern, "error", reason="has another type in this kernel")


def _outcome(
    extern: Extern, status: str, *, value: int | None = None, type_id: int = 0, reason: str = ""
) -> ExternOutcome:
    return ExternOutcome(
        name=extern.name, status=status, value=value, type_id=type_id, reason=reason
    )


def _missing(extern: Extern, reason: str) -> ExternOutcome:
    return _outcome(extern, "absent" if extern.weak else "error", value=0, reason=reason)


def _kconfig(extern: Extern, local: Btf, kernel: KernelView) -> ExternOutcome:
    if not extern.name.startswith("CONFIG_"):
        if extern.name == "LINUX_KERNEL_VERSION":
            code = version_code(kernel.release)
            if code is None:
                return _outcome(extern, "unknown", reason="the kernel's release is not known")
            return _outcome(extern, "resolved", value=code)
        if extern.name in ("LINUX_HAS_BPF_COOKIE", "LINUX_HAS_SYSCALL_WRAPPER"):
            return _outcome(extern, "unknown", reason="libbpf probes the running kernel")
        if extern.name.startswith("LINUX_") and extern.weak:
            return _outcome(extern, "absent", value=0)
        return _outcome(extern, "error", reason="libbpf has no such virtual extern")
    if kernel.config is None:
        return _outcome(extern, "unknown", reason="no config of this kernel is known")
    text = kernel.config.get(extern.name)
    if text is None:
        return _missing(extern, "is not set in the kernel's config")
    kind = kconfig_type(local, extern.type_id)
    value = _kconfig_value(text, kind, extern.size, local.is_signed(extern.type_id))
    if value is None:
        return _outcome(extern, "error", reason=f"'{text}' does not fit {extern.type}")
    return _outcome(extern, "resolved", value=value if kind is not KconfigType.CHARS else None)


def _kconfig_value(text: str, kind: KconfigType, size: int, signed: bool) -> int | None:
    if text in ("y", "n", "m"):
        if kind is KconfigType.BOOL:
            return {"y": 1, "n": 0}.get(text)
        if kind is KconfigType.TRISTATE:
            return {"n": 0, "y": 1, "m": 2}[text]
        return ord(text) if kind is KconfigType.CHAR else None
    if text.startswith('"'):
        return 0 if kind is KconfigType.CHARS else None
    try:
        value = int(text, 0)
    except ValueError:
        return None
    if kind not in (KconfigType.INT, KconfigType.CHAR):
        return None
    bits = 8 * size
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if bits < 64 and not low <= value % _U64 - (_U64 if value < 0 else 0) < high:
        return None
    return value & (1 << bits) - 1
