# SPDX-License-Identifier: Apache-2.0
"""Damage to inputs, and everything that reads them: used by the fuzz test and at length by hand.

python -m tests.btf.mutate 1000000 [seed]
"""

from __future__ import annotations

import random
import struct
import sys
import time

from harness import bpfobject
from harness.btf import BpfObject, Btf, BtfError, BtfExt, Kind, Plan
from harness.btf.access import audit
from harness.btf.kernel import KernelView
from harness.btf.verdict import Judge
from tests.btf import cases

_EDGES = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A copy with a few bytes, words or stretches changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        at = rng.randrange(len(out)) if out else 0
        how = rng.randrange(8)
        if how < 3 and len(out) >= 4:
            word = rng.choice(_EDGES) if rng.random() < 0.7 else rng.getrandbits(32)
            struct.pack_into("<I", out, min(at // 4 * 4, len(out) - 4), word)
        elif how < 5 and out:
            out[at] = rng.getrandbits(8)
        elif how == 5:
            del out[at : at + rng.randrange(1, 64)]
        elif how == 6:
            out[at:at] = out[: rng.randrange(1, 32)]
        else:
            del out[at:]
    return bytes(out)


def read_btf(data: bytes) -> None:
    """Everything a BTF is asked; BtfError is the only way out."""
    btf = Btf.parse(data)
    names = btf.names
    for type_id in range(min(btf.type_count, 64)):
        one = btf.type(type_id)
        btf.try_size(type_id)
        btf.ids_of_essential(one.name.encode())
        if one.kind in (Kind.STRUCT, Kind.UNION):
            btf.members(type_id)
        elif one.kind in (Kind.ENUM, Kind.ENUM64):
            btf.enumerators(type_id)
        elif one.kind is Kind.FUNC_PROTO:
            btf.parameters(type_id)
    assert len(names.ids) <= btf.type_count


def read_object(data: bytes, target: Btf) -> None:
    """Everything an object is asked."""
    obj = BpfObject.parse(data)
    bpfobject.to_json(bpfobject.facts(obj))
    plan = Plan(obj)
    view = KernelView(name="k", btf=target)
    Judge(plan).judge(view, plan.resolve(target))
    audit(obj)


def run(count: int, seed: int = 0) -> tuple[int, int]:
    """Feed `count` damaged inputs; (accepted, refused). Anything but a BtfError escapes."""
    rng = random.Random(seed)
    accepted = refused = 0
    while accepted + refused < count:
        case = cases.make(rng.randrange(1 << 30), objects=4)
        target = Btf.parse(case.target)
        sections = BpfObject.parse(case.objects[0]).elf
        ext = next(one.data for one in sections.sections if one.name == ".BTF.ext")
        inputs = [case.target, ext, *case.objects]
        for _ in range(min(200, count - accepted - refused)):
            number = rng.choice((0, 0, 0, 0, 0, 1, 1, 1, 1, rng.randrange(2, len(inputs))))
            data = damaged(rng, inputs[number])
            try:
                if number == 0:
                    read_btf(data)
                elif number == 1:
                    BtfExt.parse(data, target)
                else:
                    read_object(data, target)
                accepted += 1
            except BtfError:
                refused += 1
            except Exception:
                sys.stderr.write(f"seed {seed}: {data.hex()}\n")
                raise
    return accepted, refused


def main() -> None:
    """Run from the command line."""
    count = int(sys.argv[1])
    start = time.monotonic()
    accepted, refused = run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    rate = count / (time.monotonic() - start)
    sys.stdout.write(f"{count} inputs: {accepted} accepted, {refused} refused, {rate:.0f}/s\n")


if __name__ == "__main__":
    main()
