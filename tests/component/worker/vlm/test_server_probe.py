"""What is found at the model server before the first question, and what a run makes of it: on real HTTP."""

import base64
import io
import json
from contextlib import contextmanager

import PIL.Image
import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import EVERY_MODULE, demo_model, kind_of, look, run_here
from tests.support.openai_server import Reply
from tests.support.vllm_like import VllmLike

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import ConfigurationError, IncompleteError

PLAN = {"plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}}
FRAMES = {"plan": {**PLAN["plan"], "input": "Frames", "maxFramesPerPrompt": 12}}
COUNTS = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
THE_FIRST = {"source": {"episodes": "0"}}


@contextmanager
def vllm(**limits):
    """The demo model behind a server with these limits; gives it and the server."""
    like = VllmLike(look, **limits)
    with demo_model() as server:
        like.serve_as(server)
        yield like, server


def image_sizes(body):
    """(width, height) of the pictures in a request, in order."""
    parts = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    jpegs = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts]
    return [PIL.Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs]


def refused(folder, modules, limits, **spec):
    """What ends a run before its first question."""
    with vllm(**limits) as (_, server):
        with pytest.raises(ConfigurationError) as raised:
            run_here(folder, server.base_url, modules, **THE_FIRST, **spec)
        assert server.bodies == []
        assert server.probes
    assert not list((folder / "output.staging").glob("answers/**/*.json"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("modules", "limits", "parts"),
    [
        pytest.param(
            PLAN,
            {"max_images": 0},
            ["At most 0 image(s) may be provided", "takes no pictures", "spec.model.id"],
            id="pictures switched off",
        ),
        pytest.param(
            COUNTS,
            {"multimodal": False},
            ["demo-vlm is not a multimodal model", "takes no pictures", "a vision-language model"],
            id="a model without eyes",
        ),
        pytest.param(
            FRAMES,
            {"max_images": 4},
            [
                "9 pictures of up to 320x240",
                "At most 4 image(s)",
                "--limit-mm-per-prompt",
                "spec.model.serving.args",
                "spec.modules.plan.maxFramesPerPrompt",
            ],
            id="more pictures than the server takes",
        ),
        pytest.param(
            {"interjections": {"windowFrames": 9}, **COUNTS},
            {"model_images": 4},
            ["9 pictures", "At most 4 image(s)", "spec.modules.interjections.windowFrames"],
            id="more pictures than the model takes",
        ),
        pytest.param(
            FRAMES,
            {"max_model_len": 1000},
            [
                "maximum context length is 1000 tokens",
                "--max-model-len",
                "spec.modules.plan.maxFramesPerPrompt",
                "spec.model.serving.args",
                "spec.model.maxOutputTokens",
            ],
            id="a context too short for the prompt",
        ),
        pytest.param(
            FRAMES,
            {"max_model_len": 1400},
            [
                "tokens (9 pictures",
                "its answer may have 512",
                "at 'http://127.0.0.1:",
                "has 1400",
                "--max-model-len",
                "spec.model.maxOutputTokens",
            ],
            id="a context too short for prompt and answer",
        ),
    ],
)
def test_what_the_server_can_not_take_ends_the_run_before_its_first_question(
    tmp_path, modules, limits, parts
):
    text = refused(tmp_path, modules, limits)
    for part in parts:
        assert part in text


@pytest.mark.parametrize("schemas", ["Ignored", "Refused"])
def test_schemas_that_must_be_honoured_and_are_not_end_the_run(tmp_path, schemas):
    model = {"structuredOutputs": "Required"}
    with vllm(schemas=schemas) as (_, server):
        serving = {"mode": "External", "endpoints": [server.base_url]}
        with pytest.raises(ConfigurationError, match=r"set spec\.model\.structuredOutputs to Auto"):
            run_here(
                tmp_path, server.base_url, COUNTS,
                model={"id": "demo-vlm", "serving": serving, **model}, **THE_FIRST,
            )  # fmt: skip
        assert server.bodies == []


@pytest.mark.parametrize(
    ("schemas", "has_schema"),
    [
        pytest.param("Honoured", True, id="honoured"),
        pytest.param("Ignored", False, id="ignored"),
        pytest.param("Refused", False, id="refused"),
        pytest.param("Cut", True, id="not seen, as the answer is cut"),
    ],
)
def test_schemas_that_the_server_overlooks_go_into_the_text_of_every_question(tmp_path, schemas, has_schema):
    found = {"Honoured": "Honoured", "Ignored": "Ignored", "Refused": "Refused", "Cut": "Unknown"}[schemas]
    with vllm(schemas=schemas) as (_, server):
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        assert ["response_format" in body for body in server.bodies] == [has_schema] * len(server.bodies)
        assert server.bodies
    assert report.annotated.server.structured_output == found
    assert report.annotated.unanswered == []


def test_the_findings_stand_in_the_report_as_the_server_told_them(tmp_path):
    with vllm(max_model_len=16_384, tokens_per_image=70) as (like, server):
        report = run_here(tmp_path, server.base_url, FRAMES | {"vqa": {}}, **THE_FIRST)
        (probe, *_) = server.probes
        tokens = like._tokens(probe)
    found = report.annotated.server
    assert (found.model, found.version, found.max_model_len) == ("demo-vlm", "0.32.0", 16_384)
    assert (found.images_per_prompt, found.prompt_tokens) == (9, tokens)
    assert (found.structured_output, found.coordinate_scale, found.takes_uuid) == (
        "Honoured",
        "Pixels",
        False,
    )
    assert found.line() == (
        "'demo-vlm', version 0.32.0; JSON schemas are honoured; the largest prompt has 9 pictures and "
        f"{tokens} tokens of a context of 16384; every picture is sent; coordinates in Pixels"
    )
    value = json.loads(json.dumps(report.to_value()))["server"]
    assert (value["maxModelLen"], value["imagesPerPrompt"], value["takesUuid"]) == (16_384, 9, False)


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(EVERY_MODULE, id="contact sheets"),
        pytest.param(EVERY_MODULE | {"plan": {"input": "Frames", "seededRelabel": True}}, id="frames"),
        pytest.param(
            {"interjections": {"windowFrames": 7}, "plan": {}}, id="more pictures, but smaller ones"
        ),
        pytest.param({"vqa": {}}, id="vqa alone"),
    ],
)
def test_the_server_is_tried_with_the_pictures_of_the_largest_questions_that_follow(tmp_path, modules):
    def pixels(sizes):
        return sum(width * height for width, height in sizes)

    with demo_model() as server:
        run_here(tmp_path, server.base_url, modules, source={"episodes": "0-2"})
        asked = [image_sizes(body) for body in server.bodies if kind_of(body) != "coordinate_probe"]
        tried = [image_sizes(body) for body in server.probes if image_sizes_are_sent(body)]
    assert max(map(pixels, tried)) == max(map(pixels, asked))
    assert max(map(len, tried)) == max(map(len, asked))


def image_sizes_are_sent(body):
    return all(part.get("image_url", ()) is not None for part in body["messages"][0]["content"])


def test_a_run_with_nothing_to_ask_tries_no_server(tmp_path):
    with demo_model() as server:
        run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        tried, asked = len(server.probes), len(server.bodies)
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        assert (len(server.probes), len(server.bodies)) == (tried, asked)
    assert tried > 0
    assert report.annotated.server is None
    assert not report.usage


def test_what_tries_the_server_is_counted_by_its_own_kind(tmp_path):
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        assert report.usage["server_probe"].answered == len(server.probes)
        assert report.usage["vqa_count"].answered == len(server.bodies)


def answers_of(folder):
    return sorted(path.name for path in (folder / "output.staging").glob("answers/**/*.json"))


def test_pictures_that_the_server_has_are_not_sent_again_and_change_nothing(tmp_path):
    """Description and subtasks look at the same sheets; the labels come from the pixels."""
    with vllm(cached_images=100) as (like, server):
        report = run_here(tmp_path / "with", server.base_url, PLAN | COUNTS, **THE_FIRST)
        named, asked = like.hits, len(server.bodies)
        sheets = sum(len(image_sizes(body)) for body in server.bodies if kind_of(body) == "subtasks")
    assert report.annotated.server.takes_uuid
    assert named == sheets + 1, "each sheet once, and the picture that tried it"
    assert like.misses == 1, "the picture that the server never got"
    with demo_model() as server:
        run_here(tmp_path / "without", server.base_url, PLAN | COUNTS, **THE_FIRST)
        assert len(server.bodies) == asked
    assert answers_of(tmp_path / "with") == answers_of(tmp_path / "without")
    assert tree(tmp_path / "with/output/data") == tree(tmp_path / "without/output/data")


def test_pictures_that_the_server_has_lost_are_sent_again(tmp_path):
    """A cache of one picture holds the last sheet of each window, if no other question came between."""
    with vllm(cached_images=1, tokens_per_image=10) as (like, server):
        modules = {"plan": {**PLAN["plan"], "framesPerSheet": 5}}
        report = run_here(tmp_path / "with", server.base_url, modules, **THE_FIRST)
        refusals = like.misses - 1
        assert refusals > 0
    assert report.annotated.server.takes_uuid
    assert report.usage["subtasks"].retries == refusals
    assert report.usage["subtasks"].failed == 0
    with demo_model() as server:
        run_here(tmp_path / "without", server.base_url, modules, **THE_FIRST)
    assert tree(tmp_path / "with/output/data") == tree(tmp_path / "without/output/data")


def test_a_server_that_answers_about_a_picture_it_never_got_is_sent_them_all(tmp_path):
    """It overlooks pictures that are only named: its answers would be about nothing."""
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, PLAN, **THE_FIRST)
        assert not report.annotated.server.takes_uuid
        assert server.bodies
        assert all(part.keys() <= {"type", "text", "image_url"} for body in server.bodies
                   for part in body["messages"][0]["content"])  # fmt: skip


@pytest.mark.parametrize(
    "unknown", [pytest.param(400, id="bad request"), pytest.param(422, id="unprocessable")]
)
def test_a_server_that_refuses_unknown_fields_is_asked_without_them(tmp_path, unknown):
    with demo_model() as server:
        default = server.probe

        def strict(number, body):
            if '"uuid"' in json.dumps(body):
                return Reply(status=unknown, error="Unknown parameter: 'messages[0].content[0].uuid'.")
            return default(number, body)

        server.probe = strict
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
    found = report.annotated.server
    assert (found.takes_uuid, found.structured_output) == (False, "Honoured")


@pytest.mark.parametrize("status", [401, 404])
def test_what_the_server_refuses_as_such_ends_the_run_when_it_is_tried(tmp_path, status):
    with demo_model() as server:
        server.probe = lambda number, body: Reply(status=status, error="not for you")
        with pytest.raises(ConfigurationError, match=f"HTTP {status}.*not for you"):
            run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        assert (len(server.probes), server.bodies) == (1, [])


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=500, error="out of memory"), id="an error of the server"),
        pytest.param(Reply(body=b"<html>busy</html>"), id="no answer of the API"),
    ],
)
def test_a_server_that_can_not_be_tried_is_asked_all_the_same_and_doubted(tmp_path, monkeypatch, reply):
    monkeypatch.setattr("annotationrun_worker.vlm.client.PROBE_RETRIES", 0)
    with demo_model() as server:
        server.probe = lambda number, body: reply
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
        assert server.bodies
    assert "could not be tried" in report.annotated.server.line()


def test_hits_of_the_servers_caches_are_those_of_the_run(tmp_path):
    """Two processes of the engine, each with its own counters, that others have used before."""
    texts = iter([(100, 1000, 3, 10), (350, 1500, 7, 30)])

    def metrics():
        numbers = next(texts)
        names = ("prefix_cache_hits", "prefix_cache_queries", "mm_cache_hits", "mm_cache_queries")
        lines = [
            f'vllm:{name}_total{{engine="{engine}",model_name="m"}} {float(number)}\n'
            f'vllm:{name}_created{{engine="{engine}",model_name="m"}} 1.7e+09'
            for name, number in zip(names, numbers, strict=True)
            for engine in (0, 1)
        ]
        return Reply(body="\n".join(["# TYPE vllm:x counter", *lines]).encode())

    with demo_model() as server:
        server.pages["/metrics"] = metrics
        report = run_here(tmp_path, server.base_url, COUNTS, **THE_FIRST)
    hits = report.annotated.server.counts
    assert (hits.prefix_hits, hits.prefix_queries) == (2 * 250, 2 * 500)
    assert (hits.image_hits, hits.image_queries) == (2 * 4, 2 * 20)
    assert report.annotated.server.line().endswith(
        "500 of 1000 prompt tokens and 8 of 40 pictures came from its caches"
    )


def test_answers_that_are_cut_get_no_more_tokens_than_the_server_has(tmp_path):
    """The manifest's contextTokens (32768) is more than the server's context."""

    def always_cut(body):
        return Reply("{", finish_reason="length")

    with demo_model() as server:
        VllmLike(always_cut, max_model_len=900, tokens_per_image=10).serve_as(server)
        with pytest.raises(IncompleteError, match=r"which fill the context \(900\)"):
            run_here(tmp_path, server.base_url, COUNTS, workers={"episodeAttempts": 1}, **THE_FIRST)
        limits = {body["max_tokens"] for body in server.bodies}
    assert max(limits) < 900


def test_of_several_servers_the_least_counts(tmp_path):
    with (
        vllm(max_model_len=16_384, cached_images=9) as (_, large),
        vllm(max_model_len=8_192, schemas="Ignored") as (_, small),
    ):
        serving = {"mode": "External", "endpoints": [large.base_url, small.base_url]}
        report = run_here(
            tmp_path, large.base_url, COUNTS, model={"id": "demo-vlm", "serving": serving},
            source={"episodes": "0-2"},
        )  # fmt: skip
        assert large.probes
        assert small.probes
        assert large.bodies + small.bodies
        assert not any("response_format" in body for body in large.bodies + small.bodies)
    found = report.annotated.server
    assert (found.servers, found.max_model_len, found.structured_output) == (2, 8_192, "Ignored")
    assert not found.takes_uuid


def test_a_worker_that_waits_for_its_server_tries_it_before_it_claims_anything(tmp_path):
    """As in a pod; the operator reads the cause from the end of its log."""
    claimed = []
    with vllm(multimodal=False) as (like, server):

        def look_at_claims(number, body):
            claimed.extend((tmp_path / "output.staging").glob("claims/**/*"))
            return like(number, body)

        server.probe = look_at_claims
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, COUNTS, **THE_FIRST)
        done = run_command("annotate", "-f", manifest, "--start-timeout-seconds", 300)
        assert server.bodies == []
    assert done.returncode == ExitCode.CONFIGURATION
    assert "demo-vlm is not a multimodal model" in done.stderr
    assert claimed == []


def test_a_worker_says_what_it_found_and_writes_it_into_its_report(tmp_path):
    with vllm() as (_, server):
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, COUNTS, **THE_FIRST)
        done = run_command("annotate", "-f", manifest, "--report", tmp_path / "report.json")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "annotationrun: model server: 'demo-vlm', version 0.32.0; JSON schemas are honoured" in done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["server"]["maxModelLen"] == 32_768


def test_what_the_workers_of_a_pool_found_stands_in_the_runs_report(tmp_path):
    with vllm() as (_, server):
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, COUNTS, source={"episodes": "0-1"})
        done = run_command("run", "-f", manifest, "--workers", 2, "--report", tmp_path / "report.json")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "model server: 'demo-vlm', version 0.32.0" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["server"]["version"] == "0.32.0"
