# SPDX-License-Identifier: GPL-2.0-only
"""The commands ``machines`` and ``shell``, run as a user runs them."""

import json
import re
import subprocess
from pathlib import Path

from tests import command


def test_machines_boots_and_lists_machines(kernel_name: str, tmp_path: Path) -> None:
    words = ["machines", "--kernel", kernel_name, "--machine", "smmuv3"]
    done = command.run(*words, "--machine", "virtio-iommu", "--json", XDG_STATE_HOME=str(tmp_path))
    assert done.status == 0, done.err
    cells = json.loads(done.out)["machines"]
    assert [cell["machine"] for cell in cells] == ["smmuv3", "virtio-iommu"]
    for cell in cells:
        assert (cell["kernel"], cell["loaded"], cell["reason"]) == (kernel_name, True, "")
        assert cell["group"] is not None
        assert cell["translated"] > 0


def test_machines_prints_the_reason_for_a_failure(kernel_name: str, tmp_path: Path) -> None:
    words = ["machines", "--kernel", kernel_name, "--machine", "smmuv3+nvme"]
    done = command.run(*words, XDG_STATE_HOME=str(tmp_path))
    assert done.status == 1
    assert f"smmuv3+nvme, {kernel_name}: the machine has no NIC" in done.out


def shell(kernel_name: str, typed: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command.PROGRAM, "shell", "--kernel", kernel_name, *words],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def without_kernel_log(stdout: str) -> list[str]:
    """The lines that do not come from the kernel log. On a busy host the kernel may report at any
    time that an interrupt took too long."""
    return [line for line in stdout.splitlines() if not re.match(r"\[ *\d+\.\d+\] ", line)]


def test_shell_prints_state_changes_output_and_statuses(kernel_name: str) -> None:
    done = shell(kernel_name, "X=kept\nmodprobe iommu_client\necho $X; false\n")
    assert done.returncode == 0, done.stderr
    lines = without_kernel_log(done.stdout)
    assert "* module iommu_client: loaded, refcount 0" in lines
    assert lines[-2:] == ["kept", "status 1"]


def test_shell_escapes_control_characters(kernel_name: str) -> None:
    done = shell(kernel_name, "printf '\\033[2Jgone\\n'; printf '\\033]0;title\\n' > /dev/kmsg\n")
    assert "\\x1b[2Jgone" in done.stdout
    assert "\x1b" not in done.stdout


def test_shell_accepts_any_bytes_and_continues_after_an_invalid_line(
    kernel_name: str,
) -> None:
    done = subprocess.run(
        [*command.PROGRAM, "shell", "--kernel", kernel_name],
        input=b"printf '\xff' | wc -c\necho a\0b\necho on\n",
        capture_output=True,
        check=False,
    )
    one, refused, on = without_kernel_log(done.stdout.decode())
    assert (done.returncode, one, on) == (0, "1", "on")
    assert "NUL byte" in refused


def test_shell_reports_a_panic_without_a_traceback(kernel_name: str) -> None:
    done = shell(kernel_name, "echo c > /proc/sysrq-trigger\n")
    assert done.returncode == 3
    assert "the kernel panicked: sysrq triggered crash" in done.stderr
    assert "Traceback" not in done.stderr


def test_shell_rejects_a_directory_without_a_snapshot(tmp_path: Path) -> None:
    done = command.run("shell", tmp_path)
    assert done.status == 2
    assert f"{tmp_path} has no snapshot" in done.err
