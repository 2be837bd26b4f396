# SPDX-License-Identifier: Apache-2.0
"""Every parser of foreign bytes, with inputs that it takes; damage to those is what is tried.

At length, by hand: python -m tests.hostile.parsers SECONDS [seed]
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import (
    baseline,
    bpfobject,
    catalogue,
    console,
    elfsection,
    gate,
    history,
    objcheck,
    reporting,
    results,
    session,
    subject,
    verifierlog,
    vmlinuz,
)  # fmt: skip
from harness.btf import Btf
from harness.btf.kernel import parse_config, parse_system_map
from harness.errors import HarnessError
from harness.supply import deb, read_lock
from harness.vmlinuz import compression_of, scan_for_btf
from tests.btf import cases, mutate
from tests.gate import runs
from tests.hostile import peers
from tests.hostile.test_types import everything
from tests.objcheck.answers import FIXTURES
from tests.supply import images

CATALOGUE = Path(__file__).parents[2] / "kernels"
MANIFEST = Path(__file__).parents[2] / "bpf" / "dns_monitor.toml"
POLICY = Path(__file__).parents[2] / "gate.toml"


@dataclass(frozen=True, kw_only=True)
class Parser:
    """Bytes in, anything or a HarnessError out."""

    parse: Callable[[bytes], object]
    inputs: Callable[[], Iterable[bytes]]  # that it takes


def _of_file(read: Callable[[Path], object], name: str = "it") -> Callable[[bytes], object]:
    def parse(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(data)
            return read(path)

    return parse


def _packed_kernels() -> Iterable[bytes]:
    kernel = images.vmlinux("6.1.0-x", with_btf=images.btf(), pad=5000)
    yield kernel
    for packer in images.PACKERS:
        yield images.bzimage("6.1.0-x", kernel, packer)
        yield images.PACKERS[packer](kernel) + bytes(4096)
    yield images.arm64_image("6.1.0-x", with_btf=images.btf(), pad=5000)
    yield images.zboot(images.arm64_image("6.1.0-x", with_btf=None, pad=5000))


@functools.cache
def _case() -> cases.Case:
    return cases.make(7, objects=4)


def _object(data: bytes) -> None:
    everything(data, _case().target)


def _elf(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        elfsection.find(data, ".BTF")


def _tar(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        deb.extract_tar(io.BytesIO(data), Path(scratch), deb.KERNEL_FILES, what="it")


def _tars() -> Iterable[bytes]:
    files = [
        (tarfile.TarInfo(name), b"x" * 700) for name in ("etc/x", "boot/vmlinuz-1", "boot/config-1")
    ]
    yield images.tar(files)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("é" * 200)
        info.mtime = 1.5
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("boot/vmlinuz-1"))
    yield out.getvalue()


def _results(path: Path) -> None:
    run = results.read(path)
    reporting.draw(run, None)
    reporting.table(run)
    reporting.problems_text(run)
    policy = gate.Policy(kernels=("5.10",), lines=(gate.Line(title="t", checks=("load",)),))
    gate.text(gate.decide(run, policy, now=runs.STARTED))


def _run() -> Iterable[bytes]:
    yield msgspec.json.encode(runs.run(runs.cell("5.10", runs.check("load")), planned=("5.10",)))


def _history(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / history.FILE
        path.parent.mkdir()
        path.write_bytes(data)
        for entry in history.read(Path(scratch)):
            history.quantities(entry)


def _log(data: bytes) -> None:
    words = data.decode(errors="replace")
    verifierlog.parse_verifier_stats(words)
    verifierlog.parse_subprograms(words)
    verifierlog.last_words(words)


def _console(data: bytes) -> None:
    words = data.decode(errors="replace")
    console.find_trouble(words)
    console.find_splats(words)


def _image_parts(data: bytes) -> None:
    compression_of(data)
    scan_for_btf(data)
    vmlinuz.unpack(data, limit=1 << 20)


_ANSWERS: dict[str, Callable[[str], object]] = {
    "load": objcheck.parse_load, "attach": objcheck.parse_attach, "hot": objcheck.parse_hot,
    "features": objcheck.parse_features, "ids": objcheck.parse_ids, "maps": objcheck.parse_maps,
    "relos": lambda text: [one.insns for one in objcheck.parse_relos(text)],
}  # fmt: skip


# Of those no answer is recorded.
_MINIMAL = {
    "hot": b'{"type":"end"}\n',
    "maps": b'{"type":"map","id":4,"name":"seen","of":"hash","key_size":4,"value_size":64,'
    b'"max_entries":1000,"prealloc":false,"memlock_bytes":4096,"elements":7,"more":false}\n'
    b'{"type":"end"}\n',
}


def _answer(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="replace"))


def _recorded(name: str) -> list[bytes]:
    # What was recorded of a command that still held its object has no end.
    found = [
        path for path in sorted(FIXTURES.glob(f"7.*/{name}*.jsonl")) if "hold" not in path.name
    ]
    return [path.read_bytes() for path in found] or [_MINIMAL[name]]


_LOG = (
    b"func#0 @0\n0: (b7) r0 = 0\nverification time 17 usec\nstack depth 8+96 max 112\n"
    b"insns processed 34+8\nsubprog 1 (f) static insns_self 8 insns_total 8 stack 96\n"
    b"processed 42 insns (limit 1000000) max_states_per_insn 0 total_states 4 peak_states 4 mark_read 3\n"
)
_CONSOLE = (
    b"[    1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n[    1.1] ---[ end trace 0 ]---\n"
    b"[    2.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n"
    b"[    3.0] Kernel panic - not syncing: Out of memory\n"
)


def _table_of_kernels() -> Iterable[bytes]:
    yield from (path.read_bytes() for path in sorted(CATALOGUE.glob("*.toml"))[:4])


PARSERS = {
    "object": Parser(parse=_object, inputs=lambda: _case().objects),
    "btf": Parser(parse=mutate.read_btf, inputs=lambda: [_case().target]),
    "btf-file": Parser(parse=_of_file(Btf.from_file), inputs=lambda: [_case().target, *_case().objects]),
    "inspect": Parser(parse=_of_file(bpfobject.inspect), inputs=lambda: _case().objects),
    "elf-section": Parser(parse=_elf, inputs=lambda: _case().objects),
    "kernel-image": Parser(parse=_of_file(vmlinuz.read_image), inputs=_packed_kernels),
    "kernel-btf": Parser(
        parse=_of_file(vmlinuz.read_btf), inputs=lambda: [images.btf(), *list(_packed_kernels())[:1]]
    ),
    "packed": Parser(
        parse=_image_parts,
        inputs=lambda: [pack(b"kernel" * 5000) for pack in images.PACKERS.values()],
    ),
    "tar": Parser(parse=_tar, inputs=_tars),
    "manifest": Parser(parse=_of_file(subject.read_manifest), inputs=lambda: [MANIFEST.read_bytes()]),
    "policy": Parser(parse=_of_file(gate.read_policy), inputs=lambda: [POLICY.read_bytes()]),
    "catalogue": Parser(
        parse=_of_file(lambda path: catalogue.load(path.parent), catalogue.SOURCES_FILE),
        inputs=lambda: [(CATALOGUE / catalogue.SOURCES_FILE).read_bytes()],
    ),
    "series": Parser(
        parse=_of_file(lambda path: catalogue._series_file(path, "http://x")), inputs=_table_of_kernels
    ),
    "lock": Parser(
        parse=_of_file(read_lock), inputs=lambda: [(CATALOGUE / "kernels.lock").read_bytes()]
    ),
    "results": Parser(parse=_of_file(_results), inputs=_run),
    "history": Parser(
        parse=_history,
        inputs=lambda: [msgspec.json.encode(history.entry_of(runs.run(runs.cell("5.10")))) + b"\n"],
    ),
    "baseline": Parser(
        parse=_of_file(baseline.read),
        inputs=lambda: [b'{"schema": 1, "subject": "x", "kernels": []}'],
    ),
    "coverage": Parser(
        parse=_of_file(gate.read_coverage),
        inputs=lambda: [b'{"meta": {"timestamp": "2026-01-01T00:00:00"}, "totals": {"percent_covered": 1}}'],
    ),
    "verifier-log": Parser(parse=_log, inputs=lambda: [_LOG]),
    "console": Parser(parse=_console, inputs=lambda: [_CONSOLE]),
    "config": Parser(
        parse=lambda data: parse_config(data.decode(errors="replace")),
        inputs=lambda: [b'CONFIG_X=y\nCONFIG_Y="a"\nCONFIG_Z=0x10\n'],
    ),
    "system-map": Parser(
        parse=lambda data: parse_system_map(data.decode(errors="replace")),
        inputs=lambda: [b"ffffffff81000000 T _text\n"],
    ),
    "command": Parser(
        parse=session.parse_answer,
        inputs=lambda: [b"outerr" + b"km-command 0 0 3 3 0".ljust(79) + b"\n"],
    ),
    "oci-index": Parser(parse=peers.oci_index, inputs=peers.oci_indexes),
    "oci-manifest": Parser(parse=peers.oci_manifest, inputs=peers.oci_manifests),
    "packages": Parser(parse=peers.packages, inputs=lambda: [peers.PACKAGES]),
    "cell-brought": Parser(parse=peers.cell_brought, inputs=peers.cells),
    "name-brought": Parser(parse=peers.name_brought, inputs=peers.names),
    "archive-sent": Parser(parse=peers.sent, inputs=peers.archives),
    "tar-sent": Parser(parse=peers.tar_sent, inputs=peers.tars),
    "journal": Parser(parse=peers.resumed_journal, inputs=peers.journals),
    "kept-cell": Parser(parse=peers.resumed_cell, inputs=peers.kept_cells),
    "agent": Parser(parse=peers.agent, inputs=lambda: [peers.AGENT]),
    **{
        f"objcheck-{name}": Parser(parse=_answer(parse), inputs=functools.partial(_recorded, name))
        for name, parse in _ANSWERS.items()
    },
}  # fmt: skip


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage as to BTF; or one input's head with another's tail; or a stretch many times over."""
    how = rng.randrange(8)
    if how == 0:
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    if how == 1:
        at = rng.randrange(len(data) + 1)
        return data[:at] + data[at : at + rng.randrange(1, 40)] * rng.randrange(2, 50) + data[at:]
    return mutate.damaged(rng, data)


def attempt(parser: Parser, data: bytes) -> bool:
    """Whether it was taken. Anything but a HarnessError escapes."""
    try:
        parser.parse(data)
    except HarnessError as error:
        if error.message.strip():
            return False
        raise AssertionError("an error without a word") from error
    return True


def main() -> None:
    """Try all parsers in turn for so many seconds; every surprise is printed with its input."""
    until = time.monotonic() + float(sys.argv[1])
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    known = {name: list(parser.inputs()) for name, parser in PARSERS.items()}
    counts = dict.fromkeys(PARSERS, 0)
    surprises: set[str] = set()
    slowest: dict[str, float] = dict.fromkeys(PARSERS, 0.0)
    while time.monotonic() < until:
        for name, parser in PARSERS.items():
            started = time.monotonic()
            while time.monotonic() - started < 0.5:
                data = spliced(rng, rng.choice(known[name]), rng.choice(known[name]))
                before = time.monotonic()
                try:
                    attempt(parser, data)
                except Exception as error:  # noqa: BLE001 - what is looked for
                    where = error.__traceback__
                    while where is not None and where.tb_next is not None:
                        where = where.tb_next
                    line = (
                        where.tb_frame.f_code.co_filename + f":{where.tb_lineno}" if where else ""
                    )
                    text = f"{name}: {type(error).__name__} at {line}: {error!s:.100}"
                    if (key := f"{name} {type(error).__name__} {line}") not in surprises:
                        surprises.add(key)
                        sys.stdout.write(f"{text}\n  {data.hex()[:2000]}\n")
                        sys.stdout.flush()
                slowest[name] = max(slowest[name], time.monotonic() - before)
                counts[name] += 1
    for name, count in counts.items():
        sys.stdout.write(f"{name:<20} {count:>8} tried, slowest {slowest[name]:.2f} s\n")
    sys.stdout.write(f"{sum(counts.values())} tried, {len(surprises)} surprises\n")


if __name__ == "__main__":
    main()
