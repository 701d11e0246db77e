# SPDX-License-Identifier: GPL-2.0-only
"""The cache returns only intact entries and removes only unused entries."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import HostError
from harness.host import cache, files, inventory, manifest
from harness.kernel import debian_source
from tests import command, fake_linux


def make(into: Path) -> None:
    (into / "below").mkdir()
    (into / "below/file").write_text("whole")
    (into / "link").symlink_to("below/file")
    (into / "empty").mkdir()


def entry() -> Path:
    return cache.entry("kernel", "key", "a thing", make)


def release(path: Path) -> None:
    """Unlock an entry that this process uses, as the process does when it exits."""
    os.close(cache._held.pop(path))


def redirect_link(link: Path) -> None:
    link.unlink()
    link.symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a changed file": lambda path: (path / "below/file").write_text("wh0le"),
    "a truncated file": lambda path: (path / "below/file").write_text("who"),
    "a missing file": lambda path: (path / "below/file").unlink(),
    "an extra file": lambda path: (path / "extra").write_text(""),
    "a changed mode": lambda path: (path / "below/file").chmod(0o755),
    "a redirected link": lambda path: redirect_link(path / "link"),
    "no seal": lambda path: (path / cache.SEAL).unlink(),
    "a truncated seal": lambda path: (path / cache.SEAL).write_text("{"),
    "a seal of another type": lambda path: (path / cache.SEAL).write_text("[]"),
    "a forged seal": lambda path: (path / cache.SEAL).write_text(
        (path / cache.SEAL).read_text().replace("below/file", "below/other")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_entry_rebuilds_a_damaged_entry(damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = entry()
    release(path)
    DAMAGES[damage](path)
    assert cache.damage(path)
    assert entry() == path
    assert not cache.damage(path)
    assert (path / "below/file").read_text() == "whole"
    assert "damaged" in capfd.readouterr().err


def test_entry_returns_an_intact_entry_without_rebuilding_it() -> None:
    release(entry())
    assert cache.entry("kernel", "key", "x", lambda _into: pytest.fail("made twice"))


def test_a_lazy_entry_checks_only_its_seal() -> None:
    path = entry()
    release(path)
    (path / "below/file").write_text("other")
    lazy = cache.entry("kernel", "key", "x", lambda _: pytest.fail("made"), lazy=True)
    assert cache.read_seal(lazy).keys() == {"below/file", "link"}
    release(path)
    (path / cache.SEAL).write_text("{}")
    assert cache.entry("kernel", "key", "x", make, lazy=True) == path
    assert (path / "below/file").read_text() == "whole"


def test_entry_fails_if_the_disk_corrupts_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "damage", lambda _path: "broken")
    with pytest.raises(HostError, match="differs from the data that was written"):
        entry()


def test_items_lists_the_entries() -> None:
    entry()
    (item,) = inventory.items()
    assert (item.kind, item.key, item.title) == ("kernel", "key", "a thing")
    assert item.size > 0
    assert time.time() - item.used < 60


def test_damaged_lists_entries_with_changed_files() -> None:
    (entry() / "below/file").write_text("other")
    ((item, problem),) = inventory.damaged()
    assert (item.key, problem) == ("key", "below/file has changed")


def test_remove_unused_keeps_recent_entries_and_entries_in_use() -> None:
    path = entry()
    assert list(inventory.remove_unused(30)) == []
    assert list(inventory.remove_unused(0)) == []  # this process uses it
    release(path)
    assert [item.key for item in inventory.remove_unused(0)] == ["key"]
    assert not path.exists()
    assert inventory.items() == []


USES_ENTRY = """
import sys
from harness.host import cache
cache.entry("kernel", "key", "a thing", lambda into: (into / "file").write_text("x"))
print("ready", flush=True)
sys.stdin.read()
"""


def test_remove_unused_keeps_an_entry_that_another_process_uses() -> None:
    user = subprocess.Popen(
        [sys.executable, "-c", USES_ENTRY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout
    assert user.stdin
    assert user.stdout.readline() == "ready\n"
    assert list(inventory.remove_unused(0)) == []
    user.stdin.close()
    assert user.wait() == 0
    assert len(list(inventory.remove_unused(0))) == 1


def test_remove_unused_keeps_a_locked_work_tree(private_cache: Path) -> None:
    (private_cache / "work/one").mkdir(parents=True)
    with cache.locked("work-one", "x"):
        assert list(inventory.remove_unused(0)) == []
    assert [item.key for item in inventory.remove_unused(0)] == ["one"]
    assert not list((private_cache / "locks").iterdir())


def test_the_cache_commands_list_verify_and_remove_entries(
    tmp_path: Path, private_cache: Path
) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    done = command.run("kernel", "build", f"tree:{tree}")
    assert done.status == 0, done.err
    listed = command.run("cache", "ls")
    assert listed.status == 0
    assert re.search(r" kernel +1$", listed.out, re.MULTILINE)
    assert "kernel tree:" in command.run("cache", "ls", "kernel").out
    assert command.run("cache", "ls", "nothing").status == 2
    assert command.run("cache", "verify").status == 0
    (image,) = private_cache.glob("kernel/*/Image")
    image.write_text("tampered")
    verified = command.run("cache", "verify")
    assert verified.status == 1
    assert "Image has changed" in verified.out
    again = command.run("kernel", "build", f"tree:{tree}")
    assert "damaged; creating it again" in again.err
    assert image.read_text() == "int one;\n"
    assert command.run("cache", "gc", "--days", "0").status == 0
    assert "removed" not in command.run("cache", "ls").out
    assert not list(private_cache.glob("kernel/*"))


def test_copy_and_link_tree_preserve_modes_and_links(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_text("x")
    origin.chmod(0o755)
    (tmp_path / "symbolic").symlink_to("origin")
    files.copy(origin, tmp_path / "a/copy")
    files.copy(tmp_path / "symbolic", tmp_path / "a/symbolic")
    (tmp_path / "from").mkdir()
    origin.rename(tmp_path / "from/link")
    origin = tmp_path / "from/link"
    (tmp_path / "from/below").symlink_to("nowhere")
    files.link_tree(tmp_path / "from", tmp_path / "a")
    assert str((tmp_path / "a/below").readlink()) == "nowhere"
    assert (tmp_path / "a/copy").read_text() == "x"
    assert os.access(tmp_path / "a/copy", os.X_OK)
    assert str((tmp_path / "a/symbolic").readlink()) == "origin"
    assert (tmp_path / "a/link").samefile(origin)
    assert not (tmp_path / "a/copy").samefile(origin)


def test_scan_computes_the_same_keys_in_bulk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "-n", "with blank", "new\nline", "back\\slash", "ä", os.fsdecode(b"caf\xe9")]
    for name in names:
        (tmp_path / name).write_text(name.encode(errors="surrogateescape").hex())
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "link").symlink_to("a")
    one_by_one = manifest.scan(tmp_path)
    monkeypatch.setattr(manifest, "_MANY", 0)
    assert manifest.scan(tmp_path) == one_by_one
    assert one_by_one.keys() == {*names, "link"}


def test_are_intact_detects_extra_changed_and_missing_files(tmp_path: Path) -> None:
    """An extra file matters only if all files of the tree are requested."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = manifest.scan(tmp_path)
    assert debian_source._are_intact(tmp_path, files, ["a", "b"])
    (tmp_path / "c").write_text("")
    assert not debian_source._are_intact(tmp_path, files, ["a", "b"])
    assert debian_source._are_intact(tmp_path, files, ["a"])
    (tmp_path / "a").write_text("x")
    assert not debian_source._are_intact(tmp_path, files, ["a"])
    (tmp_path / "a").unlink()
    assert not debian_source._are_intact(tmp_path, files, ["a"])


MEGABYTE = 1 << 20


@pytest.fixture
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the key of large files (such as a guest's memory) from one megabyte on."""
    monkeypatch.setattr(manifest, "_LARGE", MEGABYTE)


@pytest.mark.usefixtures("low_threshold")
def test_sparse_and_full_files_of_equal_content_have_the_same_key(tmp_path: Path) -> None:
    data = bytes(3 * MEGABYTE) + b"word" + bytes(5 * MEGABYTE) + b"end"
    holes, full = tmp_path / "holes", tmp_path / "full"
    full.write_bytes(data)
    with holes.open("wb") as file:
        file.truncate(len(data))
        file.seek(3 * MEGABYTE)
        file.write(b"word")
        file.seek(len(data) - 3)
        file.write(b"end")
    assert holes.stat().st_blocks < full.stat().st_blocks
    assert manifest.key(holes) == manifest.key(full)


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("place", [0, 65535, 65536, MEGABYTE, 2 * MEGABYTE - 1])
def test_the_key_of_a_large_file_depends_on_every_byte(tmp_path: Path, place: int) -> None:
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.truncate(2 * MEGABYTE)
    empty = manifest.key(file)
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(b"x")
    changed = manifest.key(file)
    assert changed != empty
    with file.open("r+b") as opened:
        opened.truncate(2 * MEGABYTE + 1)
    assert manifest.key(file) not in (changed, empty)


def test_ensure_space_removes_the_oldest_unused_snapshots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file system of 10 GB, with four snapshots of 1 GB and 4 GB of other files."""
    paths = [cache.entry("snapshot", f"key{number}", "a guest", make) for number in range(4)]
    for age, path in enumerate(paths):
        os.utime(path, (0, 1000 - age))
        if path != paths[2]:
            release(path)
    kernel = entry()
    release(kernel)

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=(6 - sum(path.exists() for path in paths)) * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    cache.ensure_space(3, "x")
    assert [path.exists() for path in paths] == [True, True, True, False]
    with pytest.raises(HostError, match=r"no space: x requires 6 GB, but .* has 5.0 GB free"):
        cache.ensure_space(6, "x")
    assert [path.exists() for path in paths] == [False, False, True, False]
    assert kernel.exists()
