"""The journal of publishes: what is noted of one says nothing about another."""

from dataclasses import replace

import pytest

from annotationrun_worker.hub.publish import Intent, PublishJournal
from annotationrun_worker.staging.store import StagingStore

INTENT = Intent("m" * 64, "me/output", "main", "v3.0")
OTHERS = {"merge_digest": "n" * 64, "repo_id": "me/elsewhere", "branch": "labels"}


@pytest.fixture
def journal(tmp_path):
    return PublishJournal(StagingStore(tmp_path))


def test_a_publish_that_has_begun_is_noted_until_it_is_finished(journal):
    assert journal.read(INTENT) is None
    journal.write(INTENT)
    with_commit = replace(INTENT, commit="c" * 40)
    journal.write(with_commit)
    assert journal.read(INTENT) == with_commit
    assert list(journal.unfinished("me/output")) == [with_commit]
    journal.finish(INTENT)
    assert journal.read(INTENT) is None
    assert list(journal.unfinished("me/output")) == []


@pytest.mark.parametrize("field", OTHERS)
def test_what_is_noted_of_one_publish_is_not_believed_of_another(journal, field):
    other = replace(INTENT, **{field: OTHERS[field]})
    journal.write(INTENT)
    assert journal.read(other) is None
    journal.write(other)
    journal.finish(other)
    assert journal.read(INTENT) == INTENT


def test_publishes_into_another_repository_are_left_to_who_publishes_there(journal):
    journal.write(INTENT)
    journal.write(replace(INTENT, repo_id="me/elsewhere"))
    assert [intent.repo_id for intent in journal.unfinished("me/output")] == ["me/output"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tag": "v3.0", "more": 1}'])
def test_an_object_that_is_no_journal_is_named_and_says_that_a_publish_began(
    journal, tmp_path, content, caplog
):
    journal.write(INTENT)
    (tmp_path / INTENT.path).write_bytes(content)
    assert journal.read(INTENT) == INTENT
    assert INTENT.path in caplog.text
    caplog.clear()
    assert list(journal.unfinished(INTENT.repo_id)) == []
    assert INTENT.path in caplog.text
