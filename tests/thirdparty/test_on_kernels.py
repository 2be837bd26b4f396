# SPDX-License-Identifier: Apache-2.0
"""Objects of libbpf-tools on the oldest and the newest kernel, with the verdicts that are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from harness import baseroot, build, initramfs, objcheck, prediction, rundir, vm
from harness.cache import Cache
from harness.checks import attach, crosscheck, load, verifier
from harness.checks.context import OBJCHECK, SUBJECT_DIR, Context
from harness.guest import AgentGuest
from harness.objcheck import FeaturesAnswer
from harness.place import Local
from harness.qemu import Machine
from harness.results import Cause, CheckResult, KernelFacts, Verdict
from harness.subject import Manifest, Subject
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST
from tests.thirdparty.conftest import Tools

pytestmark = pytest.mark.vm

_TOOLS = (
    "opensnoop",
    "biosnoop",
    "biotop",
    "tcppktlat",
    "runqlen",
    "bitesize",
    "bashreadline",
    "fsslower",
)
_BOOT_TIMEOUT_S = 240.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """A guest with every object in it."""

    guest: AgentGuest
    files: KernelFiles
    features: FeaturesAnswer
    cache: Cache
    report_dir: Path


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def booted(
    request: pytest.FixtureRequest, tools: Tools, cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Booted]:  # fmt: skip
    """One boot for all objects: each check of one leaves nothing behind."""
    files: KernelFiles = request.getfixturevalue("kernel")(request.param)
    root = baseroot.obtain(cache, lambda text: None)
    inside = {f"{SUBJECT_DIR}/{name}.bpf.o": tools.object(name) for name in _TOOLS}
    inside[OBJCHECK] = build.objcheck(cache, lambda text: None)
    if files.config is not None:
        inside[f"/boot/config-{files.release}"] = files.config
    with rundir.run_directory(cache) as run_dir:
        initramfs.pack(inside, run_dir / "objects.cpio")
        base = baseroot.guest_archive(root, cache, lambda text: None, full=False)
        initramfs.concatenate([base, run_dir / "objects.cpio"], run_dir / "initrd")
        where = Local(prefix=root.qemu_prefix, environment=root.environment)
        with vm.booted(
            Machine(vcpus=1), vmlinuz=files.vmlinuz, initrd=run_dir / "initrd", where=where,
            run_dir=run_dir, boot_timeout_s=_BOOT_TIMEOUT_S,
        ) as held:  # fmt: skip
            probed = held.guest.run([OBJCHECK, *objcheck.features_argv()[1:]], timeout_s=120)
            yield Booted(
                guest=held.guest, files=files, features=objcheck.parse_features(probed.text),
                cache=cache, report_dir=tmp_path_factory.mktemp("report"),
            )  # fmt: skip


def _context(booted: Booted, tools: Tools, name: str, manifest: str) -> Context:
    text = f'[subject]\nname = "{name}"\nobject = "{name}.bpf.o"\n{manifest}'
    subject = Subject(
        manifest=msgspec.toml.decode(text, type=Manifest), object=tools.object(name)
    )  # fmt: skip
    # The load check's answer is kept in the guest for other checks of the same boot.
    booted.guest.run(["/bin/sh", "-c", "rm -f /tmp/load.jsonl*"], timeout_s=20)
    return Context(
        guest=booted.guest, subject=subject, features=booted.features,
        kernel=KernelFacts(name=booted.files.name, series="", arch="x86_64"),
        types=prediction.types_of(booted.files, booted.cache), detached_btf=False, emulated=True,
        evidence_dir=booted.report_dir / name, report_dir=booted.report_dir,
    )  # fmt: skip


def _asked(context: Context) -> dict[str, CheckResult]:
    return {check.name: check.ask(context) for check in _ASKED}


_PASS = (Verdict.PASS, Cause.NONE)
_CHOICES = {
    # Its loader takes the tracepoints of the block layer that the kernel has, and the functions of
    # older kernels where it lacks them.
    "biosnoop": """
        [programs.block_io_start]
        optional = true
        [programs.blk_account_io_start]
        optional = true
        """,
    "biotop": """
        [programs.block_io_start]
        optional = true
        [programs.block_io_done]
        optional = true
        [programs.blk_account_io_start]
        optional = true
        [programs.blk_account_io_done]
        optional = true
        [programs.__blk_account_io_start]
        optional = true
        [programs.__blk_account_io_done]
        optional = true
        """,
    # It loads the tp_btf programs, or, where the kernel has no BTF, the raw tracepoints.
    "tcppktlat": """
        [programs.tcp_probe]
        optional = true
        [programs.tcp_rcv_space_adjust]
        optional = true
        [programs.tcp_destroy_sock]
        optional = true
        """,
}
_ASKED = (load.CHECK, verifier.CHECK, crosscheck.CHECK, attach.CHECK)
_REJECTED = (Verdict.FAIL, Cause.VERIFIER_REJECTED)
_MISSING = (Verdict.FAIL, Cause.FEATURE_MISSING)
_UNRESOLVED = (Verdict.FAIL, Cause.CORE_RELOCATION)
_UNASKED = (Verdict.SKIPPED, Cause.NOT_ASKED)
_JUDGED = ("load", "verifier", "attach")
# (tool, with a manifest) → verdict and cause of load, verifier and attach: on the oldest kernel, the
# newest
_EXPECTED = {
    # Tracepoints, a perf buffer, a hash: nothing that changed.
    ("opensnoop", False): ((_PASS, _PASS, _PASS), (_PASS, _PASS, _PASS)),
    # 5.10 has no tracepoint block_io_start (v6.5), which a manifest may excuse. It also rejects
    # block_rq_insert and block_rq_issue, which choose by the kernel's version which argument to
    # read, and its tracepoints have no second one: its loader fails too, and that decides. On 7.3 all
    # load, but blk_account_io_start, by then inlined where it is called, refuses fentry: a loader
    # must not ask for both.
    ("biosnoop", False): (
        # The verifier check says it of the first program: block_io_start.
        (_REJECTED, _MISSING, _UNASKED),
        (_PASS, _PASS, (Verdict.FAIL, Cause.ATTACH_FAILED)),
    ),
    ("biosnoop", True): (
        (_REJECTED, _REJECTED, _UNASKED),
        (_PASS, _PASS, _PASS),
    ),
    # block_io_start and block_io_done alone, of v6.5 too, with functions for older kernels.
    ("biotop", True): ((_PASS, _PASS, _PASS), (_PASS, _PASS, _PASS)),
    # On 7.3 a raw tracepoint may not call bpf_get_socket_cookie; it guards the call by another
    # helper's presence, so that 5.10 never sees it.
    ("tcppktlat", False): (
        (_PASS, _PASS, _PASS),
        (_MISSING, _MISSING, _UNASKED),
    ),
    ("tcppktlat", True): ((_PASS, _PASS, _PASS), (_PASS, _PASS, _PASS)),
    # cfs_rq.nr_running is nr_queued since v6.14: a real incompatibility, which no manifest excuses.
    # Its one program is SEC("perf_event"), which its loader opens the events for.
    ("runqlen", False): (
        (_PASS, _PASS, _UNASKED),
        (_UNRESOLVED, _UNRESOLVED, _UNASKED),
    ),
    # The compiler made one load from ctx + (0 or 8) of two, which 5.10's verifier takes for a
    # modified context pointer; where the version test is constant for a kernel, both may be there.
    ("bitesize", False): (
        (_REJECTED, _REJECTED, _UNASKED),
        (_PASS, _PASS, _PASS),
    ),
    # SEC("uretprobe/readline"): in which program, only its loader knows.
    ("bashreadline", False): (
        (_PASS, _PASS, _UNASKED),
        (_PASS, _PASS, _UNASKED),
    ),
    # SEC("fentry/dummy_file_read"): a name that its loader replaces; no kernel has it.
    ("fsslower", False): (
        (_MISSING, _MISSING, _UNASKED),
        (_MISSING, _MISSING, _UNASKED),
    ),
}


@pytest.mark.parametrize(
    ("name", "described"), _EXPECTED, ids=[f"{n}{'-manifest' * d}" for n, d in _EXPECTED]
)
def test_objects_of_others_get_the_verdict_that_is_theirs(
    booted: Booted, tools: Tools, name: str, described: bool
) -> None:
    """Each line of the table above is argued there; the relocations are as predicted everywhere."""
    expected = _EXPECTED[name, described][booted.files.name == NEWEST]

    said = _asked(_context(booted, tools, name, _CHOICES[name] if described else ""))

    found = tuple((said[check].verdict, said[check].cause) for check in _JUDGED)
    assert found == expected, [(check.summary, check.remedy) for check in said.values()]
    taken = [program for program in said["verifier"].programs if program.verdict is Verdict.PASS]
    assert taken or said["verifier"].verdict is not Verdict.PASS
    assert all(program.insns_processed for program in taken)
    assert said["cross-check"].verdict in (Verdict.PASS, Verdict.SKIPPED)
    for check in said.values():
        assert check.remedy or check.verdict is Verdict.PASS or "does not load" in check.summary


def test_remedies_are_lines_for_a_manifest(booted: Booted, tools: Tools) -> None:
    """What the manifest of the test above says was found in the report of the bare object."""
    name = "tcppktlat" if booted.files.name == NEWEST else "biotop"
    said = _asked(_context(booted, tools, name, ""))

    check = said["load"] if said["load"].verdict is Verdict.FAIL else said["attach"]
    line = check.remedy.partition("(docs/subjects.md): ")[2].split(",")[0].split(";")[0]
    section, key = line.split("] ")
    assert section.removeprefix("[programs.") in check.summary
    assert key == "optional = true"
