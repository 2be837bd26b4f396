# SPDX-License-Identifier: Apache-2.0
"""Is what was kept a fair sample of what was sent? Pure: floods and events in, words out.

A flood's datagrams differ in socket, id and name, and its label is drawn for the run, so a hash
of these keeps each by a coin of its own: the observer's sampler is deterministic, the coins are
the label's (and the seed's). Asked is then:

  how many     the count of all, exact binomial interval
  which        counts by socket, CPU (each socket has one), low bits and last digit of the id, and
               tenths of time against chance (chi-square, chances known)
  on their own pairs with the same id in different sockets, and neighbours of a socket: a sampler
               that looks at the id alone keeps the former together, one that counts keeps none
               of the latter. In standard deviations
  together     a question, its retries from the socket and their answers: all or none

A fair sampler is called unfair less than once in 10,000 runs of the check: 4e-5 for the count of
100,000, 5e-6 for each of three smaller ones, 2e-6 for each of six chi-squares (2.6e-6 with the
error of the approximation) and 2e-9 for each of three counts of pairs, if they were normal; their
tails are a little heavier, yet of 13,500 simulated floods, 9,000 of them with our sampler's own
hash, none strayed by 5 deviations. Together 7.1e-5. A sampler that keeps 7 % too many or too few
is caught 999 times in 1,000.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from harness.checks import binomial
from harness.checks.observer import Event
from harness.errors import HarnessError

ERROR_MAIN = 4e-5  # of the count that the summary tells
ERROR_SMALL = 5e-6  # of each count beside it
_ERROR_SPREAD = 2e-6  # of each chi-square
_DEVIATIONS = 6.0  # of a count of pairs
_BLOCKS = 10  # of a flood's time
# The observer may decide on what it saw in windows of so much (bpf/README.md).
WINDOW_S = 0.1
_NAME = re.compile(r"t(\d+)-([0-9a-f]{8})\.([a-z0-9-]+)\.test\.")
MEMBERS = ("ts_ns", "direction", "sport", "dport", "id", "name", "sample_n")


class Flood(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says of a flood (bpf/README.md)."""

    label: str
    attempts: int  # hits of the hook
    threads: int
    duration_us: int

    @property
    def share(self) -> int:
        """Datagrams of each thread."""
        return self.attempts // self.threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A datagram that became an event."""

    thread: int
    number: int  # within its thread, from 0
    port: int  # the client's
    id: int
    weight: int  # for how many it stands
    answer: bool
    at_ns: int


def read_floods(text: str) -> dict[str, Flood]:
    """The driver's lines by label. Raises HarnessError for anything else."""
    floods: dict[str, Flood] = {}
    for line in text.splitlines():
        try:
            flood = msgspec.json.decode(line, type=Flood)
        except msgspec.MsgspecError as error:
            raise HarnessError(f"the driver's line '{line[:200]}' is none: {error}") from error
        floods[flood.label] = flood
    return floods


def by_label(
    events: Iterable[Event], labels: Iterable[str]
) -> tuple[dict[str, list[Kept]], list[str]]:
    """What was kept of each flood, and events that are of none, in words."""
    found: dict[str, list[Kept]] = {label: [] for label in labels}
    strays: list[str] = []
    for event in events:
        answer = event.get("direction") == "response"
        match = _NAME.fullmatch(str(event.get("name")))
        port = event.get("dport" if answer else "sport")
        id_, weight, at_ns = event.get("id"), event.get("sample_n"), event.get("ts_ns")
        if (
            match is None or match[3] not in found or not isinstance(port, int)
            or not isinstance(id_, int) or not isinstance(weight, int) or not isinstance(at_ns, int)
        ):  # fmt: skip
            strays.append(f"an event that nobody sent: {dict(event)}")
            continue
        found[match[3]].append(
            Kept(thread=int(match[1]), number=int(match[2], 16), port=port, id=id_, weight=weight,
                 answer=answer, at_ns=at_ns)
        )  # fmt: skip
    return found, strays


def all_of(flood: Flood, kept: Sequence[Kept], why: str) -> list[str]:
    """Each datagram of a flood once, standing for itself."""
    wrong = _as_sent(flood, kept, weight=1)
    if len(kept) != flood.attempts:
        wrong.append(f"{why}: {len(kept)} of {flood.attempts} kept, not all")
    return wrong


def fair(flood: Flood, kept: Sequence[Kept], n: int, cpus: int) -> list[str]:
    """1 in n of a flood with names of their own; thread t had CPU t modulo `cpus`."""
    p, sockets, share = 1 / n, flood.threads, flood.share
    wrong = _as_sent(flood, kept, weight=n)
    wrong += _count("", flood.attempts, len(kept), p, ERROR_MAIN)
    by_socket = dict.fromkeys(range(sockets), share)
    wrong += _spread("socket", by_socket, Counter(one.thread for one in kept), p)
    by_cpu = Counter({cpu: share * len(range(cpu, sockets, cpus)) for cpu in range(cpus)})
    wrong += _spread("CPU", by_cpu, Counter(one.thread % cpus for one in kept), p)
    of_number: dict[str, Callable[[int], int]] = {
        "low bits of the id": lambda number: number & 15,
        "last digit of the id": lambda number: number % 10,
        "time": lambda number: number * _BLOCKS // share,
    }
    for what, key in of_number.items():
        once = Counter(key(number) for number in range(share))
        sent = {stratum: count * sockets for stratum, count in once.items()}
        wrong += _spread(what, sent, Counter(key(one.number) for one in kept), p)
    wrong += _same_id(kept, sockets, share, p)
    marked = {(one.thread, one.number) for one in kept}
    both = sum((thread, number + 1) in marked for thread, number in marked)
    strays_by = binomial.neighbours(sockets, share, both, p)
    if abs(strays_by) > _DEVIATIONS:
        wrong.append(
            f"datagrams are not kept on their own: {both} pairs sent one after the other were, "
            f"{strays_by:+.1f} standard deviations from chance"
        )
    return wrong


def fair_of_one_name(flood: Flood, kept: Sequence[Kept], n: int) -> list[str]:
    """1 in n of a flood whose names are all the same: socket and id make the difference."""
    p = 1 / n
    wrong = _repeated((one.port, one.id) for one in kept)
    wrong += [
        f"an event that nobody sent: {one}"
        for one in kept if one.id >= flood.share or one.thread or one.number or one.answer
    ]  # fmt: skip
    wrong += _weights(kept, n)
    wrong += _count("questions for one name: ", flood.attempts, len(kept), p, ERROR_SMALL)
    ports = sorted({one.port for one in kept})
    if len(ports) > flood.threads:
        return [*wrong, f"{flood.threads} sockets asked, events tell of {len(ports)}"]
    place = {port: number for number, port in enumerate(ports)}
    seen = Counter(place[one.port] for one in kept)
    sent = dict.fromkeys(range(flood.threads), flood.share)
    wrong += _spread("socket, one name", sent, seen, p)
    return wrong + _same_id(kept, flood.threads, flood.share, p)


def whole(flood: Flood, kept: Sequence[Kept], n: int, retries: int) -> tuple[int, list[str]]:
    """Questions that were kept, of a flood with retries and answers; what was torn apart."""
    wrong = _weights(kept, n)
    groups: dict[tuple[int, int], list[Kept]] = defaultdict(list)
    for one in kept:
        groups[one.thread, one.number].append(one)
    rounds = retries + 1
    questions = flood.attempts // (2 * rounds)
    torn: list[str] = []
    for (thread, number), group in groups.items():
        same = {(one.port, one.id) for one in group}
        answers = sum(one.answer for one in group)
        if thread >= flood.threads or number >= questions or len(same) > 1:
            wrong.append(f"an event that nobody sent: {group[0]}")
        elif (len(group) - answers, answers) != (rounds, rounds):
            torn.append(
                f"of question {number} of socket {thread} {len(group) - answers} of {rounds} sends "
                f"and {answers} of {rounds} answers"
            )
    if torn:
        wrong.append(
            f"{len(torn)} of {len(groups)} questions kept were torn from retries or answers: "
            f"{torn[0]}"
        )
    wrong += _count("questions with retries: ", questions, len(groups), 1 / n, ERROR_SMALL)
    return len(groups), wrong


def as_sent(flood: Flood, kept: Sequence[Kept], n: int) -> list[str]:
    """Events of questions that were sent, once each, that stand for one or for n."""
    wrong = _as_sent(flood, kept, weight=0)
    if odd := sorted({one.weight for one in kept} - {1, n}):
        wrong.append(f"sample_n is {odd[0]} in an event, neither 1 nor {n}")
    return wrong


def above_threshold(flood: Flood, kept: Sequence[Kept], n: int, threshold: int) -> list[str]:
    """Sampling began where the load was above `threshold` a second.

    In each window threshold * WINDOW_S datagrams may come before it is above: these stand for
    themselves. A window is decided on before the hash is looked at, so of the others 1 in n.
    """
    alone = sum(one.weight == 1 for one in kept)
    windows = flood.duration_us / 1e6 / WINDOW_S + 2
    may = int(threshold * WINDOW_S * windows)
    wrong = as_sent(flood, kept, n)
    if alone > may:
        wrong.append(
            f"no sampling above the threshold of {threshold}/s: at "
            f"{rate(flood):.0f}/s {alone} of {flood.attempts} stand for themselves, at most {may} may"
        )
        return wrong
    return wrong + _count(
        "above the threshold: ", flood.attempts - alone, len(kept) - alone, 1 / n, ERROR_SMALL
    )


def rate(flood: Flood) -> float:
    """Datagrams a second."""
    return flood.attempts * 1e6 / max(flood.duration_us, 1)


def _as_sent(flood: Flood, kept: Sequence[Kept], *, weight: int) -> list[str]:
    """Events of questions that were sent, once each. weight 0: whatever they stand for."""
    wrong = _repeated((one.thread, one.number) for one in kept)
    wrong += [
        f"an event that nobody sent: {one}"
        for one in kept
        if one.thread >= flood.threads or one.number >= -(-flood.attempts // flood.threads)
        or one.id != one.number & 0xFFFF or one.answer
    ][:1]  # fmt: skip
    return wrong + (_weights(kept, weight) if weight else [])


def _repeated(keys: Iterable[tuple[int, int]]) -> list[str]:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    return [f"{len(twice)} datagrams were seen more than once, {twice[0]} first"] if twice else []


def _weights(kept: Sequence[Kept], weight: int) -> list[str]:
    odd = [one for one in kept if one.weight != weight]
    return [f"sample_n is {odd[0].weight} in {len(odd)} events, not {weight}"] if odd else []


def _count(what: str, sent: int, kept: int, p: float, error: float) -> list[str]:
    low, high = binomial.interval(sent, p, error)
    if low <= kept <= high:
        return []
    return [
        f"{what}{kept} of {sent} kept, believed are {low} to {high} (1 in {1 / p:g}, {error:g})"
    ]


def _spread(what: str, sent: Mapping[int, int], seen: Mapping[int, int], p: float) -> list[str]:
    kept = [seen.get(key, 0) for key in sent]
    chance = binomial.stray(list(sent.values()), kept, p)
    if chance >= _ERROR_SPREAD:
        return []
    shares = [count / max(total, 1) for count, total in zip(kept, sent.values(), strict=True)]
    return [
        f"kept depends on the {what}: {min(shares):.1%} to {max(shares):.1%} of each, "
        f"chance {chance:.1g}"
    ]


def _same_id(kept: Sequence[Kept], sockets: int, share: int, p: float) -> list[str]:
    """Each of `share` ids was sent by each socket."""
    seen = Counter(one.id for one in kept)
    strays_by = binomial.together([sockets] * share, [seen.get(id_, 0) for id_ in range(share)], p)
    if abs(strays_by) <= _DEVIATIONS:
        return []
    return [
        f"datagrams of different sockets with the same id are not kept on their own: "
        f"{strays_by:+.1f} standard deviations from chance"
    ]
