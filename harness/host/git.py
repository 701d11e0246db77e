# SPDX-License-Identifier: GPL-2.0-only
"""Run git in users' repositories. No program from their configuration runs, and nothing is
fetched.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.host import program

# The committer of the harness's own commits. With a constant date, the same history has the
# same hashes.
_COMMITTER = "iommu-harness <iommu-harness>"


def run(repository: Path, *words: str, stdin: Path | None = None) -> str:
    """Run git and return its standard output without leading and trailing newlines. Raises
    ProgramFailed with git's error."""
    env = _environment()
    settings = [f"safe.directory={repository}", "core.fsmonitor=false", "core.hooksPath=/dev/null"]
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", *options, "-C", str(repository), *words]
    output = program.run(command, env=env, stdin=stdin, stdout_only=True, errors="surrogateescape")
    return output.strip("\n")


def _environment() -> dict[str, str]:
    return program.environment(
        GIT_OPTIONAL_LOCKS="0",
        GIT_NO_REPLACE_OBJECTS="1",
        # A partial clone would fetch missing objects from its remote.
        GIT_NO_LAZY_FETCH="1",
        GIT_ALLOW_PROTOCOL="none",
        # The system's and the user's settings do not apply to the harness's repositories.
        GIT_CONFIG_NOSYSTEM="1",
        GIT_CONFIG_GLOBAL="/dev/null",
    )


def create_with_alternates(repository: Path, into: Path) -> None:
    """Create the bare repository ``into``, completely or not at all. It shares all objects of
    ``repository`` (objects/info/alternates), but not its references, hooks and settings."""
    objects = run(repository, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    shallow = run(repository, "rev-parse", "--path-format=absolute", "--git-path", "shallow")
    form = run(repository, "rev-parse", "--show-object-format")
    part = _init(into, form)
    (part / "objects/info/alternates").write_text(f"{objects}\n")
    if Path(shallow).is_file():
        (part / "shallow").write_bytes(Path(shallow).read_bytes())
    part.rename(into)


def create_linear_history(messages: Sequence[str], into: Path) -> list[str]:
    """Create the bare repository ``into``, completely or not at all, with a linear history of one
    empty commit for each message. Return the hashes of the commits, oldest first."""
    part = _init(into, "sha1")
    stream = part / "import"
    with stream.open("w") as file:
        for number, message in enumerate(messages, start=1):
            data = message.encode()
            file.write(f"commit refs/heads/line\nmark :{number}\ncommitter {_COMMITTER} 0 +0000\n")
            file.write(f"data {len(data)}\n{message}\n")
    run(part, "fast-import", "--quiet", stdin=stream)
    stream.unlink()
    part.rename(into)
    return run(into, "rev-list", "--reverse", "refs/heads/line").splitlines()


def _init(into: Path, form: str) -> Path:
    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    options = ["--bare", "--template=", f"--object-format={form}"]
    program.run(["git", "init", "-q", *options, str(part)], env=_environment())
    (part / "info").mkdir(exist_ok=True)
    return part
