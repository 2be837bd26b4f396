# SPDX-License-Identifier: Apache-2.0
"""The rule against kernel versions, as a subject's author and as a stranger's object meet it."""

from __future__ import annotations

import pytest

from harness import coreaccess
from harness.results import Cause, Verdict
from harness.subject import bare
from tests.bpf.build import has_clang
from tests.mutants.conftest import Subjects
from tests.mutants.table import MUTANTS


@pytest.mark.skipif(not has_clang, reason="clang and llvm-objdump are not installed")
def test_asking_for_the_version_fails_ours_and_is_said_of_others(subject_of: Subjects) -> None:
    """Who has the source can mend it; an object of others may well work where it is used."""
    subject = subject_of(MUTANTS["version_branch"]).subject
    assert subject.object is not None

    ours, others = coreaccess.check(subject), coreaccess.check(bare(subject.object))

    assert (ours.verdict, ours.cause) == (Verdict.FAIL, Cause.CORE_RELOCATION)
    assert others.verdict is Verdict.PASS
    for answer in (ours, others):
        assert "it asks for the kernel's version: dns_udp4+" in answer.summary
        assert "LINUX_KERNEL_VERSION" in answer.summary
        assert {(one.rule, one.file[-17:]) for one in answer.findings if one.certain} == {
            ("kernel-version", "core_compat.bpf.h")
        }
