# SPDX-License-Identifier: GPL-2.0-only
"""The races of tests/scenarios/test_races.py on one, two and four CPUs, with other delays in each
run. One run proves little; docs/what-races-end-in.md has the outcomes of many."""

import random

import pytest

from harness.guest.guest import Guest
from harness.machine.topology import Machine
from harness.plugin.plugin import GuestFactory
from tests.scenarios.test_races import (
    test_async_client_probes_all_get_groups,
    test_bind_and_claim_race_has_one_winner,
    test_client_racing_registration_ends_up_translated,
    test_device_removal_races_with_unbind,
    test_removals_race_with_rescans,
    test_rescan_races_with_unload,
    with_cpus,
)

__all__ = [
    "test_async_client_probes_all_get_groups",
    "test_bind_and_claim_race_has_one_winner",
    "test_client_racing_registration_ends_up_translated",
    "test_device_removal_races_with_unbind",
    "test_removals_race_with_rescans",
    "test_rescan_races_with_unload",
]


@pytest.fixture(params=[1, 2, 4], ids="{}-cpus".format)
def smp_guest(
    machine: Machine, guest_factory: GuestFactory, request: pytest.FixtureRequest
) -> Guest:
    """A guest with one, two or four CPUs."""
    return guest_factory(with_cpus(machine, request.param))


@pytest.fixture
def rng() -> random.Random:
    """Delays that no other run has."""
    seed = random.randrange(1 << 32)
    print(f"random.Random({seed})")
    return random.Random(seed)
