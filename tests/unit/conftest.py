# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the unit tests: a private cache and a ten-line source tree."""

from pathlib import Path

import pytest

from harness.kernel import config
from tests import fake_linux


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache and a state directory of the test's own, not the user's."""
    monkeypatch.setenv("IOMMU_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "cache"


@pytest.fixture
def no_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build without the fragments in kconfigs/; the ten-line tree lacks their options."""
    monkeypatch.setattr(config, "fragments", lambda _variants: [])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A ten-line source tree; its path contains blanks and a non-ASCII letter."""
    return fake_linux.write(tmp_path / "a tree with spaces, ä")


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    """A patch for ``tree``."""
    file = tmp_path / "two.patch"
    file.write_text(fake_linux.PATCH)
    return file
