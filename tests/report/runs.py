# SPDX-License-Identifier: Apache-2.0
"""Results to draw: small ones made by hand, and a recorded run grown to many kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.results import (
    SCHEMA,
    BootFacts,
    Cause,
    Cell,
    CheckResult,
    Evidence,
    Figure,
    Finding,
    KernelFacts,
    Program,
    Ran,
    Relocation,
    RelocationOutcome,
    Run,
    RunFacts,
    Series,
    SubjectFacts,
    Verdict,
)  # fmt: skip

BOOT = BootFacts(
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", qemu="QEMU 10",
    vcpus=2, memory_mib=768, boot_s=3.21, libbpf="1.1",
)  # fmt: skip
FACTS = RunFacts(
    started="2026-11-22T12:00:00+00:00", duration_s=12.5, command="inv kernel-matrix",
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", host="Linux",
    harness="0.1.0", commit="abc", compiler="clang 14", lock_sha256="00",
)  # fmt: skip
SUBJECT = SubjectFacts(name="dns_monitor", path="dns_monitor.bpf.o", sha256="11")


def check(name: str, verdict: Verdict, cause: Cause = Cause.NONE, summary: str = "") -> CheckResult:
    """An answer."""
    return CheckResult(check=name, verdict=verdict, cause=cause, summary=summary, remedy="do this")


def cell(
    name: str, *checks: CheckResult, release: str = "5.10.0-30", boot: BootFacts | None = BOOT
) -> Cell:
    """A kernel with these answers; the series is the release's."""
    series = ".".join(release.split(".")[:2])
    kernel = KernelFacts(name=name, series=series, arch="x86_64", release=release)
    return Cell(kernel=kernel, boot=boot, checks=checks, console="kernels/x/console.log")


def run(*cells: Cell, checks: Sequence[CheckResult] = ()) -> Run:
    """A run of these kernels."""
    return Run(schema=SCHEMA, run=FACTS, subject=SUBJECT, checks=tuple(checks), cells=cells)


PASS = check("load", Verdict.PASS)
FAIL = check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1 invalid mem access")
UNKNOWN = check("load", Verdict.UNKNOWN, Cause.GUEST_LOST, "QEMU killed")
UNAVAILABLE = check("boot", Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "no mirror")

VERIFIER_LOG = """\
; BPF_CORE_READ(sk, sk_protocol); @ dns_monitor.bpf.c:408
12: (79) r1 = *(u64 *)(r6 +0)
R6 invalid mem access 'scalar'
"""


def matrix(count: int) -> Run:
    """A run of `count` kernels in which every verdict, kind of evidence and plot occurs."""
    series = [f"5.{minor}" for minor in (4, 10, 15)] + [f"6.{minor}" for minor in range(40)]
    cells = [_varied(number, series[number // 2]) for number in range(count)]
    names = tuple(cell.kernel.name for cell in cells)
    half = len(names) // 2
    made = run(*cells, checks=[_compile(), _core_access()])
    questions = {"load": "Does the verifier accept each program?"}
    return replace(
        made,
        run=replace(FACTS, questions=questions),
        relocations=(
            _relocation("struct udp_sock.pending", (names[:half], 968), (names[half:], 1000)),
            _relocation("struct sock.sk_family", (names, 16)),
        ),
    )


def _varied(number: int, series: str) -> Cell:
    name = f"{series}-{'newest' if number % 2 else 'oldest'}"
    release = f"{series}.{number}-cloud-amd64"
    match number % 10:
        case 4:
            gone = cell(name, UNAVAILABLE, release="", boot=None)
            return replace(gone, kernel=replace(gone.kernel, series=series))
        case 5:
            log = Evidence(title="verifier log of p", text=VERIFIER_LOG, path="kernels/x/p.log")
            answers = (*_good(number), replace(FAIL, evidence=(log,)))
        case 6:
            stopped = check("attach", Verdict.UNKNOWN, Cause.NOT_REACHED)
            answers = (*_good(number), UNKNOWN, stopped)
        case 7:
            said = "this kernel has no map:ringbuf"
            lacks = check("load", Verdict.UNSUPPORTED, Cause.FEATURE_MISSING, said)
            answers = (*_good(number), lacks, check("splat", Verdict.SKIPPED, Cause.NOT_ASKED))
        case _:
            answers = (*_good(number), PASS, check("attach", Verdict.PASS))
    made = cell(name, *answers, release=release)
    return replace(made, phases_s={"boot": 3.5, "verifier": 1.25}, duration_s=5.0)


def _good(number: int) -> tuple[CheckResult, ...]:
    programs = tuple(
        Program(name=name, verdict=Verdict.PASS, insns_processed=insns + number, insns_limit=20_000)
        for name, insns in (("dns_udp4", 5400), ("dns_udp6", 5500))
    )
    events = Series(
        name="xadd", unit="1/s", step_s=0.1, limit=1000.0,
        values=tuple(900.0 + (7 * i * (number + 1)) % 100 for i in range(20)),
    )  # fmt: skip
    memory = Figure(name="loader and maps", value=12.5, unit="MiB", limit=50.0)
    cpu = Figure(name="CPU", value=0.8, unit="%", limit=2.0, emulated=True)
    ran = Ran(command="objcheck load /subject/x.bpf.o", status=0, duration_s=0.5)
    return (
        check("resolve", Verdict.PASS),
        replace(check("verifier", Verdict.PASS), programs=programs, commands=(ran,)),
        replace(check("rate-limit", Verdict.PASS), series=(events,)),
        replace(check("memory", Verdict.PASS), figures=(memory,)),
        replace(check("overhead", Verdict.PASS), figures=(cpu,)),
    )


def _compile() -> CheckResult:
    return check("compile", Verdict.PASS)


def _core_access() -> CheckResult:
    finding = Finding(
        rule="fixed-offset", certain=True, message="load of 8 bytes at fixed offset 24",
        program="dns_udp4", insn=12, file="./dns_monitor.bpf.c", line=458, text="x = sk->y;",
    )  # fmt: skip
    answer = check("core-access", Verdict.FAIL, Cause.CORE_RELOCATION, "1 read at a fixed offset")
    return replace(answer, findings=(finding,))


def _relocation(path: str, *values: tuple[tuple[str, ...], int]) -> Relocation:
    return Relocation(
        program="dns_udp4", insn=46, kind="byte_off", path=path, file="./dns_monitor.bpf.c",
        line=458,
        outcomes=tuple(
            RelocationOutcome(kernels=kernels, status="resolved", value=value)
            for kernels, value in values
        ),
    )  # fmt: skip
