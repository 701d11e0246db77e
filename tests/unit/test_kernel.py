# SPDX-License-Identifier: GPL-2.0-only
"""Kernel sources, work trees, configuration and builds, on a kernel of ten lines:
the real ones take minutes and are built by the guest tests."""

import contextlib
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BuildError, HostError, ToolMissing, UsageError
from harness.host import paths, tools
from harness.kernel import (
    build,
    config,
    debian_source,
    series,
    spec,
    toolchain,
    tree_source,
    worktree,
)
from harness.kernel.source import Source
from harness.kernel.worktree import Worktree
from tests import fake_linux


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IOMMU_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_linux.write(tmp_path / "a tree with spaces, ä")


@pytest.fixture
def no_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "fragments", lambda _variants: [])


def opened(
    source: Source, *patches: Path, variant: str = "gcc"
) -> contextlib.AbstractContextManager[Worktree]:
    return worktree.opened(
        source, [each for path in patches for each in series.read(path)], variant
    )


PATCH = """\
--- a/drivers/iommu/iommu.c
+++ b/drivers/iommu/iommu.c
@@ -1 +1,2 @@
 int one;
+int two;
"""


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    file = tmp_path / "two.patch"
    file.write_text(PATCH)
    return file


def built(tree: Path, *patches: Path) -> str:
    return build.build(spec.parse(f"tree:{tree}", patches)).image.read_text()


@pytest.mark.parametrize("text", ["", "debian", "debian:", "nope:x", ":", "6.12"])
def test_a_spec_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="no such kernel"):
        spec.parse(text)


def test_a_spec_with_a_missing_patch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such patch"):
        spec.parse("debian:6.12", [tmp_path / "nope"])


@given(st.text(max_size=40))
def test_hostile_specs(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert spec.parse(text).kind in spec.FORMS


@pytest.mark.parametrize("version", ["6.12;id", "../x", "6.12 ", "-o"])
def test_a_version_that_is_none_reaches_no_program(version: str) -> None:
    with pytest.raises(UsageError, match="not a kernel version"):
        debian_source.source_of(version)


def test_a_tree_that_is_not_linux(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a Linux source tree"):
        tree_source.source_of(str(tmp_path))


@pytest.mark.usefixtures("no_fragments")
def test_a_build_and_a_patched_one(tree: Path, patch: Path) -> None:
    assert built(tree) == "int one;\n"
    assert built(tree, patch) == "int one;\nint two;\n"
    assert built(tree) == "int one;\n"
    assert (tree / "drivers/iommu/iommu.c").read_text() == "int one;\n"


@pytest.mark.usefixtures("no_fragments")
def test_a_changed_tree_is_another_kernel(tree: Path) -> None:
    first = build.build(spec.parse(f"tree:{tree}"))
    (tree / "drivers/iommu/iommu.c").write_text("int six;\n")
    (tree / "new.c").write_text("")
    second = build.build(spec.parse(f"tree:{tree}"))
    assert first.key != second.key
    assert (first.image.read_text(), second.image.read_text()) == ("int one;\n", "int six;\n")


@pytest.mark.usefixtures("no_fragments")
def test_the_tree_itself_is_not_touched(tree: Path, patch: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    built(tree, patch)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


@pytest.mark.usefixtures("no_fragments")
def test_an_unchanged_file_keeps_its_time_in_the_work_tree(tree: Path, patch: Path) -> None:
    built(tree)
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        old = {name: (work.source / name).stat().st_mtime_ns for name in work.manifest}
    with opened(resolved, patch) as work:
        new = {name: (work.source / name).stat().st_mtime_ns for name in work.manifest}
    assert {name for name in old if old[name] != new[name]} == {"drivers/iommu/iommu.c"}


@pytest.mark.usefixtures("no_fragments")
def test_a_work_tree_left_half_way_is_made_afresh(tree: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        (work.root / "manifest.json").unlink()
        (work.source / "stray.c").write_text("left by a killed run")
        (work.source / "Makefile").write_text("torn")
    with opened(resolved) as work:
        assert not (work.source / "stray.c").exists()
        assert (work.source / "Makefile").read_text() == fake_linux.MAKEFILE


@pytest.mark.usefixtures("no_fragments")
def test_objects_of_a_killed_build_are_not_trusted(tree: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    with opened(resolved) as work:
        (work.objects / "whole.o").touch()
    with opened(resolved) as work:
        assert (work.objects / "whole.o").exists()
    work.objects.with_suffix(".in-use").touch()  # what a killed run leaves
    with opened(resolved) as work:
        assert not (work.objects / "whole.o").exists()


@pytest.mark.usefixtures("no_fragments")
def test_the_first_compiler_error_is_told_and_nothing_is_kept(
    tree: Path, private_cache: Path
) -> None:
    (tree / "drivers/iommu/iommu.c").write_text("#error it is broken\n")
    with pytest.raises(BuildError, match=r"build: drivers/iommu/iommu\.c:1:2: error: #error it is"):
        built(tree)
    assert list((private_cache / "kernel").iterdir()) == []
    assert list((private_cache / "scratch").iterdir()) == []
    assert "broken" in next((private_cache / "failed-builds").iterdir()).read_text()


@pytest.mark.usefixtures("no_fragments")
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nothing of a patch", "no diff in it"),
        (PATCH.replace("int one", "int nine"), "does not apply"),
        (PATCH.replace("drivers/iommu/iommu.c", "../../outside.c"), "does not apply|reaches out"),
        (PATCH.replace("a/drivers", "/etc").replace("b/drivers", "/etc"), "does not apply|reaches"),
    ],
)
def test_a_patch_that_does_not_fit(tree: Path, tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "bad.patch"
    file.write_text(text)
    with pytest.raises(UsageError, match=word):
        built(tree, file)
    assert built(tree) == "int one;\n"


def test_a_git_tree_is_what_git_sees(tree: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    (tree / ".gitignore").write_text("*.o\n")
    (tree / "built.o").write_text("")
    (tree / "untracked.c").write_text("")
    manifest = tree_source.source_of(str(tree)).manifest()
    assert "untracked.c" in manifest
    assert "built.o" not in manifest


def test_without_git_what_a_build_leaves_is_no_source(tree: Path) -> None:
    for name in ("a.o", ".a.o.cmd", ".config", "drivers/x.ko", "include/generated/y.h"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("")
    manifest = tree_source.source_of(str(tree)).manifest()
    assert sorted(manifest) == fake_linux.NAMES


@pytest.mark.usefixtures("no_fragments")
def test_an_option_that_this_kernel_does_not_have(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("# why\nCONFIG_NOPE=y\n")
    with pytest.raises(
        UsageError, match=r"my\.config:2: CONFIG_NOPE=y became 'n': .*no such option"
    ):
        build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))


@pytest.mark.usefixtures("no_fragments")
def test_an_option_wanted_only_where_it_exists(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("#: where it exists\nCONFIG_NOPE=y\nCONFIG_NET=y\n\nCONFIG_B=y\n")
    assert [option.optional for option in config.read(fragment)] == [True, True, False]
    kernel = build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))
    assert kernel.config.read_text() == "CONFIG_NET=y\nCONFIG_B=y\n"


def test_a_fragment_with_a_typo(tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("CONFIG_A=y\nCONFIG_B y\n")
    with pytest.raises(UsageError, match=r"my\.config:2: not a configuration line"):
        config.read(fragment)


def test_the_last_fragment_wins() -> None:
    options = [config.Option("A", "y", "a:1"), config.Option("A", "n", "b:1")]
    assert [option.line for option in config.merged(options)] == ["# CONFIG_A is not set"]


def test_our_own_fragments_can_be_read() -> None:
    names = [option.name for path in config.fragments() for option in config.read(path)]
    assert "ARM_SMMU_V3" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", config.variants())
def test_a_variant_says_why_of_each_block(name: str) -> None:
    path = config.fragments([name])[-1]
    assert config.read(path)
    for block in path.read_text().split("\n\n")[1:]:
        assert block.startswith("# "), f"{path.name} has a block without a comment: {block}"


@pytest.fixture
def empty_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: "/nowhere")


@pytest.mark.usefixtures("empty_path")
def test_no_cross_compiler_is_told_with_the_mend(tree: Path) -> None:
    with pytest.raises(ToolMissing, match="apt-get install"):
        build.build(spec.parse(f"tree:{tree}"))


@pytest.mark.usefixtures("no_fragments")
def test_the_key_is_of_everything_that_goes_in(tree: Path, patch: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "one.config"
    fragment.write_text("CONFIG_A=y\n")
    keys = [
        build.build(spec.parse(f"tree:{tree}", patches, fragments)).key
        for patches, fragments in (((), ()), ((patch,), ()), ((), (fragment,)), ((), ()))
    ]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]


RENAME = """\
diff --git a/drivers/iommu/iommu.c b/drivers/iommu/other.c
similarity index 100%
rename from drivers/iommu/iommu.c
rename to drivers/iommu/other.c
"""


@pytest.mark.usefixtures("no_fragments")
def test_what_a_patch_renames_is_back_without_it(tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "rename.patch"
    patch.write_text(RENAME)
    resolved = tree_source.source_of(str(tree))
    with opened(resolved, patch) as work:
        assert not (work.source / "drivers/iommu/iommu.c").exists()
    with opened(resolved) as work:
        names = {str(path.relative_to(work.source)) for path in work.source.rglob("*.c")}
    assert names == {"drivers/iommu/iommu.c"}


@pytest.mark.usefixtures("no_fragments")
def test_a_tree_that_changes_while_it_is_read_is_no_kernel(tree: Path, private_cache: Path) -> None:
    resolved = tree_source.source_of(str(tree))
    (tree / "drivers/iommu/iommu.c").write_text("int nine;\n")
    with pytest.raises(HostError, match="was changed while it was read"):
        opened(resolved).__enter__()
    assert built(tree) == "int nine;\n"
    assert len(list((private_cache / "kernel").iterdir())) == 1


@pytest.mark.usefixtures("no_fragments")
def test_objects_do_not_outlive_an_interrupted_copy(tree: Path) -> None:
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
def test_a_link_that_a_patch_makes_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    """A directory that a patch replaces by a link is put back without following it."""
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
def test_a_link_out_of_the_tree_is_what_it_names(tree: Path, tmp_path: Path) -> None:
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
def test_what_is_no_file_is_no_source(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"caf\xe9.c")).write_text("")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        with contextlib.chdir(tree):
            listening.bind("monitor")
        assert built(tree) == "int one;\n"
    manifest = tree_source.source_of(str(tree)).manifest()
    assert manifest.keys() - set(fake_linux.NAMES) == {os.fsdecode(b"caf\xe9.c")}


@pytest.mark.usefixtures("no_fragments")
def test_a_time_put_back_hides_no_change(tree: Path) -> None:
    assert built(tree) == "int one;\n"
    file = tree / "drivers/iommu/iommu.c"
    before = file.stat()
    file.write_text("int two;\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert built(tree) == "int two;\n"


def test_a_repository_within_is_part_of_a_tree(tree: Path) -> None:
    for place in (tree, tree / "drivers/mine"):
        place.mkdir(exist_ok=True)
        subprocess.run(["git", "init", "-q", str(place)], check=True)
    (tree / "drivers/mine/mine.c").write_text("")
    names = tree_source.source_of(str(tree)).manifest().keys()
    assert "drivers/mine/mine.c" in names
    assert not any("/.git/" in name for name in names)


@pytest.mark.usefixtures("no_fragments")
def test_a_script_that_kconfig_runs_is_its_input(tree: Path) -> None:
    """The same work tree must give what a fresh one gives."""
    makefile = (tree / "Makefile").read_text()
    rule = 'allnoconfig:\n\techo "CONFIG_LD=$$(cat scripts/ld)" > $(O)/.config\n\t# '
    (tree / "Makefile").write_text(makefile.replace("allnoconfig:\n\t", rule))
    (tree / "scripts").mkdir()
    for number in ("1", "2"):
        (tree / "scripts/ld").write_text(number)
        kernel = build.build(spec.parse(f"tree:{tree}"))
        assert kernel.config.read_text() == f"CONFIG_LD={number}\n"


def test_the_key_knows_compiler_and_variant(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "fragments", lambda names: [tree / f"{name}.x" for name in names])
    (tree / "kasan.x").write_text("CONFIG_K=y\n")
    plain = spec.parse(f"tree:{tree}")
    keys = {build.build(plain).key, build.build(replace(plain, variants=("kasan",))).key}
    other = replace(toolchain.GCC, variables=(*toolchain.GCC.variables, "X=1"))
    keys.add(build.build(replace(plain, toolchain=other)).key)
    assert len(keys) == 3


@pytest.mark.usefixtures("no_fragments")
def test_one_that_fails_does_not_stop_the_others(
    tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = fake_linux.write(tmp_path / "broken")
    (broken / "drivers/iommu/iommu.c").write_text("#error no\n")
    wheres = [f"tree:{broken}", "tree:~nosuch/x", "git:/x@y", f"tree:{tree}"]
    outcomes = build.build_all([spec.parse(where) for where in wheres])
    assert [type(each.error) for each in outcomes[:3]] == [BuildError, UsageError, UsageError]
    assert outcomes[3].kernel
    assert outcomes[3].kernel.image.read_text() == "int one;\n"
    assert "[[" not in capfd.readouterr().err


def test_an_entry_of_another_format_is_not_listed(private_cache: Path) -> None:
    (private_cache / "kernel/old").mkdir(parents=True)
    (private_cache / "kernel/old/kernel.json").write_text("{}")
    assert build.built() == []


@pytest.mark.usefixtures("no_fragments")
def test_a_directory_may_become_a_file(tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib/a.c").write_text("")
    built(tree)
    (tree / "lib/a.c").unlink()
    (tree / "lib").rmdir()
    (tree / "lib").write_text("")
    assert built(tree) == "int one;\n"


@pytest.mark.usefixtures("no_fragments")
def test_guest_modules_are_those_of_this_checkout(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkout's may have been compiled later than these were written."""
    makefile = (tree / "Makefile").read_text()
    rule = 'modules:\n\tif [ -n "$(M)" ]; then $(MAKE) -C $(M) -f Rules one.ko; fi\n'
    (tree / "Makefile").write_text(makefile.replace("modules:\n", rule))
    for name in ("b", "a"):  # b is written first, and built last
        modules = tmp_path / name / "modules"
        modules.mkdir(parents=True)
        (modules / "one.c").write_text(name)
        (modules / "Rules").write_text("one.ko: one.c\n\tcp one.c one.ko\n")
    for name in ("a", "b"):
        monkeypatch.setattr(paths, "data", lambda _data, name=name: tmp_path / name)
        (module,) = build.build(spec.parse(f"tree:{tree}")).guest_modules
        assert module.read_text() == name
