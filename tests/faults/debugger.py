# SPDX-License-Identifier: Apache-2.0
"""A guest whose kernel we may change while it runs, through QEMU's gdb stub.

Debian's kernels have no way to oops or lock up on demand (lkdtm is not built), and guests take no
module. So a test lets a function of the running kernel begin with other instructions: what happens
then is the real kernel's doing, on any kernel, and nobody in the guest has to help.

The protocol: "GDB Remote Serial Protocol", GDB manual, appendix E.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.place import Held, Place
from harness.qemu import Accelerator

_ENDBR64 = "f30f1efa"  # an indirect call may end nowhere else
OOPS = bytes.fromhex(f"{_ENDBR64} 488b042500000000")  # mov 0, %rax
SPIN = bytes.fromhex(f"{_ENDBR64} ebfe")  # jmp .
DEAF = bytes.fromhex(f"{_ENDBR64} fa ebfe")  # cli; jmp .
DEAD = bytes.fromhex(f"{_ENDBR64} fa f4 ebfc")  # cli; hlt; and again
_ANSWER_S = 60.0


class Stub:
    """The other end of a connected gdb stub."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._stream.settimeout(_ANSWER_S)
        self._buffer = b""
        self._send("?")
        self._packet()
        self._send("c")  # QEMU stops the guest when a debugger comes

    def patch(self, address: int, code: bytes) -> None:
        """Stop the guest, write over its kernel's memory, let it go on."""
        answer = ""
        for _ in range(100):
            self._stream.sendall(b"\x03")
            while not self._packet().startswith("T"):
                pass
            self._send(f"M{address:x},{len(code):x}:{code.hex()}")
            answer = self._packet()
            self._send("c")
            if answer == "OK":
                return
            time.sleep(0.05)  # the CPU was in user space, which may not see the kernel
        raise AssertionError(f"the stub does not write to {address:#x}: {answer}")

    def _send(self, text: str) -> None:
        self._stream.sendall(b"$%s#%02x" % (text.encode(), sum(text.encode()) % 256))

    def _packet(self) -> str:
        while b"#" not in self._buffer[:-2]:
            data = self._stream.recv(4096)
            assert data, "QEMU closed its gdb stub"
            self._buffer += data
        packet, _, rest = self._buffer.partition(b"#")
        self._buffer = rest[2:]
        self._stream.sendall(b"+")
        return packet.rpartition(b"$")[2].decode()


class Debugged:
    """A place whose guests have a debugger; everything else is as the inner place has it."""

    def __init__(self, inner: Place) -> None:
        self._inner = inner
        self.stub: Stub | None = None

    @property
    def name(self) -> str:
        return self._inner.name

    def kernel_path(self, vmlinuz: Path) -> Path:
        return self._inner.kernel_path(vmlinuz)

    @contextlib.contextmanager
    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> Iterator[Held]:
        path = run_dir / "gdb"
        # reconnect: the stub hears only a debugger that comes once it is set up.
        argv = [*qemu_argv, "-gdb", f"unix:{path},reconnect=1"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(os.fspath(path))
            listener.listen(1)
            listener.settimeout(60.0)
            with self._inner.hold(
                argv, run_dir, accelerator=accelerator, memory_mib=memory_mib
            ) as held:
                stream, _ = listener.accept()
                with stream:
                    self.stub = Stub(stream)
                    yield held
