# SPDX-License-Identifier: GPL-2.0-only
"""Testing each patch of a series with the command ``series``."""

import json
import shutil
from pathlib import Path

from tests import command
from tests.conftest import PATCHES

UNPINNED = PATCHES / "6.12-no-module-pin.patch"
SCENARIO = "pinning::test_binding_a_nic_pins_the_module_once"
ON = ("--kernel", "debian:6.12", "--machine", "smmuv3", "--scenario", SCENARIO, "--json")


def test_series_finds_the_patch_that_breaks_a_scenario(tmp_path: Path) -> None:
    """A second patch that does not apply ends the series, after the result of the first."""
    patches = tmp_path / "patches"
    patches.mkdir()
    shutil.copy(UNPINNED, patches / "0001-iommu-Do-not-pin.patch")
    shutil.copy(UNPINNED, patches / "0002-iommu-Again.patch")
    done = command.run("series", patches, *ON, "--run-dir", tmp_path / "run")
    assert done.status == 2
    found = json.loads(done.out)
    first, second = found["patches"]
    assert [each["scenario"].partition("::")[2] for each in first["broken"]] == [
        SCENARIO.partition("::")[2]
    ]
    assert first["applies"]
    assert first["warnings"] == []
    assert not second["applies"]
    assert "0002" in second["error"]
    (broken,) = found["broken"]
    assert (broken["patch"], broken["fixed_by"]) == (1, None)
