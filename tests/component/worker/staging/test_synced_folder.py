"""What a folder store has synced when an object counts as written, and what a disk that refuses leaves."""

import asyncio
import errno
import os
import re
from pathlib import Path
from threading import Thread

import pytest
from tests.support.disk_operations import recorded

from annotationrun_worker.errors import StorageError
from annotationrun_worker.staging import disk
from annotationrun_worker.staging.folder import SyncedFolder
from annotationrun_worker.staging.store import StagingStore


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def told(operations, root):
    """Name and paths of each operation, as text; the digits of names beside as ``#``."""
    return [
        re.sub(r"#\d+", "#", " ".join([one.name, *(os.path.relpath(path, root) for path in one.paths)]))
        for one in operations
    ]


def test_file_and_folders_are_synced_before_a_new_object_counts(tmp_path):
    with recorded() as operations:
        assert SyncedFolder(tmp_path).create("answers/ab/abc.json", b"{}")
    assert told(operations, tmp_path) == [
        "make_folder answers", "sync_folder .", "make_folder answers/ab", "sync_folder answers",
        "write_new answers/ab/abc.json#", "link answers/ab/abc.json# answers/ab/abc.json",
        "unlink answers/ab/abc.json#", "sync_folder answers/ab",
    ]  # fmt: skip
    assert operations[4].is_synced
    assert operations[4].content == b"{}"


def test_a_store_that_is_missing_is_synced_with_the_folders_above_it(tmp_path):
    store = StagingStore(tmp_path / "a" / "staging")
    with recorded() as operations:
        store.put_now("note", b"1")
    assert told(operations, tmp_path)[:2] == ["sync_folder a", "sync_folder ."]


def test_who_comes_second_returns_when_the_first_ones_object_stays_too(tmp_path):
    folder = SyncedFolder(tmp_path)
    assert folder.create("plans/p", b"1")
    with recorded() as operations:
        assert not folder.create("plans/p", b"2")
    assert told(operations, tmp_path)[-1] == "sync_folder plans"
    assert (tmp_path / "plans/p").read_bytes() == b"1"
    assert files(tmp_path) == ["plans/p"]


@pytest.mark.parametrize("is_synced", [True, False])
def test_what_is_put_over_another_is_synced_unless_it_is_soon_put_again(tmp_path, is_synced):
    folder = SyncedFolder(tmp_path)
    folder.put("workers/w", b"1", is_synced=is_synced)
    with recorded() as operations:
        folder.put("workers/w", b"2", is_synced=is_synced)
    expected = ["write_new workers/w#", "rename workers/w# workers/w"]
    assert told(operations, tmp_path) == expected + ["sync_folder workers"] * is_synced
    assert operations[0].is_synced is is_synced
    assert (tmp_path / "workers/w").read_bytes() == b"2"


def test_only_what_was_found_is_replaced(tmp_path):
    folder = SyncedFolder(tmp_path)
    folder.create("answers/a", b"")
    assert not folder.replace("answers/a", b"else", b"new")
    assert (tmp_path / "answers/a").read_bytes() == b""
    assert folder.replace("answers/a", b"", b"new")
    assert not folder.replace("answers/a", b"", b"newer")
    assert (tmp_path / "answers/a").read_bytes() == b"new"
    assert folder.replace("answers/gone", b"", b"created")
    assert files(tmp_path) == ["answers/a", "answers/gone"]


def test_of_many_that_replace_the_same_object_at_once_one_does(tmp_path):
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"")
        done: list[int] = []

        def replace(writer, number=number, done=done):
            if SyncedFolder(tmp_path).replace(str(number), b"", str(writer).encode()):
                done.append(writer)

        threads = [Thread(target=replace, args=(writer,)) for writer in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [str(writer).encode() for writer in done] == [(tmp_path / str(number)).read_bytes()]


@pytest.mark.parametrize("operation", ["fsync", "link"])
def test_a_disk_that_refuses_is_a_storage_error_and_leaves_nothing_half_written(
    tmp_path, monkeypatch, operation
):
    store = StagingStore(tmp_path)
    store.put_now("plans/other", b"1")

    def refuses(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, operation, refuses)
    with pytest.raises(StorageError, match=r"can't write 'plans/p'.*No space left.*look for a full disk"):
        asyncio.run(store.create("plans/p", b"x" * 10))
    assert files(tmp_path) == ["plans/other"]


def test_a_file_system_that_syncs_no_folders_is_taken_as_it_is(tmp_path, monkeypatch):
    fsync = os.fsync

    def of_files_only(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(disk.os, "fsync", of_files_only)
    assert SyncedFolder(tmp_path).create("plans/p", b"1")


def test_folders_that_are_empty_go_with_the_last_object(tmp_path):
    folder = SyncedFolder(tmp_path)
    for path in ("claims/a/0", "claims/a/1", "claims/b/0"):
        folder.create(path, b"w")
    for path in ("claims/a/0", "claims/a/1"):
        folder.delete(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0", "b", "claims"]
    folder.delete("claims/b/0")
    assert list(tmp_path.iterdir()) == []
    assert folder.create("claims/a/0", b"w"), "the folder is made again"
    with pytest.raises(FileNotFoundError):
        folder.delete("claims/b/0")
