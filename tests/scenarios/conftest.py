# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of all scenarios, and fixtures of the bundled scenarios."""

import pytest

from harness.guest.guest import Guest
from harness.iommu import clients
from harness.plugin.plugin import GuestFactory
from harness.plugin.scenario_fixtures import *  # noqa: F403


@pytest.fixture
def talker(guest_factory: GuestFactory) -> Guest:
    """A guest with a virtio NIC and a virtio disk behind the IOMMU."""
    guest = guest_factory("+virtio", bound=True)
    clients.bind_all(guest)
    return guest
