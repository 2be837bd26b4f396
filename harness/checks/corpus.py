# SPDX-License-Identifier: Apache-2.0
"""Does the subject read each datagram of its corpus as the reference does, byte for byte?

The corpus says of each datagram what an independent parser made of it. Two answers must equal
that: the hook's, for the datagram really sent, and the parser program's (BPF_PROG_TEST_RUN).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.checks import compare, observer
from harness.checks.compare import Case, Outcome, Status
from harness.checks.context import GUEST_BTF, SUBJECT_DIR, Check, Context, Need
from harness.checks.observer import Scalar, Stats
from harness.errors import HarnessError, UsageError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_CAPTURED_MAX = 512
_TEST_RUN_MAX = 3058  # BPF_PROG_TEST_RUN takes one page, headroom and frame header included
_TIMEOUT_S = 60.0
_FIELDS = 7
# The datagrams go out class by class, the counters read in between: when n datagrams move their
# class by n and no other, each of them ended in that class.
_SCRIPT = r"""
driver=$1 corpus=$2 loader=$3; shift 3
"$loader" stats || exit 4
for class in "$@"; do
	awk -v class="$class" '$2 == class' "$corpus" >/tmp/corpus.part
	"$driver" corpus /tmp/corpus.part || exit 5
	"$loader" stats || exit 4
done
rm /tmp/corpus.part
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Datagram:
    """A line of the corpus."""

    case: str
    wanted: str  # "event", or the class that counts it
    status: str  # of the name; "" without an event, as the rest
    name_wire: str  # hex
    qtype: int | None  # of a complete name
    qclass: int | None
    octets: bytes


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """The parser program's answer."""

    verdict: str | None  # "plausible", "not_dns", "malformed"
    status: str | None = None
    name_wire: str | None = None
    id: int | None = None
    flags: int | None = None
    qtype: int | None = None
    qclass: int | None = None


def _ask(context: Context) -> CheckResult:
    corpus = context.corpus
    if not context.driver or corpus is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject's manifest names no corpus ([functional] driver, corpus)",
        )  # fmt: skip
    datagrams = read_corpus(corpus.read_text(), corpus)
    classes = list(dict.fromkeys(datagram.wanted for datagram in datagrams))
    seen = observer.observe(
        context,
        ["/bin/sh", "-c", _SCRIPT, "corpus", context.driver, f"{SUBJECT_DIR}/{corpus.name}",
         context.loader, *classes],
        name="corpus", options=("--payload",),
    )  # fmt: skip
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    answers, parsed_kept = _parsed(context, datagrams)
    results, moved = read_output(seen.command_output, classes)
    hook = compare.judge([expected(d, results.get(d.case)) for d in datagrams], {}, seen.events)
    program = [parse_outcome(d, answers.get(d.case)) for d in datagrams]
    account = [wrong] if (wrong := observer.wrong_with(seen)) else []
    account += compare.own_account(seen.events)
    for name in classes:
        count = sum(datagram.wanted == name for datagram in datagrams)
        want = {"submitted" if name == "event" else name: count}
        for text in compare.class_differences(want, moved.get(name, {})):
            account.append(f"the corpus's {count} datagrams of class {name}: {text}")
    return _judged(context, hook, program, account, (*seen.evidence, parsed_kept))


def read_corpus(text: str, path: Path) -> list[Datagram]:
    """Parse a corpus (format: bpf/README.md); UsageError names file and line."""
    found: list[Datagram] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            case, wanted, status, qtype, qclass, name, octets = line.split(" ")
            found.append(
                Datagram(
                    case=case, wanted=wanted, status=_word(status), name_wire=_word(name),
                    qtype=int(qtype) if qtype != "-" else None,
                    qclass=int(qclass) if qclass != "-" else None, octets=_octets(octets),
                )
            )  # fmt: skip
        except ValueError as error:
            raise UsageError(
                f"{path}: line {number} is no line of a corpus ({error}): '{line[:80]}'",
                hint=f"{_FIELDS} words: case, class, status, qtype, qclass, name, datagram",
            ) from error
    if not any(datagram.wanted == "event" for datagram in found):
        raise UsageError(f"{path}: no datagram of this corpus must be seen")
    return found


def expected(datagram: Datagram, result: int | None) -> Case:
    """What the hook must make of a datagram that was sent from 127.0.0.1 to its port 53."""
    if datagram.wanted != "event":
        return Case(case=datagram.case, expect="class", classes={datagram.wanted: 1}, result=result)
    octets = datagram.octets
    ident, flags, questions, answers, authorities, additional = struct.unpack_from("!6H", octets)
    fields: dict[str, Scalar] = {
        "id": ident, "flags": flags, "opcode": flags >> 11 & 15, "rcode": flags & 15,
        "direction": "response" if flags & 0x8000 else "query",
        "qdcount": questions, "ancount": answers, "nscount": authorities, "arcount": additional,
        "status": datagram.status, "name_wire": datagram.name_wire,
        "qtype": datagram.qtype, "qclass": datagram.qclass,
        "len": len(octets), "captured": min(len(octets), _CAPTURED_MAX),
        "payload": octets[:_CAPTURED_MAX].hex(),
        "hook": "udp_sendmsg", "family": "inet", "daddr": "127.0.0.1", "dport": 53,
        "connected": False, "process": "senddrv", "comm": "senddrv",
    }  # fmt: skip
    return Case(
        case=datagram.case, expect="event", events=(fields,), classes={"submitted": 1},
        result=result,
    )  # fmt: skip


def parse_outcome(datagram: Datagram, answer: Parsed | None) -> Outcome:
    """What the parser program made of a datagram."""
    verdict = "plausible" if datagram.wanted == "event" else datagram.wanted
    name = f"{datagram.case} (test run)"
    if len(datagram.octets) > _TEST_RUN_MAX:
        return Outcome(case=name, status=Status.UNSUPPORTED, expected="BPF_PROG_TEST_RUN: a page")
    if answer is None:
        return Outcome(
            case=name, status=Status.FAILED, expected=verdict, differences=("no answer",)
        )
    want: dict[str, Scalar] = {"verdict": verdict}
    if verdict == "plausible":
        want |= {"status": datagram.status, "name_wire": datagram.name_wire}
        ident, flags = struct.unpack_from("!HH", datagram.octets)
        want |= {"id": ident, "flags": flags}
        if datagram.status == "ok":
            want |= {"qtype": datagram.qtype, "qclass": datagram.qclass}
    got: dict[str, Scalar] = msgspec.structs.asdict(answer)
    wrong = compare.field_differences(want, got)
    return Outcome(
        case=name, status=Status.FAILED if wrong else Status.PASSED, expected=verdict,
        differences=tuple(wrong),
    )  # fmt: skip


def read_output(
    text: str, classes: Sequence[str]
) -> tuple[dict[str, int | None], dict[str, dict[str, int]]]:
    """What each send returned, by case, and by how much each class's datagrams moved which class."""
    results: dict[str, int | None] = {}
    read: list[dict[str, int]] = []
    for line in text.splitlines():
        try:
            kind = msgspec.json.decode(line, type=_Kind).type
            if kind == "stats":
                read.append(msgspec.json.decode(line, type=Stats).classes())
            else:
                case = msgspec.json.decode(line, type=Case)
                results[case.case] = case.result
        except msgspec.MsgspecError as error:
            raise HarnessError(f"the driver's line '{line[:200]}' is none: {error}") from error
    if len(read) != len(classes) + 1:
        raise HarnessError(f"the counters were read {len(read)} times, not {len(classes) + 1}")
    moved = {
        name: {key: after[key] - before[key] for key in after}
        for name, before, after in zip(classes, read, read[1:], strict=False)
    }
    return results, moved


class _Kind(msgspec.Struct, frozen=True):
    type: str


def _parsed(context: Context, datagrams: Sequence[Datagram]) -> tuple[dict[str, Parsed], Evidence]:
    """The parser program's answers, by case."""
    asked = [d for d in datagrams if len(d.octets) <= _TEST_RUN_MAX]
    argv = [context.loader, "parse", "--object", context.object]
    if context.detached_btf:
        argv += ["--btf", GUEST_BTF]
    answer = context.guest.run(
        argv, timeout_s=_TIMEOUT_S, stdin="".join(d.octets.hex() + "\n" for d in asked).encode()
    )
    kept = context.keep("parser's answers", "corpus-parse.jsonl", answer.stdout)
    found: dict[str, Parsed] = {}
    for datagram, line in zip(asked, answer.stdout.splitlines(), strict=False):
        try:
            found[datagram.case] = msgspec.json.decode(line, type=Parsed)
        except msgspec.MsgspecError:
            break  # this and what follows count as not answered
    if answer.status not in (0, 1):  # 1: this kernel or object cannot, and that is an answer
        raise HarnessError(
            f"'{' '.join(argv)}' ended with status {answer.status}: "
            f"{answer.error_text.strip()[-300:]}"
        )
    return found, kept


def _judged(
    context: Context,
    hook: Sequence[Outcome],
    program: Sequence[Outcome],
    account: Sequence[str],
    evidence: tuple[Evidence, ...],
) -> CheckResult:
    outcomes = [*hook, *program]
    wrong = [f"{o.case}: {text}" for o in outcomes for text in o.differences] + list(account)
    text = f"hook\n\n{compare.table(hook)}\nparser program\n\n{compare.table(program)}"
    text += "".join(f"\n{line}" for line in account)
    kept = context.keep("every datagram", "corpus.txt", text.encode())
    passed = sum(outcome.status is Status.PASSED for outcome in outcomes)
    figure = Figure(name="answers equal", value=float(passed), unit="1")
    if wrong:
        return observer.differs(
            CHECK.name, wrong, figures=(figure,), evidence=(kept, *evidence),
            remedy="the table of datagrams says what was expected of each",
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=(figure,), evidence=(kept, *evidence),
        summary=f"{len(hook)} datagrams by the hook, "
        f"{sum(o.status is Status.PASSED for o in program)} by the parser program",
    )  # fmt: skip


def _word(text: str) -> str:
    return "" if text == "-" else text


def _octets(text: str) -> bytes:
    """ "0a0b*20": two octets, then zeros up to 20."""
    body, star, size = _word(text).partition("*")
    octets = bytes.fromhex(body)
    return octets.ljust(int(size), b"\0") if star else octets


CHECK = Check(
    name="corpus", question="Is each datagram of the corpus read as the reference reads it?",
    ask=_ask, estimate_s=2.5, needs=(Need.LOADER, Need.DRIVER, Need.CORPUS), thorough=True,
)  # fmt: skip
