# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the unit tests: a private cache, and a source tree of ten lines."""

from pathlib import Path

import pytest

from harness.kernel import config
from tests import fake_linux


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests neither read nor fill this host's cache and run directories."""
    monkeypatch.setenv("IOMMU_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "cache"


@pytest.fixture
def no_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build without the fragments in kconfigs/, whose options the ten-line tree lacks."""
    monkeypatch.setattr(config, "fragments", lambda _variants: [])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_linux.write(tmp_path / "a tree with spaces, ä")


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    """A patch for ``tree``."""
    file = tmp_path / "two.patch"
    file.write_text(fake_linux.PATCH)
    return file
