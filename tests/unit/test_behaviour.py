# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.iommu import behaviour, evidence
from harness.iommu.behaviour import (
    FAILED_FIRST_ATTACH_WARNS,
    GROUP_TYPE,
    GROUP_TYPE_WRITABLE,
    SHARED_GROUP_TYPE_WRITABLE,
    UNBIND_RELEASES_DEVICE,
)
from harness.iommu.evidence import ExaminedKernel, Sign
from harness.iommu.version import Versions
from harness.kernel import excerpt
from harness.kernel.artifact import Kernel
from harness.kernel.excerpt import Excerpt

CORE = "drivers/iommu/iommu.c"


@pytest.mark.parametrize(
    ("release", "included"),
    [
        ("6.14.11", False),
        ("6.15.0-rc1", True),
        ("6.15", True),
        ("7.2.13", True),
        ("6.12.110", False),
        ("6.12.111", True),
        ("6.12.117-custom", True),
        ("6.13.9", False),
        ("5.10.999", False),
        ("next-20261101", True),
    ],
)
def test_versions_include_later_releases_and_stable_backports(release: str, included: bool) -> None:
    assert Versions(("6.12.111", "6.15")).include(release) == included


def test_versions_exclude_unlisted_and_unknown_releases() -> None:
    assert not Versions().include("7.2")
    assert not Versions().include("unknown")
    assert not Versions(("6.12.3",)).include("unknown")


def examined(directory: Path, files: dict[str, str], release: str = "6.12.1") -> ExaminedKernel:
    """Create a kernel in ``directory``. ``files`` maps the paths of its source to their text."""
    for name, text in files.items():
        path = directory / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "tree").mkdir(exist_ok=True)
    excerpt.write(directory / "tree", directory)
    (directory / "config").write_text("CONFIG_DRIVER_DEFERRED_PROBE_TIMEOUT=10\n")
    return ExaminedKernel(Kernel("key", "label", release, "gcc", directory), Excerpt(directory))


INIT = """
static int iommu_init_device(struct device *dev);

static int iommu_init_device(struct device *dev)
{
	if (!dev->iommu) /* dma_configure(dev) */
		%s;
	return 0;
}

static int other(void)
{
	return dma_configure(dev);
}
"""
SIGN = Sign(CORE, r"dma_configure\(", "iommu_init_device")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("return dev->bus->dma_configure(dev)", True),
        ("return 0", False),
        ("return 0; // dma_configure(dev)", False),
    ],
)
def test_a_sign_matches_only_code_in_its_function(tmp_path: Path, line: str, shown: bool) -> None:
    found = evidence.decide(examined(tmp_path, {CORE: INIT % line}), [SIGN], "", Versions())
    assert (found.shown, found.by) == (shown, "source")
    assert not found.guess


def test_decide_guesses_from_the_version_if_the_function_is_absent(tmp_path: Path) -> None:
    kernel = examined(tmp_path, {CORE: "int renamed(void)\n{\n}\n"}, "6.15.2")
    found = evidence.decide(kernel, [SIGN], "", Versions(("6.15",)))
    assert (found.shown, found.guess) == (True, True)
    assert "6.15.2" in found.why


def test_history_takes_precedence_over_the_version(tmp_path: Path) -> None:
    kernel = replace(examined(tmp_path, {}), ancestor=lambda commit: commit == "bcb81ac6ae3c")
    found = evidence.decide(kernel, [SIGN], "bcb81ac6ae3c", Versions())
    assert (found.shown, found.by) == (True, "history")
    found = evidence.decide(kernel, [SIGN], "aa0958570f24", Versions(("5.10",)))
    assert (found.shown, found.by) == (False, "history")


def test_a_required_sign_must_match_before_the_next_sign_decides(tmp_path: Path) -> None:
    kernel = examined(tmp_path, {CORE: INIT % "return 1"})
    required = replace(SIGN, code="return 1", must=True)
    for code, shown in (("return 0", True), ("return 2", False)):
        signs = [required, replace(SIGN, code=code)]
        assert evidence.decide(kernel, signs, "", Versions()).shown == shown
    signs = [replace(required, code="return 3"), replace(SIGN, code="return 0")]
    assert not evidence.decide(kernel, signs, "", Versions()).shown
    assert evidence.decide(kernel, [required], "", Versions()).shown


def test_an_option_sign_reads_the_configuration(tmp_path: Path) -> None:
    kernel = examined(tmp_path, {})
    for code, shown in (("[1-9][0-9]*", True), ("0", False)):
        sign = Sign(option="DRIVER_DEFERRED_PROBE_TIMEOUT", code=code)
        found = evidence.decide(kernel, [sign], "", Versions())
        assert (found.shown, found.by) == (shown, "configuration")


def test_an_option_sign_without_an_expression_requires_the_option(tmp_path: Path) -> None:
    kernel = examined(tmp_path, {})
    for option, shown in (("DRIVER_DEFERRED_PROBE_TIMEOUT", True), ("FAILSLAB", False)):
        found = evidence.decide(kernel, [Sign(option=option)], "", Versions(("5.10",)))
        assert (found.shown, found.by) == (shown, "configuration")


def test_a_group_type_cannot_be_changed_without_its_file(tmp_path: Path) -> None:
    text = "IOMMU_GROUP_ATTR(%s, 0644, 0, 0);\nint iommu_group_store_type(void)\n{\n}\n"
    for name, shown in (("type", True), ("domain_type", False)):
        kernel = examined(tmp_path / name, {CORE: text % name}, "7.3")
        for each in (GROUP_TYPE, GROUP_TYPE_WRITABLE, SHARED_GROUP_TYPE_WRITABLE):
            assert each.evidence(kernel).shown == shown, each.name


def test_symbols_of_older_kernels_do_not_show_that_shared_types_change(tmp_path: Path) -> None:
    symbols = frozenset({"iommu_group_show_type", "iommu_group_store_type"})
    kernel = ExaminedKernel(examined(tmp_path, {}, "6.1.1").kernel, Excerpt(), symbols=symbols)
    assert GROUP_TYPE_WRITABLE.evidence(kernel).shown
    assert not SHARED_GROUP_TYPE_WRITABLE.evidence(kernel).shown


def test_symbols_take_precedence_over_the_version_if_there_is_no_source(tmp_path: Path) -> None:
    sign = replace(SIGN, symbol="iommu_init_device")
    built = examined(tmp_path, {CORE: INIT % "return 0"})
    for symbols, shown, by in (
        (frozenset({"iommu_init_device"}), True, "symbols"),
        (frozenset[str](), False, "symbols"),
        (None, True, "version"),
    ):
        kernel = ExaminedKernel(built.kernel, Excerpt(), symbols=symbols)
        found = evidence.decide(kernel, [sign], "", Versions(("6.12",)))
        assert (found.shown, found.by) == (shown, by)
    assert evidence.decide(built, [sign], "", Versions()).by == "source"


def test_definition_returns_a_whole_object_or_function() -> None:
    code = (
        "int name(int a);\n#define name(x) x\nint caller(void)\n{\n\tname(1);\n}\n"
        "static const struct ops name = {\n\t.a = b,\n};\n"
        "static int\nname(int a,\n     int b)\n{\n\tif (a) {\n\t}\n\treturn b;\n}\n"
        "int after(void)\n{\n}\n"
    )
    assert excerpt.definition(code, "name") == "static const struct ops name = {\n\t.a = b,\n}"
    function = excerpt.definition(code.replace("ops name", "ops other"), "name")
    assert function == "name(int a,\n     int b)\n{\n\tif (a) {\n\t}\n\treturn b;\n}"
    assert excerpt.definition(code, "absent") is None


def test_user_overrides_take_precedence_over_the_evidence(tmp_path: Path) -> None:
    kernel = examined(tmp_path, {})
    overridden = behaviour.overrides(["unbind-releases-device", "no-failed-first-attach-warns"])
    table = behaviour.table(kernel, overridden)
    assert (table[UNBIND_RELEASES_DEVICE.name].shown, table[UNBIND_RELEASES_DEVICE.name].by) == (
        True,
        "user",
    )
    assert not table[FAILED_FIRST_ATTACH_WARNS.name].shown
    assert behaviour.table(kernel, {})[FAILED_FIRST_ATTACH_WARNS.name].guess


def test_overrides_rejects_an_unknown_behaviour() -> None:
    with pytest.raises(UsageError, match="unknown behaviour 'unpins'"):
        behaviour.overrides(["unpins"])


def test_each_behaviour_has_a_source_a_summary_and_signs() -> None:
    assert len(behaviour.TABLE) > 10
    for name, each in behaviour.TABLE.items():
        assert name == each.name
        assert each.source
        assert each.summary
        assert each.signs
