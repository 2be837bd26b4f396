# SPDX-License-Identifier: Apache-2.0
"""Is each way to send a datagram seen as it must be: its event, its class, or nothing?

The subject's send driver sends in every way that the kernel has and says of each what an observer
must make of it. The label in each name is drawn here, anew for each run.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from harness.checks import compare, observer
from harness.checks.compare import Case, Outcome, Status
from harness.checks.context import Check, Context, Need
from harness.checks.observer import Observed, Scalar, Stats
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

# The network namespace, the counters before the first case; then, for each case, the driver's line
# and the counters after it. Where $4 is empty the driver does not wait for us between its cases.
_SCRIPT = r"""
trap '' PIPE
driver=$1 label=$2 loader=$3 step=$4 d=/tmp/sends
stat -L -c '{"type":"netns","inode":%i}' /proc/self/ns/net
[ "$step" ] || exec "$driver" matrix --label "$label"
rm -rf $d; mkdir $d; mkfifo $d/in $d/out || exit 3
"$loader" stats || exit 4
"$driver" matrix --step --label "$label" <$d/in >$d/out &
pid=$!
exec 4>$d/in 5<$d/out
while IFS= read -r line <&5; do
	printf '%s\n' "$line"
	"$loader" stats || break
	echo >&4
done
exec 4>&- 5<&-
wait $pid
status=$?
rm -rf $d
exit $status
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """What the driver and the counters said, in order."""

    cases: tuple[Case, ...]
    moved: Mapping[str, Mapping[str, int]]  # classes by case; empty when only the end was read
    netns: int  # inode of the network namespace


def _ask(context: Context) -> CheckResult:
    if not context.driver:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject's manifest names no send driver ([functional] driver)",
        )  # fmt: skip
    auto = _run(context, "sends", (), step=True)
    if isinstance(auto, CheckResult):
        return auto
    runs = {auto.buffer: auto}
    expected = "ringbuf" if context.features.has("map:ringbuf") else "perf"
    # A kernel with both buffers is asked about both, and with that about the other limiter: by
    # events and sums, for the programs up to the buffer are the same.
    if auto.buffer == "ringbuf":
        other = _run(context, "sends-perf", ("--buffer", "perf", "--limiter", "xadd"), step=False)
        if isinstance(other, CheckResult):
            return other
        runs[other.buffer] = other
    return _judged(context, runs, [] if auto.buffer == expected else [
        f"the kernel has {expected}, the observer chose {auto.buffer}"
    ])  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """The matrix through one kind of buffer."""

    buffer: str
    outcomes: tuple[Outcome, ...]
    account: tuple[str, ...]  # what does not fit together beyond the cases
    evidence: tuple[Evidence, ...]


def _run(context: Context, name: str, options: Sequence[str], *, step: bool) -> _Run | CheckResult:
    """step: read the counters after each case, not only at the end."""
    label = secrets.token_hex(8)
    seen = observer.observe(
        context,
        ["/bin/sh", "-c", _SCRIPT, "sends", context.driver, label, context.loader,
         "step" if step else ""],
        name=name, options=options,
    )  # fmt: skip
    if seen.ready is None or not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    said = context.keep("driver's lines", f"{name}-cases.jsonl", seen.command_output.encode())
    matrix = read_matrix(seen.command_output)
    outcomes, account = judge(matrix, seen, label)
    return _Run(
        buffer=seen.ready.buffer, outcomes=tuple(outcomes), account=tuple(account),
        evidence=(said, *seen.evidence),
    )  # fmt: skip


def judge(matrix: Matrix, seen: Observed, label: str) -> tuple[list[Outcome], list[str]]:
    """Outcomes of the cases, and whatever else is wrong. HarnessError for a driver that cheats."""
    cases = [_with_more(case, matrix.netns) for case in matrix.cases]
    for case in cases:
        for fields in case.events:
            if label.encode().hex() not in str(fields.get("name_wire")):
                raise HarnessError(f"the driver's case '{case.case}' does not use the label given")
    wrong_with_it = observer.wrong_with(seen)
    account = [wrong_with_it] if wrong_with_it else []
    account += compare.own_account(seen.events)
    if seen.stats is not None:
        total: dict[str, int] = {}
        for case in cases:
            for name, count in case.classes.items():
                total[name] = total.get(name, 0) + count
        wrong = compare.class_differences(total, seen.stats.classes())
        account += [f"in all: {text}" for text in wrong]
    return compare.judge(cases, matrix.moved, seen.events), account


def read_matrix(text: str) -> Matrix:
    """The driver's lines and the counters between them. Raises HarnessError for anything else."""
    cases: list[Case] = []
    moved: dict[str, Mapping[str, int]] = {}
    before: dict[str, int] = {}
    netns = 0
    for line in text.splitlines():
        try:
            kind = msgspec.json.decode(line, type=_Kind)
            if kind.type == "netns":
                netns = kind.inode
            elif kind.type == "case":
                cases.append(msgspec.json.decode(line, type=Case))
            elif kind.type == "stats":
                now = msgspec.json.decode(line, type=Stats).classes()
                if cases:
                    moved[cases[-1].case] = {name: now[name] - before[name] for name in now}
                before = now
            else:
                raise HarnessError(f"a line that the driver must not write: '{line[:200]}'")
        except msgspec.MsgspecError as error:
            raise HarnessError(f"the driver's line '{line[:200]}' is none: {error}") from error
    names = [case.case for case in cases]
    if twice := [name for name in names if names.count(name) > 1]:
        raise HarnessError(f"the send driver has two cases '{twice[0]}'")
    if not any(case.expect == "event" for case in cases):
        raise HarnessError("the send driver sent nothing that must be seen")
    lacking = [name for name in names if name not in moved]
    if moved and lacking:
        raise HarnessError(f"no counters were read after the case '{lacking[0]}'")
    return Matrix(cases=tuple(cases), moved=moved, netns=netns)


class _Kind(msgspec.Struct, frozen=True):
    type: str
    inode: int = 0


def _with_more(case: Case, netns: int) -> Case:
    """The fields that follow from who sends: this driver, as root, from its own thread.

    io_uring may send from a worker (SQPOLL), which has the driver's pid and not its tid.
    """
    more: list[dict[str, Scalar]] = []
    for fields in case.events:
        length = fields.get("len")
        added: dict[str, Scalar] = {"uid": 0, "netns": netns, "scope_id": 0}
        added["captured"] = min(length, 512) if isinstance(length, int) else None
        if not case.case.startswith("io_uring"):
            added |= {"comm": fields.get("process"), "tid": fields.get("pid")}
        more.append({**fields, **added})
    return msgspec.structs.replace(case, events=tuple(more))


def _judged(context: Context, runs: Mapping[str, _Run], wrong: list[str]) -> CheckResult:
    tables: list[str] = []
    for buffer, run in runs.items():
        tables.append(f"{buffer}\n\n{compare.table(run.outcomes)}")
        tables += [f"{text}\n" for text in run.account]
        for outcome in run.outcomes:
            wrong += [f"{buffer}: {outcome.case}: {text}" for text in outcome.differences]
        wrong += [f"{buffer}: {text}" for text in run.account]
    outcomes = [outcome for run in runs.values() for outcome in run.outcomes]
    counts = {status: sum(o.status is status for o in outcomes) for status in Status}
    kept = context.keep("every case", "sends.txt", "\n".join(tables).encode())
    evidence = (kept, *(item for run in runs.values() for item in run.evidence))
    figure = Figure(name="cases passed", value=float(counts[Status.PASSED]), unit="1")
    if wrong:
        return observer.differs(
            CHECK.name, wrong, figures=(figure,), evidence=evidence,
            remedy="the table of cases says what was expected of each",
        )  # fmt: skip
    left = {o.case: o.expected for o in outcomes if o.status is Status.UNSUPPORTED}
    absent = f"; not on this kernel: {', '.join(f'{c} ({w})' for c, w in left.items())}"
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=(figure,), evidence=evidence,
        summary=f"{counts[Status.PASSED]} cases through {' and '.join(runs)}"
        + (absent if left else ""),
    )  # fmt: skip


CHECK = Check(
    name="sends", question="Is each way to send a datagram seen as it must be?",
    ask=_ask, estimate_s=4.5, needs=(Need.LOADER, Need.DRIVER), thorough=True,
)  # fmt: skip
