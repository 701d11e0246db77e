# SPDX-License-Identifier: GPL-2.0-only
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rootfs import cpio

NAMES = st.text(st.characters(whitelist_categories=["L", "N"]), min_size=1, max_size=8)
FILES = st.dictionaries(NAMES, st.binary(max_size=100), max_size=8)


def read(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive without the code under test. Maps paths to mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[at : at + size])
        at += (size + 3) // 4 * 4


@given(FILES)
def test_archive_contains_every_file_and_its_directory(files: dict[str, bytes]) -> None:
    entries = [cpio.file(f"dir/{name}", data) for name, data in files.items()]
    found = read(cpio.archive(entries))
    assert {name: found[f"dir/{name}"][1] for name in files} == files
    assert not files or found["dir"][0] == 0o040755


@given(FILES, st.randoms())
def test_archive_does_not_depend_on_the_order_of_entries(
    files: dict[str, bytes], random: object
) -> None:
    entries = [cpio.file(name, data) for name, data in files.items()]
    other = list(entries)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert cpio.archive(entries) == cpio.archive(other)


def test_tree_ignores_umask_and_modification_times(tmp_path: Path) -> None:
    archives = []
    for number, mask in ((1, 0o022), (2, 0o077)):
        root = tmp_path / str(number)
        old = os.umask(mask)
        try:
            (root / "bin").mkdir(parents=True)
            (root / "bin/tool").write_text("#!/bin/sh\n")
            (root / "bin/tool").chmod(0o700 if number == 1 else 0o755)
            (root / "link").symlink_to("bin/tool")
        finally:
            os.umask(old)
        os.utime(root / "bin/tool", (time.time() - number * 1000,) * 2)
        archives.append(cpio.archive(cpio.tree(root)))
    assert archives[0] == archives[1]
    assert read(archives[0])["link"] == (0o120777, b"bin/tool")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "."])
def test_archive_rejects_an_invalid_path(path: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        cpio.archive([cpio.file(path, b"")])


def test_archive_rejects_two_contents_for_one_path() -> None:
    with pytest.raises(ValueError, match="two different"):
        cpio.archive([cpio.file("a", b"1"), cpio.file("a", b"2")])
