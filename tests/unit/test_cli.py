# SPDX-License-Identifier: GPL-2.0-only
"""The command line: exit statuses, one-line errors, JSON, interrupted builds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from tests import command, fake_linux, reference
from tests.conftest import REPORTS

REPORT = REPORTS / "platform-client-pins-smmu.transcript"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["repro", "/nope"], 2, "cannot read /nope: no such file"),
        (["repro", str(REPORT), "--kernel", "nope"], 2, "unknown kernel 'nope'"),
        (["repro", str(REPORT), "--kernel", "tree:/nope"], 2, "not a Linux source tree"),
        (["repro", str(REPORT), "--machine", "pdp11"], 2, "unknown machine 'pdp11'"),
        (["repro", str(REPORT), "--session", "9"], 2, "no session 9"),
        (["repro", str(REPORT), "--patch", "/nope"], 2, "cannot read /nope: no such file"),
        (["repro", str(REPORT), "--limit", "soon"], 2, "Invalid value"),
        (
            ["repro", str(REPORT), "--limit", "-1"],
            2,
            "must be a positive number of seconds, not -1",
        ),
        (
            ["repro", str(REPORT), "--limit", "nan"],
            2,
            "must be a positive number of seconds, not nan",
        ),
        (["repro", str(REPORT), "--run-dir", "/etc"], 2, "/etc exists and is not empty"),
        (["repro"], 2, "Missing argument"),
        (["repro", str(REPORT), "--nope"], 2, "see iommu-harness repro --help"),
        (["compare", "pinning"], 2, "nothing to compare"),
        (["compare", str(REPORT), str(REPORT), "--with", "debian:7.2"], 2, "only one report"),
        (["run", "pinning::nope"], 2, "pinning has no scenario 'nope'"),
        (["bisect", "status", "/"], 2, "there is no bisection in /"),
        (["shell", "/"], 2, "/ has no snapshot"),
        (["frobnicate"], 2, "No such command"),
        (["kernel", "build", "debian:x"], 2, "invalid kernel version"),
    ],
)
def test_a_usage_error_prints_one_line_with_a_hint(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    done = command.run(*arguments)
    assert done.status == status
    assert message in done.err
    (line,) = done.err.splitlines()
    assert line.startswith("iommu-harness: ")
    assert "; " in line
    assert not (tmp_path / "state").exists()


def test_an_error_with_json_is_printed_as_one_object() -> None:
    done = command.run("repro", "/nope", "--json")
    assert done.status == 2
    error = json.loads(done.out)["error"]
    assert error["kind"] == "UsageError"
    assert "no such file" in error["message"]
    assert error["hint"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF\0", b"Only prose.\n"])
def test_repro_rejects_a_file_without_a_session_in_one_line(tmp_path: Path, content: bytes) -> None:
    report = tmp_path / "report"
    report.write_bytes(content)
    done = command.run("repro", report)
    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_repro_escapes_control_sequences_in_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("$ echo \x1b]0;owned\x07\nx\n\nExpected:\n\n$ ls \x07\x9b2J\ny\n")
    done = command.run("repro", report, "--session", "9")
    assert done.status == 2
    assert "\x1b" not in done.out + done.err


def bin_without(tmp_path: Path, *excluded: str) -> str:
    """Create a PATH that contains the host's programs except ``excluded``."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in ("/usr/bin", "/usr/sbin", "/usr/local/bin"):
        for program in Path(place).iterdir():
            link = directory / program.name
            if program.name not in excluded and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def test_doctor_finds_every_program_on_this_host() -> None:
    done = command.run("doctor")
    assert done.status == 0
    assert "found    qemu-system-aarch64" in done.out
    assert json.loads(command.run("doctor", "--json").out) == {"missing": [], "install": ""}


def test_kernel_list_shows_a_built_kernel(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    built = command.run("kernel", "build", f"tree:{tree}", "--json")
    assert built.status == 0
    listed = json.loads(command.run("kernel", "list", "--json").out)["kernels"]
    assert [kernel["key"] for kernel in listed] == [json.loads(built.out)["key"]]


def test_kernel_build_rejects_an_option_that_the_kernel_lacks(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    fragment = tmp_path / "my.config"
    fragment.write_text("CONFIG_NOPE=y\n")
    done = command.run("kernel", "build", f"tree:{tree}", "--fragment", fragment)
    assert done.status == 2
    assert "my.config:1: CONFIG_NOPE=y became 'n'" in done.err
    assert "does not have the option" in done.err


def test_a_failed_build_prints_the_first_compiler_error(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    (tree / "drivers/iommu/iommu.c").write_text("int a = b;\n")
    done = command.run("kernel", "build", f"tree:{tree}")
    assert done.status == 3
    assert "drivers/iommu/iommu.c:1:9: error:" in done.err
    assert "failed-builds/" in done.err


def is_clean(cache: Path) -> bool:
    """Whether the cache has no artifact, no scratch directory and no lock file."""
    left = [*cache.glob("kernel/*"), *cache.glob("scratch/*"), *cache.glob("locks/*.lock")]
    return left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_no_files_in_the_cache(
    tmp_path: Path, private_cache: Path, number: signal.Signals
) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=60)
    stopped = command.stop_when(command.start("kernel", "build", f"tree:{tree}"), "sleep", number)
    assert stopped.status == 128 + number
    assert "Traceback" not in stopped.err
    assert is_clean(private_cache)
    fake_linux.write(tree, slow=0.01)
    assert command.run("kernel", "build", f"tree:{tree}").status == 0


def test_a_killed_build_does_not_affect_the_next_one(tmp_path: Path, private_cache: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=60)
    command.stop_when(command.start("kernel", "build", f"tree:{tree}"), "sleep", signal.SIGKILL)
    fake_linux.write(tree, slow=0.01)
    assert command.run("kernel", "build", f"tree:{tree}").status == 0
    assert list((private_cache / "scratch").iterdir()) == []


def test_a_second_build_of_the_same_kernel_waits_and_prints_a_note(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree", slow=2)
    both = [command.start("kernel", "build", f"tree:{tree}", "--json") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    keys = {json.loads(out)["key"] for out, _ in ends}
    assert len(keys) == 1
    assert sum("another run is creating" in err for _, err in ends) == 1


def test_kernel_build_reports_a_full_disk(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    small = tmp_path / "small"
    small.mkdir()
    script = (
        'small=$1; shift; mount -t tmpfs -o size=1m none "$small" || exit 99; '
        '"$@"; status=$?; umount "$small"; exit $status'
    )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", "--mount", "--propagation", "unchanged", *user]
    wrapper = [*unshare, "sh", "-c", script, "sh", str(small)]
    done = subprocess.run(
        [*wrapper, *command.PROGRAM, "kernel", "build", f"tree:{tree}"],
        capture_output=True,
        text=True,
        env=command.environment(IOMMU_HARNESS_CACHE=str(small)),
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "no space" in done.stderr
    assert "IOMMU_HARNESS_CACHE" in done.stderr


def test_kernel_build_and_doctor_report_a_missing_cross_compiler(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    path = bin_without(tmp_path, "aarch64-linux-gnu-gcc")
    done = command.run("kernel", "build", f"tree:{tree}", PATH=path)
    # tools.search_path() appends /usr/sbin, which contains no compiler.
    assert done.status == 3
    assert "aarch64-linux-gnu-gcc is not installed" in done.err
    assert "apt-get install --no-install-recommends gcc-aarch64-linux-gnu" in done.err
    doctor = command.run("doctor", PATH=path)
    assert doctor.status == 3
    assert "missing  aarch64-linux-gnu-gcc" in doctor.out


def test_the_wheel_contains_the_data_files(tmp_path: Path) -> None:
    build = [command.PROGRAM[0], "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run(build, check=True, cwd=REPORTS.parents[1])
    (wheel,) = tmp_path.glob("*.whl")
    listing = subprocess.run(
        [command.PROGRAM[0], "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("kconfigs/base.config", "dts/platform-clients.dts", "guest-scripts/init/init.c"):
        assert f"harness/data/{name}" in listing


def test_the_command_line_imports_subcommand_packages_only_on_use() -> None:
    """Importing all packages would add a second to every command."""
    code = "import sys, harness.cli.main; print(*sorted(sys.modules))"
    argv = [sys.executable, "-c", code]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert "harness.cli.output" in loaded
    assert not {"harness.guest", "harness.klog", "harness.bisect", "paramiko"} & set(loaded)


def test_each_help_text_begins_with_one_sentence_and_two_examples() -> None:
    commands = reference.commands()
    assert {f"iommu-harness {name}" for name in main._COMMANDS} <= {each.name for each in commands}
    for each in commands:
        sentence, examples, *_ = each.text.split("\n\n")
        assert sentence.endswith("."), each.name
        assert not {"\n", ". "} & set(sentence), each.name
        found = [line for line in examples.splitlines() if "iommu-harness " in line]
        assert len(found) == 2, each.name
        assert all(line.startswith("  ") for line in examples.splitlines()), each.name


@pytest.mark.parametrize("words", [("run", "--help"), ("bisect", "find", "--help"), ("cache",)])
def test_help_does_not_wrap_its_examples(words: tuple[str, ...]) -> None:
    done = command.run(*words)
    assert done.status == (2 if words == ("cache",) else 0), done.err
    assert done.err == ""
    assert sum(line.startswith("    iommu-harness ") for line in done.out.splitlines()) == 2


@pytest.mark.parametrize(("line", "last"), [("be", "behaviours"), ("repro --pat", "--patch")])
def test_shell_completion_completes_commands_and_their_options(line: str, last: str) -> None:
    words = f"iommu-harness {line}".split()
    # The variables are named after argv[0].
    code = "import sys; sys.argv = ['iommu-harness']; from harness.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command.environment(
            _IOMMU_HARNESS_COMPLETE="complete_bash",
            COMP_WORDS=" ".join(words),
            COMP_CWORD=str(len(words) - 1),
        ),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [last]
