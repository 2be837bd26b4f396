# SPDX-License-Identifier: Apache-2.0
"""The whole way from an archive to files, against a real apt, a real server, real signatures."""

from __future__ import annotations

import lzma
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness import process
from harness.cache import Cache
from harness.catalogue import Btf, DebianSource, Kernel, Pick, SnapshotSource, Tier
from harness.errors import HarnessError, UnavailableError, UsageError
from harness.supply import (
    KernelFiles,
    Lock,
    LockReport,
    foresee,
    obtain,
    read_lock,
    resolve_lock,
    snapshot,
)
from harness.supply.apt import Suite, _stanzas
from harness.supply.lock import Archive as Origin
from tests.supply import images
from tests.supply.repository import Archive, Key, Server, served, signing_key

pytestmark = pytest.mark.skipif(
    not all(map(process.which, ("apt-get", "dpkg-deb", "gpg"))),
    reason="needs apt, dpkg-deb and gpg",
)
NOWHERE = "http://127.0.0.1:9"  # refuses every connection


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with signing_key() as made:
        yield made


@pytest.fixture(scope="module")
def other_key() -> Iterator[Key]:
    with signing_key() as made:
        yield made


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """5.10.1, .2, .10 of the cloud flavour, made once."""
    root = tmp_path_factory.mktemp("debs")
    made = {}
    for abi, version in [(1, "5.10.1-1"), (2, "5.10.2-1"), (3, "5.10.10-1")]:
        package = f"linux-image-5.10.0-{abi}-cloud-amd64"
        made[version] = images.kernel_deb(root / f"{package}_{version}.deb", package, version)
    return made


@dataclass(frozen=True, slots=True)
class World:
    """An archive that serves us and nobody else, and an empty cache."""

    archive: Archive
    server: Server
    cache: Cache
    debs: dict[str, Path]
    lockfile: Path

    def get(self, kernel: Kernel, lock: Lock | None = None) -> KernelFiles:
        return obtain(kernel, cache=self.cache, lock=lock)

    def locked(self, *kernels: Kernel) -> Lock:
        report = self.lock(*kernels)
        assert not report.unavailable
        return report.lock

    def lock(self, *kernels: Kernel) -> LockReport:
        return resolve_lock(kernels, self.lockfile, cache=self.cache)

    def elsewhere(self) -> World:
        """The same archive seen from a machine with an empty cache."""
        return replace(self, cache=Cache(root=self.cache.root.with_name("another-cache")))


@pytest.fixture
def world(
    tmp_path: Path, key: Key, debs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    root = tmp_path / "www"
    archive = Archive(root=root / "debian", key=key)
    with served(root) as server:
        monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", f"{server.url}/debian/")
        monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_KEYRING", str(key.public))
        monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", NOWHERE)
        yield World(
            archive=archive, server=server, debs=debs, lockfile=tmp_path / "kernels.lock",
            cache=Cache(root=tmp_path / "cache"),
        )  # fmt: skip


def kernel(pick: Pick = Pick.NEWEST, **changes: object) -> Kernel:
    wanted = Kernel(
        name=f"5.10-{pick}", series="5.10", pick=pick, arch="x86_64", tier=Tier.CORE,
        sources=(DebianSource(suites=("bullseye",)),), snapshot_url=NOWHERE,
        btf=Btf.BUILT_IN, absent=frozenset(),
    )  # fmt: skip
    return replace(wanted, **changes)  # type: ignore[arg-type]


def test_oldest_and_newest_are_found_by_debian_s_order(world: World) -> None:
    """5.10.10 is newer than 5.10.2, which text order has the other way round."""
    for deb in world.debs.values():
        world.archive.add("bullseye", deb)

    newest, oldest = world.get(kernel()), world.get(kernel(Pick.OLDEST))

    assert (newest.release, oldest.release) == (
        "5.10.0-3-cloud-amd64", "5.10.0-1-cloud-amd64",
    )  # fmt: skip
    assert newest.series == "5.10"
    assert newest.btf is not None
    assert newest.btf.read_bytes() == images.btf()
    assert newest.config is not None
    assert "bullseye: linux-image-5.10.0-3-cloud-amd64 5.10.10-1" in newest.source
    assert not newest.note


def test_a_second_time_nothing_is_asked_of_the_server(world: World) -> None:
    """A locked and cached kernel costs no network at all."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    world.server.asked.clear()

    assert world.get(kernel(), lock).release == "5.10.0-2-cloud-amd64"
    assert world.server.asked == []


def test_a_lock_spares_the_index(world: World) -> None:
    """First run on a fresh machine: one request, for the package itself."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    world.server.asked.clear()

    world.elsewhere().get(kernel(), lock)

    assert world.server.asked == world.server.downloads()
    assert len(world.server.asked) == 1


def test_the_lock_holds_against_a_newer_release(world: World) -> None:
    """A run of last month can be repeated."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    world.archive.add("bullseye", world.debs["5.10.10-1"])

    assert world.elsewhere().get(kernel(), lock).release == "5.10.0-2-cloud-amd64"
    assert lock == read_lock(world.lockfile)


def test_a_locked_release_that_vanished_is_replaced_and_said(world: World) -> None:
    """Mirrors keep only the newest; the report must not claim the locked one."""
    gone = world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    gone.unlink()
    world.archive.clear("bullseye")
    world.archive.add("bullseye", world.debs["5.10.10-1"])

    found = world.elsewhere().get(kernel(), lock)

    assert found.release == "5.10.0-3-cloud-amd64"
    assert "not as locked: wanted linux-image-5.10.0-2-cloud-amd64 5.10.2-1" in found.note
    assert "5.10.10-1" in found.note


def test_a_locked_release_is_had_from_the_snapshot_of_its_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot archive keeps what mirrors drop."""
    gone = world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    entry = lock.kernels[0]
    kept = world.archive.root.parent / "archive" / "debian" / entry.seen / entry.files[0].filename
    kept.parent.mkdir(parents=True)
    gone.rename(kept)
    monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", world.server.url)

    found = world.elsewhere().get(kernel(), lock)

    assert found.release == "5.10.0-2-cloud-amd64"
    assert not found.note


def test_a_snapshot_serves_a_series_though_its_release_file_has_expired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is old is the point of it; its signature is verified all the same."""
    stamp = "20200301T000000Z"
    past = Archive(root=world.archive.root.parent / "archive/debian" / stamp, key=world.archive.key)
    past.add("sid", world.debs["5.10.2-1"])
    past.publish(valid_until="Sun, 01 Mar 2020 00:00:00 GMT")
    monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", world.server.url)
    source = SnapshotSource(timestamp=stamp, suites=("sid",), pick=None)

    found = world.get(kernel(sources=(source,)))

    assert found.release == "5.10.0-2-cloud-amd64"
    assert "snapshot of 20200301" in found.source


def test_an_expired_release_file_of_a_mirror_is_refused(world: World) -> None:
    """A mirror that stands still may be hiding security updates."""
    if (
        "false"
        in process.run(["apt-config", "dump", "Acquire::Check-Valid-Until"], timeout_s=9).text
    ):
        pytest.skip(
            "this machine's apt is told to accept expired ones, and that is its owner's say"
        )
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    world.archive.publish(valid_until="Sun, 01 Mar 2020 00:00:00 GMT")

    with pytest.raises(UnavailableError, match="expired"):
        world.get(kernel())


def test_another_key_s_signature_is_refused(world: World, other_key: Key) -> None:
    """Anyone can sign; only the distribution's keyring counts."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    release = world.archive.root / "dists" / "bullseye" / "InRelease"
    text = release.read_text().split("\n\n", 1)[1].split("-----BEGIN", 1)[0]
    world.archive.sign("bullseye", text, other_key)

    with pytest.raises(UnavailableError, match=r"NO_PUBKEY|not signed|Missing key"):
        world.get(kernel())

    assert world.server.downloads() == []


def test_a_changed_release_file_is_refused(world: World) -> None:
    """The signature covers it."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    release = world.archive.root / "dists" / "bullseye" / "InRelease"
    release.write_text(release.read_text().replace("Label: Test", "Label: Evil"))

    with pytest.raises(UnavailableError, match=r"BADSIG|invalid|GPG error|not signed|Bad"):
        world.get(kernel())


def test_an_unsigned_suite_is_refused(world: World) -> None:
    """Release without a signature: apt would only need trusted=yes, which we never say."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    release = world.archive.root / "dists" / "bullseye" / "InRelease"
    text = release.read_text().split("\n\n", 1)[1].split("-----BEGIN", 1)[0]
    release.unlink()
    release.with_name("Release").write_text(text)

    with pytest.raises(UnavailableError, match="not signed"):
        world.get(kernel())


def test_a_changed_index_is_refused(world: World) -> None:
    """The signed Release file names its sha256."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    index = world.archive.root / "dists/bullseye/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("5.10.2-1", "5.10.9-1"))

    with pytest.raises(UnavailableError, match="bullseye"):
        world.get(kernel())


def test_a_package_of_another_hash_is_refused(world: World) -> None:
    """The signed index names its sha256."""
    world.archive.add("bullseye", world.debs["5.10.2-1"], listed_as="0" * 64)

    with pytest.raises(UnavailableError, match=r"(?i)hash"):
        world.get(kernel())

    assert list((world.cache.root / "debs").iterdir()) == []


@pytest.mark.parametrize("harm", ["truncated", "changed"])
def test_a_damaged_package_in_the_cache_is_fetched_again(world: World, harm: str) -> None:
    """Full disks truncate, and the hash tells."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    (deb,) = (world.cache.root / "debs").rglob("*.deb")
    content = deb.read_bytes()
    if harm == "truncated":
        deb.write_bytes(content[:1000])
    else:
        deb.write_bytes(content[:-1] + b"?")
        shutil.rmtree(world.cache.root / "kernels")
    world.server.asked.clear()

    found = world.get(kernel(), lock)

    assert found.release == "5.10.0-2-cloud-amd64"
    assert deb.read_bytes() == content
    assert len(world.server.downloads()) == 1


def test_a_damaged_image_in_the_cache_is_made_again(world: World) -> None:
    """From the package that is still there: nothing is downloaded."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    good = world.get(kernel(), lock)
    good.vmlinuz.write_bytes(b"")
    world.server.asked.clear()

    again = world.get(kernel(), lock)

    assert again == good
    assert again.vmlinuz.stat().st_size > 0
    assert world.server.asked == []


def _obtain(root: Path, lockfile: Path) -> None:
    obtain(kernel(), cache=Cache(root=root), lock=read_lock(lockfile))


def test_two_processes_at_once_download_once(world: World) -> None:
    """Two runs started together share the cache."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    world.locked(kernel())
    world.server.asked.clear()
    other = world.elsewhere()
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=_obtain, args=(other.cache.root, world.lockfile)) for _ in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0]
    assert len(world.server.downloads()) == 1


def test_what_is_no_plain_kernel_is_passed_over(world: World, tmp_path: Path) -> None:
    """Metapackages, other flavours, debug packages, unsigned twins, other series."""
    decoys = [
        ("linux-image-5.10-cloud-amd64", "5.10.99-1"),
        ("linux-image-5.10.0-9-rt-amd64", "5.10.99-1"),
        ("linux-image-5.10.0-9-cloud-amd64-dbg", "5.10.99-1"),
        ("linux-image-6.1.0-9-cloud-amd64", "6.1.9-1"),
        ("linux-base", "5.10.99"),
    ]
    for name, version in decoys:
        content = images.noise(1_500_000 if "-9-" in name else 100)
        deb = images.deb(tmp_path / f"{name}_{version}.deb", name, version, {"x": content})
        world.archive.add("bullseye", deb)
    unsigned = "linux-image-5.10.0-2-cloud-amd64-unsigned"
    world.archive.add(
        "bullseye", images.kernel_deb(tmp_path / f"{unsigned}.deb", unsigned, "5.10.2-1")
    )
    world.archive.add("bullseye", world.debs["5.10.2-1"])

    found = world.get(kernel())

    assert found.source.endswith("linux-image-5.10.0-2-cloud-amd64 5.10.2-1")


def test_a_plain_kernel_stands_in_where_there_is_no_cloud_one(world: World, tmp_path: Path) -> None:
    """arm64 had none for long."""
    name = "linux-image-5.10.0-2-arm64"
    deb = images.kernel_deb(tmp_path / f"{name}.deb", name, "5.10.2-1", arch="arm64")
    world.archive.add("bullseye", deb, arch="arm64")

    found = world.get(kernel(arch="arm64", name="5.10-newest-arm64"))

    assert (found.arch, found.release) == ("arm64", "5.10.0-2-arm64")


def test_a_split_image_brings_its_config_from_the_base_package(
    world: World, tmp_path: Path
) -> None:
    """From 6.19 on; what the base package calls System.map is a line of text."""
    release = "5.10.7+deb13-cloud-amd64"
    image = images.bzimage(release, images.vmlinux(release, with_btf=images.btf(), pad=1_200_000))
    for part, files in {
        "binary": {f"usr/lib/modules/{release}/vmlinuz": image},
        "base": {
            f"usr/lib/modules/{release}/config": b"CONFIG_X=y\n",
            f"usr/lib/modules/{release}/System.map": b"the real one is elsewhere\n",
        },
        "image": {"usr/doc/x": b"depends on the others"},
    }.items():
        name = f"linux-{part}-{release}"
        world.archive.add("bullseye", images.deb(tmp_path / f"{part}.deb", name, "5.10.7-1", files))

    found = world.get(kernel())

    assert found.release == release
    assert found.config is not None
    assert found.config.read_bytes() == b"CONFIG_X=y\n"
    assert found.system_map is None


def test_a_listed_package_that_is_missing_gives_way_to_the_next(world: World) -> None:
    """Seen on a real mirror: its index had a release whose files were gone."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    world.archive.add("bullseye", world.debs["5.10.10-1"]).unlink()

    found = world.get(kernel())

    assert found.release == "5.10.0-2-cloud-amd64"
    assert found.note == "5.10.10-1 is listed, but its package is missing there"
    assert world.lock(kernel()).notes == (("5.10-newest", found.note),)


def test_a_series_nobody_has_tells_every_reason(world: World) -> None:
    """`unavailable` is a verdict; the reader wants to know why, and what to do."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    sources = (
        DebianSource(suites=("bullseye",)),
        SnapshotSource(timestamp="20220201T000000Z", suites=("sid",), pick=None),
    )

    with pytest.raises(UnavailableError) as caught:
        world.get(kernel(series="5.15", name="5.15-newest", sources=sources))

    assert "no package of the 5.15 series" in caught.value.message
    assert "cannot be reached" in caught.value.message
    assert "KERNEL_MATRIX_SNAPSHOT_MIRROR" in caught.value.hint


def test_a_silent_snapshot_archive_costs_seconds_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firewalls drop packets rather than refuse them."""
    assert snapshot.PROBE_DEADLINE_S < 10
    monkeypatch.setattr(snapshot, "PROBE_DEADLINE_S", 1.5)
    source = SnapshotSource(timestamp="20220201T000000Z", suites=("sid",), pick=None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", address)
        spent = []
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(UnavailableError, match=r"no answer|timed out"):
                world.get(kernel(sources=(source,)))
            spent.append(time.monotonic() - start)

    assert spent[0] < 1.5 + 3
    assert spent[1] < 0.5


def test_an_unreachable_mirror_is_unavailable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network is not our bug."""
    monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", NOWHERE)

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
        world.get(kernel())


@pytest.mark.parametrize("address", ["not an address", "http://x/[y]", "http://x/\ndeb evil"])
def test_a_strange_mirror_address_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It goes into a sources file, where brackets and new lines mean things."""
    monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", address)

    with pytest.raises(UsageError, match="no archive's address"):
        world.get(kernel())


def test_a_missing_keyring_is_unavailable_and_says_the_package(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ubuntu does not install Debian's keyring."""
    monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_KEYRING", "/nonexistent")

    with pytest.raises(UnavailableError) as caught:
        world.get(kernel())

    assert "debian-archive-keyring" in caught.value.hint


def test_locking_again_keeps_what_has_not_changed(world: World) -> None:
    """A refresh is a small diff."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    first = world.locked(kernel(), kernel(Pick.OLDEST))
    before = world.lockfile.read_bytes()

    again = replace(world, cache=Cache(root=world.cache.root.with_name("third"))).lock(kernel())

    assert again.changed == ()
    assert again.lock == first
    assert world.lockfile.read_bytes() == before


def test_locking_keeps_the_entry_of_what_cannot_be_had_now(world: World) -> None:
    """An outage of the snapshot archive must not erase 5.4 from the lock."""
    gone = world.archive.add("bullseye", world.debs["5.10.2-1"])
    first = world.locked(kernel())
    world.archive.clear("bullseye")
    world.archive.publish()
    gone.unlink()

    report = world.elsewhere().lock(kernel())

    assert report.lock == first
    assert [name for name, _ in report.unavailable] == ["5.10-newest"]


def test_a_lock_of_another_series_is_refused(world: World) -> None:
    """A merge gone wrong must not test 5.10 under the name of 5.4."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())

    with pytest.raises(HarnessError, match=r"5\.10\.2-1"):
        world.get(kernel(series="5.4"), lock)


def test_the_outlook_tells_without_the_network(world: World) -> None:
    """The run opens with its plan, before anything is downloaded."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])
    unlocked = foresee(kernel(), cache=world.cache, lock=None)
    lock = world.locked(kernel())
    world.server.asked.clear()

    here = foresee(kernel(), cache=world.cache, lock=lock)
    elsewhere = foresee(kernel(), cache=world.elsewhere().cache, lock=lock)

    assert unlocked.source == "not locked: Debian bullseye"
    assert (here.version, here.cached, here.download_bytes) == ("5.10.2-1", True, 0)
    assert not elsewhere.cached
    assert elsewhere.download_bytes == lock.kernels[0].files[0].size
    assert world.server.asked == []


def test_a_damaged_package_that_cannot_be_replaced_costs_nothing(world: World) -> None:
    """What we need of it was taken out before."""
    pool = world.archive.add("bullseye", world.debs["5.10.2-1"])
    lock = world.locked(kernel())
    pool.unlink()
    (deb,) = (world.cache.root / "debs").rglob("*.deb")
    deb.write_bytes(b"")

    assert not world.get(kernel(), lock).note


def test_a_cache_under_a_path_with_spaces_works(world: World) -> None:
    """Home directories have them."""
    world.archive.add("bullseye", world.debs["5.10.2-1"])

    found = replace(world, cache=Cache(root=world.cache.root / "My Cache's 'dir'")).get(kernel())

    assert found.release == "5.10.0-2-cloud-amd64"


@pytest.mark.skipif(process.which("pahole") is None, reason="needs pahole")
def test_a_kernel_without_btf_gets_one_from_its_debug_package(world: World, tmp_path: Path) -> None:
    """5.4 of Debian was built without."""
    release = "5.10.0-5-cloud-amd64"
    image = images.bzimage(release, images.vmlinux(release, pad=1_200_000))
    source = tmp_path / "x.c"
    source.write_text("struct sock { int family; } s;")
    process.run(["cc", "-g", "-c", source, "-o", tmp_path / "x.o"], timeout_s=30)
    debug = (tmp_path / "x.o").read_bytes()
    for name, files in {
        f"linux-image-{release}": {f"boot/vmlinuz-{release}": image},
        f"linux-image-{release}-dbg": {f"usr/lib/debug/boot/vmlinux-{release}": debug},
    }.items():
        world.archive.add("bullseye", images.deb(tmp_path / f"{name}.deb", name, "5.10.5-1", files))

    found = world.get(kernel(btf=Btf.DEBUG_PACKAGE))

    assert found.btf is not None
    assert found.btf_detached
    assert b"family" in found.btf.read_bytes()
    assert len(list((world.cache.root / "debs").iterdir())) == 1


def test_a_debug_package_without_debug_information_costs_only_the_btf(
    world: World, tmp_path: Path
) -> None:
    """The kernel still boots; the checks that need BTF will say so."""
    release = "5.10.0-5-cloud-amd64"
    image = images.bzimage(release, images.vmlinux(release, pad=1_200_000))
    for name, files in {
        f"linux-image-{release}": {f"boot/vmlinuz-{release}": image},
        f"linux-image-{release}-dbg": {"usr/doc/x": b""},
    }.items():
        world.archive.add("bullseye", images.deb(tmp_path / f"{name}.deb", name, "5.10.5-1", files))

    found = world.get(kernel(btf=Btf.DEBUG_PACKAGE))

    assert found.btf is None
    assert "no BTF could be made" in found.note


def test_the_machine_s_mirror_serves_a_locked_kernel(tmp_path: Path) -> None:
    """The committed lock against the real archive, and the BTF against bpftool."""
    from harness.catalogue import load, select

    directory = Path(__file__).parents[2] / "kernels"
    wanted = select(load(directory), "7.2-oldest")[0]
    lock = read_lock(directory / "kernels.lock")
    try:
        found = obtain(wanted, cache=Cache(root=tmp_path), lock=lock)
    except UnavailableError as error:
        pytest.skip(f"no mirror: {error.message}")

    assert found.release.startswith("7.2.")
    assert found.btf is not None
    if process.which("bpftool") and os.access(found.btf, os.R_OK):
        dump = process.run(["bpftool", "btf", "dump", "file", found.btf], timeout_s=60).text
        assert "STRUCT 'task_struct'" in dump


def test_in_a_part_of_an_index_no_kernel_is_the_newest(tmp_path: Path) -> None:
    """What a full disk cut short would be another kernel's verdict under this name."""
    suite = Suite(url=NOWHERE, archive=Origin.MAIN, name="bookworm", past=False)
    stanza = "Package: linux-image-{0}\nVersion: {0}\nFilename: pool/{0}.deb\nSize: 1\nSHA256: {0:064x}\n"
    whole = lzma.compress("\n".join(stanza.format(n) for n in range(20_000)).encode())
    (tmp_path / "whole.xz").write_bytes(whole)
    (tmp_path / "part.xz").write_bytes(whole[: len(whole) // 2])

    assert len(list(_stanzas(tmp_path / "whole.xz", suite))) == 20_000
    with pytest.raises(HarnessError, match="cannot be unpacked: apt-helper ended with status"):
        list(_stanzas(tmp_path / "part.xz", suite))
