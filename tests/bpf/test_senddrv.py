# SPDX-License-Identifier: Apache-2.0
"""The send driver: its lines say what an observer must have seen, and they are complete."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.bpf import corpus, reference
from tests.bpf.reference import Status, Verdict

LABEL = "nonce4711"
# What bpf/README.md lists as the classes of a hit.
CLASSES = {
    "v4_mapped",
    "other_port",
    "not_udp",
    "corked",
    "kernel_pages",
    "gso_multi",
    "fault",
    "segments",
    "not_dns",
    "malformed",
    "submitted",
}


def senddrv(built: Path, *args: str, expect_status: int = 0) -> list[Mapping[str, Any]]:
    done = subprocess.run(
        [str(built / "senddrv"), *args], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == expect_status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def matrix(built: Path) -> list[Mapping[str, Any]]:
    return senddrv(built, "matrix", "--label", LABEL)


def test_matrix_covers_every_class_that_a_send_can_end_in(
    matrix: list[Mapping[str, Any]],
) -> None:
    """A class without a case would be untested on every kernel."""
    unsupported = {case["case"] for case in matrix if case["expect"] == "unsupported"}
    seen = {name for case in matrix for name in case["classes"]}

    assert seen <= CLASSES
    # UDP-Lite is gone since Linux 7.2.
    assert CLASSES - seen <= ({"not_udp"} if "udp_lite" in unsupported else set())


def test_matrix_events_carry_the_label_and_differ(matrix: list[Mapping[str, Any]]) -> None:
    """Names that cannot be guessed, types that are not all A: invented events cannot pass."""
    events = [event for case in matrix for event in case["events"]]

    assert len(events) > 20
    assert all(LABEL.encode().hex() in event["name_wire"] for event in events)
    assert len({event["qtype"] for event in events}) > 4
    keys = [(event["id"], event["name_wire"], event["len"]) for event in events]
    assert len(set(keys)) == len(keys)


def test_matrix_lines_agree_with_themselves(matrix: list[Mapping[str, Any]]) -> None:
    """Events are counted as submitted; what was not sent expects nothing."""
    for case in matrix:
        assert case["classes"].get("submitted", 0) == len(case["events"])
        match case["expect"]:
            case "event":
                assert case["events"]
            case "class":
                assert case["classes"]
                assert not case["events"]
            case _:
                assert not case["classes"]
    assert len({case["case"] for case in matrix}) == len(matrix)


def test_one_case_alone(built: Path) -> None:
    """To look at a failure more closely."""
    cases = senddrv(built, "matrix", "--only", "sendto_v4")

    assert [case["case"] for case in cases if case["expect"] != "unsupported"] == ["sendto_v4"]


def test_corpus_lines_expect_what_the_reference_says(built: Path) -> None:
    """The file's columns reach the harness unchanged."""
    cases = {case["case"]: case for case in senddrv(built, "corpus", str(corpus.PATH))}

    for name, wire in corpus.datagrams():
        told = reference.answer(wire)
        if told.verdict is not Verdict.PLAUSIBLE:
            assert cases[name]["classes"] == {str(told.verdict): 1}
            continue
        (event,) = cases[name]["events"]
        assert event["len"] == len(wire) == cases[name]["result"]
        assert (event["status"], event["name_wire"]) == (told.status, told.name_wire)
        if told.status is Status.OK:
            assert (event["qtype"], event["qclass"]) == (told.qtype, told.qclass)
        else:
            assert (event["qtype"], event["qclass"]) == (None, None)


@pytest.mark.parametrize("extra", [[], ["--non-dns"], ["--v6"], ["--threads", "3"]])
def test_flood_counts_its_attempts(built: Path, extra: list[str]) -> None:
    """Load checks compare them with the observer's hits."""
    (line,) = senddrv(built, "flood", "--count", "300", *extra)

    assert line["attempts"] == 300 == line["sent"] + line["errors"]


def test_a_flood_s_sockets_have_a_port_each(built: Path) -> None:
    """Though many threads end before others begin: port and id tell datagrams apart.

    Were ports free again at once, 200 of some 28,000 would be distinct with a chance of
    exp(-200²/2/28,232) = 0.49, five times running 0.03.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind(("127.0.0.1", 53))
        server.settimeout(5)
        for _ in range(5):
            senddrv(built, "flood", "--count", "200", "--threads", "200")
            ports = {server.recvfrom(512)[1][1] for _ in range(200)}
            assert len(ports) == 200


def test_flood_answers_each_question(built: Path) -> None:
    """Two attempts a question; without the right to port 53 there are none."""
    (line,) = senddrv(built, "flood", "--count", "100", "--answers")

    assert line["attempts"] in (200, 0)


def test_flood_asks_again(built: Path) -> None:
    """Retries are hits of their own: 3 rounds of 100."""
    (line,) = senddrv(built, "flood", "--count", "100", "--threads", "3", "--retries", "2")

    assert line["attempts"] == 300


@pytest.mark.parametrize("extra", [[], ["--v6"], ["--threads", "2"]], ids=" ".join)
def test_unroutable_flood_fails_each_send_and_counts_it(built: Path, extra: list[str]) -> None:
    """The hook is entered all the same: the fastest way to make hits is by sends that fail."""
    done = subprocess.run(
        ["unshare", "-rn", str(built / "senddrv"), "flood", "--count", "300", "--unroutable",
         *extra],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.stderr.startswith("unshare"):
        pytest.skip(f"no network namespace for tests here: {done.stderr.strip()}")
    line = json.loads(done.stdout)

    assert (line["attempts"], line["unroutable"]) == (300, 300)
    assert (line["sent"], line["errors"]) == (0, 0)


def test_unroutable_flood_refuses_where_there_is_a_route(built: Path) -> None:
    """Else it would load a network that is not ours, and be slow."""
    routed = (
        "ip link set lo up && ip route add 192.0.2.0/24 dev lo && "
        f"exec {built / 'senddrv'} flood --count 300 --unroutable"
    )
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", routed],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if not done.stderr.startswith("senddrv"):
        pytest.skip(f"no network namespace, or no ip(8), for tests here: {done.stderr.strip()}")

    assert (done.returncode, done.stdout) == (3, "")
    assert "there is a route" in done.stderr


@pytest.mark.parametrize(("extra", "least_us"), [([], 490_000), (["--burst", "50"], 370_000)])
def test_flood_keeps_its_rate(built: Path, extra: list[str], least_us: int) -> None:
    """Never faster; slower only on a machine that is. No pause follows the last burst."""
    (line,) = senddrv(built, "flood", "--count", "200", "--rate", "400", *extra)

    assert line["duration_us"] >= least_us


def test_a_flood_of_a_duration_says_when_it_sent(built: Path) -> None:
    """Nearly all hits have a stretch, none has two, and the clock is that of the events."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    (line,) = senddrv(built, "flood", "--duration-s", "1", "--rate", "10000", "--threads", "2")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    first, bins = line["first_bin"] * line["bin_ns"], line["bins"]
    assert before - line["bin_ns"] < first
    assert first + (len(bins) - 1) * line["bin_ns"] < after
    assert 0.5 * line["attempts"] < sum(bins) <= line["attempts"]
    assert bins[-1] > 0


def test_a_flood_that_stood_still_has_nothing_to_say_of_that_time(built: Path) -> None:
    """It catches up afterwards: the mean rate does not tell."""
    started = subprocess.Popen(
        [str(built / "senddrv"), "flood", "--duration-s", "2", "--rate", "2000", "--non-dns"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.3)
    started.send_signal(signal.SIGSTOP)
    stopped = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    time.sleep(0.3)
    resumed = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    started.send_signal(signal.SIGCONT)
    line = json.loads(started.communicate(timeout=60)[0])

    def bins(start_ns: int, end_ns: int) -> list[int]:
        first = line["first_bin"]
        low, high = start_ns // line["bin_ns"] + 1 - first, end_ns // line["bin_ns"] - first
        return [int(hits) for hits in line["bins"][max(0, low) : max(0, high)]]

    still = bins(stopped + 50_000_000, resumed)
    assert len(still) > 15
    assert sum(still) == 0
    assert sum(bins(0, stopped)) > 0
    assert sum(bins(resumed, resumed + 5_000_000_000)) > 0


def test_a_flood_of_a_count_has_no_stretches(built: Path) -> None:
    """How long it will take is not known: a million datagrams are not to make a long line."""
    (line,) = senddrv(built, "flood", "--count", "300")

    assert "bins" not in line


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["matrix", "--label", "UPPER"],
        ["matrix", "--label", ""],
        ["flood"],
        ["flood", "--count", "-1"],
        ["flood", "--count", "1", "--cpu", "x"],
        ["flood", "--count", "1", "--threads", "0"],
        ["flood", "--count", "1", "--rate", "1", "--burst", "0"],
        ["flood", "--count", "1", "--burst", "2"],
        ["flood", "--count", "1", "--answers", "--unroutable"],
        ["flood", "--duration-s", "1", "--retries", "1"],
        ["flood", "--count", "1", "--one-name", "--non-dns"],
        ["corpus", "/nonexistent"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(built: Path, args: list[str]) -> None:
    senddrv(built, *args, expect_status=2)
