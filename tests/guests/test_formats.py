# SPDX-License-Identifier: GPL-2.0-only
"""The outputs of a run, read by the tools that they are for."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from harness.kernel import build, spec
from tests import command

# Scenarios that pass, and on 5.10 also scenarios that are not applicable.
SCENARIOS = ("groups", "deferral")
PARSER = "tools/testing/kunit/kunit.py"


def test_each_output_has_the_results_of_the_run(kernel_name: str, tmp_path: Path) -> None:
    """kunit.py of the kernel accepts the KTAP."""
    ktap, junit = tmp_path / "results.ktap", tmp_path / "results.xml"
    done = command.run(
        *("run", *SCENARIOS, "--kernel", kernel_name, "--machine", "smmuv3", "--json"),
        *("--output", f"ktap={ktap}", "--output", f"junit={junit}"),
    )
    counts = json.loads(done.out)["counts"]
    skipped = counts["not-applicable"] + counts["skipped"]
    assert counts["passed"]

    suites = ET.parse(junit).getroot()
    assert suites.get("tests") == str(sum(counts.values()))
    assert suites.get("failures") == str(counts["failed"])
    assert suites.get("skipped") == str(skipped + counts["known"])

    found = Counter(each["status"] for each in _cases(_parsed(kernel_name, ktap)))
    assert found["PASS"] == counts["passed"] + counts["known"]
    assert found["SKIP"] == skipped
    assert found["FAIL"] == counts["failed"] + counts["inconclusive"]


def _parsed(kernel_name: str, ktap: Path) -> Any:
    """What kunit.py reads."""
    # 5.10 has an older parser, which reads TAP 14.
    name = "debian:6.12" if kernel_name == "debian:5.10" else kernel_name
    with build.open_source(spec.parse(name)) as kbuild:
        program = kbuild.tree.source / PARSER
        argv = [sys.executable, str(program), "parse", "--json", str(ktap)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return json.loads(done.stdout[done.stdout.index("\n{") :])


def _cases(group: Any) -> Iterator[Any]:
    yield from group["test_cases"]
    for each in group["sub_groups"]:
        yield from _cases(each)
