# SPDX-License-Identifier: Apache-2.0
"""Does the subject see a query that really went out, with the name that it really had?

The name is random in each run, so that an object which invents its events cannot pass. The query
is dnsperf's, answered by a real name server: neither is of this project.
"""

from __future__ import annotations

import secrets

from harness.checks import compare, observer
from harness.checks.context import Check, Context, Need
from harness.checks.observer import Event, Observed, Scalar
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_ZONE = "test"  # nsd answers every name under it
# $1: the name to ask for. nsd ends before the observer does, so that no other check meets it.
_EXCHANGE = r"""
nsd -c /etc/nsd/nsd.conf || exit 21
echo "$1 A" >/tmp/query
dnsperf -s 127.0.0.1 -d /tmp/query -n 1 -t 20
kill $(pidof nsd) 2>/dev/null
"""
# Neither server nor client is the subject: an exchange that did not come about is tried again.
# (Seen once, on 6.18 under emulation: dnsperf ended at once, without an answer.)
_ATTEMPTS = 3
_ANSWERED = "Queries completed:    1 "


def _ask(context: Context) -> CheckResult:
    name, seen = _exchange(context, "function")
    for attempt in range(1, _ATTEMPTS):
        if not seen.lived or _answered(seen):
            break
        name, seen = _exchange(context, f"function-{attempt}")
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    if _answered(seen):
        return judged(name, seen)
    said = " ".join((seen.command_output + seen.command_error).split())[-300:]
    return CheckResult(
        check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
        summary=f"no DNS exchange in the guest, {_ATTEMPTS} times: {said}",
        evidence=(
            Evidence(title="dnsperf", text=seen.command_output[-2000:]),
            Evidence(title="errors", text=seen.command_error[-2000:]),
            *seen.evidence,
        ),
    )  # fmt: skip


def _exchange(context: Context, file: str) -> tuple[str, Observed]:
    """The name that was asked for, and what was seen meanwhile."""
    name = f"{secrets.token_hex(8)}.{_ZONE}"
    return name, observer.observe(
        context, ["/bin/sh", "-c", _EXCHANGE, "function", name], name=file
    )


def _answered(seen: Observed) -> bool:
    return " ".join(_ANSWERED.split()) in " ".join(seen.command_output.split())


def judged(name: str, seen: Observed) -> CheckResult:
    """The verdict on one query for `name` from dnsperf to 127.0.0.1 port 53, and its answer."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query: dict[str, Scalar] = {
        "name_wire": wire.hex(), "name": f"{name}.", "status": "ok", "qtype": 1, "qclass": 1,
        "hook": "udp_sendmsg", "family": "inet", "process": "dnsperf", "connected": False,
        "daddr": "127.0.0.1", "dport": 53, "qdcount": 1, "opcode": 0, "rcode": 0,
    }  # fmt: skip
    queries = [event for event in seen.events if event.get("direction") == "query"]
    right = [event for event in queries if event.get("name_wire") == query["name_wire"]]
    figure = Figure(name="events", value=float(len(right)), unit="1")
    wrong = observer.wrong_with(seen) or _wrong(name, query, queries, right)
    if not wrong:
        wrong = "; ".join(_wrong_answer(query, right[0], seen) + compare.own_account(seen.events))
    if wrong:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.BEHAVIOUR, summary=wrong,
            remedy="compare the observer's lines with what was sent", figures=(figure,),
            evidence=seen.evidence,
        )  # fmt: skip
    buffer = seen.ready.buffer if seen.ready else ""
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, summary=f"seen through the {buffer}",
        figures=(figure,), evidence=seen.evidence,
    )  # fmt: skip


def _wrong(name: str, query: dict[str, Scalar], queries: list[Event], right: list[Event]) -> str:
    if not right:
        seen = ", ".join(str(event.get("name")) for event in queries) or "nothing"
        return f"the query for '{name}' was not seen; seen: {seen}"
    if len(right) > 1:
        return f"the one query for '{name}' was seen {len(right)} times"
    if len(queries) > 1:
        others = ", ".join(str(event.get("name")) for event in queries if event not in right)
        return f"queries were seen that nobody sent: {others}"
    return "; ".join(compare.field_differences(query, right[0]))


def _wrong_answer(query: dict[str, Scalar], asked: Event, seen: Observed) -> list[str]:
    """nsd's answer: from port 53 to the port that asked, with the id and the name asked for."""
    answers = [event for event in seen.events if event.get("direction") == "response"]
    if len(answers) != 1:
        return [f"the one answer was seen {len(answers)} times"]
    expected: dict[str, Scalar] = {
        "id": asked.get("id"), "name_wire": query["name_wire"], "qtype": 1, "sport": 53,
        "daddr": "127.0.0.1", "dport": asked.get("sport"), "ancount": 1,
    }  # fmt: skip
    return [f"answer: {text}" for text in compare.field_differences(expected, answers[0])]


CHECK = Check(
    name="function", question="Is a real query seen, once, with its real name?",
    ask=_ask, estimate_s=2.5, needs=(Need.LOADER,),
)  # fmt: skip
