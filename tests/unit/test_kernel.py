# SPDX-License-Identifier: GPL-2.0-only
"""Kernel specs, configuration and builds, with a ten-line source tree. Real kernels take minutes;
the guest tests build them."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BuildError, ToolMissing, UsageError
from harness.host import paths, tools
from harness.kernel import (
    build,
    buildlog,
    config,
    debian_source,
    spec,
    toolchain,
)
from tests import fake_linux


def built(tree: Path, *patches: Path) -> str:
    return build.build(spec.parse(f"tree:{tree}", patches)).image.read_text()


@pytest.mark.parametrize("text", ["", "debian", "debian:", "nope:x", ":", "6.12"])
def test_parse_rejects_an_unknown_kernel(text: str) -> None:
    with pytest.raises(UsageError, match="unknown kernel"):
        spec.parse(text)


def test_parse_rejects_a_missing_patch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        spec.parse("debian:6.12", [tmp_path / "nope"])


@given(st.text(max_size=40))
def test_parsing_hostile_text_raises_only_usage_errors(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert spec.parse(text).kind in spec.FORMS


@pytest.mark.parametrize("version", ["6.12;id", "../x", "6.12 ", "-o"])
def test_source_of_rejects_an_invalid_version(version: str) -> None:
    with pytest.raises(UsageError, match="invalid kernel version"):
        debian_source.source_of(version)


@pytest.mark.usefixtures("no_fragments")
def test_build_applies_patches_and_leaves_the_tree_unchanged(tree: Path, patch: Path) -> None:
    assert built(tree) == "int one;\n"
    assert built(tree, patch) == "int one;\nint two;\n"
    assert built(tree) == "int one;\n"
    assert (tree / "drivers/iommu/iommu.c").read_text() == "int one;\n"


@pytest.mark.usefixtures("no_fragments")
def test_build_builds_another_kernel_from_a_changed_tree(tree: Path) -> None:
    first = build.build(spec.parse(f"tree:{tree}"))
    (tree / "drivers/iommu/iommu.c").write_text("int six;\n")
    (tree / "new.c").write_text("")
    second = build.build(spec.parse(f"tree:{tree}"))
    assert first.key != second.key
    assert (first.image.read_text(), second.image.read_text()) == ("int one;\n", "int six;\n")


@pytest.mark.usefixtures("no_fragments")
def test_a_failed_build_reports_the_first_error_and_keeps_only_its_log(
    tree: Path, private_cache: Path
) -> None:
    (tree / "drivers/iommu/iommu.c").write_text("#error it is broken\n")
    with pytest.raises(BuildError, match=r"build: drivers/iommu/iommu\.c:1:2: error: #error it is"):
        built(tree)
    assert list((private_cache / "kernel").iterdir()) == []
    assert list((private_cache / "scratch").iterdir()) == []
    assert "broken" in next((private_cache / "failed-builds").iterdir()).read_text()


@pytest.mark.usefixtures("no_fragments")
def test_build_rejects_an_option_that_the_kernel_lacks(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("# why\nCONFIG_NOPE=y\n")
    with pytest.raises(
        UsageError, match=r"my\.config:2: CONFIG_NOPE=y became 'n': .*does not have the option"
    ):
        build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))


@pytest.mark.usefixtures("no_fragments")
def test_build_skips_an_optional_option_that_the_kernel_lacks(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("#: where it exists\nCONFIG_NOPE=y\nCONFIG_NET=y\n\nCONFIG_B=y\n")
    assert [option.optional for option in config.read(fragment)] == [True, True, False]
    kernel = build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))
    assert kernel.config.read_text() == "CONFIG_NET=y\nCONFIG_B=y\n"


@pytest.mark.usefixtures("no_fragments")
def test_build_notes_an_option_that_the_kernel_lacks(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("#: noted where it is missing\nCONFIG_NOPE=y\nCONFIG_NET=y\n")
    kernel = build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))
    assert kernel.config.read_text() == "CONFIG_NET=y\n"
    note = "built without CONFIG_NOPE (my.config:2), which this kernel does not define"
    assert kernel.notes == (note,)
    fragment.write_text("CONFIG_NET=y\n")
    assert build.build(spec.parse(f"tree:{tree}", fragments=[fragment])).notes == ()


@pytest.mark.usefixtures("no_fragments")
def test_build_notes_a_kernel_that_is_newer_than_the_tested_ones(tree: Path) -> None:
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("VERSION = 6", "VERSION = 99", 1))
    (note,) = build.build(spec.parse(f"tree:{tree}")).notes
    assert note.startswith("99.")
    assert "is newer than 7." in note


def test_read_rejects_an_invalid_line_in_a_fragment(tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("CONFIG_A=y\nCONFIG_B y\n")
    with pytest.raises(UsageError, match=r"my\.config:2: invalid line"):
        config.read(fragment)


def test_merged_keeps_the_value_of_the_last_fragment() -> None:
    options = [config.Option("A", "y", "a:1"), config.Option("A", "n", "b:1")]
    assert [option.line for option in config.merged(options)] == ["# CONFIG_A is not set"]


def test_fragments_set_each_option_once() -> None:
    names = [option.name for path in config.fragments() for option in config.read(path)]
    assert "ARM_SMMU_V3" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", config.variants())
def test_each_block_of_a_variant_begins_with_a_comment(name: str) -> None:
    path = config.fragments([name])[-1]
    assert config.read(path)
    for block in path.read_text().split("\n\n")[1:]:
        assert block.startswith("# "), f"{path.name} has a block without a comment: {block}"


@pytest.fixture
def empty_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "search_path", lambda: "/nowhere")


@pytest.mark.usefixtures("empty_path")
def test_build_reports_a_missing_cross_compiler_with_a_hint(tree: Path) -> None:
    with pytest.raises(ToolMissing, match="apt-get install"):
        build.build(spec.parse(f"tree:{tree}"))


@pytest.mark.usefixtures("no_fragments")
def test_the_kernel_key_depends_on_patches_and_fragments(
    tree: Path, patch: Path, tmp_path: Path
) -> None:
    fragment = tmp_path / "one.config"
    fragment.write_text("CONFIG_A=y\n")
    keys = [
        build.build(spec.parse(f"tree:{tree}", patches, fragments)).key
        for patches, fragments in (((), ()), ((patch,), ()), ((), (fragment,)), ((), ()))
    ]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]


@pytest.mark.usefixtures("no_fragments")
def test_build_runs_kconfig_again_if_a_script_changes(tree: Path) -> None:
    """A reused work tree must produce the same configuration as a new one."""
    makefile = (tree / "Makefile").read_text()
    rule = 'allnoconfig:\n\techo "CONFIG_LD=$$(cat scripts/ld)" > $(O)/.config\n\t# '
    (tree / "Makefile").write_text(makefile.replace("allnoconfig:\n\t", rule))
    (tree / "scripts").mkdir()
    for number in ("1", "2"):
        (tree / "scripts/ld").write_text(number)
        kernel = build.build(spec.parse(f"tree:{tree}"))
        assert kernel.config.read_text() == f"CONFIG_LD={number}\n"


def test_the_kernel_key_depends_on_the_compiler_and_variants(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "fragments", lambda names: [tree / f"{name}.x" for name in names])
    (tree / "kasan.x").write_text("CONFIG_K=y\n")
    plain = spec.parse(f"tree:{tree}")
    keys = {build.build(plain).key, build.build(replace(plain, variants=("kasan",))).key}
    other = replace(toolchain.GCC, variables=(*toolchain.GCC.variables, "X=1"))
    keys.add(build.build(replace(plain, toolchain=other)).key)
    assert len(keys) == 3


@pytest.mark.usefixtures("no_fragments")
def test_build_all_continues_after_a_failed_build(
    tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = fake_linux.write(tmp_path / "broken")
    (broken / "drivers/iommu/iommu.c").write_text("#error no\n")
    specs = [f"tree:{broken}", "tree:~nosuch/x", "git:/x@y", f"tree:{tree}"]
    outcomes = build.build_all([spec.parse(each) for each in specs])
    assert [type(each.error) for each in outcomes[:3]] == [BuildError, UsageError, UsageError]
    assert outcomes[3].kernel
    assert outcomes[3].kernel.image.read_text() == "int one;\n"
    assert "[[" not in capfd.readouterr().err


def test_cached_kernels_skips_entries_of_another_format(private_cache: Path) -> None:
    (private_cache / "kernel/old").mkdir(parents=True)
    (private_cache / "kernel/old/kernel.json").write_text("{}")
    assert build.cached_kernels() == []


@pytest.mark.usefixtures("no_fragments")
def test_build_compiles_guest_modules_from_this_checkout(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects from another checkout may be newer than the sources in this checkout."""
    makefile = (tree / "Makefile").read_text()
    rule = 'modules:\n\tif [ -n "$(M)" ]; then $(MAKE) -C $(M) -f Rules one.ko; fi\n'
    (tree / "Makefile").write_text(makefile.replace("modules:\n", rule))
    for name in ("b", "a"):  # b is written first but built last
        modules = tmp_path / name / "modules"
        modules.mkdir(parents=True)
        (modules / "one.c").write_text(name)
        (modules / "Rules").write_text("one.ko: one.c\n\tcp one.c one.ko\n")
    for name in ("a", "b"):
        monkeypatch.setattr(paths, "data", lambda _data, name=name: tmp_path / name)
        (module,) = build.build(spec.parse(f"tree:{tree}")).guest_modules
        assert module.read_text() == name


@pytest.mark.parametrize(
    "line",
    [
        "aarch64-linux-gnu-ld terminated with signal 9 [Killed]",
        "collect2: fatal error: ld terminated with signal 9 [Killed]",
        "aarch64-linux-gnu-gcc: fatal error: Killed signal terminated program cc1",
        "scripts/link-vmlinux.sh: line 113: 20131 Killed  ${ld} ${ldflags} -o ${output}",
        "make[2]: *** [scripts/Makefile.vmlinux:34: vmlinux] Killed",
        "cc1: out of memory allocating 65536 bytes after a total of 41418752 bytes",
        "LLVM ERROR: out of memory",
        "aarch64-linux-gnu-ld: final link failed: memory exhausted",
        "virtual memory exhausted: Cannot allocate memory",
        "/bin/sh: 1: fork: Resource temporarily unavailable",
        "ar: vmlinux.a: No space left on device",
        "fatal error: cannot open scripts/mod/elfconfig.h: Too many open files",
    ],
)
def test_cause_recognises_a_host_failure_in_a_build_log(line: str) -> None:
    log = f"  CC      drivers/iommu/iommu.o\n{line}\nmake: *** [Makefile:1] Error 2\n"
    assert buildlog._cause(log, buildlog._HOST_CAUSES) == line


@pytest.mark.parametrize(
    "line",
    [
        "drivers/iommu/iommu.c:1:9: error: 'b' undeclared here (not in a function)",
        "ld: iommu.c:(.text+0x1): undefined reference to `kill'",
        "make[1]: *** [scripts/Makefile.build:250: drivers/iommu/iommu.o] Error 1",
    ],
)
def test_cause_does_not_report_a_source_error_as_a_host_failure(line: str) -> None:
    assert buildlog._cause(line, buildlog._HOST_CAUSES) == ""
