"""Where a staging store lies, and who is taken for gone: decisions without a store."""

from dataclasses import replace
from pathlib import Path

import pytest

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.staging.leases import (
    Beat,
    ProcessIdentity,
    ProcessState,
    can_see,
    decode_beat,
    encode_beat,
    has_ended,
    parse_stat,
    read_process,
    this_process,
    worker_name,
)
from annotationrun_worker.staging.store import cause_of, folder_of, open_bucket

PROCESS = ProcessIdentity(host_name="pod-7", boot_id="b", pid_namespace=4, pid=12, start_ticks=900)


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        pytest.param(Path("a/b"), Path("a/b"), id="a path"),
        pytest.param("a/b c", Path("a/b c"), id="a path as text"),
        pytest.param("file:///a/b%20c", Path("/a/b c"), id="a file URI, percent-encoded"),
        pytest.param("s3://bucket/x", None, id="a bucket"),
        pytest.param("file://host/x", None, id="a folder of another host"),
    ],
)
def test_a_location_names_a_folder_or_an_object_store(location, folder):
    assert folder_of(location) == folder


@pytest.mark.parametrize(
    ("uri", "bucket"),
    [
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://bucket", ("bucket", "")),
        ("gs://bucket/a/", ("bucket", "a")),
        ("az://container/a", ("container", "a")),
    ],
)
def test_an_object_store_is_opened_without_asking_it(uri, bucket, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    opened = open_bucket(uri)
    name = opened.config.get("bucket") or opened.config["container_name"]
    assert (name, opened.prefix or "") == bucket


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://bucket/x",
        "s3:///x",
        "file://host/x",
        "s3://key:top-secret@bucket/x",  # pragma: allowlist secret
        "s3://bucket/x?sig=top-secret",
        "s3://bucket/x#top-secret",
    ],
)
def test_another_location_is_refused_and_no_secret_of_it_shown(uri):
    with pytest.raises(ConfigurationError, match="expected a folder, file:///folder, s3://bucket") as raised:
        open_bucket(uri)
    assert "top-secret" not in str(raised.value)


def test_an_environment_that_does_not_do_is_a_configuration_error(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigurationError, match=r"az://container/x.*Account must be specified"):
        open_bucket("az://container/x")


def test_a_cause_is_one_line_with_the_servers_code_and_without_signatures():
    error = OSError(
        "Error performing GET https://account.host/c/a?sv=1&sig=top-secret in 2ms - 403 Forbidden: "
        '<?xml version="1.0"?>\n<Error><Code>AuthenticationFailed</Code></Error>\n\nDebug source: ...'
    )
    assert (
        cause_of(error)
        == "Error performing GET https://account.host/c/a?... in 2ms - 403 Forbidden (AuthenticationFailed)"
    )


def test_the_stat_of_a_process_with_an_odd_name_is_read():
    text = "12 (a) b (c) S 1 12 12 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 1210182 3133440 413"
    assert parse_stat(text) == ProcessState("S", 1210182)


@pytest.mark.parametrize(
    ("seen", "ended"),
    [
        pytest.param(ProcessState("S", 900), False, id="it sleeps"),
        pytest.param(ProcessState("T", 900), False, id="it is stopped"),
        pytest.param(None, True, id="there is none"),
        pytest.param(ProcessState("Z", 900), True, id="a zombie"),
        pytest.param(ProcessState("R", 901), True, id="another one got its process id"),
    ],
)
def test_a_process_has_ended_when_another_or_none_has_its_process_id(seen, ended):
    assert has_ended(PROCESS, seen) is ended


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        pytest.param({"pid": 99}, True, id="another process of this machine"),
        pytest.param({"boot_id": "c"}, False, id="another machine, or before a reboot"),
        pytest.param({"pid_namespace": 5}, False, id="another container"),
    ],
)
def test_a_process_is_seen_under_the_same_kernel_and_namespace(change, seen):
    assert can_see(PROCESS, replace(PROCESS, **change)) is seen


def test_this_process_runs():
    me = this_process()
    assert not has_ended(me, read_process(me.pid))
    assert has_ended(replace(me, start_ticks=me.start_ticks + 1), read_process(me.pid))
    assert read_process(2**22 + 1) is None


def test_a_beat_is_read_as_it_was_written():
    beat = Beat(3, PROCESS)
    assert decode_beat(encode_beat(beat)) == beat


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"counter":1,"process":{}}', b"\xff"])
def test_what_is_no_beat_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"not a heartbeat|Expecting value|can't decode"):
        decode_beat(content)


def test_the_name_of_a_worker_is_a_path_segment():
    assert worker_name(replace(PROCESS, host_name="Some.Host/../x\u00e4" + "y" * 90)).startswith(
        "some-host-x-yy"
    )
    assert worker_name(PROCESS) == "pod-7-12"
