# SPDX-License-Identifier: Apache-2.0
"""Does the subject see a query that really went out, with the name that it really had?

The name is random in each run, so that an object which invents its events cannot pass.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import msgspec

from harness.checks.context import GUEST_BTF, Check, Context
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 60.0
_ZONE = "test"  # nsd answers every name under it
# $1: the name to ask for; the rest: the loader's command. Its own lines go to a file, so that the
# script can wait for "ready" and for the event; each wait has an end, the host has the deadline.
_SCRIPT = r"""
name=$1; shift
out=/tmp/function.jsonl
: >"$out"
wait_for() { n=0; until grep -q "$1" "$out"; do
	n=$((n + 1)); [ $n -lt 200 ] || return 1; kill -0 "$loader" 2>/dev/null || return 1; sleep 0.05
done; }
nsd -c /etc/nsd/nsd.conf 2>/tmp/nsd.err || { cat /tmp/nsd.err >&2; exit 21; }
"$@" >"$out" 2>/tmp/loader.err &
loader=$!
wait_for '"ready"' || { cat /tmp/loader.err >&2; wait "$loader"; echo "loader status $?" >&2; cat "$out"; exit 22; }
echo "$name A" >/tmp/query
dnsperf -s 127.0.0.1 -d /tmp/query -n 1 -t 3 >/tmp/dnsperf.out 2>&1
grep -q 'Queries completed: *1 ' /tmp/dnsperf.out || { cat /tmp/dnsperf.out >&2; kill "$loader"; exit 23; }
wait_for "$name"
kill -TERM "$loader"; wait "$loader"; status=$?
kill "$(pidof nsd)" 2>/dev/null
cat "$out"; cat /tmp/loader.err >&2
[ $status -eq 0 ] || { echo "loader status $status" >&2; exit 24; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line of the loader, as far as this check reads it."""

    type: str
    direction: str = ""
    name: str | None = None
    qtype: int | None = None
    dport: int = 0
    daddr: str = ""
    status: str | None = None
    buffer: str = ""


def _ask(context: Context) -> CheckResult:
    name = f"{secrets.token_hex(8)}.{_ZONE}"
    loader = [context.loader, "run", "--object", context.object]
    if context.detached_btf:
        loader += ["--btf", GUEST_BTF]
    for word in context.subject.rodata_words:
        loader += ["--set", word]
    # One query must be seen: sampling, which may drop it, is another check's question.
    loader += ["--set", "sample_n=1"]
    answer = context.guest.run(
        ["/bin/sh", "-c", _SCRIPT, "function", name, *loader], timeout_s=_TIMEOUT_S
    )
    kept = context.keep("loader's lines", "function.jsonl", answer.stdout)
    said = Evidence(title="loader", text=answer.error_text[-2000:])
    if answer.status in (21, 23):
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
            summary=f"no DNS exchange in the guest: {answer.error_text.strip()[-300:]}",
            evidence=(said, kept),
        )  # fmt: skip
    if answer.status != 0:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.BEHAVIOUR,
            summary=f"the loader did not run: {answer.error_text.strip()[-300:]}",
            remedy="run it by hand: inv shell --kernel NAME", evidence=(said, kept),
        )  # fmt: skip
    return _judged(name, _lines(answer.text), (said, kept))


def _judged(name: str, lines: list[_Line], evidence: tuple[Evidence, ...]) -> CheckResult:
    queries = [line for line in lines if line.type == "event" and line.direction == "query"]
    right = [line for line in queries if _normal(line.name) == name]
    buffer = next((line.buffer for line in lines if line.type == "ready"), "")
    figure = Figure(name="events", value=float(len(right)), unit="1")
    wrong = ""
    if not right:
        seen = ", ".join(str(line.name) for line in queries) or "nothing"
        wrong = f"the query for '{name}' was not seen; seen: {seen}"
    elif len(right) > 1:
        wrong = f"the one query for '{name}' was seen {len(right)} times"
    elif len(queries) > 1:
        others = ", ".join(str(line.name) for line in queries if line not in right)
        wrong = f"queries were seen that nobody sent: {others}"
    elif (right[0].qtype, right[0].dport, right[0].daddr) != (1, 53, "127.0.0.1"):
        got = right[0]
        wrong = f"type {got.qtype} to {got.daddr} port {got.dport}, not type 1 to 127.0.0.1 port 53"
    if wrong:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.BEHAVIOUR, summary=wrong,
            remedy="compare the loader's lines with what was sent", evidence=evidence,
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, summary=f"seen through the {buffer}",
        figures=(figure,), evidence=evidence,
    )  # fmt: skip


def _lines(text: str) -> list[_Line]:
    found: list[_Line] = []
    for line in text.splitlines():
        try:
            found.append(msgspec.json.decode(line, type=_Line))
        except msgspec.MsgspecError:
            continue  # what is missing or torn is missed below, where it decides
    return found


def _normal(name: str | None) -> str:
    return (name or "").rstrip(".").lower()


CHECK = Check(
    name="function", question="Is a real query seen, once, with its real name?",
    ask=_ask, estimate_s=2.5, needs_loader=True,
)  # fmt: skip
