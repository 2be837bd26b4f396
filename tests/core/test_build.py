# SPDX-License-Identifier: Apache-2.0
"""Objects: built once for each content, or refused with the compiler's or the reader's words."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from harness import build, job, paths, pipeline, process
from harness.cache import Cache
from harness.errors import UsageError
from harness.results import Cause, Verdict
from harness.sitting import Request

_INCLUDES = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
_GOOD = 'int answer(void *ctx) { return 0; }\nchar LICENSE[] __attribute__((section("license"))) = "GPL";\n'
_MAKEFILE = """\
OUT ?= .
$(OUT)/mine.bpf.o: mine.bpf.c
	clang -target bpf -g -O2 -c -o $@ $<
"""
_MANIFEST = '[subject]\nname = "mine"\nbuild = "make"\nobject = "mine.bpf.o"\n'


def _silent(text: str) -> None:
    """Nobody listens."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(root=tmp_path / "cache")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A subject's directory; the path of its manifest."""
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "Makefile").write_text(_MAKEFILE)
    (directory / "mine.bpf.c").write_text(_GOOD)
    (directory / "mine.toml").write_text(_MANIFEST)
    return directory / "mine.toml"


def _request(manifest: Path, report_dir: Path) -> Request:
    return Request(
        subject=job.subject_source("", str(manifest)), kernels=(), directories=(),
        lock=paths.catalogue_dir() / "kernels.lock", backend="local", jobs=1, checks=(),
        report_dir=report_dir,
    )  # fmt: skip


def test_what_is_built_once_is_built_again_only_when_a_source_changes(
    project: Path, cache: Cache
) -> None:
    said: list[str] = []
    first = build.from_manifest(project, cache, said.append)
    second = build.from_manifest(project, cache, said.append)
    (project.parent / "mine.bpf.c").write_text(_GOOD + "int more;\n")
    third = build.from_manifest(project, cache, said.append)

    assert said == ["building mine", "building mine"]
    assert first.subject.object == second.subject.object != third.subject.object
    assert first.compile.verdict is Verdict.PASS
    assert first.subject.object is not None
    assert first.subject.object.parent != project.parent


def test_a_source_that_does_not_compile_fails_the_compile_check(
    project: Path, cache: Cache, tmp_path: Path
) -> None:
    """The compiler's words are the evidence; no kernel is booted, and the exit status is 1."""
    (project.parent / "mine.bpf.c").write_text("int answer(void *ctx) { return nothing; }\n")

    run = pipeline.run(_request(project, tmp_path / "report"), cache, lambda event: None)

    (check,) = run.checks
    assert (check.check, check.verdict, check.cause) == ("compile", Verdict.FAIL, Cause.COMPILE)
    assert "mine.bpf.c:1:" in check.evidence[0].text
    assert "undeclared identifier 'nothing'" in check.evidence[0].text
    assert check.remedy
    assert run.cells == ()
    assert job.status(run, strict=False) == 1
    assert not list((cache.root / "build").glob("*"))


def test_an_object_without_type_information_fails_the_compile_check(
    project: Path, cache: Cache
) -> None:
    makefile = project.parent / "Makefile"
    makefile.write_text(_MAKEFILE.replace(" -g", ""))

    built = build.from_manifest(project, cache, _silent)

    assert (built.compile.verdict, built.compile.cause) == (Verdict.FAIL, Cause.COMPILE)
    assert "no .BTF" in built.compile.summary
    assert "-g" in built.compile.remedy


def test_a_build_that_leaves_out_what_the_manifest_names_is_wrong_use(
    project: Path, cache: Cache
) -> None:
    project.write_text(_MANIFEST.replace("mine.bpf.o", "other.bpf.o"))

    with pytest.raises(UsageError, match=r"the build made no 'other\.bpf\.o'"):
        build.from_manifest(project, cache, _silent)


def test_what_a_manifest_says_of_a_program_that_is_not_there_is_wrong_use(
    project: Path, cache: Cache
) -> None:
    """A typing error would excuse nothing, and nobody would know."""
    project.write_text(f"{_MANIFEST}\n[programs.tpyo]\noptional = true\n")

    with pytest.raises(UsageError, match=r"\[programs\.tpyo\].*no such program") as told:
        build.from_manifest(project, cache, _silent)
    assert told.value.hint.startswith("it has ")


def test_another_build_tool_is_wrong_use(project: Path, cache: Cache) -> None:
    project.write_text(_MANIFEST.replace('"make"', '"ninja"'))

    with pytest.raises(UsageError, match="not 'ninja'"):
        build.from_manifest(project, cache, _silent)


def test_a_compiled_object_is_taken_where_it_lies(project: Path, cache: Cache) -> None:
    process.run(["make", "-C", project.parent], timeout_s=60)
    project.write_text(_MANIFEST.replace('build = "make"\n', ""))

    built = build.from_manifest(project, cache, _silent)

    assert built.subject.object == project.parent / "mine.bpf.o"


def _compiled(directory: Path) -> Path:
    (directory / "whole.c").write_text(_GOOD)
    process.run(
        ["clang", "-target", "bpf", "-g", "-O2", *_INCLUDES, "-c", directory / "whole.c", "-o",
         directory / "whole.o"], timeout_s=60,
    )  # fmt: skip
    return directory / "whole.o"


def test_every_truncation_of_an_object_is_refused(tmp_path: Path) -> None:
    """A download that broke off: a line, never a traceback."""
    whole = _compiled(tmp_path).read_bytes()
    cut = tmp_path / "cut.o"
    taken: list[int] = []
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with contextlib.suppress(UsageError):
            build.from_object(cut)
            taken.append(length)

    assert taken == []


@pytest.mark.parametrize("kind", ["text", "empty", "x86", "absent", "directory"])
def test_what_is_no_object_is_wrong_use(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing.o"
    match kind:
        case "text":
            path.write_text("not an object\n" * 100)
        case "empty":
            path.write_bytes(b"")
        case "x86":
            shutil.copy(str(process.which("true")), path)
        case "directory":
            path.mkdir()

    with pytest.raises(UsageError) as caught:
        build.from_object(path)

    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_an_object_of_somebody_else_passes_the_compile_check(tmp_path: Path) -> None:
    built = build.from_object(_compiled(tmp_path))

    assert built.compile.verdict is Verdict.PASS
    assert built.subject.name == "whole"
