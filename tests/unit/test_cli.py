# SPDX-License-Identifier: GPL-2.0-only
"""The command line: exit codes, one line an error, JSON; builds that are stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from tests import command, fake_linux
from tests.conftest import REPORTS

REPORT = REPORTS / "platform-client-pins-smmu.transcript"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["repro", "/nope"], 2, "no such file: /nope"),
        (["repro", str(REPORT), "--kernel", "nope"], 2, "no such kernel: 'nope'"),
        (["repro", str(REPORT), "--kernel", "tree:/nope"], 2, "not a Linux source tree"),
        (["repro", str(REPORT), "--machine", "pdp11"], 2, "no such machine: 'pdp11'"),
        (["repro", str(REPORT), "--session", "9"], 2, "no session 9"),
        (["repro", str(REPORT), "--patch", "/nope"], 2, "no such patch: /nope"),
        (["repro", str(REPORT), "--limit", "soon"], 2, "Invalid value"),
        (["repro", str(REPORT), "--limit", "-1"], 2, "no time to wait"),
        (["repro", str(REPORT), "--limit", "nan"], 2, "no time to wait"),
        (["repro", str(REPORT), "--run-dir", "/etc"], 2, "/etc is there already"),
        (["repro"], 2, "Missing argument"),
        (["repro", str(REPORT), "--nope"], 2, "see iommu-harness repro --help"),
        (["run", "pinning::nope"], 2, "no scenario 'nope' about pinning"),
        (["bisect", "status", "/"], 2, "/ has no search in it"),
        (["shell", "/"], 2, "/ has no guest that was kept"),
        (["frobnicate"], 2, "No such command"),
        (["kernel", "build", "debian:x"], 2, "not a kernel version"),
    ],
)
def test_a_wrong_request_is_one_line_with_the_mend(
    words: list[str], status: int, said: str, tmp_path: Path
) -> None:
    done = command.run(*words)
    assert done.status == status
    assert said in done.err
    (line,) = done.err.splitlines()
    assert line.startswith("iommu-harness: ")
    assert "; " in line
    assert not (tmp_path / "state").exists()


def test_an_error_as_json_is_one_object() -> None:
    done = command.run("repro", "/nope", "--json")
    assert done.status == 2
    error = json.loads(done.out)["error"]
    assert error["kind"] == "UsageError"
    assert "no such file" in error["message"]
    assert error["mend"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF\0", b"Only prose.\n"])
def test_a_report_that_is_none(tmp_path: Path, content: bytes) -> None:
    report = tmp_path / "report"
    report.write_bytes(content)
    done = command.run("repro", report)
    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_escapes_of_a_report_do_not_reach_the_terminal(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("$ echo \x1b]0;owned\x07\nx\n\nExpected:\n\n$ ls \x07\x9b2J\ny\n")
    done = command.run("repro", report, "--session", "9")
    assert done.status == 2
    assert "\x1b" not in done.out + done.err


def bin_without(tmp_path: Path, *lacking: str) -> str:
    """A PATH of this host's programs but some."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in ("/usr/bin", "/usr/sbin", "/usr/local/bin"):
        for program in Path(place).iterdir():
            link = directory / program.name
            if program.name not in lacking and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def test_doctor_finds_everything_here() -> None:
    done = command.run("doctor")
    assert done.status == 0
    assert "found    qemu-system-aarch64" in done.out
    assert json.loads(command.run("doctor", "--json").out) == {"missing": [], "install": ""}


def test_a_build_can_be_listed(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    built = command.run("kernel", "build", f"tree:{tree}", "--json")
    assert built.status == 0
    listed = json.loads(command.run("kernel", "list", "--json").out)["kernels"]
    assert [kernel["key"] for kernel in listed] == [json.loads(built.out)["key"]]


def test_an_option_the_kernel_lacks(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    fragment = tmp_path / "my.config"
    fragment.write_text("CONFIG_NOPE=y\n")
    done = command.run("kernel", "build", f"tree:{tree}", "--fragment", fragment)
    assert done.status == 2
    assert "my.config:1: CONFIG_NOPE=y became 'n'" in done.err
    assert "no such option" in done.err


def test_a_build_that_fails_shows_the_first_error(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    (tree / "drivers/iommu/iommu.c").write_text("int a = b;\n")
    done = command.run("kernel", "build", f"tree:{tree}")
    assert done.status == 3
    assert "drivers/iommu/iommu.c:1:9: error:" in done.err
    assert "failed-builds/" in done.err


def nothing_left(cache: Path) -> bool:
    """No half artifact, and no lock that anybody holds or would wait for."""
    left = [*cache.glob("kernel/*"), *cache.glob("scratch/*"), *cache.glob("locks/*.lock")]
    return left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_stopped_leaves_nothing(
    tmp_path: Path, private_cache: Path, number: signal.Signals
) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=60)
    stopped = command.stop_when(command.start("kernel", "build", f"tree:{tree}"), "sleep", number)
    assert stopped.status == 128 + number
    assert "Traceback" not in stopped.err
    assert nothing_left(private_cache)
    fake_linux.write(tree, slow=0.01)
    assert command.run("kernel", "build", f"tree:{tree}").status == 0


def test_a_build_that_is_killed_does_not_harm_the_next(tmp_path: Path, private_cache: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=60)
    command.stop_when(command.start("kernel", "build", f"tree:{tree}"), "sleep", signal.SIGKILL)
    fake_linux.write(tree, slow=0.01)
    assert command.run("kernel", "build", f"tree:{tree}").status == 0
    assert list((private_cache / "scratch").iterdir()) == []


def test_of_two_builds_at_once_one_waits_and_says_so(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=2)
    both = [command.start("kernel", "build", f"tree:{tree}", "--json") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    keys = {json.loads(out)["key"] for out, _ in ends}
    assert len(keys) == 1
    assert sum("another run is making" in err for _, err in ends) == 1


def test_no_space_in_the_cache(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    small = tmp_path / "small"
    small.mkdir()
    script = (
        'small=$1; shift; mount -t tmpfs -o size=1m none "$small" || exit 99; '
        '"$@"; status=$?; umount "$small"; exit $status'
    )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    apart = ["unshare", "--mount", "--propagation", "unchanged", *user]
    alone = [*apart, "sh", "-c", script, "sh", str(small)]
    done = subprocess.run(
        [*alone, *command.PROGRAM, "kernel", "build", f"tree:{tree}"],
        capture_output=True,
        text=True,
        env=command.environment(IOMMU_HARNESS_CACHE=str(small)),
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "no space" in done.stderr
    assert "IOMMU_HARNESS_CACHE" in done.stderr


def test_no_cross_compiler(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    path = bin_without(tmp_path, "aarch64-linux-gnu-gcc")
    done = command.run("kernel", "build", f"tree:{tree}", PATH=path)
    # The search path ends in /usr/sbin, where no compiler is.
    assert done.status == 3
    assert "aarch64-linux-gnu-gcc is not installed" in done.err
    assert "apt-get install --no-install-recommends gcc-aarch64-linux-gnu" in done.err
    doctor = command.run("doctor", PATH=path)
    assert doctor.status == 3
    assert "missing  aarch64-linux-gnu-gcc" in doctor.out


def test_the_wheel_carries_what_it_builds_from(tmp_path: Path) -> None:
    build = [command.PROGRAM[0], "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run(build, check=True, cwd=REPORTS.parents[1])
    (wheel,) = tmp_path.glob("*.whl")
    listing = subprocess.run(
        [command.PROGRAM[0], "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("kconfigs/base.config", "dts/platform-clients.dts", "guest-scripts/init.c"):
        assert f"harness/data/{name}" in listing


def test_what_is_not_asked_for_is_not_imported() -> None:
    """A second of each command's time otherwise."""
    code = "import sys, harness.cli.main; print(*sorted(sys.modules))"
    words = [sys.executable, "-c", code]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert "harness.cli.output" in loaded
    assert not {"harness.guest", "harness.klog", "harness.bisect", "paramiko"} & set(loaded)


def test_each_command_shows_its_help() -> None:
    for name in main._COMMANDS:
        done = command.run(name, "--help")
        assert done.status == 0, done.err
        assert f"iommu-harness {name}" in done.out
