# SPDX-License-Identifier: Apache-2.0
"""A built subject as a directory of its own: built once, tested by every shard, released as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from harness import results
from harness.errors import HarnessError
from harness.subject import Subject


def export(subject: Subject, directory: Path) -> Path:
    """Copy the subject's files beside a manifest that builds nothing; the manifest's path."""
    manifest = subject.manifest
    head = msgspec.structs.replace(
        manifest.subject,
        source="",
        build="",
        baseline=subject.baseline.name if subject.baseline and subject.baseline.exists() else "",
    )
    carried = [subject.object, subject.loader, *subject.files]
    carried += [subject.baseline] if head.baseline else []
    path = directory / f"{manifest.subject.name}.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in carried:
            if file is not None:
                shutil.copy2(file, directory / file.name)
    except (OSError, shutil.Error) as error:
        raise HarnessError(
            f"cannot copy the subject to '{directory}': {error}", hint="name another --out"
        ) from error
    described = msgspec.structs.replace(manifest, subject=head)
    # TOML has no null: what is not said is left out.
    plain = msgspec.to_builtins(described, str_keys=True)
    results.write_atomically(path, msgspec.toml.encode(_without_none(plain)))
    return path


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_without_none(one) for one in value]
    return value
