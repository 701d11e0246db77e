# SPDX-License-Identifier: GPL-2.0-only
"""The --json output of commands that use real kernels matches its schema. ``command.run``
validates the output, here and in all other tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import command, fake_linux, schemas
from tests.conftest import REPORTS

REPORT = REPORTS / "platform-client-pins-smmu.transcript"
LOG = schemas.ROOT / "tests/logs/6.12-warn-forced-unload.log"


def printed(*words: str | Path, status: int = 0) -> Any:
    done = command.run(*words, "--json")
    assert done.status == status, done.err
    return json.loads(done.out)


def check_strict(name: str, record: Any) -> None:
    """Check that the schema requires every key of ``record`` and allows no other key."""
    schemas.validate(name, record)
    for key in record:
        with pytest.raises(AssertionError, match=f"'{key}' is a required property"):
            schemas.validate(name, {other: record[other] for other in record if other != key})
    with pytest.raises(AssertionError, match="'another' was unexpected"):
        schemas.validate(name, record | {"another": 1})


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A kernel that does not compile."""
    tree = fake_linux.write(tmp_path / "broken")
    (tree / "drivers/iommu/iommu.c").write_text("int a = b;\n")
    return f"tree:{tree}"


def test_replay_matches_its_schema(kernel_name: str, tmp_path: Path) -> None:
    words = ("repro", REPORT, "--kernel", kernel_name, "--run-dir", tmp_path / "run")
    found = printed(*words)
    check_strict("repro", found)
    for step in found["steps"]:
        check_strict("steps-line", step)
    schemas.validate_lines("steps-line", tmp_path / "run/steps.jsonl")
    schemas.validate_lines("kmsg-line", tmp_path / "run/kmsg.jsonl")


def test_replays_with_a_kernel_that_does_not_build_match_the_schema(
    kernel_name: str, broken: str, tmp_path: Path
) -> None:
    kernels = ("--kernel", kernel_name, "--kernel", broken)
    found = printed("repro", REPORT, *kernels, "--run-dir", tmp_path / "run", status=3)
    check_strict("repro-runs", found)
    good, bad = found["runs"]
    assert (good["verdict"], bad["error"]["kind"]) == ("reproduced", "BuildError")


def test_run_with_a_kernel_that_does_not_build_matches_the_schema(
    kernel_name: str, broken: str, tmp_path: Path
) -> None:
    """The scenario fails because --behaviour is wrong for this kernel."""
    kernels = ("--kernel", kernel_name, "--kernel", broken, "--machine", "smmuv3")
    words = ("run", "pinning::test_unregistering_a_platform_driver_does_not_unpin", *kernels)
    claim = ("--behaviour", "unbind-releases-device", "--run-dir", tmp_path / "run")
    found = printed(*words, *claim, status=1)
    check_strict("run", found)
    (error,) = found["errors"]
    assert error["kind"] == "BuildError"
    assert found["counts"]["failed"] == 1
    schemas.validate_lines("scenarios-line", tmp_path / "run/scenarios-1.jsonl")


def test_decoded_log_with_source_lines_matches_its_schema(kernel_name: str) -> None:
    found = printed("decode", LOG, "--kernel", kernel_name)
    check_strict("decode", found)
    assert {"known", "total", "reason"} < set(found["splats"][0])


def test_kernel_and_behaviours_commands_match_their_schemas(kernel_name: str) -> None:
    check_strict("kernel-build", printed("kernel", "build", kernel_name))
    check_strict("kernel-list", printed("kernel", "list"))
    check_strict("kernel-config", printed("kernel", "config", kernel_name))
    check_strict("kernel-inspect", printed("kernel", "inspect", kernel_name))
    check_strict("behaviours", printed("behaviours", "--kernel", kernel_name))
