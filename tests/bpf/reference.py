# SPDX-License-Identifier: Apache-2.0
"""What the observer must say of a datagram, told by dnspython and bpf/README.md alone.

Nothing here was taken from ``bpf/dns_parse.h``: bounds come from dnspython's wire
parser, limits of labels and names from ``dns.name.Name``, the text form from its
``to_text``.
"""

from dataclasses import dataclass
from enum import StrEnum

import dns.exception
import dns.name
import dns.opcode
import dns.wire

CAPTURED_MAX = 512
HEADER_LEN = 12


class Verdict(StrEnum):
    PLAUSIBLE = "plausible"
    NOT_DNS = "not_dns"
    MALFORMED = "malformed"


class Status(StrEnum):
    OK = "ok"
    POINTER = "pointer"
    TRUNCATED = "truncated"
    BAD_LABEL = "bad_label"
    TOO_LONG = "too_long"
    NO_QUESTION = "no_question"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The verdict, and for a plausible datagram what its first question is."""

    verdict: Verdict
    status: Status | None = None
    name_wire: str = ""  # hex of the accepted labels
    name: str | None = None  # presentation form, of complete names only
    qtype: int = 0
    qclass: int = 0


def _header_verdict(wire: bytes) -> Verdict:
    if len(wire) < HEADER_LEN:
        return Verdict.NOT_DNS
    parser = dns.wire.Parser(wire)
    _, flags, questions, answers, authorities, additional = parser.get_struct("!HHHHHH")
    opcode, response, truncated = flags >> 11 & 15, bool(flags & 0x8000), bool(flags & 0x0200)
    records = answers + authorities + additional
    if opcode not in {0, 1, 2, 4, 5, 6} or flags & 0x0040:
        return Verdict.NOT_DNS
    if not response and (flags & 15 or (opcode == dns.opcode.QUERY and questions + records == 0)):
        return Verdict.NOT_DNS
    smallest = questions * len(b"\0\0\1\0\1")
    if not (response and truncated):
        smallest += records * len(b"\0\0\1\0\1\0\0\0\0\0\0")
    return Verdict.MALFORMED if smallest > len(wire) - HEADER_LEN else Verdict.PLAUSIBLE


def _walk(captured: bytes) -> tuple[Status, list[bytes]]:
    """Labels in front of what ends the name; the root label is b""."""
    parser = dns.wire.Parser(captured, HEADER_LEN)
    labels: list[bytes] = []
    while True:
        try:
            length = parser.get_uint8()
        except dns.exception.FormError:
            return Status.TRUNCATED, labels
        if length == 0:
            return Status.OK, [*labels, b""]
        if length >= 192:
            return Status.POINTER, labels
        if length >= 64:
            return Status.BAD_LABEL, labels
        try:
            dns.name.Name([*labels, b"x" * length, b""])
        except dns.name.NameTooLong:
            return Status.TOO_LONG, labels
        try:
            labels.append(parser.get_bytes(length))
        except dns.exception.FormError:
            return Status.TRUNCATED, labels


def answer(wire: bytes) -> Answer:
    """The first question of the datagram ``wire``."""
    verdict = _header_verdict(wire)
    if verdict is not Verdict.PLAUSIBLE:
        return Answer(verdict=verdict)
    captured = wire[:CAPTURED_MAX]
    if captured[4:6] == b"\0\0":
        return Answer(verdict=verdict, status=Status.NO_QUESTION)
    status, labels = _walk(captured)
    name_wire = b"".join(bytes([len(label)]) + label for label in labels)
    if status is not Status.OK:
        return Answer(verdict=verdict, status=status, name_wire=name_wire.hex())
    parser = dns.wire.Parser(captured, HEADER_LEN + len(name_wire))
    try:
        qtype, qclass = parser.get_struct("!HH")
    except dns.exception.FormError:
        return Answer(verdict=verdict, status=Status.TRUNCATED, name_wire=name_wire.hex())
    return Answer(
        verdict=verdict,
        status=status,
        name_wire=name_wire.hex(),
        name=dns.name.Name(labels).to_text(),
        qtype=qtype,
        qclass=qclass,
    )


def dnspython_reads_it(wire: bytes) -> tuple[str, int] | None:
    """Name in hex and octets of the question's name, by ``dns.name.from_wire`` as it is.

    None when dnspython refuses the name or had to follow a pointer.
    """
    try:
        name, used = dns.name.from_wire(wire[:CAPTURED_MAX], HEADER_LEN)
    except (dns.exception.DNSException, IndexError):
        return None
    octets = name.to_wire()
    if octets is None or len(octets) != used:
        return None
    return octets.hex(), used
