"""The frame of the scripts that build programs with Go: once, whoever asks, and nothing half made."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.checkout import ROOT

FRAME = ROOT / "tests" / "support" / "go_build.sh"
SCRIPT = """
source {frame}
compile() {{
  echo called >> {folder}/calls
  {before}
  cat {folder}/source > "$1/program"
}}
build_once thing {gigabytes} {folder}/source
echo "$folder/program"
"""


class Thing:
    """A script by the frame, which copies a file where others compile, and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache" / "annotationrun"
        self.source = folder / "source"
        self.source.write_text("one", encoding="utf-8")
        self.write()

    def write(self, before: str = ":", gigabytes: int = 0) -> None:
        """The script; its compile does `before` first."""
        text = SCRIPT.format(frame=FRAME, folder=self.folder, before=before, gigabytes=gigabytes)
        (self.folder / "thing.sh").write_text(text, encoding="utf-8")

    def start(self, command: str = "source ./thing.sh") -> subprocess.Popen[str]:
        """Bash at work in the folder, in a process group of its own."""
        return subprocess.Popen(
            ["bash", "-c", command, "thing.sh"],
            cwd=self.folder,
            env=os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def built(self) -> Path:
        """What the script prints once it has ended well."""
        process = self.start()
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return Path(out.strip())

    def refused(self) -> str:
        """What the script says as it fails."""
        process = self.start()
        out, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert not out
        return errors

    def calls(self) -> int:
        return len((self.folder / "calls").read_text(encoding="utf-8").splitlines())

    def kept(self) -> set[str]:
        """The names in the cache, but for locks."""
        return {path.name for path in self.cache.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def thing(tmp_path):
    return Thing(tmp_path)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_what_is_built_is_not_built_again(thing):
    path = thing.built()
    assert path.read_text(encoding="utf-8") == "one"
    assert thing.built() == path
    assert thing.calls() == 1
    assert thing.kept() == {path.parent.name}


def test_another_source_or_another_script_is_another_program(thing):
    first = thing.built()
    thing.source.write_text("two", encoding="utf-8")
    second = thing.built()
    assert second.read_text(encoding="utf-8") == "two"
    thing.write(before="true")
    third = thing.built()
    assert len({first, second, third}) == thing.calls() == 3
    assert first.read_text(encoding="utf-8") == "one"


def test_of_two_at_once_one_builds_and_the_other_waits_for_it(thing):
    os.mkfifo(thing.folder / "go")
    thing.write(before="echo begun >&2; read < go")
    first = thing.start()
    assert line_of(first) == "begun\n"
    second = thing.start()
    assert "another build is running" in line_of(second)
    (thing.folder / "go").write_text("on\n", encoding="utf-8")
    ends = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert ends == [str(thing.built())] * 2
    assert thing.calls() == 1


def test_a_killed_build_is_made_anew(thing):
    os.mkfifo(thing.folder / "go")
    thing.write(before='[[ -e killed ]] || { touch "$1/half" killed; echo begun >&2; read < go; }')
    process = thing.start()
    assert line_of(process) == "begun\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    path = thing.built()
    assert [entry.name for entry in path.parent.iterdir()] == ["program"]
    assert thing.kept() == {path.parent.name}


def test_a_failed_build_has_no_name_and_keeps_nothing_shared(thing):
    thing.write(before='mkdir "$cache/go-shared"; fail "no such module"')
    assert "thing: error: no such module" in thing.refused()
    assert all(name.endswith(".unfinished") for name in thing.kept())
    thing.write(before='mkdir "$cache/go-shared"; false')
    thing.refused()
    assert all(name.endswith(".unfinished") for name in thing.kept())


def test_nothing_begins_without_the_disk_for_it(thing):
    thing.write(gigabytes=10**6)
    assert "1000000 GB are needed" in thing.refused()
    assert not (thing.folder / "calls").exists()


def test_what_builds_share_goes_with_the_last_that_needs_it(thing):
    os.mkfifo(thing.folder / "go")
    thing.write(before='mkdir "$cache/go-shared"')
    holder = thing.start(f"source {FRAME}; hold_go; echo held >&2; read < go")
    assert line_of(holder) == "held\n"
    path = thing.built()
    assert thing.kept() == {path.parent.name, "go-shared"}
    (thing.folder / "go").write_text("on\n", encoding="utf-8")
    holder.communicate(timeout=60)
    assert thing.kept() == {path.parent.name}


def test_several_builds_are_asked_for_by_the_names_of_programs(tmp_path):
    command = [ROOT / "tests" / "support" / "go_builds.sh", "helm", "etcd"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 1
    assert "no program etcd; there are" in done.stderr
    assert all(name in done.stderr for name in ("kubernetes", "helm", "kueue", "versitygw", "gitops"))
    assert not list(tmp_path.iterdir())
