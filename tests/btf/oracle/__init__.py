# SPDX-License-Identifier: Apache-2.0
"""Ask the libbpf that is installed here, through `oracle.c`, what it decides."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.btf.insn import Insn, decode

SOURCE = Path(__file__).with_name("oracle.c")


@dataclass
class Loaded:
    """What happened to one object."""

    path: str
    result: str = ""  # `RESULT 0`, `RESULT 22`, `OPEN 22`
    log: list[str] = field(default_factory=list)
    programs: dict[str, list[Insn]] = field(default_factory=dict)  # final instructions
    attach_ids: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(self.log)


def build(directory: Path, compiler: str = "cc") -> Path:
    """Compile the oracle; raises CalledProcessError where libbpf's headers are missing."""
    program = directory / "oracle"
    argv = [compiler, "-O2", "-o", str(program), str(SOURCE), "-lbpf", "-ldl", "-rdynamic"]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)
    return program


def ask(
    program: Path,
    target: Path,
    objects: Sequence[Path],
    *,
    everything: bool = False,
    kconfig: str | None = None,
    environment: dict[str, str] | None = None,
) -> list[Loaded]:
    """Load objects with a target BTF; one `Loaded` each, in order."""
    argv = [str(program), *(["-a"] if everything else []), str(target), *map(str, objects)]
    argv += ["--", kconfig] if kconfig is not None else []
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        timeout=600,
        env={**os.environ, **(environment or {})},
    )
    found: list[Loaded] = []
    for line in done.stdout.decode(errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if word == "OBJECT":
            found.append(Loaded(path=rest))
        elif not found:
            continue
        elif word in ("RESULT", "OPEN"):
            found[-1].result = line
        elif word == "PROGRAM":
            name, _, attach_id, code = rest.split(" ")
            found[-1].programs[name] = decode(bytes.fromhex(code), "little")
            found[-1].attach_ids[name] = int(attach_id)
        else:
            found[-1].log.append(line)
    if done.returncode or len(found) != len(objects):
        raise RuntimeError(
            f"oracle ended with {done.returncode} at {found[-1].path if found else target}: "
            f"{done.stderr[-500:]!r}"
        )
    return found
