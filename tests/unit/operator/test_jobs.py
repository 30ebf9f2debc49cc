"""The objects that are created for the steps."""

import copy
import json
from dataclasses import replace

import pytest
from tests.support.run_world import MANIFEST, PLAN, SETTINGS, RunWorld

from annotationrun_api.labels import Step
from annotationrun_api.manifest import parse_manifest, parse_object
from annotationrun_api.step_results import MANIFEST_ANNOTATION
from annotationrun_operator.manifests.installation import CaBundle
from annotationrun_operator.manifests.jobs import MAX_NAME_CHARACTERS, JobPlan, job_name, make_job


def made(
    step: Step,
    pods=1,
    labels=None,
    annotations=None,
    settings=SETTINGS,
    commit="",
    source_commit="",
    model_commit="",
    **spec,
):
    """The Job of a step of a run whose spec has these fields too."""
    value = copy.deepcopy(MANIFEST)
    value["spec"].update(spec)
    world = RunWorld(manifest=value, labels=labels or {}, annotations=annotations or {})
    plan = JobPlan(step, 1, "run-step-12345678", PLAN, pods, source_commit, commit, model_commit)
    return make_job(world.observe().run, parse_object(value, "run"), plan, settings)


def pod_of(job):
    return job["spec"]["template"]["spec"]


def containers(job):
    pod = pod_of(job)
    return {
        container["name"]: container for container in [*pod["containers"], *pod.get("initContainers", [])]
    }


def mentions(value, text: str) -> bool:
    return text in json.dumps(value)


@pytest.mark.parametrize("step", Step)
def test_pods_keep_to_the_restricted_standard(step):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod = pod_of(made(step))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not any({"hostNetwork", "hostPID", "hostIPC"} & pod.keys())
    for container in containers(made(step)).values():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert {"downwardAPI", "emptyDir"} <= kinds <= {"downwardAPI", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("step", Step)
def test_every_container_requests_cpu_and_memory(step):
    for container in containers(made(step)).values():
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("step", Step)
def test_every_worker_has_a_limit_of_memory_unless_the_run_requests_some(step):
    assert containers(made(step))["worker"]["resources"]["limits"]["memory"] in ("4Gi", "8Gi")
    workers = {"resources": {"requests": {"memory": "64Gi"}}}
    asking = containers(made(Step.ANNOTATE, workers=workers))["worker"]
    assert asking["resources"] == {"requests": {"cpu": "1", "memory": "64Gi"}}


def test_what_the_manifest_says_of_resources_replaces_the_default_of_that_resource():
    resources = {"requests": {"memory": "8Gi"}, "limits": {"cpu": "2"}}
    job = made(Step.ANNOTATE, workers={"resources": resources})
    assert containers(job)["worker"]["resources"] == {
        "requests": {"memory": "8Gi"},
        "limits": {"cpu": "2"},
    }, "a default request above the limit would be refused"


@pytest.mark.parametrize("step", Step)
def test_the_pod_has_the_manifest_that_the_worker_reads(step):
    job = made(step, prompts={"vqa_bbox": "où est {label}?"})
    text = job["spec"]["template"]["metadata"]["annotations"][MANIFEST_ANNOTATION]
    expected = copy.deepcopy(MANIFEST)
    expected["spec"]["prompts"] = {"vqa_bbox": "où est {label}?"}
    assert parse_manifest(text, "pod").spec == parse_object(expected, "run").spec
    worker = containers(job)["worker"]
    assert worker["args"][:3] == [step.value, "--file", "/etc/annotationrun/manifest.json"]
    assert ("data=/volumes/data" in worker["args"]) is (step is not Step.PREFETCH)


def volume(claim, folder=None):
    return {"claimName": claim} | ({"subPath": folder} if folder else {})


@pytest.mark.parametrize("step", [Step.PLAN, Step.ANNOTATE, Step.MERGE])
@pytest.mark.parametrize(
    ("source", "output", "staging", "mounts"),
    [
        pytest.param(
            volume("data", "team-a"),
            volume("data", "team-a"),
            volume("data", "team-a/staging"),
            {("/volumes/data/team-a", "team-a")},
            id="one folder holds all",
        ),
        pytest.param(
            volume("data", "raw"),
            volume("data", "team-a/out"),
            volume("data", "./team-a//staging/"),
            {
                ("/volumes/data/raw", "raw"),
                ("/volumes/data/team-a/out", "team-a/out"),
                ("/volumes/data/team-a/staging", "team-a/staging"),
            },
            id="three folders",
        ),
        pytest.param(
            volume("data", "raw"),
            volume("data", "raw-2"),
            volume("data", "raw/staging"),
            {("/volumes/data/raw", "raw"), ("/volumes/data/raw-2", "raw-2")},
            id="a folder that only begins alike",
        ),
        pytest.param(
            volume("data"),
            volume("data", "team-a"),
            volume("data", "."),
            {("/volumes/data", None)},
            id="the whole volume",
        ),
        pytest.param(
            volume("data", "raw"),
            volume("out"),
            volume("out", "staging"),
            {("/volumes/data/raw", "raw"), ("/volumes/out", None)},
            id="two claims",
        ),
    ],
)
def test_of_a_claim_the_worker_sees_the_folders_that_are_named(step, source, output, staging, mounts):
    job = made(
        step,
        source={"path": "in", "volume": source},
        output={"path": "out", "volume": output},
        staging={"volume": staging},
    )
    claims = {
        found["name"]: found["persistentVolumeClaim"]["claimName"]
        for found in pod_of(job)["volumes"]
        if "persistentVolumeClaim" in found
    }
    found = [mount for mount in containers(job)["worker"]["volumeMounts"] if mount["name"] in claims]
    assert {(mount["mountPath"], mount.get("subPath")) for mount in found} == mounts
    assert len(found) == len(mounts)
    for mount in found:
        assert mount["mountPath"].split("/")[2] == claims[mount["name"]]


def test_only_the_annotate_step_has_a_server_and_it_is_a_native_sidecar_without_a_startup_probe():
    assert containers(made(Step.PLAN)).keys() == containers(made(Step.MERGE)).keys() == {"worker"}
    sidecar = containers(made(Step.ANNOTATE))["vllm"]
    assert sidecar["restartPolicy"] == "Always"
    assert not any(probe in sidecar for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert sidecar["args"][:1] == ["demo-vlm"]
    assert "--served-model-name=demo-vlm" in sidecar["args"]
    assert "--max-model-len=32768" in sidecar["args"]
    assert sidecar["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "http://127.0.0.1:8000/v1" in containers(made(Step.ANNOTATE))["worker"]["args"]


def test_all_workers_of_a_run_count_under_its_uid_and_those_with_a_server_their_gpus():
    for step in (Step.ANNOTATE, Step.MERGE):
        args = containers(made(step))["worker"]["args"]
        assert args[args.index("--account") + 1] == "run-uid"
    assert "--account" not in containers(made(Step.PLAN))["worker"]["args"]
    model = {"id": "m", "serving": {"gpus": 4}}
    args = containers(made(Step.ANNOTATE, model=model))["worker"]["args"]
    assert args[args.index("--gpus") + 1] == "4"
    model = {"id": "m", "serving": {"mode": "External", "endpoints": ["http://vlm:8000/v1"]}}
    assert "--gpus" not in containers(made(Step.ANNOTATE, model=model))["worker"]["args"]


def test_endpoints_of_others_need_no_sidecar_and_their_key_is_given_to_the_asking_worker_alone():
    serving = {
        "mode": "External",
        "endpoints": ["http://vlm:8000/v1"],
        "apiKeySecretRef": {"name": "vlm-key", "key": "key"},
    }
    model = {"id": "m", "serving": serving}
    job = made(Step.ANNOTATE, model=model)
    assert containers(job).keys() == {"worker"}
    (key,) = [found for found in containers(job)["worker"]["env"] if found["name"] == "ANNOTATIONRUN_API_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "vlm-key", "key": "key"}}
    for step in (Step.PLAN, Step.MERGE):
        assert not any("valueFrom" in found for found in containers(made(step, model=model))["worker"]["env"])


def test_the_stores_credentials_are_given_to_the_workers_and_not_to_the_server():
    staging = {"uri": "s3://bucket/x", "credentialsSecretRef": {"name": "store"}}
    for step in (Step.PLAN, Step.ANNOTATE, Step.MERGE):
        found = containers(made(step, staging=staging))
        assert found["worker"]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "envFrom" not in containers(made(Step.ANNOTATE, staging=staging))["vllm"]
    assert "envFrom" not in containers(made(Step.PREFETCH, staging=staging))["worker"]


def test_the_key_of_the_seals_is_given_to_the_workers_and_not_to_the_server():
    staging = {"uri": "s3://bucket/x", "integritySecretRef": {"name": "staging", "key": "seal"}}
    key = {"secretKeyRef": {"name": "staging", "key": "seal"}}
    for step in (Step.PLAN, Step.ANNOTATE, Step.MERGE):
        given = {
            one["name"]: one.get("valueFrom")
            for one in containers(made(step, staging=staging))["worker"]["env"]
        }
        assert given["ANNOTATIONRUN_STAGING_KEY"] == key
    others = [containers(made(Step.ANNOTATE, staging=staging))["vllm"]]
    others.append(containers(made(Step.PREFETCH, staging=staging))["worker"])
    for container in others:
        assert "ANNOTATIONRUN_STAGING_KEY" not in {one["name"] for one in container["env"]}


def test_the_overlay_is_added_and_never_takes_our_labels():
    pod = {
        "labels": {"team": "robots", "annotationrun.dev/run-uid": "other"},
        "annotations": {"note": "x"},
        "nodeSelector": {"gpu": "l40s"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "low",
        "imagePullSecrets": [{"name": "registry"}],
    }
    job = made(Step.ANNOTATE, workers={"pod": pod})
    metadata, spec = job["spec"]["template"]["metadata"], pod_of(job)
    assert metadata["labels"]["team"] == "robots"
    assert metadata["labels"]["annotationrun.dev/run-uid"] == "run-uid"
    assert metadata["annotations"]["note"] == "x"
    assert spec["nodeSelector"] == {"gpu": "l40s"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert (spec["priorityClassName"], spec["imagePullSecrets"]) == ("low", [{"name": "registry"}])
    assert "nodeSelector" not in pod_of(made(Step.PLAN, workers={"pod": pod})), "planning needs no GPU node"


def test_the_annotate_job_is_indexed_and_the_others_have_one_pod():
    spec = made(Step.ANNOTATE, pods=7)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 7, 7)
    assert spec["backoffLimit"] >= 1
    assert (made(Step.PLAN)["spec"]["completions"], made(Step.MERGE)["spec"]["completions"]) == (1, 1)


@pytest.mark.parametrize("step", Step)
def test_disruptions_and_interrupts_cost_nothing_and_hopeless_failures_end_the_job(step):
    spec = made(step)["spec"]
    disrupted, interrupted, hopeless = spec["podFailurePolicy"]["rules"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (interrupted["action"], interrupted["onExitCodes"]["values"]) == ("Ignore", [130])
    assert (hopeless["action"], hopeless["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4, 5, 8, 9])
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_job_belongs_to_its_run_and_bears_kueues_labels_alone():
    labels = {"kueue.x-k8s.io/priority-class": "low", "argocd.argoproj.io/instance": "app"}
    job = made(Step.PLAN, labels=labels, queueName="gpus")
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("AnnotationRun", "run-uid", True)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert not mentions(job, "argocd")
    assert job["spec"]["suspend"] is True
    assert "suspend" not in made(Step.PLAN)["spec"]


@pytest.mark.parametrize("name", ["a", "x" * 48, "a-" * 23 + "b"])
@pytest.mark.parametrize("step", Step)
def test_names_fit_and_differ(name, step):
    world = RunWorld()
    run = world.observe().run
    named = replace(run, name=name)
    names = {
        job_name(named, step, "p", 1),
        job_name(named, step, "q", 1),
        job_name(named, step, "p", 2),
        job_name(replace(named, uid="other"), step, "p", 1),
    }
    assert len(names) == 4
    for found in names:
        assert len(f"{found}-9999") <= MAX_NAME_CHARACTERS
        assert found.startswith(name[:30].rstrip("-"))
        assert f"-{step.value}-" in found
        assert "--" not in found


def option(job, name: str) -> str | None:
    args = containers(job)["worker"]["args"]
    return args[args.index(name) + 1] if name in args else None


def test_workers_work_by_the_staged_plan():
    assert option(made(Step.ANNOTATE), "--plan") == PLAN
    assert option(made(Step.PLAN), "--plan") is None


def test_workers_read_the_commit_that_was_planned():
    for step in (Step.ANNOTATE, Step.MERGE):
        assert option(made(step, source_commit="c" * 40), "--revision") == "c" * 40
        assert option(made(step), "--revision") is None
    assert option(made(Step.PLAN, source_commit="c" * 40), "--revision") is None


def test_the_plan_looks_the_model_up_and_the_steps_after_it_keep_to_what_it_found():
    model = {"id": "org/model", "revision": "v2", "serving": {"cache": {"claimName": "data"}}}
    for step in (Step.PREFETCH, Step.ANNOTATE, Step.MERGE):
        job = made(step, model_commit="c" * 40, model=model)
        assert option(job, "--model-revision") == "c" * 40
        assert "--require-model-commit" not in containers(job)["worker"]["args"]
    for step in (Step.ANNOTATE, Step.MERGE):
        assert option(made(step, model=model), "--model-revision") == "v2", "nor is this looked up again"
    for job in (made(Step.PLAN, model=model), made(Step.PLAN, model_commit="c" * 40, model=model)):
        assert option(job, "--model-revision") is None
        assert "--require-model-commit" in containers(job)["worker"]["args"]


def test_each_new_time_of_a_request_is_another_retry_token_for_those_that_ask():
    tokens = set()
    for time in ("2026-01-01", "2026-01-02"):
        for token in ("", "a"):
            annotations = {"annotationrun.dev/requested-at": time}
            jobs = [
                made(step, annotations=annotations, retryToken=token)
                for step in (Step.PLAN, Step.ANNOTATE, Step.MERGE)
            ]
            (told,) = {option(job, "--retry-token") for job in jobs}
            assert len(told) <= 64
            tokens.add(told)
    assert len(tokens) == 4
    assert option(made(Step.ANNOTATE, retryToken="a"), "--retry-token") is None


BUNDLE = "/etc/annotationrun-ca/ca.crt"


def environment(container) -> dict[str, str | None]:
    found = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert len(found) == len(container["env"]), "a name twice"
    return found


@pytest.mark.parametrize("step", Step)
def test_every_container_gets_the_variables_of_the_installation_and_keeps_its_own(step):
    env = ({"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "HOME", "value": "/root"})
    for container in containers(made(step, settings=replace(SETTINGS, pod_env=env))).values():
        found = environment(container)
        assert found["HTTPS_PROXY"] == "http://proxy:3128"
        assert found["HOME"] == "/tmp"


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize(
    ("bundle", "source"),
    [
        pytest.param(
            CaBundle("ca.pem", config_map_name="trust"),
            {"configMap": {"name": "trust", "items": [{"key": "ca.pem", "path": "ca.crt"}]}},
            id="a ConfigMap",
        ),
        pytest.param(
            CaBundle("tls.crt", secret_name="trust"),
            {"secret": {"secretName": "trust", "items": [{"key": "tls.crt", "path": "ca.crt"}]}},
            id="a Secret",
        ),
    ],
)
def test_every_container_trusts_the_ca_bundle_of_the_installation(step, bundle, source):
    job = made(step, settings=replace(SETTINGS, ca_bundle=bundle))
    (volume,) = [found for found in pod_of(job)["volumes"] if found["name"] == "ca-bundle"]
    assert volume == {"name": "ca-bundle", **source}
    for container in containers(job).values():
        (mount,) = [found for found in container["volumeMounts"] if found["name"] == "ca-bundle"]
        assert mount["readOnly"] is True
        found = environment(container)
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            assert found[name] == f"{mount['mountPath']}/ca.crt" == BUNDLE


def test_without_a_ca_bundle_containers_trust_what_their_image_trusts():
    assert not mentions(made(Step.ANNOTATE), "ca-bundle")
    assert not mentions(made(Step.ANNOTATE), "SSL_CERT_FILE")


def test_the_server_is_the_pods_own_unless_the_installation_lets_others_in():
    assert "--host=127.0.0.1" in containers(made(Step.ANNOTATE))["vllm"]["args"]
    job = made(Step.ANNOTATE, settings=replace(SETTINGS, server_host="0.0.0.0"))
    assert "--host=0.0.0.0" in containers(job)["vllm"]["args"]
    assert "http://127.0.0.1:8000/v1" in containers(job)["worker"]["args"]
    assert containers(job)["vllm"]["ports"] == [{"name": "vllm", "containerPort": 8000}]


def test_arguments_of_the_manifest_come_after_those_of_the_installation_and_so_win():
    serving = {"args": ["--max-model-len=8192"]}
    settings = replace(SETTINGS, server_args=("--max-model-len=4096", "--enforce-eager"))
    job = made(Step.ANNOTATE, settings=settings, model={"id": "m", "serving": serving})
    args = containers(job)["vllm"]["args"]
    assert args[-3:] == ["--max-model-len=4096", "--enforce-eager", "--max-model-len=8192"]
