"""The status: what is written is what is read, in a size that does not depend on the dataset."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from annotationrun_api.conditions import (
    ConditionType,
    condition,
    find_condition,
    holds,
    with_condition,
)
from annotationrun_api.crd_schema import crd
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.spec_fields import walk_fields
from annotationrun_api.status import (
    SHOWN_FAILURES,
    AnnotateStatus,
    EpisodeCounts,
    EpisodeFailure,
    GpuUse,
    MergeStatus,
    PlanStatus,
    Progress,
    Publication,
    RunStatus,
    latest_failures,
    read_status,
    write_status,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
LONG = "ä" * 5000
MOST = (1 << 53) - 1


def _set(kind, status, reason, now=NOW, message="", generation=1):
    return condition(kind, status, reason, message, generation=generation, now=now)


def _largest() -> RunStatus:
    step = {"attempt": MOST, "job_name": "j" * 63, "input_digest": "f" * 64, "retries": MOST}
    return RunStatus(
        observed_generation=MOST,
        conditions=tuple(
            _set(kind, True, Reason.TOO_MANY_FAILED_EPISODES, message=LONG, generation=MOST)
            for kind in ConditionType
        ),
        start_time=NOW,
        completion_time=NOW,
        progress=Progress(percent=100, text=LONG, eta=LONG, estimated_completion_time=NOW, reported_time=NOW),
        episodes=EpisodeCounts(total=MOST, done=MOST, failed=MOST),
        failures=tuple(
            EpisodeFailure(episode_index=index, module=LONG, attempts=MOST, cause=LONG, time=NOW)
            for index in range(SHOWN_FAILURES)
        ),
        disruptions=MOST,
        gpu=GpuUse(seconds=MOST, held=MOST, counted_time=NOW),
        usage=RunUsage(**dict.fromkeys(RunUsage.model_fields, MOST)),
        plan=PlanStatus(
            **step,
            digest="f" * 64,
            source_commit=LONG,
            model_commit=LONG,
            retry_token=LONG,
            requested_at=LONG,
        ),
        annotate=AnnotateStatus(**step, done_before=MOST, disruptions_without_progress=MOST),
        merge=MergeStatus(**step, digest="f" * 64),
        published=Publication(merge_digest="f" * 64, place=LONG, commit=LONG, pull_request=LONG, time=NOW),
    )


def test_the_largest_status_there_can_be_is_small():
    written = write_status(_largest())
    assert 10_000 < len(json.dumps(written, ensure_ascii=False).encode()) < 48 << 10


def test_what_is_written_is_read_again():
    largest = _largest()
    assert read_status(json.loads(json.dumps(write_status(largest)))) == largest


def _fits(schema, value):
    """Whether the value fits the part of a schema that a status uses."""
    if schema["type"] == "object":
        assert value.keys() <= schema["properties"].keys()
        assert set(schema.get("required", [])) <= value.keys()
        for name, inner in value.items():
            _fits(schema["properties"][name], inner)
    elif schema["type"] == "array":
        assert len(value) <= schema["maxItems"]
        for item in value:
            _fits(schema["items"], item)
    elif schema["type"] == "string":
        assert len(value) <= schema.get("maxLength", 64)
        assert value in schema.get("enum", [value])
    else:
        assert schema["minimum"] <= value <= schema["maximum"]


@pytest.mark.parametrize("status", [RunStatus(), _largest()], ids=["empty", "largest"])
def test_what_is_written_fits_the_schema(status):
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    _fits(schema, write_status(status))


@pytest.mark.parametrize("raw", [None, {}, {"observedGeneration": -1}], ids=str)
def test_a_run_never_seen_has_an_empty_status(raw):
    assert read_status(raw) == RunStatus()
    assert read_status(raw).observed_generation == -1


def test_fields_and_words_of_a_newer_operator_do_no_harm():
    foreign = {
        "type": "Audited",
        "status": "True",
        "reason": "ByHand",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }
    status = read_status({"observedGeneration": 3, "newer": {"a": 1}, "conditions": [foreign]})

    assert status.observed_generation == 3
    assert status.conditions[0].reason == "ByHand"
    with pytest.raises(ValidationError, match=r"conditions\.0\.status"):
        read_status({"conditions": [foreign | {"status": "Perhaps"}]})


def test_times_are_whole_seconds_of_utc():
    elsewhere = NOW.astimezone(timezone(timedelta(hours=2))) + timedelta(microseconds=7)
    status = RunStatus(start_time=elsewhere)

    assert status.start_time == NOW
    assert write_status(status)["startTime"] == "2030-01-02T03:04:05Z"
    with pytest.raises(ValidationError, match="time zone"):
        RunStatus(start_time=NOW.replace(tzinfo=None))


def test_a_long_text_is_cut_and_says_so():
    cut = _set(ConditionType.STALLED, True, Reason.IMAGE_PULL_FAILED, message="x" * 1025).message
    assert cut == "x" * 1021 + "..."
    whole = _set(ConditionType.STALLED, True, Reason.IMAGE_PULL_FAILED, message="x" * 1024).message
    assert whole == "x" * 1024


def test_a_condition_moves_only_when_its_status_does():
    first = with_condition((), _set(ConditionType.READY, False, Reason.PLANNING))
    second = with_condition(first, _set(ConditionType.READY, False, Reason.ANNOTATING, LATER, "go", 2))
    third = with_condition(second, _set(ConditionType.READY, True, Reason.COMPLETE, LATER))

    assert [found.last_transition_time for (found,) in (first, second, third)] == [NOW, NOW, LATER]
    assert (second[0].reason, second[0].message, second[0].observed_generation) == ("Annotating", "go", 2)
    assert not holds(second, ConditionType.READY)
    assert holds(third, ConditionType.READY)
    assert find_condition(third, ConditionType.STALLED) is None


def test_conditions_keep_one_order_and_those_of_others():
    foreign = read_status(
        {
            "conditions": [
                {
                    "type": "Audited",
                    "status": "True",
                    "reason": "ByHand",
                    "lastTransitionTime": "2030-01-01T00:00:00Z",
                }
            ]
        }
    ).conditions
    conditions = with_condition(foreign, _set(ConditionType.PUBLISHED, None, Reason.NOT_STARTED))
    conditions = with_condition(conditions, _set(ConditionType.READY, False, Reason.PLANNING))

    assert [found.type for found in conditions] == ["Ready", "Published", "Audited"]
    assert conditions[1].status == "Unknown"


def test_the_latest_failures_are_shown_one_for_each_episode_and_module():
    known = tuple(EpisodeFailure(episode_index=index, module="vqa", cause="old") for index in range(20))
    new = (
        EpisodeFailure(episode_index=19, module="vqa", cause="new"),
        EpisodeFailure(episode_index=19, module="plan", cause="new"),
    )
    shown = latest_failures(known, new)

    assert len(shown) == SHOWN_FAILURES
    assert shown[:2] == new
    assert [failure.episode_index for failure in shown[2:]] == list(range(18))


@pytest.mark.parametrize("reason", list(Reason), ids=str)
def test_a_reason_says_what_happened_and_what_to_do(reason):
    assert reason.value.isalpha()
    assert reason.value == reason.name.title().replace("_", "")
    for sentence in (reason.happened, reason.remedy):
        assert sentence[0].isupper() or sentence.startswith("spec.")
        assert sentence.endswith(".")
        assert len(sentence) < 160


def test_condition_types_are_those_that_are_promised():
    promised = "Ready Reconciling Stalled Complete Failed Suspended Planned Annotated Merged Published"
    assert [kind.value for kind in ConditionType] == promised.split()
    assert all(kind.meaning for kind in ConditionType)
    assert [step.value for step in Step] == ["plan", "prefetch", "annotate", "merge"]


@pytest.mark.parametrize(
    ("path", "field_type"), [pytest.param(*row, id=row[0]) for row in walk_fields(RunStatus, "status")]
)
def test_a_status_field_is_described_like_a_spec_field(path, field_type):
    description = field_type.field.description
    assert description.startswith(f"{path.rsplit('.', 1)[-1]}: ")
    assert description.endswith("Required.") if field_type.field.is_required() else "Default " in description
