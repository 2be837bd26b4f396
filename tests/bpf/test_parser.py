# SPDX-License-Identifier: Apache-2.0
"""One parser, four answers: host under sanitisers, the kernel's, dnspython's, the corpus file."""

import random
import shutil
import struct
import subprocess
from pathlib import Path

import dns.name
import pytest

from tests.bpf import build, corpus, reference
from tests.bpf.reference import Answer, Status, Verdict

FUZZED = 20_000
FUZZ_RUNS = 100_000
FUZZ_FILE = Path(__file__).parent / "fuzz_corpus.txt"
INVENTING = Path(__file__).parent / "inventing_parser.h"
# BPF_PROG_TEST_RUN takes one page, frame header and headroom included.
TEST_RUN_MAX = 3000


def fuzzed(seed: int, count: int) -> list[bytes]:
    """Corpus members with octets changed, cut, doubled or joined."""
    rng = random.Random(seed)
    members = [wire for _, wire in corpus.datagrams() if len(wire) <= TEST_RUN_MAX]
    made = []
    for _ in range(count):
        wire = bytearray(rng.choice(members))
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(wire) + 1)
            match rng.randrange(6):
                case 0:
                    wire[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    wire[at:] = b""
                case 2:
                    wire[at:at] = rng.choice([b"\0", b"\xc0\x0c", b"\x3f", b"\x40", b"\x01a"])
                case 3:
                    wire[at:at] = rng.choice(members)[12:]
                case 4:
                    wire[4:12] = struct.pack("!HHHH", *(rng.choice([0, 1, 2]) for _ in range(4)))
                case _:
                    del wire[at : at + rng.randrange(8)]
        made.append(bytes(wire[:TEST_RUN_MAX]))
    return made


def told(datagrams: list[bytes]) -> list[Answer]:
    return [reference.answer(wire) for wire in datagrams]


def fuzz_corpus() -> list[bytes]:
    """What libFuzzer kept: inputs of its target, the first octet not of the datagram."""
    return [bytes.fromhex(line) for line in FUZZ_FILE.read_text().splitlines() if line[0] != "#"]


def test_the_corpus_file_is_what_the_generator_makes() -> None:
    """The file goes into guests that have no Python; an old one would test an old rule."""

    assert corpus.PATH.read_text() == corpus.text()


def test_corpus_ids_are_unique_where_an_event_is_expected() -> None:
    """An event is matched to its datagram by the id."""
    ids = [
        wire[:2]
        for _, wire in corpus.datagrams()
        if reference.answer(wire).verdict is Verdict.PLAUSIBLE
    ]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", ["corpus", "fuzzed", "kept"])
def test_host_parser_agrees_with_dnspython(built: Path, case: str) -> None:
    """Byte for byte, under ASan and UBSan."""
    datagrams = {
        "corpus": lambda: [wire for _, wire in corpus.datagrams()],
        "fuzzed": lambda: fuzzed(20261122, FUZZED),
        "kept": lambda: [wire[1:] for wire in fuzz_corpus()],
    }[case]()

    parsed = build.parse([built / "parse_host_asan"], datagrams)

    assert [p.answer for p in parsed] == told(datagrams)


def test_a_name_is_ok_exactly_when_dnspython_reads_it_whole() -> None:
    """The reference itself, against dnspython's own reading of names."""
    for wire in [*(wire for _, wire in corpus.datagrams()), *fuzzed(7, 5000)]:
        answer = reference.answer(wire)
        if answer.status in (None, Status.NO_QUESTION):
            continue
        whole = reference.dnspython_reads_it(wire)
        complete = whole is not None and 12 + whole[1] + 4 <= min(len(wire), 512)
        assert (answer.status is Status.OK) == complete
        if whole is not None and complete:
            assert answer.name_wire == whole[0]


def test_presentation_form_reads_back_as_the_same_name(built: Path) -> None:
    """Escapes lose nothing: two names never share a text."""
    datagrams = [wire for _, wire in corpus.datagrams()]

    for parsed in build.parse([built / "parse_host_asan"], datagrams):
        if parsed.answer.name is not None:
            name = dns.name.from_text(parsed.answer.name)
            assert name.to_wire() == bytes.fromhex(parsed.answer.name_wire)


def test_kernel_parser_agrees_with_the_host_parser(built: Path) -> None:
    """The same header compiled to BPF, run by BPF_PROG_TEST_RUN: answers and sampling hashes."""
    probe = subprocess.run(
        [str(built / "dnsmon"), "parse", "--object", str(built / "dns_monitor.bpf.o")],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip(f"this kernel does not take the program: {probe.stderr[-300:]}")
    datagrams = [wire for _, wire in corpus.datagrams() if len(wire) <= TEST_RUN_MAX]
    datagrams += [*fuzzed(3, 3000), *(wire[1:][:TEST_RUN_MAX] for wire in fuzz_corpus())]

    kernel = build.parse(
        [built / "dnsmon", "parse", "--object", built / "dns_monitor.bpf.o"], datagrams
    )
    host = build.parse([built / "parse_host_asan"], datagrams)

    assert len(kernel) == len(datagrams)
    for in_kernel, on_host in zip(kernel, host, strict=True):
        assert in_kernel.hash == on_host.hash
        assert (in_kernel.answer.verdict, in_kernel.answer.status) == (
            on_host.answer.verdict,
            on_host.answer.status,
        )
        assert in_kernel.answer.name_wire == on_host.answer.name_wire
        assert (in_kernel.answer.qtype, in_kernel.answer.qclass) == (
            on_host.answer.qtype,
            on_host.answer.qclass,
        )


@pytest.mark.parametrize("sample_n", [2, 10, 100])
def test_sampling_keeps_one_in_n_of_names_that_differ_little(built: Path, sample_n: int) -> None:
    """Names as a load generator makes them; binomial, beyond 5 sigma once in 1.7 million runs."""
    datagrams = [
        struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
        + b"\x0bt0-%08x\x04test\0\0\1\0\1" % number
        for number in range(FUZZED)
    ]

    hashes = [p.hash for p in build.parse([built / "parse_host_asan"], datagrams)]

    kept = sum(1 for value in hashes if value is not None and value * sample_n >> 32 == 0)
    sigma = (FUZZED * (1 / sample_n) * (1 - 1 / sample_n)) ** 0.5
    assert abs(kept - FUZZED / sample_n) < 5 * sigma


def test_fuzzing_for_a_moment_finds_nothing(built: Path, tmp_path: Path) -> None:
    """A short run from the kept corpus; long ones are made by hand."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, wire in enumerate(fuzz_corpus()):
        (seeds / f"{number:04}").write_bytes(wire)
    # fmt: off
    done = subprocess.run(
        [str(built / "parse_fuzz"),
         f"-runs={FUZZ_RUNS}",
         "-seed=1",
         "-max_len=700",
         f"-artifact_prefix={tmp_path}/",
         str(seeds)],
        capture_output=True, text=True, timeout=120, check=False,
    )
    # fmt: on

    assert done.returncode == 0, done.stderr[-4000:]


def test_a_parser_that_invents_names_is_caught(built: Path, tmp_path: Path) -> None:
    """The comparison above must fail for it, or it proves nothing."""
    source = tmp_path / "bpf"
    shutil.copytree(build.BPF, source, ignore=shutil.ignore_patterns("build"))
    (source / "dns_parse.h").rename(source / "dns_parse_original.h")
    shutil.copy(INVENTING, source / "dns_parse.h")
    build.make(tmp_path, "parse_host", source=source)
    datagrams = [wire for _, wire in corpus.datagrams()]

    parsed = build.parse([tmp_path / "parse_host"], datagrams)

    wrong = [p for p, answer in zip(parsed, told(datagrams), strict=True) if p.answer != answer]
    assert len(wrong) > 20
    assert {p.answer.name for p in wrong} == {"test.cluster.local."}
