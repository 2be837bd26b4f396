# SPDX-License-Identifier: Apache-2.0
"""The overhead check: what it makes of measurements, and that it can fail on real kernels."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness import build, paths, subject
from harness.build import Built
from harness.cache import Cache
from harness.checks import overhead, slices, yardstick
from harness.checks.context import Context
from harness.checks.overhead import Measured, Terms
from harness.checks.slices import Slice, Told
from harness.checks.yardstick import SAMPLES, Interval, Unit
from harness.errors import HarnessError
from harness.guest import CommandResult
from harness.objcheck import FeaturesAnswer
from harness.results import Cause, CheckResult, KernelFacts, Run, Verdict
from harness.subject import Limits, Manifest, Subject, Traffic
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, leftovers

_SLOW = Path(__file__).parent / "slow_parse.h"
_BOOT_TIMEOUT_S = 240.0  # of a machine that does other things too


# ---- the yardstick ----


def _answer(pairs: Sequence[tuple[int, int]], *, run_cnt: int = 1000, ended: bool = True) -> str:
    """What objcheck kprobe writes: (without, with) in ns, each pair the other way round."""
    lines: list[dict[str, object]] = []
    for number, (without, within) in enumerate(pairs):
        blocks: list[dict[str, object]] = [
            {"type": "block", "attached": False, "calls": 9, "median_ns": without, "ns": 0},
            {"type": "block", "attached": True, "calls": 9, "median_ns": within, "ns": 0},
        ]
        lines += reversed(blocks) if number % 2 else blocks
    lines.append(
        {"type": "run", "id": 3, "name": "km_empty", "run_cnt": run_cnt,
         "run_time_ns": 120 * run_cnt, "recursion_misses": 0}
    )  # fmt: skip
    if ended:
        lines.append({"type": "end"})
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_interval_ignores_four_values_that_a_busy_host_spoilt() -> None:
    """They are too large: they may not keep a good subject from passing, nor make it fail."""
    found = yardstick.interval([10.0] * (SAMPLES - 4) + [1e9] * 4)

    assert found == Interval(low=10.0, mid=10.0, high=10.0)


def test_interval_of_too_few_values_is_refused() -> None:
    """Its level would not be the one that is stated."""
    with pytest.raises(HarnessError, match=f"{SAMPLES - 1} measurements"):
        yardstick.interval([1.0] * (SAMPLES - 1))


def test_unit_is_what_an_empty_kprobe_adds() -> None:
    """Differences of pairs in either order."""
    pairs = [(1000, 1600 + number) for number in range(SAMPLES)]

    unit = yardstick.read_unit(_answer(pairs))

    assert unit.cost == Interval(low=600.0, mid=607.5, high=611.0)
    assert unit.clock == 120.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_answer([(1, 2)] * SAMPLES, ended=False), "cut off"),
        (_answer([(1, 2)] * SAMPLES, run_cnt=0), "did not run"),
        (_answer([(1, 2)]), "1 measurements"),
        ('{"type":"error","what":"attach","name":null,"text":"no such function"}\n', "no such"),
        ("Segmentation fault\n", "not an answer"),
        ("", "cut off"),
        (_answer([(1, 2)] * SAMPLES).replace("false", "true"), "of one kind"),
        (_answer([(1, 2)] * SAMPLES).replace('"median_ns"', '"median"'), "strange answer"),
    ],
    ids=["cut", "silent", "few", "refused", "crashed", "empty", "pairs", "fields"],
)
def test_answer_that_is_none_raises(answer: str, message: str) -> None:
    """Whatever objcheck writes, the reason is said and nothing is measured by it."""
    with pytest.raises(HarnessError, match=message):
        yardstick.read_unit(answer)


def test_unit_that_may_be_nothing_gives_no_upper_end() -> None:
    """A host so busy that the difference drowns must not make a subject cheap."""
    nothing = Interval(low=-5.0, mid=0.0, high=0.0)
    unit = Unit(cost=nothing, clock=0.0)

    count = unit.count_in(Interval(low=1.0, mid=2.0, high=3.0), 1.0)

    assert (count.low, count.mid, count.high) == (0.0, math.inf, math.inf)


@pytest.mark.parametrize(
    ("kprobes", "published"), [(2.6, 331.0), (2.8, 331.0), (2.6, 229.0), (2.8, 229.0)]
)
def test_estimate_holds_the_costs_that_were_published(kprobes: float, published: float) -> None:
    """ebpf_exporter's complex probe, in empty kprobes as counted: the docstring's claim."""
    found = yardstick.on_hardware(Interval(low=kprobes, mid=kprobes, high=kprobes), "x86_64")

    assert found.low < published < found.high


def test_arm64_is_judged_by_the_dearer_kprobe() -> None:
    """Only one publication speaks of it."""
    one = Interval(low=1.0, mid=1.0, high=1.0)

    assert yardstick.on_hardware(one, "aarch64").high > yardstick.on_hardware(one, "x86_64").high


# ---- what scripts tell ----


def _flood(attempts: int = 1000) -> str:
    return json.dumps({"type": "flood", "attempts": attempts, "duration_us": 100_000}) + "\n"


def _runs(cnt: int, ns: int) -> str:
    """The subject's program 7, one of another's, and one of the subject's that never ran."""
    programs = [(2, 99, 99), (7, cnt, ns), (8, 0, 0)]
    lines = [
        {"type": "run", "id": id, "name": "x", "run_cnt": c, "run_time_ns": t}
        for id, c, t in programs
    ]
    return "".join(json.dumps(line) + "\n" for line in [*lines, {"type": "end"}])


def _step(what: str) -> str:
    return json.dumps({"type": "step", "what": what}) + "\n"


def test_slices_hold_what_was_added_between_two_readings() -> None:
    """The counters never begin anew, and other programs than the subject's are nothing to it."""
    text = (
        _step("leg--non-dns") + _flood(5) + _step("leg") + _flood(6)
        + _step("start") + _runs(100, 5000)
        + _step("warm") + _flood() + _runs(1100, 905_000)
        + _step("load") + _flood() + _runs(2100, 1_005_000)
        + _step("load") + _flood() + _runs(4100, 1_105_000)
        + _step("other") + _flood() + _runs(5100, 1_106_000)
        + _step("leg") + _flood(7)
    )  # fmt: skip

    found = slices.told(text, frozenset({2}))

    def one(attempts: int, runs: int = 0, ns: int = 0) -> Slice:
        return Slice(attempts=attempts, duration_s=0.1, runs=runs, run_time=ns)

    assert found == Told(
        legs=(one(6), one(7)), other_legs=(one(5),),
        load=(one(1000, 1000, 100_000), one(1000, 2000, 100_000)), other=(one(1000, 1000, 1000),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_step("leg") + _flood(0), "sent nothing"),
        (_step("leg") + '{"type":"corpus"}\n', "not an answer of this check's"),
        (_step("leg") + '{"type":"flood"}\n', "strange answer"),
    ],
    ids=["nothing", "other", "fields"],
)
def test_driver_that_says_something_else_raises(text: str, message: str) -> None:
    """A subject's driver that is not as bpf/README.md says is told so."""
    with pytest.raises(HarnessError, match=message):
        slices.told(text, frozenset())


def test_throughput_ratio_is_the_geometric_mean_with_its_interval() -> None:
    """Pairs of 0.5 and 0.5: 0.5 and no width; a spread opens it around the same middle."""
    slow = [Slice(attempts=1000, duration_s=0.2)] * 8
    fast = [Slice(attempts=1000, duration_s=0.1)] * 8
    spread = [replace(one, duration_s=0.1 if i % 2 else 0.4) for i, one in enumerate(slow)]

    even, wide = slices.throughput_ratio(fast, slow), slices.throughput_ratio(fast, spread)

    assert (even.low, even.mid, even.high) == pytest.approx((0.5, 0.5, 0.5))
    # logarithms ±ln 2 about -ln 2, standard deviation ln 2 × √(8/7), t 2.365, √8 pairs
    half = 2.365 * math.log(2) * math.sqrt(8 / 7) / math.sqrt(8)
    assert wide.mid == pytest.approx(0.5)
    assert (wide.low, wide.high) == pytest.approx((0.5 * math.exp(-half), 0.5 * math.exp(half)))


def test_flood_without_its_pair_is_refused() -> None:
    """A leg that is missing may not make the others' pairs slide."""
    legs = [Slice(attempts=1, duration_s=1.0)] * 8
    with pytest.raises(HarnessError, match="7 floods without"):
        slices.throughput_ratio(legs[:7], legs)


# ---- verdicts ----


def _unit(low: float, mid: float, high: float) -> Unit:
    return Unit(cost=Interval(low=low, mid=mid, high=high), clock=100)


_EVEN = Interval(low=0.9, mid=1.0, high=1.1)


def _measured(body: float, *, per_s: float = 10_000, runs: int = 1000) -> Measured:
    """A body of so much, beside an empty kprobe of 500 whose clock takes 100."""
    load = Slice(
        attempts=1000, duration_s=1000 / per_s, runs=runs, run_time=round(1000 * (body + 100))
    )
    return Measured(
        unit=_unit(500, 500, 500), load=(load,) * SAMPLES,
        other=(replace(load, run_time=600_000),), ratio=_EVEN, other_ratio=_EVEN,
    )  # fmt: skip


_TERMS = Terms(offered_per_s=10_000, limit=0.02, cpus=2, counted=True, machine="x86_64")
_HARDWARE = replace(_TERMS, counted=False)


@pytest.mark.parametrize(
    ("body", "terms", "verdict", "cause"),
    [
        # emulated, of 4,000 ns allowed: n empty kprobes are n × 37 to n × 135 ns
        (14_000, _TERMS, Verdict.PASS, Cause.NONE),  # 29
        (14_500, _TERMS, Verdict.UNKNOWN, Cause.INFRA),  # 30
        (52_000, _TERMS, Verdict.UNKNOWN, Cause.INFRA),  # 105
        (54_000, _TERMS, Verdict.FAIL, Cause.LIMIT_EXCEEDED),  # 109
        (54_000, replace(_TERMS, cpus=16), Verdict.PASS, Cause.NONE),
        # as measured, the trap included: 4,000 ns
        (3_400, _HARDWARE, Verdict.PASS, Cause.NONE),
        (3_600, _HARDWARE, Verdict.FAIL, Cause.LIMIT_EXCEEDED),
    ],
)
def test_share_is_judged(body: float, terms: Terms, verdict: Verdict, cause: Cause) -> None:
    """Both ends of an estimate must be on one side of the limit; a measurement is taken as it is."""
    found = overhead.judged(_measured(body), terms)

    assert (found.verdict, found.cause) == (verdict, cause)
    assert found.summary.startswith("estimated from emulation") is terms.counted
    assert {one.emulated for one in found.figures} == {terms.counted}
    assert found.figures[1].unit == ("instructions" if terms.counted else "ns")
    first = found.figures[0]
    assert first.limit == pytest.approx(2.0)
    assert (first.value > 2.0) is (verdict is not Verdict.PASS)
    assert found.remedy or verdict is Verdict.PASS


def test_spread_measurement_near_the_limit_is_unknown_on_hardware_too() -> None:
    """Half of the slices on either side."""
    dear, cheap = _measured(5_000), _measured(1_000)
    mixed = replace(dear, load=dear.load[:8] + cheap.load[:8])

    assert overhead.judged(mixed, _HARDWARE).verdict is Verdict.UNKNOWN


def test_figures_are_those_of_the_measurement() -> None:
    """A body of 9,500 ns and a trap of 500 are 10,000 ns, 20 empty kprobes, 5 % of two CPUs."""
    found = {one.name: one.value for one in overhead.judged(_measured(9_500), _TERMS).figures}

    assert found["cost of a DNS datagram"] == pytest.approx(10_000)
    assert found["cost of another UDP send"] == pytest.approx(1_000)
    assert found["DNS datagram, empty kprobes"] == pytest.approx(20)
    assert found["UDP send, empty kprobes"] == pytest.approx(2)
    assert found["CPU share at one instruction a ns"] == pytest.approx(5)


def test_datagram_that_enters_two_hooks_pays_two_traps() -> None:
    """So it is with a v4-mapped destination."""
    found = {
        one.name: one.value for one in overhead.judged(_measured(0, runs=2000), _TERMS).figures
    }

    assert found["cost of a DNS datagram"] == pytest.approx(1_000)


def test_interpreter_is_reported_and_does_not_decide() -> None:
    """A kernel of before 5.6 may have its JIT off, which says nothing of the subject."""
    compiled, interpreted = _measured(3_000), _measured(27_000)

    found = overhead.judged(compiled, _TERMS, interpreted=interpreted)

    assert found.verdict is Verdict.PASS
    alone = overhead.judged(interpreted, _TERMS).summary
    assert alone.split(": ")[1].split(" of ")[0] in found.summary.split("interpreted")[1]
    figures = {one.name: one.value for one in found.figures}
    assert figures["cost of a DNS datagram"] == pytest.approx(3_500)
    assert figures["interpreted DNS datagram"] == pytest.approx(27_500)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (10, Verdict.UNKNOWN),  # it cannot be told what 10,000 would cost
        (7_400, Verdict.UNKNOWN),  # 7,900 ns × 4,900 are 1.94 % of two CPUs
        (7_900, Verdict.FAIL),  # 8,400 ns × 4,900 are 2.06 %: too much already
    ],
)
def test_load_that_was_not_reached_is_judged_by_what_was(body: float, verdict: Verdict) -> None:
    """Never green; a failure only when less than was asked for is too much."""
    found = overhead.judged(_measured(body, per_s=4_900), _HARDWARE)

    assert found.verdict is verdict
    if verdict is Verdict.UNKNOWN:
        assert "4,900 datagrams a second were reached of 10,000" in found.summary
        assert found.figures
        assert found.remedy


@pytest.mark.parametrize("terms", [_TERMS, _HARDWARE], ids=["emulated", "hardware"])
@pytest.mark.parametrize(
    ("measured", "why"),
    [
        (_measured(10, runs=0), "no program of the subject was counted"),
        (
            replace(
                _measured(10),
                unit=_unit(-3, 10, 20),
            ),
            "too busy to measure",
        ),
    ],
    ids=["silent", "unit"],
)
def test_what_was_not_measured_is_unknown(measured: Measured, why: str, terms: Terms) -> None:
    """Never green, and never a failure."""
    found = overhead.judged(measured, terms)

    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, Cause.INFRA)
    assert why in found.summary
    assert found.remedy


class _NoGuest:
    """Nothing may be run in it."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        raise AssertionError(f"{argv[0]} was run")

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        raise AssertionError(f"'{path}' was read")

    def start(self, argv: Sequence[str]) -> int:
        raise AssertionError(f"{argv[0]} was started")


def _asked(limits: Limits, run_stats: str | None, tmp_path: Path) -> CheckResult:
    features = object.__new__(FeaturesAnswer)
    object.__setattr__(features, "run_stats", run_stats)
    object.__setattr__(features, "cpus_online", 2)
    head = subject.bare(Path("any.bpf.o")).manifest.subject
    manifest = Manifest(subject=head, traffic=Traffic(), limits=limits)
    return overhead.CHECK.ask(
        Context(
            guest=_NoGuest(), subject=Subject(manifest=manifest, object=Path("any.bpf.o")),
            kernel=KernelFacts(name="here", series="", arch=""), features=features, types=None,
            detached_btf=False, emulated=True, evidence_dir=tmp_path, report_dir=tmp_path,
        )
    )  # fmt: skip


def test_subject_without_a_limit_is_not_asked(tmp_path: Path) -> None:
    """Nothing is spent on figures that nothing is compared with."""
    found = _asked(Limits(), "sysctl", tmp_path)

    assert (found.verdict, found.cause) == (Verdict.SKIPPED, Cause.NOT_ASKED)
    assert "cpu_share" in found.summary


def test_kernel_without_statistics_is_unsupported(tmp_path: Path) -> None:
    """Before 5.1."""
    found = _asked(Limits(cpu_share=0.02), None, tmp_path)

    assert (found.verdict, found.cause) == (Verdict.UNSUPPORTED, Cause.FEATURE_MISSING)


# ---- on real kernels ----


def _matrix(
    cache: Cache, kernels: tuple[KernelFiles, ...], built: Built, report: Path,
    append: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    run = Matrix(
        cache=cache, kernels=kernels, subject=built, backend="local", checks=(overhead.CHECK,),
        append=append, boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=report,
    ).run()  # fmt: skip
    assert leftovers(cache) == []
    return run


def _said(run: Run) -> list[CheckResult]:
    return [check for cell in run.cells for check in cell.checks if check.check == "overhead"]


def _with_limit(built: Built, cpu_share: float) -> Built:
    subject = built.subject
    limits = msgspec.structs.replace(subject.manifest.limits, cpu_share=cpu_share)
    manifest = msgspec.structs.replace(subject.manifest, limits=limits)
    return replace(built, subject=msgspec.structs.replace(subject, manifest=manifest))


@pytest.fixture(scope="module")
def slow(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The observer with a parser that is right and reads the clock 1,500 times."""
    origin = paths.default_manifest()
    copy = tmp_path_factory.mktemp("slow") / "bpf"
    shutil.copytree(origin.parent, copy, ignore=shutil.ignore_patterns("build", "*.o"))
    (copy / "dns_parse.h").rename(copy / "dns_parse_original.h")
    shutil.copy(_SLOW, copy / "dns_parse.h")
    return build.from_manifest(copy / origin.name, cache, lambda text: None)


@pytest.mark.vm
def test_kernel_with_its_jit_off_is_judged_by_compiled_code(
    cache: Cache, oldest: KernelFiles, tmp_path: Path
) -> None:
    """As 5.4 has it by default. However busy the machine is."""
    built = build.from_manifest(paths.default_manifest(), cache, lambda text: None)
    off = ("sysctl.net.core.bpf_jit_enable=0",)

    (said,) = _said(_matrix(cache, (oldest,), built, tmp_path / "report", append=off))

    assert said.verdict is Verdict.PASS
    assert "interpreted, this kernel's default" in said.summary
    figures = {figure.name: figure.value for figure in said.figures}
    compiled = figures["cost of a DNS datagram"]
    assert 0 < figures["cost of another UDP send"] < compiled
    assert figures["interpreted DNS datagram"] > 1.5 * compiled


@pytest.mark.vm
def test_slow_program_and_low_limit_fail_on_oldest_and_newest(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, slow: Built, tmp_path: Path
) -> None:
    """What costs too much fails, by its own doing or by a limit that nothing can keep."""
    built = build.from_manifest(paths.default_manifest(), cache, lambda text: None)

    dear = _said(_matrix(cache, (oldest, newest), slow, tmp_path / "slow"))
    strict = _said(_matrix(cache, (newest,), _with_limit(built, 1e-4), tmp_path / "strict"))

    assert len(dear) == 2
    assert len(strict) == 1
    for one in (*dear, *strict):
        assert (one.verdict, one.cause) == (Verdict.FAIL, Cause.LIMIT_EXCEEDED)
        limit = one.figures[0].limit
        assert limit is not None
        assert one.figures[0].value > limit
