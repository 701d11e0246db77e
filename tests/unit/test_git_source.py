# SPDX-License-Identifier: GPL-2.0-only
"""Kernels of git revisions, built from a ten-line source tree."""

import subprocess
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel import build, git_source, spec
from tests import fake_linux

pytestmark = pytest.mark.usefixtures("no_fragments")


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=m"]
    command = ["git", *identity, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path, text: str) -> None:
    (repository / "drivers/iommu/iommu.c").write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with three revisions; its name has blanks, an "@" and a non-ASCII letter."""
    path = fake_linux.write(tmp_path / "my @ linux ä")
    git(path, "init", "-q")
    (path / "script").write_text("#!/bin/sh\n")
    (path / "script").chmod(0o755)
    (path / "link").symlink_to("script")
    for text in ("int one;\n", "int two;\n", "int three;\n"):
        commit(path, text)
    return path


def image(repository: Path, revision: str) -> str:
    return build.build(spec.parse(f"git:{repository}@{revision}")).image.read_text()


def checkout_state(repository: Path) -> dict[str, tuple[int, bytes]]:
    """Map each file of the checkout and of .git to its modification time and content."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(repository.rglob("*"))
    }


def test_building_revisions_leaves_the_checkout_unchanged(repository: Path) -> None:
    (repository / "Makefile").write_text("a dirty tree")
    (repository / "untracked").write_text("")
    status = git(repository, "status", "--porcelain")
    before = checkout_state(repository)
    images = [image(repository, revision) for revision in ("HEAD~2", "HEAD~1", "HEAD")]
    assert images == ["int one;\n", "int two;\n", "int three;\n"]
    assert checkout_state(repository) == before
    assert git(repository, "status", "--porcelain") == status


def test_export_writes_modes_and_links_of_the_revision(repository: Path, tmp_path: Path) -> None:
    found = git_source.source_of(f"{repository}@HEAD")
    out = tmp_path / "out"
    out.mkdir()
    found.export(sorted(found.manifest()), out)
    assert (out / "script").stat().st_mode & 0o100
    assert str((out / "link").readlink()) == "script"
    assert found.version == (6, 0)


def test_export_writes_only_the_requested_files(repository: Path, tmp_path: Path) -> None:
    old, new = (git_source.source_of(f"{repository}@{name}") for name in ("HEAD~1", "HEAD"))
    before, after = old.manifest(), new.manifest()
    assert {name for name in before if before[name] != after[name]} == {"drivers/iommu/iommu.c"}
    (tmp_path / "out").mkdir()
    new.export(["drivers/iommu/iommu.c"], tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.name for path in written] == ["iommu.c"]


def test_revisions_with_equal_trees_share_a_kernel(repository: Path) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")
    assert (
        build.build(spec.parse(f"git:{repository}@HEAD")).key
        == build.build(spec.parse(f"git:{repository}@HEAD~1")).key
    )


def test_export_ignores_line_ending_settings_filters_and_hooks(
    repository: Path, tmp_path: Path
) -> None:
    """The exported content must match the blob, whatever the user's git settings."""
    git(repository, "config", "core.autocrlf", "true")
    git(repository, "config", "filter.shout.smudge", f"tee {tmp_path}/filtered | tr a-z A-Z")
    (repository / ".git/info/attributes").write_text("*.c filter=shout eol=crlf ident\n")
    for name in ("post-index-change", "post-checkout", "reference-transaction"):
        hook = repository / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
        hook.chmod(0o755)
    found = git_source.source_of(f"{repository}@HEAD")
    (tmp_path / "out").mkdir()
    found.export(["drivers/iommu/iommu.c"], tmp_path / "out")
    assert (tmp_path / "out/drivers/iommu/iommu.c").read_bytes() == b"int three;\n"
    assert not (tmp_path / "filtered").exists()
    assert not (tmp_path / "hooked").exists()


def test_the_label_contains_the_requested_commit(repository: Path) -> None:
    first = build.build(spec.parse(f"git:{repository}@HEAD"))
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")
    second = build.build(spec.parse(f"git:{repository}@HEAD"))
    assert first.key == second.key
    assert git(repository, "rev-parse", "HEAD")[:12] in second.label
    assert first.label != second.label


def test_git_warnings_do_not_appear_in_the_source(repository: Path) -> None:
    (repository / ".git/info/grafts").write_text("")
    assert image(repository, "HEAD") == "int three;\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere@HEAD", "DIR does not exist, or @REV is missing"),
        ("{}", "DIR does not exist, or @REV is missing"),
        ("{}@", "DIR does not exist, or @REV is missing"),
        ("{}@v9.9", "has no revision 'v9.9'"),
        ("{}@--help", "has no revision '--help'"),
        ("{}@HEAD:Makefile", "has no revision"),
        ("{}@$(touch x)", "has no revision"),
        ("{}/drivers@HEAD~9", "has no revision"),
        ("{}@HEAD@x", "has no revision"),
    ],
)
def test_source_of_rejects_an_unknown_revision(repository: Path, where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("$", r"\$")):
        git_source.source_of(where.format(repository))


def test_source_of_rejects_a_directory_without_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="is not a git repository"):
        git_source.source_of(f"{tmp_path}@HEAD")


def test_source_of_rejects_a_revision_without_linux_source(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "x")
    with pytest.raises(UsageError, match=r"not Linux source: .* has no Makefile"):
        git_source.source_of(f"{tmp_path}@HEAD")


def test_source_of_suggests_unshallow_if_a_shallow_clone_lacks_the_revision(
    repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    assert image(tmp_path / "shallow", "HEAD") == "int three;\n"
    with pytest.raises(UsageError, match=r"no revision 'HEAD~1'") as caught:
        git_source.source_of(f"{tmp_path / 'shallow'}@HEAD~1")
    assert "fetch --unshallow" in caught.value.hint


def test_building_from_a_partial_clone_fetches_nothing(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    filtered = ["--no-checkout", "--filter=blob:none"]
    git(tmp_path, "clone", "-q", *filtered, f"file://{repository}", "partial")
    partial = tmp_path / "partial"
    before = checkout_state(partial)
    with pytest.raises(UsageError) as caught:
        image(partial, "HEAD")
    assert "clone is partial" in caught.value.hint
    assert checkout_state(partial) == before


def test_build_accepts_a_bare_repository(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    assert image(tmp_path / "bare.git", "HEAD~2") == "int one;\n"


def test_is_ancestor_returns_none_for_an_unknown_commit(repository: Path) -> None:
    one, two, three = git(repository, "rev-list", "--reverse", "HEAD").split()
    where = f"{repository}@HEAD~1"
    assert git_source.is_ancestor(where, one[:12]) is True
    assert git_source.is_ancestor(where, two) is True
    assert git_source.is_ancestor(where, three[:12]) is False
    assert git_source.is_ancestor(where, "0123456789ab") is None


def test_the_source_of_a_kernel_includes_its_patches(repository: Path, tmp_path: Path) -> None:
    patch = tmp_path / "two.patch"
    patch.write_text(fake_linux.PATCH)
    kernel = spec.parse(f"git:{repository}@HEAD~2", [patch])
    kept = build.source(kernel)
    assert kept.code("drivers/iommu/iommu.c") == "int one;\nint two;\n"
    assert kept.code("drivers/iommu/other.c") is None
    plain = build.source(spec.parse(f"git:{repository}@HEAD~2"))
    assert plain.code("drivers/iommu/iommu.c") == "int one;\n"
