# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages of any suite and architecture, without root and without
touching this host's own apt state.

apt itself resolves, downloads and verifies, in a private state directory per
suite and architecture. The mirrors are those the host's apt already uses.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, paths, progress
from harness.host.program import run

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FRESH = 24 * 3600.0  # seconds that package lists are trusted before another look

MIRROR_VARIABLE = "IOMMU_HARNESS_DEBIAN_MIRROR"


@dataclass(frozen=True, slots=True)
class Suite:
    """A Debian release; ``secured`` when it has a security suite beside it, ``base`` the
    suite that its packages depend on where it is not whole by itself."""

    name: str
    secured: bool
    base: str = ""


BACKPORTS = Suite("trixie-backports", False, base="trixie")

# In the order in which a package is looked for: the stable releases first.
SUITES = (
    Suite("bookworm", True),
    Suite("bullseye", True),
    Suite("trixie", True),
    Suite("sid", False),
    BACKPORTS,
    Suite("experimental", False, base="sid"),
)


@dataclass(frozen=True, slots=True)
class Package:
    """One exact package: ``version`` as Debian writes it, ``6.12.117-1``."""

    name: str
    version: str
    suite: Suite
    architecture: str


class Moved(HostError):
    """The archive has another version by now than its lists said."""


def find(name: str, architecture: str, suites: Sequence[Suite] = SUITES) -> Package:
    """The package in the first suite that has it.

    Raises UsageError when none has, HostError when the archive cannot be read.
    """
    for suite in suites:
        for version in _known(suite, architecture, name, _candidates):
            return Package(name, version, suite, architecture)
    searched = ", ".join(suite.name for suite in suites)
    raise UsageError(
        f"Debian has no package {name} in {searched}",
        "5.10, 6.1, 6.12, 7.2 and 7.3 are versions that it has",
    )


def names(prefix: str, architecture: str) -> set[str]:
    """The names of all packages of all suites that begin with ``prefix``."""
    found: set[str] = set()
    for suite in SUITES:
        found |= set(_known(suite, architecture, f"{prefix}*", _names))
    return found


def download(package: Package, into: Path) -> Path:
    """Fetches the package's file, verified by apt against the signed archive.

    Raises HostError; where the archive has moved on since it was asked, the next
    ``find`` names what it has now.
    """
    _update(package.suite, package.architecture)
    wanted = f"{package.name}={package.version}"
    try:
        _apt(package.suite, package.architecture, "download", wanted, cwd=into)
    except HostError as error:
        _forget(package.suite, package.architecture)
        now = find(package.name, package.architecture)
        if now == package:
            raise
        raise Moved(f"Debian has {now.version} of {package.name} by now") from error
    return next(into.glob(f"{package.name}_*.deb"))


def download_closure(names: list[str], suite: Suite, architecture: str, into: Path) -> list[Path]:
    """Fetches the packages and all they depend on, as files in ``into``, an absolute path:
    apt takes others from its own state on."""
    _update(suite, architecture)
    (into / "partial").mkdir()
    install = ("install", "--download-only", "--yes", "--no-install-recommends")
    _apt(suite, architecture, "-o", f"Dir::Cache::archives={into}", *install, *names)
    return sorted(into.glob("*.deb"))


def unpack(package: Path, into: Path) -> None:
    """Unpacks the package's files below ``into``; its scripts are not run."""
    run(["dpkg-deb", "--extract", str(package), str(into)])


def _known(
    suite: Suite, architecture: str, word: str, ask: Callable[[Suite, str, str], list[str]]
) -> list[str]:
    """What ``ask`` says about ``word``. Remembered for a day, so that a second run
    needs no network."""
    memory = _state(suite, architecture) / "known.json"
    known = _recent(memory)
    if word not in known:
        _update(suite, architecture)
        known[word] = ask(suite, architecture, word)
        memory.write_text(json.dumps(known))
    return known[word]


def _candidates(suite: Suite, architecture: str, name: str) -> list[str]:
    """The newest version that the suite has, if it has one."""
    policy = _apt(suite, architecture, "policy", name, program="apt-cache")
    line = next((part for part in policy.splitlines() if "Candidate:" in part), "")
    found = line.partition(":")[2].strip()
    return [] if found in ("", "(none)") else [found]


def _names(suite: Suite, architecture: str, pattern: str) -> list[str]:
    prefix = pattern.removesuffix("*")
    return _apt(suite, architecture, "pkgnames", prefix, program="apt-cache").split()


def _forget(suite: Suite, architecture: str) -> None:
    """Has the next question look at the archive itself."""
    for name in ("known.json", "updated"):
        (_state(suite, architecture) / name).unlink(missing_ok=True)


def _recent(file: Path) -> dict[str, list[str]]:
    try:
        if time.time() - file.stat().st_mtime > _FRESH:
            return {}
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _update(suite: Suite, architecture: str) -> None:
    state = _state(suite, architecture)
    stamp = state / "updated"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
        return
    title = f"fetching the package lists of {suite.name} ({architecture})"
    with cache.locked(f"apt-{state.name}", title):
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
            return
        _write_sources(state, suite, architecture)
        try:
            with progress.phase("package lists", title):
                _apt(suite, architecture, "--error-on=any", "update")
        except HostError as error:
            if not stamp.exists():
                raise
            progress.note(f"{error.message}; going on with older package lists")
            return
        (state / "known.json").unlink(missing_ok=True)
        stamp.touch()


def _write_sources(state: Path, suite: Suite, architecture: str) -> None:
    main, security = mirrors()
    lines = [f"{main} {name} main" for name in (suite.name, suite.base) if name]
    if suite.secured:
        lines.append(f"{security} {suite.name}-security main")
    options = f"[arch={architecture} signed-by={_KEYRING}]"
    text = "".join(f"deb {options} {line}\n" for line in lines)
    (state / "sources.list").write_text(text)
    # apt takes nothing of backports and experimental where their base has it too.
    (state / "preferences").write_text("Package: *\nPin: release a=*\nPin-Priority: 500\n")


def mirrors() -> tuple[str, str]:
    """The main and the security archive's addresses: the user's choice, or
    those of the host's own apt. Raises HostError when it has none of Debian."""
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return chosen, chosen.rstrip("/") + "-security"
    form = ["--format", "$(ORIGIN)\t$(RELEASE)\t$(REPO_URI)", "Created-By: Packages"]
    rows = [row.split("\t") for row in run(["apt-get", "indextargets", *form]).splitlines()]
    # Before the host's first update apt does not know an archive's origin.
    usable = [row for row in rows if len(row) == 3 and (row[0] == "Debian" or "$" in row[0])]
    security = [address for _, release, address in usable if release.endswith("-security")]
    main = [address for _, release, address in usable if not release.endswith("-security")]
    if not main:
        raise HostError(
            "this host's apt names no Debian mirror", f"set {MIRROR_VARIABLE} to one's address"
        )
    return main[0], security[0] if security else main[0].rstrip("/") + "-security"


def _state(suite: Suite, architecture: str) -> Path:
    name = f"{suite.name}-{architecture}"
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:  # another archive has other lists
        name += f"-{cache.digest(mirror)}"
    state = paths.cache() / "apt" / name
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    # An empty status file: nothing is installed, so a closure is complete.
    (state / "status").touch()
    return state


def _apt(
    suite: Suite, architecture: str, *words: str, program: str = "apt-get", cwd: Path | None = None
) -> str:
    state = _state(suite, architecture)
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": state / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
        # Unused without root; with it, the _apt user cannot enter a home.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    try:
        return run([program, "-q", *options, *words], cwd=cwd)
    except ProgramFailed as failure:
        errors = [line for line in failure.output.splitlines() if line.startswith("E: ")]
        reason = errors[0].removeprefix("E: ") if errors else failure.message
        raise HostError(
            f"apt could not fetch from {suite.name}: {reason}",
            f"see that the network and the mirror answer, or set {MIRROR_VARIABLE}",
        ) from failure
