# SPDX-License-Identifier: Apache-2.0
"""Objects × kernels without a boot: what each relocation becomes, and a verdict per program.

`resolve_many` reads files and uses the index store; everything else is pure. A kernel's BTF that
cannot be read is a failure of that column, never of the run.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Final

from harness import intake
from harness.btf import LATEST, BpfObject, BtfError, Plan, Rules
from harness.btf.cilium import Disagreement, disagreements
from harness.btf.kernel import KernelView, parse_config, parse_system_map
from harness.btf.kinds import relocation_name
from harness.btf.render import REMEDIES, outcome_text, render_text, to_json
from harness.btf.store import IndexStore
from harness.btf.table import (
    Cell,
    Column,
    KernelFile,
    ObjectReport,
    RelocationRow,
    ResolveReport,
    decode_column,
    decode_rows,
    encode_column,
    encode_rows,
)
from harness.btf.verdict import Judge, Settings
from harness.errors import HarnessError

__all__ = [
    "REMEDIES",
    "Options",
    "kernel_files",
    "outcome_text",
    "render_text",
    "resolve_many",
    "to_json",
]

logger = logging.getLogger(__name__)

# A worker process pays off from this much to do, in columns; an index to build counts for more.
_MOST_TEXT_BYTES: Final = 256 << 20  # a System.map has 5-10 MB
_TODO_PER_WORKER: Final = 24
_TODO_PER_INDEX: Final = 4
_KERNELS_PER_JOB: Final = 8  # for executors of unknown width


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to resolve."""

    rules: Rules = LATEST
    autoload_all: bool = False  # SEC("?…") programs too
    settings: Settings = Settings()  # noqa: RUF009 - frozen


def kernel_files(places: Iterable[Path]) -> tuple[KernelFile, ...]:
    """Files as they are; of a directory every `*.btf`, `vmlinux*` and `btf` below it.

    Beside a BTF named `x.btf`, `x.config` and `x.System.map` are taken along.
    """
    found: list[KernelFile] = []
    for place in places:
        if place.is_dir():
            files = sorted(
                file
                for file in place.rglob("*")
                if file.is_file()
                and (file.suffix == ".btf" or file.name == "btf" or file.name.startswith("vmlinux"))
            )
            found += [_kernel_file(file, place) for file in files]
        elif place.exists():
            found.append(_kernel_file(place, place.parent))
        else:
            raise HarnessError(f"'{place}' does not exist", hint="give a BTF file or a directory")
    return tuple(found)


def resolve_many(
    objects: Sequence[Path],
    kernels: Sequence[KernelFile | Path],
    *,
    cache_dir: Path,
    options: Options | None = None,
    executor: Executor | None = None,
) -> ResolveReport:
    """Resolve every object on every kernel.

    Work is handed to `executor` kernel by kernel; without one it stays in this process unless many
    BTFs are seen for the first time.
    """
    chosen = options or Options()
    files = [_as_file(one) for one in kernels]
    store = IndexStore(cache_dir)
    if executor is not None:
        size = max(1, min(_KERNELS_PER_JOB, len(files) // _KERNELS_PER_JOB))
        columns = _spread(executor, objects, files, cache_dir, chosen, size)
    else:
        todo = _Bench(objects, cache_dir, chosen).todo(files)
        workers = min(os.cpu_count() or 1, len(files), todo // _TODO_PER_WORKER)
        if workers > 1:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                size = -(-len(files) // (2 * workers))
                try:
                    columns = _spread(pool, objects, files, cache_dir, chosen, size)
                except KeyboardInterrupt:  # what is under way would be waited for
                    pool.shutdown(wait=False, cancel_futures=True)
                    for worker in active_children():
                        worker.terminate()
                    raise
        else:
            columns = _work(list(objects), files, cache_dir, chosen)
    return ResolveReport(
        kernels=tuple(one.name for one in files),
        objects=tuple(
            _object_report(path, tuple(column[number] for column in columns), store, chosen)
            for number, path in enumerate(objects)
        ),
    )


# -- work -------------------------------------------------------------------------------------


def _work(
    objects: Sequence[Path], kernels: Sequence[KernelFile], cache_dir: Path, options: Options
) -> list[tuple[Column, ...]]:
    """Columns of each kernel, one per object: out of the cache, or made and put there."""
    bench = _Bench(objects, cache_dir, options)
    return [bench.columns(kernel) for kernel in kernels]


class _Bench:
    """The objects, parsed when the first kernel is not in the cache."""

    def __init__(self, objects: Sequence[Path], cache_dir: Path, options: Options) -> None:
        self._objects = objects
        self._options = options
        self._store = IndexStore(cache_dir)
        self._judges: dict[Path, tuple[Plan, Judge] | None] = {}

    def columns(self, kernel: KernelFile) -> tuple[Column, ...]:
        view: KernelView | None = None
        found = []
        try:
            for path in self._objects:
                key = self._key(path, kernel)
                column = self._recall(key, kernel)
                if column is None:
                    view = view or self._view(kernel)
                    column = _column(self._judge(path), view)
                    self._store.keep(key, encode_column(column))
                found.append(column)
        except (HarnessError, OSError) as error:
            failed = Column(kernel=kernel.name, failure=str(error), cells=(), verdict=None)
            return (*found, *(failed,) * (len(self._objects) - len(found)))
        return tuple(found)

    def todo(self, kernels: Sequence[KernelFile]) -> int:
        """Roughly how much is not in the cache, in columns."""
        work = 0
        for kernel in kernels:
            missing = sum(not self._has(path, kernel) for path in self._objects)
            if missing:
                work += missing + (0 if self._store.knows(kernel.btf) else _TODO_PER_INDEX)
        return work

    def _has(self, path: Path, kernel: KernelFile) -> bool:
        try:
            return self._store.has(self._key(path, kernel))
        except BtfError:
            return True  # it fails fast

    def _key(self, path: Path, kernel: KernelFile) -> str:
        """Everything that a column depends on; an unreadable object has its own."""
        parts = [code_digest(), repr(self._options), kernel.release]
        for file in (path, kernel.btf, kernel.config, kernel.system_map):
            parts.append(self._store.digest(file) if file is not None else "")
        return _digest("column", *parts)

    def _recall(self, key: str, kernel: KernelFile) -> Column | None:
        text = self._store.kept(key)
        try:
            return decode_column(text, kernel.name) if text is not None else None
        except (ValueError, TypeError, LookupError):
            logger.warning("column %s in the cache is damaged: it is made again", key)
            return None

    def _view(self, kernel: KernelFile) -> KernelView:
        return KernelView(
            name=kernel.name,
            btf=self._store.open(kernel.btf),
            config=parse_config(_text(kernel.config)) if kernel.config else None,
            symbols=parse_system_map(_text(kernel.system_map)) if kernel.system_map else None,
            release=kernel.release,
        )

    def _judge(self, path: Path) -> tuple[Plan, Judge] | None:
        if path not in self._judges:
            try:
                plan = Plan(
                    BpfObject.from_file(path),
                    rules=self._options.rules,
                    autoload_all=self._options.autoload_all,
                )
                self._judges[path] = plan, Judge(plan, self._options.settings)
            except BtfError:
                self._judges[path] = None  # reported once, with the rows
        return self._judges[path]


@functools.cache
def code_digest() -> str:
    """Of the code that decides: another version of it must not see results of this one."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.joinpath("btf").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _column(judge: tuple[Plan, Judge] | None, view: KernelView) -> Column:
    if judge is None:
        return Column(kernel=view.name, failure="", cells=(), verdict=None)
    plan, judging = judge
    try:
        outcome = plan.resolve(view.btf)
        verdict = judging.judge(view, outcome)
        others = disagreements(plan, outcome, view.btf)
    except HarnessError as error:
        return Column(kernel=view.name, failure=error.message, cells=(), verdict=None)
    return Column(
        kernel=view.name,
        failure="",
        cells=tuple(
            Cell(
                status=one.status,
                value=one.value,
                width=one.width,
                targets=one.targets,
                target=one.path,
                reason=one.reason,
                cilium=_cilium(others.get(one.number)),
            )
            for one in outcome.resolutions
        ),
        verdict=verdict,
    )


def _cilium(one: Disagreement | None) -> str:
    return one.text if one else ""


def _spread(
    executor: Executor,
    objects: Sequence[Path],
    kernels: Sequence[KernelFile],
    cache_dir: Path,
    options: Options,
    size: int,
) -> list[tuple[Column, ...]]:
    """Hand out `size` kernels at a time: each job parses the objects once."""
    chunks = [kernels[at : at + size] for at in range(0, len(kernels), size)]
    futures = [executor.submit(_work, objects, chunk, cache_dir, options) for chunk in chunks]
    return [columns for future in futures for columns in future.result()]


def _object_report(
    path: Path, columns: tuple[Column, ...], store: IndexStore, options: Options
) -> ObjectReport:
    try:
        key = _digest("rows", code_digest(), repr(options), store.digest(path))
        kept = store.kept(key)
        rows = decode_rows(kept) if kept is not None else None
        if rows is None:
            rows = _rows(path, options)
            store.keep(key, encode_rows(rows))
    except BtfError as error:
        return ObjectReport(path=str(path), failure=str(error), rows=(), columns=columns)
    return ObjectReport(path=str(path), failure="", rows=rows, columns=columns)


def _rows(path: Path, options: Options) -> tuple[RelocationRow, ...]:
    obj = BpfObject.from_file(path)
    plan = Plan(obj, rules=options.rules, autoload_all=options.autoload_all)
    rows = []
    for site in plan.sites:
        line = obj.line_at(site.record.section, site.insn + site.program.start)
        text = site.text.split("] ", 1)[-1]
        rows.append(
            RelocationRow(
                program=site.program.name,
                insn=site.insn,
                kind=relocation_name(site.record.kind),
                path=text.rsplit(" (", 1)[0] if text.endswith(")") else text,
                access=site.record.access,
                file=line.file if line else "",
                line=line.line if line else 0,
            )
        )
    return tuple(rows)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _kernel_file(file: Path, root: Path) -> KernelFile:
    name = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
    config, system_map = file.with_suffix(".config"), file.with_suffix(".System.map")
    return KernelFile(
        name=name.removesuffix(".btf"),
        btf=file,
        config=config if config.is_file() else None,
        system_map=system_map if system_map.is_file() else None,
    )


def _as_file(one: KernelFile | Path) -> KernelFile:
    return one if isinstance(one, KernelFile) else _kernel_file(one, one.parent)


def _text(path: Path) -> str:
    return intake.text(path, most_bytes=_MOST_TEXT_BYTES)
