# SPDX-License-Identifier: Apache-2.0
"""The corpus of hostile and honest datagrams; ``python -m tests.bpf.corpus`` rewrites it.

A line of ``bpf/corpus.txt``: case, class, status, qtype, qclass, name and datagram in
hex, separated by blanks, "-" for none; "hex*N" is filled with zeros up to N octets.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdataclass
import dns.rdatatype

from tests.bpf import reference

PATH = Path(__file__).resolve().parents[2] / "bpf" / "corpus.txt"
_TYPE_A = b"\0\1\0\1"
_MAX_LABELS = [b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61]


def _header(
    flags: int = 0x0100, *, qd: int = 1, an: int = 0, ns: int = 0, ar: int = 0, ident: int = 0
) -> bytes:
    return struct.pack("!HHHHHH", ident, flags, qd, an, ns, ar)


def _wire(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels)


def _question(*labels: bytes) -> bytes:
    return _header() + _wire(*labels) + b"\0" + _TYPE_A


def _padded(datagram: bytes, size: int) -> bytes:
    return datagram + bytes(size - len(datagram))


def _names() -> Iterator[tuple[str, bytes]]:
    yield "root", _question()
    yield "one_octet", _question(b"a")
    yield "label_63", _question(b"x" * 63, b"test")
    yield "label_64", _header() + b"\x40" + b"x" * 64 + b"\0" + _TYPE_A
    yield "label_type_80", _header() + b"\3foo\x80\0" + _TYPE_A
    yield "label_type_bf", _header() + b"\xbf\0" + _TYPE_A
    yield "labels_127", _question(*[b"z"] * 127)
    yield "labels_128", _question(*[b"z"] * 128)
    yield "name_253", _question(*_MAX_LABELS[:3], b"d" * 59)
    yield "name_254", _question(*_MAX_LABELS[:3], b"d" * 60)
    yield "name_255", _question(*_MAX_LABELS)
    yield "name_256", _question(*_MAX_LABELS[:3], b"d" * 62)
    yield "name_257", _question(*_MAX_LABELS[:3], b"d" * 63)
    yield "name_endless", _header() + _wire(*[b"e" * 63] * 7)
    yield "octet_00", _question(b"nul\0nul", b"test")
    yield "octet_dot", _question(b"dot.dot", b"test")
    yield "octet_backslash", _question(b"back\\slash", b"test")
    yield "octet_space", _question(b"sp ace", b"test")
    yield "octets_specials", _question(b'"();@$', b"test")
    yield "octets_7f_ff", _question(bytes(range(0x7F, 0x7F + 60)), bytes(range(0xC0, 0x100))[:63])
    yield "octets_01_3f", _question(bytes(range(1, 0x40)))
    yield "mixed_case", _question(b"wWw", b"eXaMpLe", b"CoM")
    yield "punycode", _question(b"xn--bcher-kva", b"example")
    yield "underscores", _question(b"_sip", b"_tcp", b"example", b"com")
    nibbles = [b"%x" % (n % 16) for n in range(32)]
    yield "ip6_arpa", _question(*nibbles, b"ip6", b"arpa")
    yield "in_addr_arpa", _question(b"1", b"0", b"0", b"127", b"in-addr", b"arpa")


def _pointers() -> Iterator[tuple[str, bytes]]:
    yield "pointer_self", _header() + b"\xc0\x0c" + _TYPE_A
    yield "pointer_forward", _header() + b"\xc0\x20" + _TYPE_A + bytes(32)
    yield "pointer_header", _header() + b"\xc0\x00" + _TYPE_A
    yield "pointer_after_label", _header() + b"\3foo\xc0\x0c" + _TYPE_A
    yield "pointer_chain", _header() + b"\3foo\xc0\x12\xc0\x14\0" + _TYPE_A
    yield "pointer_last_octet", _header() + b"\3foo" + b"\xc0"
    yield "pointer_ff", _header() + b"\xff\xff" + _TYPE_A
    yield "pointer_at_255", _header() + _wire(*_MAX_LABELS) + b"\xc0\x0c" + _TYPE_A


def _cuts() -> Iterator[tuple[str, bytes]]:
    whole = _question(b"foo", b"test")
    for size in (0, 1, 11, 12, 13, 16, 17, 18, 20, 21, 22, 23, 24, 25):
        yield f"cut_{size}", whole[:size]
    yield "label_beyond_end", _header() + b"\x3fshort" + _TYPE_A
    yield "label_ends_at_end", _header() + b"\x08endsthis"
    yield "name_ends_at_end", _header() + b"\x07endsnow\0"
    yield "trailing_garbage", whole + b"\xde\xad\xbe\xef" * 8


def _headers() -> Iterator[tuple[str, bytes]]:
    tail = b"\3foo\4test\0" + _TYPE_A
    yield "qdcount_0", _header(qd=0) + tail
    yield "qdcount_0_cookie", _header(qd=0, ar=1) + b"\0\0\x29\x04\xd0" + bytes(6)
    yield "qdcount_2", _header(qd=2) + tail + b"\3bar\4test\0\0\x1c\0\1"
    yield "qdcount_3_of_2", _header(qd=3) + tail + b"\3bar\4test\0\0\x1c\0\1"
    yield "qdcount_65535", _header(qd=65535) + tail
    yield "qdcount_1_no_octets", _header()
    yield "ancount_65535", _header(an=65535) + tail
    yield "all_zero_12", bytes(12)
    yield "all_zero_40", bytes(40)
    yield "all_ones_40", b"\xff" * 40
    yield "response", _header(0x8180, an=1) + tail + b"\xc0\x0c" + _TYPE_A + bytes(10)
    yield "response_empty_refused", _header(0x8185, qd=0)
    yield "response_truncated", _header(0x8380, an=40) + tail
    yield "query_tc_counts", _header(0x0300, an=40) + tail
    for opcode in range(16):
        yield f"opcode_{opcode}", _header(opcode << 11) + tail
    yield "z_bit", _header(0x0140) + tail
    yield "ad_cd_bits", _header(0x0130) + tail
    yield "rcode_in_query", _header(0x0105) + tail
    yield "mdns_qu", _header(0) + b"\3foo\5local\0" + b"\0\x0c\x80\1"
    yield "class_any", _header() + b"\3foo\4test\0" + b"\0\xff\0\xff"
    yield "type_65535", _header() + b"\3foo\4test\0" + b"\xff\xff\0\1"
    yield "tcp_prefix", b"\0\x1a" + _header(ident=0x1234) + tail
    yield "ntp", b"\x23\0\x06\xec" + bytes(44)
    yield "ssdp", b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n"


def _sizes() -> Iterator[tuple[str, bytes]]:
    whole = _question(b"size", b"test")
    for size in (511, 512, 513, 1232, 4096, 65507):
        yield f"size_{size}", _padded(whole, size)
    message = dns.message.make_query(
        "padded.test",
        "AAAA",
        use_edns=0,
        payload=1232,
        pad=468,
        options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(range(8)))],
    )
    message.id = 0
    yield "edns_cookie_padding", message.to_wire()
    update = dns.message.Message(id=0)
    update.set_opcode(dns.opcode.UPDATE)
    zone = dns.name.from_text("zone.test.")
    update.find_rrset(update.question, zone, dns.rdataclass.IN, dns.rdatatype.SOA, create=True)
    yield "update", update.to_wire()


def datagrams() -> list[tuple[str, bytes]]:
    """Case and datagram, each with an id of its own where it has room for one."""
    numbered = []
    for number, (case, wire) in enumerate(
        [*_names(), *_pointers(), *_cuts(), *_headers(), *_sizes()]
    ):
        keep = case.startswith(("all_", "ntp", "ssdp", "tcp_")) or len(wire) < 2
        ident = struct.pack("!H", 0x5000 + number)
        numbered.append((case, wire if keep else ident + wire[2:]))
    return numbered


def _hex(wire: bytes) -> str:
    body = wire.rstrip(b"\0")
    if len(wire) - len(body) < 32:
        return wire.hex() or "-"
    return f"{body.hex()}*{len(wire)}"


def line(case: str, wire: bytes) -> str:
    told = reference.answer(wire)
    if told.status is None:
        return f"{case} {told.verdict} - - - - {_hex(wire)}"
    ok = told.status is reference.Status.OK
    kind = f"{told.qtype} {told.qclass}" if ok else "- -"
    return f"{case} event {told.status} {kind} {told.name_wire or '-'} {_hex(wire)}"


def text() -> str:
    """The whole file."""
    lines = [
        "# SPDX-License-Identifier: GPL-2.0-only",
        "# Made by `python -m tests.bpf.corpus`; the format is in bpf/README.md.",
        *(line(case, wire) for case, wire in datagrams()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
