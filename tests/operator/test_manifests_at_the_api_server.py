"""Manifests at a real API server: samples are taken, invalid ones refused or stalled, fuzz does no harm."""

import copy
import json
import random
import re
from pathlib import Path

import pytest
import yaml
from tests.support.invalid_manifests import INVALID, LOCAL_ONLY, VALID, Guard
from tests.support.kube_api import RUNS, ApiError, wait_for
from tests.support.operator_process import operator_process

SAMPLES = sorted((Path(__file__).parents[2] / "crds" / "samples").glob("*.yaml"))
STALLED_WITHIN_SECONDS = 5
FUZZED = 1000
SEEN_WITHIN_SECONDS = 300
FUZZ_SEED = 1729
STRICT = "?fieldValidation=Strict"
"""As kubectl asks by default: an unknown field is an error."""


def named(invalid):
    return re.sub(r"[^A-Za-z0-9]+", "-", invalid.name).strip("-").lower()[:40].rstrip("-")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_taken(server, namespace, path):
    sample = yaml.safe_load(path.read_text(encoding="utf-8"))
    created = server.api.create(RUNS.format(namespace) + STRICT, sample)
    assert created["status"]["observedGeneration"] == -1
    assert created["spec"]["workers"]["requestConcurrency"] > 0, "defaults are filled in"


def test_the_valid_manifest_that_the_invalid_ones_come_from_is_taken(server, namespace):
    assert server.api.create(RUNS.format(namespace) + STRICT, VALID)["metadata"]["uid"]


REFUSED = [*(invalid for invalid in INVALID if invalid.guard is Guard.SCHEMA), *LOCAL_ONLY]


@pytest.mark.parametrize("invalid", REFUSED, ids=lambda invalid: invalid.name)
def test_the_api_server_refuses_it_and_names_the_field(server, namespace, invalid):
    with pytest.raises(ApiError) as refusal:
        server.api.create(RUNS.format(namespace) + STRICT, invalid.manifest())
    assert refusal.value.code in (400, 422)
    assert invalid.field in str(refusal.value)


def test_what_the_schema_can_not_say_is_stalled_within_seconds(server, namespace, tmp_path):
    stalled = [invalid for invalid in INVALID if invalid.guard is Guard.OPERATOR]
    assert len(REFUSED) + len(stalled) >= 40
    assert stalled
    runs = RUNS.format(namespace)
    with operator_process(tmp_path, server.kubeconfig, namespace) as operator:
        operator.wait_until_ready()
        for number, invalid in enumerate(stalled):
            manifest = invalid.manifest()
            manifest["metadata"]["name"] = f"run-{number}"
            server.api.create(runs, manifest)

            def message(number=number):
                status = server.api.get(f"{runs}/run-{number}")["status"]
                conditions = {found["type"]: found for found in status.get("conditions", [])}
                found = conditions.get("Stalled", {"status": "False"})
                return found["message"] if found["status"] == "True" else None

            assert invalid.field in wait_for(invalid.name, message, STALLED_WITHIN_SECONDS), invalid.name


def leaves(value, path=()):
    """Paths of all values of a manifest."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))


def fuzzed(chance: random.Random, number: int) -> dict:
    """The valid manifest with one to three values replaced, removed or added."""
    manifest = copy.deepcopy(VALID)
    strange = (
        None, True, 0, -1, 1.5, 10**30, "", "x", "x" * 5000, "9-1", "é\u202e\x00", "../../etc", [], {}, [[]],
        {"x": {}}, ["a", 1], {"name": "x", "key": "y"}, "100%", "0%", "1e3",
    )  # fmt: skip
    for _ in range(chance.randint(1, 3)):
        paths = [path for path in leaves(manifest["spec"], ("spec",)) if len(path) > 1]
        path = chance.choice(paths)
        place = manifest
        for key in path[:-1]:
            place = place[key]
        kind = chance.randrange(3)
        if kind == 0:
            place[path[-1]] = chance.choice(strange)
        elif kind == 1:
            place.pop(path[-1], None)
        else:
            place[chance.choice(("workers", "frames", "prompts", "retryToken", "model", "extra"))] = (
                chance.choice(strange)
            )
    manifest["metadata"]["name"] = f"fuzz-{number}"
    return manifest


def test_a_thousand_fuzzed_specs_leave_no_traceback(server, namespace, tmp_path, printed):
    chance, runs = random.Random(FUZZ_SEED), RUNS.format(namespace)
    taken, refused = [], {}
    with operator_process(tmp_path, server.kubeconfig, namespace) as operator:
        operator.wait_until_ready()
        for number in range(FUZZED):
            manifest = fuzzed(chance, number)
            try:
                taken.append(server.api.create(runs, manifest)["metadata"]["name"])
            except ApiError as error:
                refused[json.dumps(manifest)] = error.code

        def is_seen(manifest):
            return manifest["status"]["observedGeneration"] == manifest["metadata"]["generation"]

        def all_are_seen():
            items = server.api.items(runs)
            return len(items) == len(taken) and all(map(is_seen, items))

        # The last one first: hundreds of runs are a lot to ask for again and again.
        wait_for(
            "the last status", lambda: is_seen(server.api.get(f"{runs}/{taken[-1]}")), SEEN_WITHIN_SECONDS
        )
        wait_for("all statuses", all_are_seen, SEEN_WITHIN_SECONDS)
        assert "Traceback" not in operator.log
        assert operator.health()[0] == 200
    assert set(refused.values()) <= {400, 422}, refused
    assert taken
    assert refused
    printed(f"{FUZZED} fuzzed specs: {len(taken)} taken, {len(refused)} refused, no traceback")
