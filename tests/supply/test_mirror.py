# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from harness.errors import UnavailableError
from harness.supply.lock import Archive
from harness.supply.mirror import MAIN_VARIABLE, archive_of, find_mirror, mirror_of


def uris(*releases: str) -> str:
    """What `apt-get update --print-uris` writes, for InRelease files at these addresses."""
    return "".join(f"'{url}/InRelease' some_list_name 0 \n" for url in releases)


OTHERS = uris("https://apt.example.org/dists/bookworm", "http://deb.example.net/x/dists/nodistro")


@pytest.mark.parametrize(
    ("text", "main", "security"),
    [
        pytest.param(
            OTHERS
            + uris(
                "http://m.example.org/debian/dists/bookworm",
                "http://m.example.org/debian/dists/bookworm-updates",
                "http://m.example.org/debian-security/dists/bookworm-security",
            ),
            "http://m.example.org/debian",
            "http://m.example.org/debian-security",
            id="debian-among-others",
        ),
        pytest.param(
            uris("http://m.example.org/deb-proxy/dists/trixie"),
            "http://m.example.org/deb-proxy",
            "http://m.example.org/deb-proxy-security",
            id="no-security-named",
        ),
        pytest.param(
            OTHERS
            + uris(
                "http://proxy.example.org/a/dists/sid",
                "http://proxy.example.org/b/dists/sid-updates",
            ),
            "http://proxy.example.org/b",
            "http://proxy.example.org/b-security",
            id="updates-tell",
        ),
        pytest.param(
            uris(
                "http://old.example.org/debian/dists/buster",
                "http://s.example.org/dists/buster/updates",
            ),
            "http://old.example.org/debian",
            "http://s.example.org",
            id="old-security-name",
        ),
        pytest.param(
            uris("file:/srv/debian/dists/bookworm"),
            "file:/srv/debian",
            "file:/srv/debian-security",
            id="local",
        ),
    ],
)
def test_debian_s_mirror_is_told_from_the_machine_s_sources(
    text: str, main: str, security: str
) -> None:
    """Third-party archives call their suites bookworm, too."""
    mirror = mirror_of(text)

    assert (mirror.url(Archive.MAIN), mirror.url(Archive.SECURITY)) == (main, security)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(
            uris(
                "http://archive.example.org/ubuntu/dists/noble",
                "http://archive.example.org/ubuntu/dists/noble-updates",
                "http://archive.example.org/ubuntu/dists/noble-security",
            ),
            id="ubuntu",
        ),
    ],
)
def test_a_machine_without_a_debian_mirror_says_what_to_set(text: str) -> None:
    """Ubuntu's archive has no Debian kernels."""
    with pytest.raises(UnavailableError) as caught:
        mirror_of(text)

    assert MAIN_VARIABLE in caught.value.hint


def test_the_environment_goes_before_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who names a mirror means it."""
    monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", "https://m.example.org/debian/")
    monkeypatch.delenv("KERNEL_MATRIX_DEBIAN_SECURITY_MIRROR", raising=False)

    assert find_mirror().security == "https://m.example.org/debian-security"

    monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_SECURITY_MIRROR", "https://s.example.org/x")

    assert find_mirror().security == "https://s.example.org/x"


@pytest.mark.parametrize(
    ("suite", "archive"),
    [
        ("bookworm", Archive.MAIN),
        ("trixie-backports", Archive.MAIN),
        ("experimental", Archive.MAIN),
        ("bookworm-security", Archive.SECURITY),
        ("buster/updates", Archive.SECURITY),
    ],
)
def test_a_suite_s_name_tells_its_archive(suite: str, archive: Archive) -> None:
    """Security updates have a server of their own."""
    assert archive_of(suite) is archive
