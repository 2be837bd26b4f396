# SPDX-License-Identifier: Apache-2.0
"""What the build promises: both machines, no fetching atomics, settings that bite."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.bpf import build

OPTIONAL = "dns_udp4_gcra dns_udp6_gcra"


def dnsmon(built: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(built / "dnsmon"), *args], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_builds_for(arch: str, built: Path, tmp_path: Path) -> None:
    """One source, two objects; the fetch check runs inside the build."""
    build.make(tmp_path, "object", f"ARCH={arch}")

    assert (tmp_path / "dns_monitor.bpf.o").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["dns_monitor.bpf.o"]


def test_an_atomic_with_fetch_outside_the_optional_programs_fails_the_build(
    built: Path, tmp_path: Path
) -> None:
    """Kernels before 5.12 refuse the whole object for one, even in dead code."""
    said = build.make(tmp_path, "object", "FETCH_ALLOWED=dns_udp4_gcra", expect_status=2)

    assert "atomic with fetch in dns_udp6_gcra" in said
    assert "in dns_udp4_gcra" not in said
    assert not (tmp_path / "dns_monitor.bpf.o").exists()


def test_the_object_holds_no_map_that_its_source_does_not_name(built: Path) -> None:
    """A string literal would make .rodata.str1.1 a map; 5.4 refuses the dots in its name."""
    done = subprocess.run(
        ["llvm-objdump", "-h", str(built / "dns_monitor.bpf.o")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    sections = {words[1] for words in map(str.split, done.stdout.splitlines()) if len(words) > 3}

    assert {name for name in sections if name.startswith((".rodata", ".data", ".bss"))} == {
        ".rodata"
    }


def test_the_object_holds_no_path_of_the_build_machine(built: Path) -> None:
    """DWARF is stripped; BTF line records keep what the compiler was given."""
    data = (built / "dns_monitor.bpf.o").read_bytes()

    assert str(build.BPF.parent).encode() not in data


def test_manifest_settings_are_the_defaults_of_the_source() -> None:
    """The manifest repeats them for readers; a drift would mislead."""
    manifest = tomllib.loads((build.BPF / "dns_monitor.toml").read_text())
    source = (build.BPF / "dns_monitor.bpf.c").read_text()

    for name, value in manifest["rodata"].items():
        assert f"const volatile __u32 {name} = {value};" in source


@pytest.mark.parametrize(
    ("args", "status", "cause"),
    [
        (["nonsense"], 2, "usage"),
        (["run"], 2, "usage"),
        (["run", "--object", "/nonexistent"], 2, "usage"),
        (["run", "--object", "OBJECT", "--set", "rate_limit=x"], 2, "usage"),
        (["run", "--object", "OBJECT", "--set", "rate_limit=4294967296"], 2, "usage"),
        (["run", "--object", "OBJECT", "--set", "no_such=1"], 2, "usage"),
        (["run", "--object", "OBJECT", "--set", "rate_burst=0"], 2, "usage"),
        (["run", "--object", "OBJECT", "--set", "dns_ports=1,2,3,4,5,6,7,8,9"], 2, "usage"),
        (["run", "--object", "OBJECT", "--ring-bytes", "5000"], 2, "usage"),
        (["run", "--object", "OBJECT", "--btf", "/nonexistent"], 2, "usage"),
        (["run", "--object", "OBJECT", "--buffer", "pipe"], 2, "usage"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_bad_arguments_are_refused(built: Path, args: list[str], status: int, cause: str) -> None:
    """A line that says what is wrong, and the status for wrong usage."""
    words = [str(built / "dns_monitor.bpf.o") if word == "OBJECT" else word for word in args]

    done = dnsmon(built, *words)

    assert done.returncode == status
    assert json.loads(done.stderr.splitlines()[-1])["cause"] == cause
