# SPDX-License-Identifier: GPL-2.0-only
"""Revisions of a repository as kernels, on a kernel of ten lines."""

import subprocess
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel import build, git_source, spec
from tests import fake_linux

pytestmark = pytest.mark.usefixtures("no_fragments")


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=m"]
    command = ["git", *identity, "-C", str(directory), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path, text: str) -> None:
    (repository / "drivers/iommu/iommu.c").write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three revisions; the name has a blank, an "@" and a letter that is not ASCII."""
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


def everything(repository: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the checkout and of .git with its time and content."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(repository.rglob("*"))
    }


def test_three_revisions_are_three_kernels_and_the_checkout_stays(repository: Path) -> None:
    (repository / "Makefile").write_text("a dirty tree")
    (repository / "untracked").write_text("")
    status = git(repository, "status", "--porcelain")
    before = everything(repository)
    images = [image(repository, revision) for revision in ("HEAD~2", "HEAD~1", "HEAD")]
    assert images == ["int one;\n", "int two;\n", "int three;\n"]
    assert everything(repository) == before
    assert git(repository, "status", "--porcelain") == status


def test_modes_and_links_are_those_of_the_revision(repository: Path, tmp_path: Path) -> None:
    found = git_source.source_of(f"{repository}@HEAD")
    out = tmp_path / "out"
    out.mkdir()
    found.put(sorted(found.manifest()), out)
    assert (out / "script").stat().st_mode & 0o100
    assert str((out / "link").readlink()) == "script"
    assert found.version == (6, 0)


def test_only_what_differs_is_written(repository: Path, tmp_path: Path) -> None:
    old, new = (git_source.source_of(f"{repository}@{name}") for name in ("HEAD~1", "HEAD"))
    keys, others = old.manifest(), new.manifest()
    assert {name for name in keys if keys[name] != others[name]} == {"drivers/iommu/iommu.c"}
    (tmp_path / "out").mkdir()
    new.put(["drivers/iommu/iommu.c"], tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.name for path in written] == ["iommu.c"]


def test_equal_trees_are_one_kernel(repository: Path) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")
    assert (
        build.build(spec.parse(f"git:{repository}@HEAD")).key
        == build.build(spec.parse(f"git:{repository}@HEAD~1")).key
    )


def test_nothing_of_the_repository_runs_or_changes_the_source(
    repository: Path, tmp_path: Path
) -> None:
    """Line ends, filters and hooks are the user's; the files are what their keys say."""
    git(repository, "config", "core.autocrlf", "true")
    git(repository, "config", "filter.shout.smudge", f"tee {tmp_path}/filtered | tr a-z A-Z")
    (repository / ".git/info/attributes").write_text("*.c filter=shout eol=crlf ident\n")
    for name in ("post-index-change", "post-checkout", "reference-transaction"):
        hook = repository / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
        hook.chmod(0o755)
    found = git_source.source_of(f"{repository}@HEAD")
    (tmp_path / "out").mkdir()
    found.put(["drivers/iommu/iommu.c"], tmp_path / "out")
    assert (tmp_path / "out/drivers/iommu/iommu.c").read_bytes() == b"int three;\n"
    assert not (tmp_path / "filtered").exists()
    assert not (tmp_path / "hooked").exists()


def test_the_label_is_that_of_the_revision_asked_for(repository: Path) -> None:
    first = build.build(spec.parse(f"git:{repository}@HEAD"))
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")
    second = build.build(spec.parse(f"git:{repository}@HEAD"))
    assert first.key == second.key
    assert git(repository, "rev-parse", "HEAD")[:12] in second.label
    assert first.label != second.label


def test_words_of_warning_are_not_taken_for_content(repository: Path) -> None:
    (repository / ".git/info/grafts").write_text("")
    assert image(repository, "HEAD") == "int three;\n"


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("nowhere@HEAD", "names no directory and revision"),
        ("{}", "names no directory and revision"),
        ("{}@", "names no directory and revision"),
        ("{}@v9.9", "has no revision 'v9.9'"),
        ("{}@--help", "has no revision '--help'"),
        ("{}@HEAD:Makefile", "has no revision"),
        ("{}@$(touch x)", "has no revision"),
        ("{}/drivers@HEAD~9", "has no revision"),
        ("{}@HEAD@x", "has no revision"),
    ],
)
def test_a_revision_that_is_none(repository: Path, where: str, word: str) -> None:
    with pytest.raises(UsageError, match=word.replace("$", r"\$")):
        git_source.source_of(where.format(repository))


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="is no git repository"):
        git_source.source_of(f"{tmp_path}@HEAD")


def test_a_revision_that_is_not_linux(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "x")
    with pytest.raises(UsageError, match="has no Makefile: not Linux source"):
        git_source.source_of(f"{tmp_path}@HEAD")


def test_a_shallow_clone_says_how_to_deepen_it(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    assert image(tmp_path / "shallow", "HEAD") == "int three;\n"
    with pytest.raises(UsageError, match=r"no revision 'HEAD~1'") as caught:
        git_source.source_of(f"{tmp_path / 'shallow'}@HEAD~1")
    assert "fetch --unshallow" in caught.value.mend


def test_a_partial_clone_is_not_made_to_fetch(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    filtered = ["--no-checkout", "--filter=blob:none"]
    git(tmp_path, "clone", "-q", *filtered, f"file://{repository}", "partial")
    partial = tmp_path / "partial"
    before = everything(partial)
    with pytest.raises(UsageError) as caught:
        image(partial, "HEAD")
    assert "partial clone" in caught.value.mend
    assert everything(partial) == before


def test_a_bare_repository_will_do(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    assert image(tmp_path / "bare.git", "HEAD~2") == "int one;\n"


def test_which_commits_are_in_a_revisions_history(repository: Path) -> None:
    one, two, three = git(repository, "rev-list", "--reverse", "HEAD").split()
    where = f"{repository}@HEAD~1"
    assert git_source.has(where, one[:12]) is True
    assert git_source.has(where, two) is True
    assert git_source.has(where, three[:12]) is False
    assert git_source.has(where, "0123456789ab") is None


def test_the_source_of_a_kernel_is_kept_with_its_patches(repository: Path, tmp_path: Path) -> None:
    patch = tmp_path / "two.patch"
    patch.write_text(fake_linux.PATCH)
    kernel = spec.parse(f"git:{repository}@HEAD~2", [patch])
    kept = build.source(kernel)
    assert kept.code("drivers/iommu/iommu.c") == "int one;\nint two;\n"
    assert kept.code("drivers/iommu/other.c") is None
    plain = build.source(spec.parse(f"git:{repository}@HEAD~2"))
    assert plain.code("drivers/iommu/iommu.c") == "int one;\n"
