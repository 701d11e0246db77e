# SPDX-License-Identifier: GPL-2.0-only
"""The patches of mutants: their headers, and rules for the bundled patches."""

import re
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.suite import mutant
from tests.unit.mutant_patch import PATCH


def test_read_uses_the_first_paragraph_as_the_summary(tmp_path: Path) -> None:
    (tmp_path / "lost-put.patch").write_text("The put is lost:\nthe module stays.\n\n---\ndiff")
    (found,) = mutant.read(tmp_path)
    assert (found.name, found.summary) == ("lost-put", "The put is lost: the module stays.")


def test_a_since_header_limits_a_mutant_to_newer_kernels(tmp_path: Path) -> None:
    (tmp_path / "new.patch").write_text("New.\n\nSince: 6.15\n\n---\ndiff")
    (tmp_path / "old.patch").write_text("Old.\n\n---\ndiff\nSince: 6.15\n")
    new, old = mutant.read(tmp_path)
    assert [each.since.include("6.12.3") for each in (new, old)] == [False, True]
    assert new.since.include("7.2.13")


def test_a_requires_header_lists_behaviours_and_known_issues(tmp_path: Path) -> None:
    head = "It is bad.\n\nRequires: acs-before-groups, no-virtio-iommu-unbind"
    (tmp_path / "one.patch").write_text(PATCH.format(head=head))
    (found,) = mutant.read(tmp_path)
    assert found.requires == {"acs-before-groups": True, "virtio-iommu-unbind": False}
    assert found.summary.endswith("It is bad.")


def test_read_rejects_an_unknown_behaviour_in_a_requires_header(tmp_path: Path) -> None:
    (tmp_path / "one.patch").write_text(PATCH.format(head="Requires: acs-before-group"))
    with pytest.raises(UsageError) as caught:
        mutant.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/one.patch: unknown behaviour or known issue 'acs-before-group' in Requires; "
        "did you mean acs-before-groups?"
    )


def test_read_rejects_two_mutants_with_the_same_name(tmp_path: Path) -> None:
    for suffix in ("patch", "diff"):
        (tmp_path / f"same.{suffix}").write_text("Same.")
    with pytest.raises(UsageError, match="two mutants called 'same'"):
        mutant.read(tmp_path)


def test_read_rejects_a_directory_without_mutants(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no mutants"):
        mutant.read(tmp_path)


def test_every_bundled_mutant_has_a_summary() -> None:
    found = mutant.read(mutant.bundled())
    assert len(found) >= 20
    assert all(len(each.summary) > 20 for each in found)


DRIVERS = {
    "drivers/iommu/arm/arm-smmu-v3/": "smmuv3*",
    "drivers/iommu/io-pgtable-arm.c": "smmuv3*",
    "drivers/iommu/virtio-iommu.c": "virtio-iommu*",
}


def test_every_bundled_mutant_of_a_driver_names_the_machines_of_that_driver() -> None:
    """A mutant of one driver survives on machines that do not use the driver."""
    for each in mutant.read(mutant.bundled()):
        files = re.findall(r"^\+\+\+ b/(\S+)", each.text, re.MULTILINE)
        owners = {next(filter(file.startswith, DRIVERS), "") for file in files}
        if len(owners) == 1 and (owner := owners.pop()):
            assert f"\nMachines: {DRIVERS[owner]}\n" in each.text, each.name


def test_every_bundled_harmless_patch_states_what_is_unchanged() -> None:
    found = mutant.read(mutant.bundled_harmless())
    assert len(found) >= 12
    assert all("Unchanged: " in each.summary for each in found)
    assert all(re.search(r"^@@ ", each.text, re.MULTILINE) for each in found)


def test_the_machines_header_limits_a_mutant_to_matching_machines(tmp_path: Path) -> None:
    for name, head in {"all": "It is bad.", "some": "It is bad.\nMachines: virtio-iommu*"}.items():
        (tmp_path / f"{name}.patch").write_text(f"{head}\n\n---\ndiff --git a/a b/a\n")
    every, some = mutant.read(tmp_path)
    names = ("smmuv3", "virtio-iommu-acpi")
    assert every.machines(names) == names
    assert some.machines(names) == ("virtio-iommu-acpi",)
    assert some.machines(["smmuv3"]) == ()


@pytest.mark.parametrize(
    ("head", "message", "named"),
    [
        ("", "WARNING in iommu_deinit_device", True),
        ("", "WARNING in my_iommu_deinit_devices", False),
        ("", "3 references", False),
        ("Names: refcount|references", "3 references", True),
        ("Names: refcount", "WARNING in iommu_deinit_device", False),
    ],
)
def test_a_message_names_the_bug_by_its_function_or_the_names_header(
    tmp_path: Path, head: str, message: str, named: bool
) -> None:
    (tmp_path / "one.patch").write_text(PATCH.format(head=head))
    (found,) = mutant.read(tmp_path)
    assert found.is_named_by(message) is named


def test_functions_includes_functions_that_the_patch_defines(tmp_path: Path) -> None:
    patch = "A.\n\n---\n@@ -1 +1 @@\n-static int old_name(int a)\n+static int new_name(int a)\n"
    (tmp_path / "one.patch").write_text(patch)
    (found,) = mutant.read(tmp_path)
    assert found.functions == {"old_name", "new_name"}


def test_no_bundled_mutant_is_limited_by_version() -> None:
    """A behaviour or a known issue decides where a patch is a bug; a version is only a guess."""
    found = [*mutant.read(mutant.bundled()), *mutant.read(mutant.bundled_harmless())]
    assert [each.name for each in found if each.since.marks != ("0.0",)] == []
