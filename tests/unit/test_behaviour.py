# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness.errors import UsageError
from harness.scenario import behaviour
from harness.scenario.behaviour import GROUPS_AT_REGISTRATION, UNBIND_UNPINS, Versions


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
def test_versions_from_one_on_and_those_it_was_carried_back_to(
    release: str, included: bool
) -> None:
    assert Versions(("6.12.111", "6.15")).include(release) == included


def test_what_no_kernel_has_not_even_an_unknown_one_has() -> None:
    assert not Versions().include("7.2")
    assert not Versions().include("unknown")
    assert not Versions(("6.12.3",)).include("unknown")


def test_a_user_knows_better() -> None:
    claims = behaviour.claims(["unbind-unpins", "no-groups-at-iommu-registration"])
    assert claims.show(UNBIND_UNPINS, "6.12.1")
    assert not claims.show(GROUPS_AT_REGISTRATION, "7.2.0")
    assert behaviour.claims([]).show(GROUPS_AT_REGISTRATION, "7.2.0")


def test_a_behaviour_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no such behaviour: 'unpins'"):
        behaviour.claims(["unpins"])


def test_names_are_unique_and_every_entry_names_its_source() -> None:
    assert len(behaviour.TABLE) > 10
    for name, each in behaviour.TABLE.items():
        assert name == each.name
        assert each.source
        assert each.what
