# SPDX-License-Identifier: GPL-2.0-only
"""Kernels: how they are named, configured and built, on one of ten lines: the real ones
take minutes and are built by the guest tests."""

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


@pytest.mark.usefixtures("no_fragments")
def test_an_option_that_a_kernel_has_dropped_is_noted(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "my.config"
    fragment.write_text("#: noted where it is missing\nCONFIG_NOPE=y\nCONFIG_NET=y\n")
    kernel = build.build(spec.parse(f"tree:{tree}", fragments=[fragment]))
    assert kernel.config.read_text() == "CONFIG_NET=y\n"
    note = "this kernel has no option CONFIG_NOPE (my.config:2); built without"
    assert kernel.notes == (note,)
    fragment.write_text("CONFIG_NET=y\n")
    assert build.build(spec.parse(f"tree:{tree}", fragments=[fragment])).notes == ()


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
def test_a_host_in_need_is_no_fault_of_the_kernel(line: str) -> None:
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
def test_a_kernel_that_is_wrong_is_no_fault_of_the_host(line: str) -> None:
    assert buildlog._cause(line, buildlog._HOST_CAUSES) == ""
