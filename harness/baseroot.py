# SPDX-License-Identifier: Apache-2.0
"""The base root: a small Debian with QEMU and everything a guest or a kernel container runs.

Made once with mmdebstrap from the Debian mirror of the machine, without touching the machine's own
packages: both backends run the same QEMU, every guest the same programs, whatever the host is.

Guests of another architecture have a base root of their own, with the QEMU that emulates it, and two
trees of that architecture beside it: the programs that go into guests, and what ours are compiled
against. Nothing of those trees is ever run here.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import closure, initramfs, process, system, toolchain
from harness.cache import Cache
from harness.errors import HarnessError
from harness.qemu import PROGRAM, Arch
from harness.supply import apt, mirror
from harness.toolchain import Toolchain

logger = logging.getLogger(__name__)

# trixie: its QEMU 10 booted 40 of 40 where bookworm's 7.2 lost one 6.12 in ten (design.md).
SUITE = "trixie"
NATIVE = Arch.X86_64  # what a base root's own programs are for
_QEMU_PACKAGE = {Arch.X86_64: "qemu-system-x86", Arch.ARM64: "qemu-system-arm"}
_GUEST_PACKAGES = (
    "busybox-static", "qemu-guest-agent",                        # any guest
    "dnsperf", "nsd",                                            # traffic checks
    "bash",                                                      # scripts carried into it
)  # fmt: skip
# The container's own side.
_HOST_PACKAGES = ("python3-minimal", "libpython3-stdlib", "cpio", "coreutils", "util-linux")
_OTHER_QEMUS = {
    Arch.X86_64: ("usr/bin/qemu-system-i386", "usr/bin/qemu-system-x86_64-microvm"),
    Arch.ARM64: ("usr/bin/qemu-system-arm", "usr/bin/qemu-system-armel", "usr/bin/qemu-system-armhf"),
}  # fmt: skip
_REMOVED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/zoneinfo",
    "var/cache", "var/lib/apt", "dev",
)  # fmt: skip
# What static programs of another architecture are compiled against. bookworm: trixie's static
# libelf (0.192) wants symbols of a library that no package has.
_SYSROOT_SUITE = "bookworm"
_SYSROOT_PACKAGES = ("libc6-dev", "libgcc-12-dev", "libbpf-dev", "libelf-dev", "zlib1g-dev")
_TRIPLET = {Arch.X86_64: "x86_64-linux-gnu", Arch.ARM64: "aarch64-linux-gnu"}
_DEB_ARCH = {Arch.X86_64: "amd64", Arch.ARM64: "arm64"}
_RECIPE = 4  # raise it when what is made below changes
_TIMEOUT_S = 900.0
# The core archive has what every guest needs; unpacking the rest costs 0.6 s of CPU under TCG.
_CORE_PROGRAMS = ("/usr/sbin/qemu-ga",)
_MORE_PROGRAMS = ("/usr/bin/dnsperf", "/usr/sbin/nsd", "/bin/bash")
# Where scripts look for their interpreter, and what is really there.
_GUEST_LINKS = {"/usr/bin/env": "/bin/busybox", "/usr/bin/bash": "/bin/bash"}
# Paths of a merged /usr (base-files makes them, which is not among our packages).
_MERGED = ("bin", "sbin", "lib", "lib64")
# Our own programs of the guest: source beside this file -> where it goes.
_CORE_SOURCES = {"init.c": "/init"}
_MORE_SOURCES = {"command.c": "/usr/bin/km-command"}
_NSD_CONF = """\
server:
  ip-address: 127.0.0.1
  ip-address: ::1
  port: 53
  server-count: 1
  username: ""
  chroot: ""
  pidfile: ""
  zonesdir: "/etc/nsd"
  database: ""
  xfrdfile: "/run/xfrd.state"
  zonelistfile: "/run/zone.list"
  verbosity: 0
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "test"
  zonefile: "test.zone"
"""
# Every name under test. answers, so that a random name is a known query.
_ZONE = """\
$TTL 60
@ IN SOA ns.test. host.test. 1 3600 600 86400 60
@ IN NS ns.test.
* IN A 127.0.0.1
* IN AAAA ::1
* IN TXT "kernel-matrix"
"""
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = "root:x:0:\nnogroup:x:65534:\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRoot:
    """The unpacked root and what it holds."""

    directory: Path
    arch: Arch = NATIVE  # of the guests
    guest: Path | None = None  # the tree of the guests' programs; None: this one
    sysroot: Path | None = None  # to compile for them; None: this machine

    @property
    def guest_tree(self) -> Path:
        return self.guest or self.directory

    @property
    def toolchain(self) -> Toolchain:
        """What compiles for its guests."""
        if self.sysroot is None:
            return toolchain.NATIVE
        return Toolchain(
            arch=self.arch, libraries="-lbpf -lelf -lz", identity=self.sysroot.name,
            compiler=("clang", f"--target={_TRIPLET[self.arch]}", f"--sysroot={self.sysroot}",
                      "-fuse-ld=lld"),
        )  # fmt: skip

    @property
    def qemu_prefix(self) -> tuple[str, ...]:
        """QEMU of this root, run on the host: through the root's own loader and libraries."""
        libraries = self.directory / "usr/lib/x86_64-linux-gnu"
        return (
            str(self.directory / "usr/lib64/ld-linux-x86-64.so.2"),
            "--library-path", f"{libraries}:{libraries}/pulseaudio",
            "--argv0", PROGRAM[self.arch],
            str(self.directory / "usr/bin" / PROGRAM[self.arch]),
            "-L", str(self.directory / "usr/share/qemu"),
            "-L", str(self.directory / "usr/share/seabios"),
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return {"QEMU_MODULE_DIR": str(self.directory / "usr/lib/x86_64-linux-gnu/qemu")}


def obtain(cache: Cache, on_progress: Callable[[str], None], arch: Arch = NATIVE) -> BaseRoot:
    """The base root for guests of `arch`, made if the cache does not have it (20-40 s, 60 MB of
    downloads; for another architecture than this machine's three times that)."""
    guests = _GUEST_PACKAGES if arch is NATIVE else ("busybox-static",)  # to list its applets
    packages = (_QEMU_PACKAGE[arch], *guests, *_HOST_PACKAGES)
    removed = (*_OTHER_QEMUS[arch], *_REMOVED)

    def fill(directory: Path) -> None:
        on_progress("making the base root (QEMU and the guest's programs)")
        _mmdebstrap(directory, SUITE, packages, removed, NATIVE)

    key = _digest(repr((SUITE, packages, removed, _RECIPE)))
    directory = cache.entry("base-root", key, fill)
    if arch is NATIVE:
        return BaseRoot(directory=directory)
    if process.which("ld.lld") is None:
        raise HarnessError(
            f"no program 'ld.lld', which links the programs of {arch} guests",
            hint=system.install_command(["lld"]),
        )
    return BaseRoot(
        directory=directory, arch=arch,
        guest=_tree("guest-root", arch, SUITE, _GUEST_PACKAGES, cache, on_progress),
        sysroot=_tree("sysroot", arch, _SYSROOT_SUITE, _SYSROOT_PACKAGES, cache, on_progress),
    )  # fmt: skip


def _tree(
    kind: str,
    arch: Arch,
    suite: str,
    packages: tuple[str, ...],
    cache: Cache,
    on_progress: Callable[[str], None],
) -> Path:
    """Packages of another architecture, unpacked."""

    def fill(directory: Path) -> None:
        on_progress(f"unpacking {suite}'s {arch} packages ({', '.join(packages[:2])}, …)")
        _mmdebstrap(directory, suite, packages, _REMOVED, arch)

    return cache.entry(kind, _digest(repr((arch, suite, packages, _REMOVED, _RECIPE))), fill)


def tools(cache: Cache, on_progress: Callable[[str], None], arch: Arch) -> Toolchain:
    """What compiles for guests of `arch`; for another architecture its base root is made."""
    return toolchain.NATIVE if arch is NATIVE else obtain(cache, on_progress, arch).toolchain


def guest_archive(
    root: BaseRoot, cache: Cache, on_progress: Callable[[str], None], *, full: bool = True
) -> Path:
    """The initramfs that a guest starts from: init, busybox, qemu-ga; if full, bash, dnsperf, nsd."""
    sources = Path(__file__).parent / "guestbin"
    programs = _CORE_PROGRAMS + (_MORE_PROGRAMS if full else ())
    own = _CORE_SOURCES | (_MORE_SOURCES if full else {})
    made_of = (root.directory, root.guest, root.sysroot)
    names = tuple(path.name for path in made_of if path is not None)
    key = _digest(
        repr((*names, programs, _GUEST_LINKS, _NSD_CONF, _ZONE, _RECIPE))
        + "".join((sources / name).read_text(encoding="utf-8") for name in own)
    )

    def fill(directory: Path) -> None:
        on_progress("packing the guest's base archive")
        with tempfile.TemporaryDirectory(prefix="guest-", dir=directory) as name:
            _pack_guest(root, programs, own, Path(name), directory / "base.cpio")

    return cache.entry("guest", key, fill) / "base.cpio"


def _mmdebstrap(
    directory: Path, suite: str, packages: Collection[str], removed: Collection[str], arch: Arch
) -> None:
    source = mirror.find_mirror()
    tree = directory / ".tree"  # no name that a root itself has
    process.run(
        ["mmdebstrap", "--quiet", "--variant=extract",
         *([] if arch is NATIVE else [f"--architectures={_DEB_ARCH[arch]}"]),
         *(f"--keyring={keyring}" for keyring in apt.keyrings(past=False)),
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
         "--dpkgopt=path-exclude=/usr/share/locale/*",
         "--aptopt=Acquire::Retries 3",
         f"--include={','.join(packages)}",
         suite, str(tree), f"deb {source.main} {suite} main"],
        timeout_s=_TIMEOUT_S,
        hint="inv doctor tells what is missing; KERNEL_MATRIX_DEBIAN_MIRROR names another mirror",
    )  # fmt: skip
    for name in removed:
        path = tree / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for child in list(tree.iterdir()):
        child.rename(directory / child.name)
    tree.rmdir()
    for name in _MERGED:
        if not (directory / name).exists():
            (directory / name).symlink_to(f"usr/{name}")


def _pack_guest(
    root: BaseRoot,
    programs: tuple[str, ...],
    own: Mapping[str, str],
    work: Path,
    archive: Path,
) -> None:
    sources = Path(__file__).parent / "guestbin"
    files = closure.closure(root.guest_tree, programs)
    for source, inside in own.items():
        program = work / Path(source).stem
        process.run(
            [*root.toolchain.compiler, "-static", "-O2", "-s", "-Wall",
             "-o", program, sources / source], timeout_s=60,
            hint="inv doctor names the compiler's package",
        )  # fmt: skip
        files[inside] = program
    files["/bin/busybox"] = root.guest_tree / "usr/bin/busybox"
    texts = {
        "/etc/nsd/nsd.conf": _NSD_CONF, "/etc/nsd/test.zone": _ZONE,
        "/etc/passwd": _PASSWD, "/etc/group": _GROUP, "/etc/hosts": "127.0.0.1 localhost guest\n",
        "/etc/profile": "PS1='guest# '\n",
    }  # fmt: skip
    for inside, text in texts.items():
        file = work / inside.strip("/").replace("/", "_")
        file.write_text(text, encoding="utf-8")
        files[inside] = file
    for name in ("proc", "sys", "dev", "tmp", "run", "root"):
        empty = work / "dirs" / name
        empty.mkdir(parents=True)
        files[f"/{name}"] = empty
    # This machine's may run here; Debian builds them alike for every architecture.
    listed = process.run([root.directory / "usr/bin/busybox", "--list"], timeout_s=10)
    applets = listed.text.split()
    links = {f"/bin/{name}": "busybox" for name in applets} | _GUEST_LINKS
    links = {inside: target for inside, target in links.items() if inside not in files}
    initramfs.pack(files, archive, links=links)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def check(root: BaseRoot) -> str:
    """The version line of the root's QEMU; HarnessError when it does not run here."""
    answer = process.run(
        [*root.qemu_prefix, "--version"], timeout_s=20, env=root.environment,
        hint="remove the cache's base-root directory to make it again",
    )  # fmt: skip
    line = answer.text.splitlines()[0] if answer.text else ""
    if "version" not in line:
        raise HarnessError(f"QEMU of '{root.directory}' says '{line}'")
    return line
