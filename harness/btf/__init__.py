# SPDX-License-Identifier: Apache-2.0
"""BTF and CO-RE without a kernel: read type information, resolve relocations as libbpf does.

    from harness.btf import BpfObject, Btf, resolve

    kernel = Btf.from_file("/sys/kernel/btf/vmlinux")
    for resolution in resolve(BpfObject.from_file("foo.bpf.o"), kernel).resolutions:
        print(resolution.number, resolution.status, resolution.value)

Pure: nothing here starts a process or needs privileges. Bad input raises `BtfError`.
"""

from harness.btf.btf import Btf
from harness.btf.errors import BtfError
from harness.btf.ext import BtfExt, FuncInfo, LineInfo, RelocationRecord
from harness.btf.kinds import Kind, RelocationKind
from harness.btf.object import BpfObject, Program
from harness.btf.relo import Outcome, Plan, Resolution, Site, Status, resolve
from harness.btf.types import Enumerator, Member, Parameter, SectionVariable, Type
from harness.btf.values import LATEST, Rules

__all__ = [
    "LATEST",
    "BpfObject",
    "Btf",
    "BtfError",
    "BtfExt",
    "Enumerator",
    "FuncInfo",
    "Kind",
    "LineInfo",
    "Member",
    "Outcome",
    "Parameter",
    "Plan",
    "Program",
    "RelocationKind",
    "RelocationRecord",
    "Resolution",
    "Rules",
    "SectionVariable",
    "Site",
    "Status",
    "Type",
    "resolve",
]
