# SPDX-License-Identifier: GPL-2.0-only
"""``selftests``: the kernel's own tests in guests. The kernel is 7.2, whose iommufd selftests
compile and pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import command, schemas
from tests.conftest import PATCHES

WORDS = ("selftests", "--kernel", "debian:7.2", "--machine", "smmuv3", "--json")


def outcomes(done: command.Result) -> dict[str, dict[str, Any]]:
    result = json.loads(done.out)
    schemas.validate("selftests", result)
    assert sum(result["counts"].values()) == len(result["tests"])
    return {f"{each['suite']}/{each['name']}": each for each in result["tests"]}


def results(test: dict[str, Any], result: str) -> list[str]:
    return [each["name"] for each in test["subtests"] if each["result"] == result]


def test_iommufd_selftests_pass(tmp_path: Path) -> None:
    done = command.run(*WORDS, "iommu", "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err + done.out
    found = outcomes(done)
    assert set(found) == {"iommu/iommufd", "iommu/iommufd_fail_nth"}
    assert all(each["result"] == "passed" for each in found.values())
    names = results(found["iommu/iommufd"], "passed")
    assert "iommufd_ioas.mock_domain.dmabuf_simple" in names
    assert len(names) > 200
    recorded = json.loads((tmp_path / "run/result.json").read_text())
    assert recorded == json.loads(done.out)


def test_failed_subtest_fails_its_selftest() -> None:
    """A bug in 7.3.4, which 8 subtests detect."""
    patch = PATCHES / "7.2-no-dmabuf-descriptor.patch"
    done = command.run(*WORDS, "iommu", "--patch", patch)
    assert done.status == 1, done.err + done.out
    found = outcomes(done)
    assert found["iommu/iommufd_fail_nth"]["result"] == "passed"
    failed = results(found["iommu/iommufd"], "failed")
    assert {name.rpartition(".")[2] for name in failed} == {"dmabuf_simple", "dmabuf_revoke"}
    assert "dmabuf_simple:Expected" in found["iommu/iommufd"]["reason"]


def test_program_that_does_not_compile_is_inconclusive() -> None:
    """The other program in the directory is compiled and run."""
    patch = PATCHES / "7.2-broken-selftest.patch"
    done = command.run(*WORDS, "iommu", "--patch", patch)
    assert done.status == 3, done.err + done.out
    found = outcomes(done)
    assert found["iommu/iommufd"]["result"] == "passed"
    broken = found["iommu/iommufd_fail_nth"]
    assert (broken["result"], broken["subtests"]) == ("inconclusive", [])
    assert broken["reason"] == "it does not compile: error: #error broken on purpose"


def test_kunit_module_passes() -> None:
    found = outcomes(command.run(*WORDS, "kunit"))
    assert found["kunit/arm-smmu-v3-test"]["result"] == "passed"
    assert len(results(found["kunit/arm-smmu-v3-test"], "passed")) > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing",), "unknown suite 'nothing'; use iommu, vfio, kunit"),
        (("--kernel", "prebuilt:/boot"), "prebuilt:/boot has no source from which to compile"),
    ],
)
def test_invalid_request_is_one_line(words: tuple[str, ...], message: str) -> None:
    done = command.run("selftests", *words)
    assert done.status == 2
    assert message in done.err.splitlines()[-1]
