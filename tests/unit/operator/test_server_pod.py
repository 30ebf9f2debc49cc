"""The model server beside a worker: its arguments by the manifest, its files, and who gets which token."""

from dataclasses import replace

import pytest
from tests.support.run_world import COMMIT, SETTINGS
from tests.unit.operator.test_jobs import containers, made, mentions, pod_of

from annotationrun_api.labels import Step

SERVING = {"image": "vllm:2"}
HUB_MODEL = {"id": "org/model", "revision": "v2"}


def server(job):
    return containers(job)["vllm"]


def options(container, name: str) -> list[str]:
    """The values that an option is given with."""
    return [word.partition("=")[2] for word in container["args"] if word.partition("=")[0] == name]


def annotate(model=HUB_MODEL, serving=SERVING, settings=SETTINGS, commit="", **spec):
    return made(Step.ANNOTATE, settings=settings, model={**model, "serving": serving}, commit=commit, **spec)


@pytest.mark.parametrize(
    ("modules", "limits"),
    [
        pytest.param({"vqa": {}}, '{"image":1,"video":0}', id="a frame"),
        pytest.param({"plan": {}}, '{"image":3,"video":0}', id="contact sheets"),
        pytest.param(
            {"plan": {"input": "Frames", "maxFramesPerPrompt": 24}}, '{"image":24,"video":0}', id="frames"
        ),
        pytest.param({"plan": {"input": "VideoUrl"}}, '{"image":0,"video":1}', id="a clip"),
        pytest.param(
            {"plan": {"input": "VideoUrl"}, "interjections": {}},
            '{"image":4,"video":1}',
            id="clip and frames",
        ),
    ],
)
def test_the_server_takes_as_many_pictures_as_a_prompt_of_the_run_may_hold(modules, limits):
    """https://docs.vllm.ai/en/latest/cli/serve/#-limit-mm-per-prompt"""
    assert options(server(annotate(modules=modules)), "--limit-mm-per-prompt") == [limits]


def test_cached_tokens_are_told():
    assert "--enable-prompt-tokens-details" in server(annotate())["args"]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        pytest.param("--limit-mm-per-prompt={}", "--limit-mm-per-prompt", id="as we write it"),
        pytest.param("--limit_mm_per_prompt={}", "--limit-mm-per-prompt", id="with underscores"),
        pytest.param("--limit-mm-per-prompt.image=9", "--limit-mm-per-prompt", id="a part of it"),
        pytest.param("--max-model-len", "--max-model-len", id="its value apart"),
        pytest.param(
            "--no-enable-prompt-tokens-details", "--enable-prompt-tokens-details", id="switched off"
        ),
        pytest.param("--served-model-name=other", "--served-model-name", id="the name"),
    ],
)
@pytest.mark.parametrize("by", ["manifest", "installation"])
def test_an_option_that_is_given_is_not_given_twice(given, ours, by):
    serving = SERVING if by == "installation" else {**SERVING, "args": [given]}
    settings = SETTINGS if by == "manifest" else replace(SETTINGS, server_args=(given,))
    args = server(annotate(serving=serving, settings=settings))["args"]
    assert args[-1] == given
    assert not any(word.partition("=")[0] == ours for word in args[:-1])
    assert args[0] == "org/model"


def environment(container):
    return {variable["name"]: variable for variable in container["env"]}


def token(container, name="HF_TOKEN"):
    """The Secret of a variable."""
    found = environment(container).get(name)
    return found and found["valueFrom"]["secretKeyRef"]["name"]


def test_the_models_token_is_given_to_who_downloads_the_model_alone():
    model = {**HUB_MODEL, "serving": {**SERVING, "tokenSecretRef": {"name": "gated", "key": "token"}}}
    for step in Step:
        found = containers(made(step, model=model))
        assert {name: token(container) for name, container in found.items()} == {
            Step.ANNOTATE: {"worker": None, "vllm": "gated"},
            Step.PREFETCH: {"worker": "gated"},
        }.get(step, {"worker": None})
    cached = {**model, "serving": {**model["serving"], "cache": {"claimName": "models"}}}
    assert token(containers(made(Step.ANNOTATE, model=cached, commit=COMMIT))["vllm"]) is None


def test_the_plan_looks_the_model_up_with_its_token_beside_the_sources():
    def plan(serving, **spec):
        model = {**HUB_MODEL, "serving": {**serving, "tokenSecretRef": {"name": "gated", "key": "token"}}}
        return containers(made(Step.PLAN, model=model, **spec))["worker"]

    source = {"repoID": "org/in", "tokenSecretRef": READ}
    assert token(plan(SERVING), "ANNOTATIONRUN_MODEL_TOKEN") == "gated"
    found = plan(SERVING, source=source)
    assert (token(found), token(found, "ANNOTATIONRUN_MODEL_TOKEN")) == ("read", "gated")
    elsewhere = {"mode": "External", "endpoints": ["http://vlm:8000/v1"]}
    assert token(plan(elsewhere), "ANNOTATIONRUN_MODEL_TOKEN") is None


READ, WRITE = {"name": "read", "key": "token"}, {"name": "write", "key": "token"}


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        pytest.param(None, None, (None, None, None), id="none"),
        pytest.param(READ, None, ("read", "read", None), id="to read"),
        pytest.param(None, WRITE, (None, "write", None), id="to write"),
        pytest.param(READ, WRITE, ("read", "write", "read"), id="one for each"),
        pytest.param(WRITE, WRITE, ("write", "write", None), id="one for both"),
        pytest.param(READ, {**READ, "key": "other"}, ("read", "read", "read"), id="two keys of one Secret"),
    ],
)
def test_workers_read_with_the_sources_token_and_publish_with_the_outputs(source, output, expected):
    spec = {
        "source": {"repoID": "org/in", "tokenSecretRef": source},
        "output": {"repoID": "org/out", "tokenSecretRef": output},
    }
    reading, merging, reading_beside = expected
    for step in (Step.PLAN, Step.ANNOTATE):
        found = containers(made(step, **spec))
        assert (token(found["worker"]), token(found["worker"], "ANNOTATIONRUN_SOURCE_TOKEN")) == (
            reading,
            None,
        )
        tokens_of_servers = [token(container) for name, container in found.items() if name == "vllm"]
        assert tokens_of_servers == ([None] if step is Step.ANNOTATE else [])
    merge = containers(made(Step.MERGE, **spec))["worker"]
    assert (token(merge), token(merge, "ANNOTATIONRUN_SOURCE_TOKEN")) == (merging, reading_beside)


def test_pictures_go_as_files_only_where_that_is_asked_for():
    job = annotate(serving={**SERVING, "localMedia": True})
    (volume,) = [found for found in pod_of(job)["volumes"] if found["name"] == "media"]
    assert volume["emptyDir"].keys() == {"sizeLimit"}
    mounts = {
        name: next(mount for mount in container["volumeMounts"] if mount["name"] == "media")
        for name, container in containers(job).items()
    }
    assert mounts["worker"]["mountPath"] == mounts["vllm"]["mountPath"]
    assert (mounts["vllm"].get("readOnly"), mounts["worker"].get("readOnly")) == (True, None)
    folder = mounts["worker"]["mountPath"]
    assert options(server(job), "--allowed-local-media-path") == [folder]
    args = containers(job)["worker"]["args"]
    assert args[args.index("--media-folder") + 1] == folder
    assert not mentions(annotate(), "media-path")
    assert not mentions(annotate(), "--media-folder")


CACHED = {**SERVING, "cache": {"claimName": "models", "subPath": "hub"}}


def test_the_prefetch_job_has_the_models_claim_and_nothing_of_the_datasets():
    job = made(Step.PREFETCH, model={**HUB_MODEL, "serving": CACHED})
    worker = containers(job)["worker"]
    assert {name for name, _ in named(pod_of(job)["volumes"])} == {"manifest", "tmp", "models"}
    assert dict(named(pod_of(job)["volumes"]))["models"]["persistentVolumeClaim"] == {"claimName": "models"}
    (mount,) = [mount for mount in worker["volumeMounts"] if mount["name"] == "models"]
    assert mount == {"name": "models", "mountPath": "/models", "subPath": "hub"}
    assert worker["args"][3:] == ["--folder", "/models", "--result", "/dev/termination-log"]
    assert not mentions(job, "nvidia.com/gpu")


def named(values):
    return [(value["name"], value) for value in values]


def test_a_model_that_was_fetched_is_read_offline_from_a_volume_that_is_not_written():
    job = annotate(serving=CACHED, commit=COMMIT)
    (mount,) = [mount for mount in server(job)["volumeMounts"] if mount["name"] == "models"]
    assert (mount["readOnly"], mount["subPath"]) == (True, "hub")
    assert environment(server(job))["HF_HUB_OFFLINE"]["value"] == "1"
    assert environment(server(job))["HF_MODULES_CACHE"]["value"].startswith("/tmp/")
    assert options(server(job), "--revision") == [COMMIT]


def test_a_model_that_was_not_fetched_is_downloaded_by_the_server():
    for serving in (SERVING, CACHED):
        found = server(annotate(serving=serving))
        assert "HF_HUB_OFFLINE" not in environment(found)
        assert options(found, "--revision") == ["v2"]
        planned = server(annotate(serving=serving, model_commit=COMMIT))
        assert "HF_HUB_OFFLINE" not in environment(planned)
        assert options(planned, "--revision") == [COMMIT]
        assert not any(mount.get("readOnly") for mount in found["volumeMounts"])
