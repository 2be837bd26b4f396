# SPDX-License-Identifier: Apache-2.0
"""A subject that was built once is the same subject elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import build, export, paths
from harness.build import Built
from harness.cache import Cache
from harness.errors import HarnessError


@pytest.fixture(scope="module")
def built(cache: Cache) -> Built:
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


def test_an_exported_subject_is_the_same_and_builds_nothing(built: Built, tmp_path: Path) -> None:
    before = built.subject
    manifest = export.export(before, tmp_path / "subject")

    after = build.from_manifest(
        manifest, Cache(root=tmp_path / "no-cache"), lambda text: pytest.fail(text)
    ).subject

    assert manifest.name == "dns_monitor.toml"
    assert after.object is not None
    assert before.object is not None
    assert after.object.read_bytes() == before.object.read_bytes()
    assert after.loader is not None
    assert after.loader.stat().st_mode & 0o111
    assert [path.name for path in after.files] == [path.name for path in before.files]
    same = msgspec.structs.replace(
        after.manifest,
        subject=msgspec.structs.replace(
            after.manifest.subject, source=before.manifest.subject.source,
            build=before.manifest.subject.build, baseline=before.manifest.subject.baseline,
        ),
    )  # fmt: skip
    assert same == before.manifest
    assert (after.baseline is not None) == (
        before.baseline is not None and before.baseline.exists()
    )
    if after.baseline is not None and before.baseline is not None:
        assert after.baseline.read_bytes() == before.baseline.read_bytes()


def test_a_place_that_is_none_is_said(built: Built, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot copy the subject"):
        export.export(built.subject, tmp_path / "file" / "subject")
