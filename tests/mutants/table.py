# SPDX-License-Identifier: Apache-2.0
"""Which mutants there are, what is wrong with each, and the check that must say so.

A mutant is a patch against `bpf/`. It is built from its manifest as every subject is, so a patch
may change the manifest too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import build, process
from harness.build import Built
from harness.cache import Cache
from harness.paths import default_manifest
from harness.results import Cause

PATCHES = Path(__file__).parent
_ORIGIN = default_manifest().parent
_BUILT = ("__pycache__", "build", "*.o")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A broken observer."""

    name: str  # of its patch
    does: str  # what it does to its users
    by: tuple[str, ...]  # the check that names it, and others that must see it
    cause: Cause
    says: str  # pattern in the first one's summary
    also: tuple[str, ...] = ()  # checks that ask about the same thing, and may see it
    static: bool = False  # `by` is asked of the object, once, not of each kernel

    @property
    def patch(self) -> Path:
        return PATCHES / f"{self.name}.patch"


_ALL = (
    Mutant(
        name="per_cpu_limiter", does="lets the limit pass once for each CPU",
        by=("rate-limit",), also=("both",), cause=Cause.BEHAVIOUR,
        says=r"\d{4} events in one second, at most 1100 are agreed",
    ),
    Mutant(
        name="lost_remainder", does="delivers a tenth less than the limit: whole events a tick",
        by=("rate-limit",), also=("both",), cause=Cause.BEHAVIOUR,
        # 900 are the most that it lets pass; a machine that stands still makes them fewer. Promised
        # are 990 with two CPUs (xadd) or 2 % and an event less than 1,000 (gcra).
        says=r"\b\d{1,3}\.\d events a second, 9[789]\d\.\d are promised",
    ),
    Mutant(
        name="limiter_before_port", does="lets datagrams that are no DNS use up the limit",
        by=("both",), cause=Cause.BEHAVIOUR,
        says=r"of \d+ (questions it matched|datagrams to other ports it counted) \d+",
    ),
    Mutant(
        name="sampling_after_limiter", does="takes one in ten of what the limit left",
        by=("both",), cause=Cause.BEHAVIOUR, says=r"\d+ questions are in the sample, 1 in 10 are",
    ),
    Mutant(
        name="biased_sampler", does="keeps 10.9 % and says that it were 10 %",
        by=("sampling",), also=("both",), cause=Cause.BEHAVIOUR,
        says=r"1[01]\d{3} of 100000 kept, believed are",
    ),
    Mutant(
        name="early_sampling", does="samples from 620 a second on where 1,000 are agreed",
        by=("sampling",), cause=Cause.BEHAVIOUR,
        says=r"sampled below the threshold of 1000/s, from [67]\d\d/s on",
    ),
    Mutant(
        name="uncounted_overflow", does="loses events and counts them nowhere",
        by=("overflow",), cause=Cause.BEHAVIOUR, says=r"\d{4} hits, but \d{1,3} in all classes",
    ),
    Mutant(
        name="double_count", does="counts a lost event twice",
        by=("overflow",), cause=Cause.BEHAVIOUR, says=r"\d{4} hits, but \d{4} in all classes",
    ),
    Mutant(
        # A kernel before 6.1 warns of a kprobe program with a map that allocates as it runs.
        name="leaked_element", does="keeps a map element of each event for ever",
        by=("leak",), also=("splat",), cause=Cause.LIMIT_EXCEEDED,
        says=r"map seen_events has \d{3},\d{3}( or more)? elements more",
    ),
    Mutant(
        name="wrong_field", does="takes the address from the socket where the call names one",
        by=("function", "sends"), also=("corpus",), cause=Cause.BEHAVIOUR,
        says=r"daddr is '0\.0\.0\.0'",
    ),
    Mutant(
        # What tells datagrams apart by their names cannot believe it either.
        name="constant_name", does="makes up the names",
        by=("function", "sends", "corpus"), also=("sampling", "overflow"), cause=Cause.BEHAVIOUR,
        says=r"was not seen; seen: test\.cluster\.local\.",
    ),
    Mutant(
        name="version_branch", does="asks for the kernel's version instead of what it has",
        by=("core-access",), cause=Cause.CORE_RELOCATION, says=r"LINUX_KERNEL_VERSION", static=True,
    ),
    Mutant(
        name="verifier_blow_up", does="costs the verifier five times as much",
        by=("verifier",), cause=Cause.LIMIT_EXCEEDED,
        says=r"dns_udp4: [2-9]\d,\d{3} processed instructions, the manifest allows 20,000",
    ),
    Mutant(
        name="sixty_megabytes", does="has a map of 60 MiB",
        by=("memory",), cause=Cause.LIMIT_EXCEEDED,
        says=r"6\d\.\d MiB, the manifest allows 50: .*history 60\.0",
    ),
)  # fmt: skip
MUTANTS = {mutant.name: mutant for mutant in _ALL}


def broken(mutant: Mutant, directory: Path, *, origin: Path = _ORIGIN) -> Path:
    """Copy the observer's sources into `directory` and break them; the copy's manifest."""
    copy = directory / mutant.name
    shutil.copytree(origin, copy, ignore=shutil.ignore_patterns(*_BUILT))
    # Told where to stop looking for a repository: inside of one it would skip our files silently.
    process.run(
        ["git", "apply", "--verbose", mutant.patch.resolve()],
        timeout_s=30, cwd=copy, env={"GIT_CEILING_DIRECTORIES": str(directory)},
        hint=f"bring {mutant.patch.name} up to date with bpf/",
    )  # fmt: skip
    return copy / default_manifest().name


def built(mutant: Mutant, directory: Path, cache: Cache) -> Built:
    """Break the observer and build it."""
    return build.from_manifest(broken(mutant, directory), cache, lambda text: None)
