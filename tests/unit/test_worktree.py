# SPDX-License-Identifier: GPL-2.0-only
"""Source trees and the work trees in which kernels are built, with a ten-line source tree."""

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from harness.errors import HostError, UsageError
from harness.kernel import (
    build,
    series,
    spec,
    tree_source,
    worktree,
)
from harness.kernel.source import Source
from harness.kernel.worktree import Worktree
from tests import fake_linux


def opened(
    source: Source, *patches: Path, variant: str = "gcc"
) -> contextlib.AbstractContextManager[Worktree]:
    return worktree.open_worktree(
        source, [each for path in patches for each in series.read(path)], variant
    )


def built(tree: Path, *patches: Path) -> str:
    return build.build(spec.parse(f"tree:{tree}", patches)).image.read_text()


def test_source_of_rejects_a_directory_without_linux_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a Linux source tree"):
        tree_source.source_of(str(tmp_path))


@pytest.mark.usefixtures("no_fragments")
def test_building_leaves_the_users_tree_unchanged(tree: Path, patch: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    built(tree, patch)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


@pytest.mark.usefixtures("no_fragments")
def test_an_unpatched_file_keeps_its_mtime_in_the_work_tree(tree: Path, patch: Path) -> None:
    built(tree)
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        old = {name: (work.source / name).stat().st_mtime_ns for name in work.manifest}
    with opened(resolved, patch) as work:
        new = {name: (work.source / name).stat().st_mtime_ns for name in work.manifest}
    assert {name for name in old if old[name] != new[name]} == {"drivers/iommu/iommu.c"}


@pytest.mark.usefixtures("no_fragments")
def test_open_recreates_an_incomplete_work_tree(tree: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        (work.root / "manifest.json").unlink()
        (work.source / "stray.c").write_text("left by a killed run")
        (work.source / "Makefile").write_text("torn")
    with opened(resolved) as work:
        assert not (work.source / "stray.c").exists()
        assert (work.source / "Makefile").read_text() == fake_linux.MAKEFILE


@pytest.mark.usefixtures("no_fragments")
@pytest.mark.parametrize("lost", ["vmlinux", "."])
def test_open_build_tree_recompiles_removed_objects(tree: Path, lost: str) -> None:
    """The kernel is still in the cache, so that build() alone would compile nothing."""
    parsed = spec.parse(f"tree:{tree}")
    build.build(parsed)
    with build.open_build_tree(parsed, wait=False) as before:
        objects = before.tree.objects
    shutil.rmtree(objects) if lost == "." else (objects / lost).unlink()
    with (
        pytest.raises(HostError, match="are not in the cache"),
        build.open_build_tree(parsed, wait=False),
    ):
        pass
    with build.open_build_tree(parsed, wait=True):
        assert (objects / "vmlinux").is_file()


@pytest.mark.usefixtures("no_fragments")
def test_open_discards_the_objects_of_a_killed_build(tree: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        (work.objects / "whole.o").touch()
    with opened(resolved) as work:
        assert (work.objects / "whole.o").exists()
    work.objects.with_suffix(".in-use").touch()  # as a killed run leaves it
    with opened(resolved) as work:
        assert not (work.objects / "whole.o").exists()


@pytest.mark.usefixtures("no_fragments")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nothing of a patch", "has no diff"),
        (fake_linux.PATCH.replace("int one", "int nine"), "does not apply"),
        (
            fake_linux.PATCH.replace("drivers/iommu/iommu.c", "../../outside.c"),
            "does not apply|outside the tree",
        ),
        (
            fake_linux.PATCH.replace("a/drivers", "/etc").replace("b/drivers", "/etc"),
            "does not apply|outside the tree",
        ),
    ],
)
def test_build_rejects_a_patch_that_does_not_apply(
    tree: Path, tmp_path: Path, text: str, error: str
) -> None:
    file = tmp_path / "bad.patch"
    file.write_text(text)
    with pytest.raises(UsageError, match=error):
        built(tree, file)
    assert built(tree) == "int one;\n"


def test_source_of_a_git_tree_excludes_ignored_files(tree: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    (tree / ".gitignore").write_text("*.o\n")
    (tree / "built.o").write_text("")
    (tree / "untracked.c").write_text("")
    manifest = tree_source.source_of(str(tree)).manifest()
    assert "untracked.c" in manifest
    assert "built.o" not in manifest


def test_source_of_a_plain_tree_excludes_build_products(tree: Path) -> None:
    for name in ("a.o", ".a.o.cmd", ".config", "drivers/x.ko", "include/generated/y.h"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("")
    manifest = tree_source.source_of(str(tree)).manifest()
    assert sorted(manifest) == fake_linux.NAMES


RENAME = """\
diff --git a/drivers/iommu/iommu.c b/drivers/iommu/other.c
similarity index 100%
rename from drivers/iommu/iommu.c
rename to drivers/iommu/other.c
"""


@pytest.mark.usefixtures("no_fragments")
def test_open_reverts_a_rename_when_its_patch_is_dropped(tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "rename.patch"
    patch.write_text(RENAME)
    resolved = tree_source.source_of(str(tree))
    with opened(resolved, patch) as work:
        assert not (work.source / "drivers/iommu/iommu.c").exists()
    with opened(resolved) as work:
        names = {str(path.relative_to(work.source)) for path in work.source.rglob("*.c")}
    assert names == {"drivers/iommu/iommu.c"}


@pytest.mark.usefixtures("no_fragments")
def test_open_rejects_a_tree_that_changes_while_it_is_copied(
    tree: Path, private_cache: Path
) -> None:
    resolved = tree_source.source_of(str(tree))
    (tree / "drivers/iommu/iommu.c").write_text("int nine;\n")
    with pytest.raises(HostError, match="was changed while it was read"):
        opened(resolved).__enter__()
    assert built(tree) == "int nine;\n"
    assert len(list((private_cache / "kernel").iterdir())) == 1


@pytest.mark.usefixtures("no_fragments")
def test_open_discards_the_objects_after_an_interrupted_copy(tree: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        (work.objects / "old.o").touch()
        record = work.root / "manifest.json"
    record.write_text("{}")
    with opened(resolved) as work:
        assert not (work.objects / "old.o").exists()


LINK = """\
diff --git a/drivers/iommu/iommu.c b/drivers/iommu/iommu.c
deleted file mode 100644
--- a/drivers/iommu/iommu.c
+++ /dev/null
@@ -1 +0,0 @@
-int one;
diff --git a/drivers/iommu/more.c b/drivers/iommu/more.c
deleted file mode 100644
--- a/drivers/iommu/more.c
+++ /dev/null
@@ -1 +0,0 @@
-more
diff --git a/drivers/iommu b/drivers/iommu
new file mode 120000
--- /dev/null
+++ b/drivers/iommu
@@ -0,0 +1 @@
+{}
\\ No newline at end of file
"""


@pytest.mark.usefixtures("no_fragments")
def test_open_never_follows_a_symlink_made_by_a_patch(tree: Path, tmp_path: Path) -> None:
    """A directory that a patch replaces with a symlink is restored without writing through it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tree / "drivers/iommu/more.c").write_text("more\n")
    (victim / "iommu.c").write_text("mine")
    (victim / "more.c").write_text("mine")
    patch = tmp_path / "link.patch"
    patch.write_text(LINK.format(victim))
    resolved = tree_source.source_of(str(tree))
    for _ in range(3):
        with opened(resolved, patch) as work:
            assert (work.source / "drivers/iommu").is_symlink()
        with opened(resolved) as work:
            assert (work.source / "drivers/iommu/more.c").read_text() == "more\n"
        assert sorted(path.read_text() for path in victim.iterdir()) == ["mine", "mine"]


@pytest.mark.usefixtures("no_fragments")
def test_build_reads_a_symlink_out_of_the_tree_as_its_target(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.c"
    outside.write_text("int out;\n")
    (tree / "drivers/iommu/iommu.c").unlink()
    (tree / "drivers/iommu/iommu.c").symlink_to(outside)
    (tree / "nowhere").symlink_to("/nowhere")
    (tree / "within").symlink_to("Makefile")
    assert built(tree) == "int out;\n"
    outside.write_text("int our;\n")
    assert built(tree) == "int our;\n"
    assert {"within"} == tree_source.source_of(str(tree)).manifest().keys() & {"within", "nowhere"}


@pytest.mark.usefixtures("no_fragments")
def test_source_of_skips_pipes_and_sockets(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"caf\xe9.c")).write_text("")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        with contextlib.chdir(tree):
            listening.bind("monitor")
        assert built(tree) == "int one;\n"
    manifest = tree_source.source_of(str(tree)).manifest()
    assert manifest.keys() - set(fake_linux.NAMES) == {os.fsdecode(b"caf\xe9.c")}


@pytest.mark.usefixtures("no_fragments")
def test_build_notices_a_change_with_a_restored_mtime(tree: Path) -> None:
    assert built(tree) == "int one;\n"
    file = tree / "drivers/iommu/iommu.c"
    before = file.stat()
    file.write_text("int two;\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert built(tree) == "int two;\n"


def test_source_of_a_git_tree_includes_a_nested_repository(tree: Path) -> None:
    for place in (tree, tree / "drivers/mine"):
        place.mkdir(exist_ok=True)
        subprocess.run(["git", "init", "-q", str(place)], check=True)
    (tree / "drivers/mine/mine.c").write_text("")
    names = tree_source.source_of(str(tree)).manifest().keys()
    assert "drivers/mine/mine.c" in names
    assert not any("/.git/" in name for name in names)


@pytest.mark.usefixtures("no_fragments")
def test_build_accepts_a_directory_replaced_by_a_file(tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib/a.c").write_text("")
    built(tree)
    (tree / "lib/a.c").unlink()
    (tree / "lib").rmdir()
    (tree / "lib").write_text("")
    assert built(tree) == "int one;\n"
