# SPDX-License-Identifier: Apache-2.0
"""Debian's archive through the machine's own apt, in a private root within our cache.

apt verifies each suite's signature (gpgv or sqv, with the distribution's keyring named by
`signed-by`) and every index against it; nothing here ever allows an unsigned one. The machine's
own settings for proxies and certificates stay in force, its sources and trusted keys do not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness import process
from harness.cache import Cache, sha256_of
from harness.errors import HarnessError, UnavailableError, UsageError
from harness.supply.lock import Archive

APT_HELPER = Path("/usr/lib/apt/apt-helper")
DEB_ARCH = {"x86_64": "amd64", "arm64": "arm64"}

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OLD_KEYRING = Path("/usr/share/keyrings/debian-archive-removed-keys.gpg")
_URL = re.compile(r"(?:https?|file|copy)://?/?[^\s\[\]'\"\\]+")
_UPDATE_TIMEOUT_S = 300.0
_DOWNLOAD_TIMEOUT_S = 1800.0
_CHUNK_BYTES = 1 << 20
_MISSING = re.compile(r"\b(?:404|410) |No such file")
_CLUTTER = re.compile(r"Failed to fetch \S+\s+|\s*\[IP: [^]]*\]")
_MAX_STANZA_BYTES = 1 << 20

# The machine's update hooks are none of our business (docker-clean, appstream, apt-file).
_APT_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One suite of one archive, as some server offers it."""

    url: str  # the archive's base, no slash at the end
    archive: Archive
    name: str  # "bookworm-security"
    past: bool  # a snapshot: its validity has run out, its keys may be retired


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A stanza of a Packages index, as far as we need it."""

    name: str
    version: str
    filename: str
    size: int
    sha256: str
    archive: Archive
    suite: str


class MissingFileError(UnavailableError):
    """The server answered, and does not have the file."""


def checked_url(url: str, origin: str) -> str:
    """`url` without its last slash, if it can stand in a sources file."""
    if not _URL.fullmatch(url):
        raise UsageError(f"{origin} is no archive's address: '{url}'")
    return url.rstrip("/")


def keyrings(*, past: bool) -> list[Path]:
    """The keyrings that may sign: KERNEL_MATRIX_DEBIAN_KEYRING or the distribution's."""
    named = os.environ.get("KERNEL_MATRIX_DEBIAN_KEYRING")
    found = [Path(named)] if named else [_KEYRING, *([_OLD_KEYRING] if past else [])]
    present = [path for path in found if path.is_file()]
    if not present or any(re.search(r"[\s,\]]", str(path)) for path in present):
        raise UnavailableError(
            f"no keyring '{found[0]}' to verify Debian's archive with",
            hint="apt-get install debian-archive-keyring",
        )
    return present


def kernel_packages(suite: Suite, arch: str, cache: Cache) -> list[Package]:
    """Every kernel package of a suite, from its verified index."""
    keys = keyrings(past=suite.past)
    identity = "\n".join([suite.url, suite.name, arch, *(f"{k} {sha256_of(k)}" for k in keys)])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    with cache.locked(f"apt-{key}"):
        root = cache.directory("apt", key)
        options = _options(root, suite, arch, keys)
        lists = root / "lists"
        if not (suite.past and _index(options)):
            _update(suite, options, lists)
        index = _index(options)
        if index is None:
            raise UnavailableError(f"'{suite.name}' of {suite.url} has no index for {arch}")
        return list(_stanzas(index, suite))


def download(url: str, target: Path, *, sha256: str, timeout_s: float = 30.0) -> None:
    """Fetch `url` to `target` and verify its sha256.

    timeout_s: how long a server may stay silent. Raises UnavailableError.
    """
    if not APT_HELPER.exists():
        raise UnavailableError("no apt on this machine", hint="name a kernel with --kernel-dir")
    done = process.run(
        [
            APT_HELPER, "download-file", _copied(url), target, f"SHA256:{sha256}",
            "-o", f"Acquire::http::Timeout={timeout_s:g}",
            "-o", f"Acquire::https::Timeout={timeout_s:g}",
            "-o", "Acquire::Retries=1",
        ],
        timeout_s=_DOWNLOAD_TIMEOUT_S, check=False, env=_ENV,
    )  # fmt: skip
    if done.status != 0:
        why = _complaint(done)
        kind = MissingFileError if _MISSING.search(why) else UnavailableError
        raise kind(f"{url}: {why}")
    found = sha256_of(target)
    if found != sha256:
        raise UnavailableError(f"{url}: sha256 is {found}, not {sha256}")


def _copied(url: str) -> str:
    """apt's file: method makes a link to the original, its copy: method a file of our own."""
    return f"copy:{url.removeprefix('file:')}" if url.startswith("file:") else url


def probe(url: str, scratch: Path, *, deadline_s: float) -> str:
    """ "" if `url` can be fetched within the deadline, otherwise why not."""
    try:
        done = process.run(
            [
                APT_HELPER, "download-file", url, scratch,
                "-o", f"Acquire::http::Timeout={deadline_s:g}",
                "-o", f"Acquire::https::Timeout={deadline_s:g}",
                "-o", "Acquire::Retries=0",
            ],
            timeout_s=deadline_s, check=False, env=_ENV,
        )  # fmt: skip
    except process.ProcessTimeoutError:
        return f"no answer within {deadline_s:g} s"
    except process.ProcessError as error:
        return error.message
    finally:
        scratch.unlink(missing_ok=True)
    return "" if done.status == 0 else _complaint(done)


# What apt adds to every failure.
_NOISE = (
    "Download Failed",
    "Some index files failed to download. They have been ignored, or old ones used instead.",
)
_ENV = {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _options(root: Path, suite: Suite, arch: str, keys: list[Path]) -> list[str]:
    """Lay out the private root; the apt options that confine apt to it."""
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    signed = ",".join(str(key) for key in keys)
    # A snapshot's Release was valid for a week after it was made; that it is old is the point.
    past = " check-valid-until=no" if suite.past else ""
    component = "main"
    (root / "sources.list").write_text(
        f"deb [arch={DEB_ARCH[arch]} signed-by={signed} target=Packages{past}] "
        f"{suite.url} {suite.name} {component}\n",
        encoding="utf-8",
    )
    (root / "apt.conf").write_text(_APT_CONFIG, encoding="utf-8")
    settings = {
        "Dir::State": root / "state",
        "Dir::State::Lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowWeakRepositories": "false",
        "Acquire::AllowDowngradeToInsecureRepositories": "false",
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
    }
    return ["-c", str(root / "apt.conf"), *(f"-o{key}={value}" for key, value in settings.items())]


def _update(suite: Suite, options: list[str], lists: Path) -> None:
    if process.which("apt-get") is None:
        raise UnavailableError("no apt on this machine", hint="name a kernel with --kernel-dir")
    try:
        done = process.run(
            ["apt-get", *options, "-oAPT::Update::Error-Mode=any", "update"],
            timeout_s=_UPDATE_TIMEOUT_S, check=False, env=_ENV,
        )  # fmt: skip
    except process.ProcessTimeoutError as error:
        raise UnavailableError(f"'{suite.name}' of {suite.url}: {error.message}") from error
    # Without Error-Mode (apt < 2.3) a suite that failed its verification is only a warning while
    # an older index lies there: trust none then.
    bad = re.search(r"^(?:W|E): .*(?:GPG error|not signed|is no longer signed)", _said(done), re.M)
    if done.status != 0 or bad:
        for path in lists.glob("*_*"):
            path.unlink()
        raise UnavailableError(f"'{suite.name}' of {suite.url}: {_complaint(done)}")


def _index(options: list[str]) -> Path | None:
    """The verified Packages file that apt keeps, compressed as this machine likes it."""
    done = process.run(
        ["apt-get", *options, "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"],
        timeout_s=30, check=False, env=_ENV,
    )  # fmt: skip
    if done.status != 0:  # asked in vain: that is no archive without an index
        raise UnavailableError(f"apt does not say where its indexes are: {_complaint(done)}")
    paths = [Path(line) for line in done.text.splitlines() if line.startswith("/")]
    return next((path for path in paths if path.is_file()), None)


def _stanzas(index: Path, suite: Suite) -> Iterator[Package]:
    """The kernel packages of an index in one pass: sid's has 70 MB, few of its stanzas matter."""
    with _unpacked(index) as stream:
        rest = b""
        while chunk := stream.read(_CHUNK_BYTES):
            *stanzas, rest = (rest + chunk).split(b"\n\n")
            if len(rest) > _MAX_STANZA_BYTES + _CHUNK_BYTES:
                raise HarnessError(f"'{index}' is no package index")
            yield from _kernels_among(stanzas, suite)
        yield from _kernels_among([rest], suite)


def _kernels_among(stanzas: list[bytes], suite: Suite) -> Iterator[Package]:
    for stanza in stanzas:
        if stanza.lstrip(b"\n").startswith((b"Package: linux-image-", b"Package: linux-b")):
            text = stanza.decode(errors="replace")
            fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.+)$", text, re.M))
            try:
                yield Package(
                    name=fields["Package"],
                    version=fields["Version"],
                    filename=fields["Filename"],
                    size=int(fields["Size"]),
                    sha256=fields["SHA256"],
                    archive=suite.archive,
                    suite=suite.name,
                )
            except (KeyError, ValueError):
                continue  # a stanza without a file is nothing one could download


@contextlib.contextmanager
def _unpacked(index: Path) -> Iterator[IO[bytes]]:
    with process.streamed([APT_HELPER, "cat-file", index], env=_ENV) as (stream, child):
        yield stream
        # Read to its end: in a part of an index another kernel is the newest.
        status = child.wait()
        process.raise_if_stopping()
        if status != 0:
            raise HarnessError(
                f"'{index}' cannot be unpacked: apt-helper ended with status {status}",
                hint="remove the file; the next run fetches it again",
            )


def _said(done: process.Completed) -> str:
    return (done.stdout + b"\n" + done.stderr).decode(errors="replace")


def _complaint(done: process.Completed) -> str:
    """apt's own words, shortest form: its errors, else its warnings."""
    lines = [line.strip() for line in _said(done).splitlines()]
    for mark in ("E: ", "W: ", "Err:"):
        found = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        found = [_CLUTTER.sub("", line) for line in found if line not in _NOISE]
        if found:
            return "; ".join(dict.fromkeys(found))[:400]
    return f"apt ended with status {done.status}"
