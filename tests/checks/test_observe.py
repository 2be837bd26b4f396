# SPDX-License-Identifier: Apache-2.0
"""The script that holds an observer around a command, run by this machine's shell."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import process, subject
from harness.checks import observer
from harness.checks.context import Context
from harness.checks.observer import Observed
from harness.errors import HarnessError
from harness.guest import CommandResult
from harness.objcheck_answers import FeaturesAnswer
from harness.results import Cause, KernelFacts, Verdict

_STATS = (
    '{"type":"stats","hits":0,'
    + ",".join(f'"{name}":0' for name in observer.CLASSES)
    + ',"received":0,"perf_lost":0,"short_records":0}'
)
_READY = '{"type":"ready","buffer":"perf"}'
_HONEST = f"""#!/bin/sh
echo "$@" >&2
trap 'echo '\\''{_STATS}'\\''; exit 0' TERM
echo '{_READY}'
while :; do sleep 0.05; done
"""


class Shell:
    """A guest that is this machine: what is tested is what the shell makes of the script."""

    def __init__(self) -> None:
        self.started: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        self.started.append(tuple(argv))
        done = process.run(argv, timeout_s=timeout_s, check=False, stdin=stdin)
        return CommandResult(
            argv=tuple(argv), status=done.status, stdout=done.stdout, stderr=done.stderr,
            truncated=False, duration_s=0.0,
        )  # fmt: skip

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        raise HarnessError(f"'{path}' was not asked for")

    def start(self, argv: Sequence[str]) -> int:
        raise HarnessError(f"'{argv[0]}' was not asked for")


@pytest.fixture
def observe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observe:
    monkeypatch.setattr(observer, "_GUEST_DIR", str(tmp_path / "observed"))
    monkeypatch.setattr("harness.checks.context.SUBJECT_DIR", str(tmp_path))
    return Observe(tmp_path)


class Observe:
    """Runs `observe` with a loader of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(
        self, loader: str, command: Sequence[str] = ("echo", "sent"), members: Sequence[str] = ()
    ) -> Observed:
        path = self._directory / "loader"
        path.write_text(loader)
        path.chmod(0o755)
        built = subject.bare(self._directory / "any.bpf.o")
        context = Context(
            guest=Shell(), subject=subject.Subject(
                manifest=built.manifest, object=built.object, loader=path
            ),
            kernel=KernelFacts(name="here", series="", arch=""), features=_no_features(), types=None,
            detached_btf=False, emulated=False, evidence_dir=self._directory / "report" / "here",
            report_dir=self._directory / "report",
        )  # fmt: skip
        return observer.observe(context, command, name="any", members=members, timeout_s=60)


def _no_features() -> FeaturesAnswer:
    """`observe` asks for none."""
    return object.__new__(FeaturesAnswer)


def test_the_command_runs_between_ready_and_the_end(observe: Observe) -> None:
    """Its output, the observer's lines and both statuses come back apart."""
    seen = observe(_HONEST)

    assert seen.ready is not None
    assert seen.stats is not None
    assert (seen.command_status, seen.command_output) == (0, "sent\n")
    assert seen.observer_status == 0
    assert observer.wrong_with(seen) == ""
    assert "run --object" in seen.observer_error
    assert "--set sample_n=1 --set rate_limit=0" in seen.observer_error


def test_a_command_s_words_arrive_as_they_are(observe: Observe) -> None:
    """Neither quotes nor blanks nor dollars mean anything on the way."""
    words = ("a b", "$HOME", "'", '"', "*", "")

    seen = observe(_HONEST, ("printf", "[%s]", *words))

    assert seen.command_output == "".join(f"[{word}]" for word in words)


def test_a_command_that_fails_is_told_apart_from_the_observer(observe: Observe) -> None:
    """Its failure is ours; the observer may still have been right."""
    seen = observe(_HONEST, ("sh", "-c", "echo why >&2; exit 7"))

    assert (seen.command_status, seen.observer_status) == (7, 0)
    with pytest.raises(HarnessError, match="the send driver ended with status 7: why"):
        observer.require_command(seen, "send driver")


@pytest.mark.parametrize(
    ("loader", "status"),
    [("echo no BTF >&2\nexit 1\n", 1),
     ("echo no BTF >&2\necho '{\"type\":\"hello\"}'\nexec sleep 60\n", 143)],
    ids=["ends", "says something else"],
)  # fmt: skip
def test_an_observer_that_does_not_get_ready_ends_it_at_once(
    observe: Observe, loader: str, status: int
) -> None:
    """The command is not run: it would tell nothing."""
    seen = observe(f"#!/bin/sh\n{loader}")

    assert (seen.ready, seen.observer_status, seen.command_status) == (None, status, -1)
    assert f"did not start (status {status}): no BTF" in observer.wrong_with(seen)


def test_an_observer_that_ignores_sigterm_is_killed(
    observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails the check within the grace instead of holding the guest to its deadline."""
    monkeypatch.setattr(observer, "_GRACE_S", 1)
    started = time.monotonic()

    seen = observe(f"#!/bin/sh\ntrap '' TERM\necho '{_READY}'\nwhile :; do sleep 0.1; done\n")

    assert seen.observer_status == 137
    assert "had to be killed after SIGTERM" in observer.wrong_with(seen)
    assert observer.failed("any", seen).verdict is Verdict.FAIL
    assert time.monotonic() - started < 30


def test_an_observer_that_is_killed_while_it_writes_tells_nothing(
    observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starved guest did not let it end: that says something of the machine, not of the observer."""
    monkeypatch.setattr(observer, "_GRACE_S", 1)

    seen = observe(
        f"#!/bin/sh\ntrap '' TERM\necho '{_READY}'\n"
        'while :; do echo \'{"type":"event","ts_ns":1}\'; sleep 0.05; done\n'
    )

    assert (seen.observer_status, seen.cut_off, seen.lived) == (137, True, False)
    answer = observer.failed("any", seen)
    assert (answer.verdict, answer.cause) == (Verdict.UNKNOWN, Cause.INFRA)
    assert "killed while it still wrote events" in answer.summary
    assert answer.remedy


def test_an_observer_that_dies_meanwhile_is_its_own_fault(observe: Observe) -> None:
    """What the command says then is no evidence, against the observer or for it."""
    seen = observe(f"#!/bin/sh\necho '{_READY}'\nexit 9\n", ("sh", "-c", "sleep 0.2; exit 3"))

    assert not seen.lived
    assert observer.wrong_with(seen) == "the observer ended with status 9: it said nothing"


def test_the_lines_are_kept_as_evidence(observe: Observe, tmp_path: Path) -> None:
    """A person checks the verdict with what the observer really wrote."""
    seen = observe(_HONEST)

    assert [item.path for item in seen.evidence if item.path] == ["here/any.jsonl"]
    assert (tmp_path / "report" / "here" / "any.jsonl").read_text() == f"{_READY}\n{_STATS}\n"


_LINES = (
    '{"type":"event","ts_ns":5,"name":"a.test.","id":7,"cpu":0}',
    '{"type":"event","ts_ns":6,"name":null,"id":8,"cpu":1}',
    '{"type":"event","name":"id","ts_ns":7,"id":9,"cpu":1}',
    '{"type":"event","ts_ns":8,"name":"quo\\\\\\"te","id":10,"cpu":1}',
)


def test_only_the_members_asked_for_leave_the_guest(observe: Observe) -> None:
    """Ten thousand whole events take seconds to travel; one in another shape loses nothing."""
    seen = observe(
        f"#!/bin/sh\nend() {{\ncat <<'EOF'\n{chr(10).join(_LINES)}\nEOF\necho '{_STATS}'\nexit 0\n"
        f"}}\ntrap end TERM\necho '{_READY}'\nwhile :; do sleep 0.05; done\n",
        members=("id", "name"),
    )

    assert seen.unreadable == ()
    assert [dict(event) for event in seen.events] == [
        {"id": 7, "name": "a.test."},
        {"ts_ns": 6, "name": None, "id": 8, "cpu": 1},
        {"name": "id", "ts_ns": 7, "id": 9, "cpu": 1},
        {"ts_ns": 8, "name": 'quo\\"te', "id": 10, "cpu": 1},
    ]


def test_the_command_knows_the_observer_and_may_leave_it_stopped(observe: Observe) -> None:
    """A stopped observer would not see SIGTERM, and would be killed instead of asked."""
    seen = observe(_HONEST, ("sh", "-c", "kill -STOP $OBSERVER_PID && echo stopped"))

    assert seen.command_output == "stopped\n"
    assert seen.lived


@pytest.mark.parametrize(
    ("functional", "says"),
    [('driver = "senddrv"\ncorpus = "corpus.txt"', ""),
     ('driver = "other"', "names 'other', which is not among the subject's files"),
     ('corpus = "other"', "names 'other', which is not among the subject's files"),
     ('sender = "senddrv"', "unknown field `sender`")],
    ids=["right", "driver", "corpus", "key"],
)  # fmt: skip
def test_a_manifest_names_driver_and_corpus_among_its_files(
    tmp_path: Path, functional: str, says: str
) -> None:
    """A typing error would leave the checks out in silence."""
    path = tmp_path / "subject.toml"
    path.write_text(
        '[subject]\nname = "x"\nobject = "x.bpf.o"\nfiles = ["senddrv", "corpus.txt"]\n'
        f"[functional]\n{functional}\n"
    )

    if says:
        with pytest.raises(HarnessError, match=says):
            subject.read_manifest(path)
    else:
        assert subject.read_manifest(path).functional.driver == "senddrv"


def test_a_guest_that_packs_a_bomb_is_told() -> None:
    """Half a megabyte that would be half a gigabyte."""
    packed = gzip.compress(bytes(512 << 20), compresslevel=1)

    with pytest.raises(HarnessError, match="what the guest packed is over 256 MiB"):
        observer._unpacked(packed)
