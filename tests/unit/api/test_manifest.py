import os
import pickle
import re

import pytest
from tests.support.manifests import LOCAL_MANIFEST, edited, local_run

from annotationrun_api.errors import ManifestError, PermanentError
from annotationrun_api.manifest import load_manifest, parse_manifest


def _error(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, "m.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param(
            "    vqa: {}",
            "    vqa: {emissionHertz: 2}",
            [
                "m.yaml:16:11: spec.modules.vqa.emissionHertz",
                "got: an unknown field",
                "next: did you mean 'emissionHz'?",
            ],
            id="a mistyped field names the nearest",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {}\n  failurePolicy: {maxHolesPercent: 2}",
            [
                "spec.failurePolicy.maxHolesPercent",
                "got: an unknown field",
                "next: it is called 'maxUnansweredPercent' now",
            ],
            id="an old name leads to the new one",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {frames_per_tick: 2}",
            ["m.yaml:16:11: spec.modules.vqa.frames_per_tick", "did you mean 'framesPerTick'?"],
            id="snake case is not the YAML name",
        ),
        pytest.param(
            "emitMemory: false",
            "emitMemory: false, framesPerSecnd: 0",
            [
                "spec.modules.plan.framesPerSecond",
                "got: the number 0",
                "expected: a number from 0.01 up to 120",
            ],
            id="the value of a mistyped field is checked too",
        ),
        pytest.param(
            "    id: demo-vlm",
            "    id: demo-vlm\n    framesPerSecond: 2",
            [
                "m.yaml:11:5: spec.model.framesPerSecond",
                "expected: a field of spec.model: id, revision",
                "next: move it to spec.modules.plan.framesPerSecond",
            ],
            id="a field at the wrong place names the right one",
        ),
        pytest.param(
            "  modules:",
            "  zzz: 1\n  modules:",
            ["m.yaml:14:3: spec.zzz", "expected: a field of spec: source, output", "next: remove it"],
            id="a field that resembles none",
        ),
        pytest.param(
            "    id: demo-vlm\n",
            "",
            ["m.yaml:9:3: spec.model.id", "got: nothing, it is required", "next: add 'id' to spec.model"],
            id="a required field is missing",
        ),
        pytest.param(
            "    vqa: {}",
            '    vqa: {framesPerTick: "3"}',
            [
                "m.yaml:16:26: spec.modules.vqa.framesPerTick",
                "got: '3'",
                "expected: a whole number from 1 up to 1000",
                "next: remove the quotes",
            ],
            id="a number in quotes is a text",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {framesPerTick: true}",
            ["got: true", "expected: a whole number", "leave it out for the default 1"],
            id="a boolean is no number",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {framesPerTick: 1.0}",
            ["got: the number 1.0", "expected: a whole number"],
            id="a fraction is no whole number",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {emissionHz: .nan}",
            ["got: '.nan' without quotes, which kubectl reads as a number that JSON does not have"],
            id="not-a-number is no number",
        ),
        pytest.param(
            "emitMemory: false",
            "emitMemory: no",
            ["got: 'no' without quotes, which kubectl reads as false", "else write true, false"],
            id="no is a text to YAML 1.2 and a boolean to kubectl",
        ),
        pytest.param(
            "deriveTask: Never",
            "deriveTask: Sometimes",
            ["expected: one of Never, IfShort, Always", "write one of these, exactly"],
            id="a choice that is none",
        ),
        pytest.param(
            "mode: External",
            "mode: external",
            ["m.yaml:12:13: spec.model.serving.mode", "did you mean 'External'?"],
            id="a choice in other case",
        ),
        pytest.param(
            "    path: /data/blocks\n",
            "    path: /data/blocks\n    episodes: 0-\n",
            ["m.yaml:7:15: spec.source.episodes", 'such as "0-99,120"', "'0-' is neither"],
            id="a selection of episodes that is none",
        ),
        pytest.param(
            "    path: /data/blocks\n",
            "    path: /data/blocks\n    episodes: 12\n",
            ["spec.source.episodes", "got: the number 12", "put it in quotes"],
            id="one episode without quotes",
        ),
        pytest.param(
            "    path: /data/blocks\n",
            "    path: /data/blocks\n    repoID: lerobot/x\n",
            ["m.yaml:6:5: spec.source.path", "got: both repoID and path", "exactly one of repoID, path"],
            id="two sources",
        ),
        pytest.param(
            "    path: /data/blocks-annotated",
            "    branch: main",
            ["spec.output", "got: neither repoID nor path", "set repoID or path"],
            id="no output",
        ),
        pytest.param(
            "    path: /data/blocks-annotated",
            "    repoID: me/x\n    overwrite: true",
            ["m.yaml:9:5: spec.output.overwrite", "got: overwrite without path"],
            id="overwriting is for folders",
        ),
        pytest.param(
            "    path: /data/blocks-annotated",
            "    path: /x\n    pullRequest: true",
            ["spec.output.pullRequest", "got: pullRequest without repoID"],
            id="pull requests are for the Hub",
        ),
        pytest.param(
            "mode: External",
            "mode: Sidecar",
            ["spec.model.serving.endpoints", "got: endpoints with mode Sidecar", "set mode: External"],
            id="a sidecar has no endpoints",
        ),
        pytest.param(
            "endpoints: [http://127.0.0.1:8000/v1]",
            "endpoints: []",
            ["m.yaml:12:7: spec.model.serving.mode", "got: mode External without endpoints"],
            id="external without endpoints",
        ),
        pytest.param(
            "http://127.0.0.1:8000/v1",
            "127.0.0.1:8000",
            [
                "m.yaml:13:19: spec.model.serving.endpoints[0]",
                "expected: a base URL such as http://localhost",
            ],
            id="an endpoint without scheme",
        ),
        pytest.param(
            "    id: demo-vlm",
            "    id: demo-vlm\n    maxOutputTokens: 40000",
            ["spec.model.maxOutputTokens", "maxOutputTokens 40000 with contextTokens 32768"],
            id="an answer as long as the context",
        ),
        pytest.param(
            "  modules:\n    plan: {emitMemory: false, deriveTask: Never, taskRephrasings: 0}\n    vqa: {}",
            "  modules:\n    plan: null\n    vqa:",
            ["m.yaml:15:5: spec.modules.plan", "got: no module", "'vqa:' alone is null and leaves it off"],
            id="no module is on",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {questionTypes: [bbox, count, bbox]}",
            ["spec.modules.vqa.questionTypes", "each question type once"],
            id="a question type twice",
        ),
        pytest.param(
            "    vqa: {}",
            "    vqa: {questionTypes: []}",
            ["got: a list of 0", "expected: a list of 1 to 5 question types"],
            id="no question type",
        ),
        pytest.param(
            "  modules:",
            "  staging: {uri: file:///a, volume: {claimName: b}}\n  modules:",
            ["spec.staging.volume", "at most one of uri, volume"],
            id="two staging places",
        ),
        pytest.param(
            "  modules:",
            "  staging: {uri: ftp://a/b}\n  modules:",
            ["spec.staging.uri", "expected: file:///folder, s3://bucket/prefix"],
            id="a staging scheme that is none",
        ),
        pytest.param(
            "  modules:",
            "  failurePolicy: {maxFailedEpisodes: 101%}\n  modules:",
            ["got: '101%'", 'or a share from "0%" to "100%"'],
            id="more than all episodes",
        ),
        pytest.param(
            "  modules:",
            "  workers: {resources: {limits: {memory: 16 GB}}}\n  modules:",
            ["spec.workers.resources.limits.memory", "a Kubernetes quantity such as 16Gi"],
            id="a quantity that is none",
        ),
        pytest.param(
            "  modules:",
            "  prompts: {VQA: text}\n  modules:",
            ["m.yaml:14:13: spec.prompts.VQA", "got: the name 'VQA'", "the name of a prompt"],
            id="a name in a mapping is checked",
        ),
        pytest.param(
            "  modules:",
            "  frames:\n  modules:",
            ["m.yaml:14:10: spec.frames", "got: null", "expected: a mapping of backend", "remove the field"],
            id="an empty field",
        ),
        pytest.param(
            "{name: blocks}",
            "{name: Blocks_1}",
            ["m.yaml:3:18: metadata.name", "got: 'Blocks_1'", "expected: a DNS-1123 label"],
            id="a name that Kubernetes refuses",
        ),
        pytest.param(
            "{name: blocks}",
            "{name: blocks, labels: {a.b/c: 5}}",
            ["metadata.labels['a.b/c']", "got: the number 5", "put it in quotes"],
            id="a label that is no text",
        ),
        pytest.param(
            "dev/v1alpha1",
            "dev/v1",
            ["m.yaml:1:13: apiVersion", "did you mean 'annotationrun.dev/v1alpha1'?"],
            id="another version",
        ),
        pytest.param(
            "kind: AnnotationRun", "kind: Deployment", ["m.yaml:2:7: kind", "'Deployment'"], id="another kind"
        ),
        pytest.param(
            "    vqa: {}",
            "    plan: {}",
            ["m.yaml:16:5: spec.modules.plan", "the key 'plan' again (line 15 has it)"],
            id="a key twice",
        ),
        pytest.param(
            "    vqa: {}",
            "    1: {}",
            ["m.yaml:16:5: spec.modules", "the key '1'"],
            id="a key that is no text",
        ),
        pytest.param(
            "id: demo-vlm",
            "id: !!binary ZGVtbw==",
            ["m.yaml:10:9: spec.model.id", "the tag 'binary'"],
            id="a tag",
        ),
        pytest.param(
            "id: demo-vlm",
            'id: "a\\0b"',
            ["m.yaml:10:9: spec.model.id", "got: the text 'a\\x00b'"],
            id="a NUL",
        ),
        pytest.param(
            "  modules:",
            "  <<: {seed: 1}\n  modules:",
            ["m.yaml:14:3: spec['<<']", "YAML's merge key"],
            id="a merge key",
        ),
        pytest.param("id: demo-vlm", "id: [demo", ["m.yaml:11:", "expected: YAML"], id="an open bracket"),
        pytest.param("    vqa: {}", "\tvqa: {}", ["m.yaml:16:1: ", "spaces, no tabs"], id="a tab"),
        pytest.param(
            "    vqa: {}",
            "    vqa: {}\n---\na: 1",
            ["m.yaml:17:1: ", "got: a second document"],
            id="two documents",
        ),
    ],
)
def test_a_bad_manifest_says_where_what_and_what_to_do(old, new, lines):
    message = str(_error(edited(old, new)))

    for part in lines:
        assert part in message
    assert "Input should" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("", "got: nothing", id="empty"),
        pytest.param("# only a comment\n", "got: nothing", id="a comment only"),
        pytest.param("---\n", "got: nothing", id="an empty document"),
        pytest.param("- a\n- b\n", "got: a list of 2", id="a list"),
        pytest.param("just text", "got: 'just text'", id="a text"),
        pytest.param("a: \x01", "got: the character U+0001", id="a control character"),
        pytest.param("a: " + "[" * 100_000, "nested deeper than 32", id="a hundred thousand brackets"),
        pytest.param("a: *nothing", "undefined alias", id="an alias of nothing"),
        pytest.param("a: &a [*a]", "nested deeper than 32", id="an alias of itself"),
        pytest.param(
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)),
            "more than 10000 values",
            id="a billion laughs",
        ),
        pytest.param("a: " + "x" * (1 << 20), "more than 1048576 bytes", id="more than a MiB"),
    ],
)
def test_a_text_that_is_no_manifest_is_one_error(text, part):
    error = _error(text)

    assert part in str(error)
    assert len(error.problems) == 1


def test_every_error_is_reported_at_once_in_the_order_of_the_file():
    text = """\
apiVersion: annotationrun.dev/v1
kind: AnnotationRun
metadata: {name: -blocks}
spec:
  source: {repoid: lerobot/x, path: /data, episodes: 5-1}
  output: {existingRows: keep}
  model: {temperature: 3, serving: {mode: External, gpus: -1}}
  modules:
    plan: {maxStep: 0, input: Sheets, input: Frames}
  workers: 4
  queue: q
"""
    error = _error(text)

    assert [(problem.line, problem.path) for problem in error.problems] == [
        (1, "apiVersion"),
        (3, "metadata.name"),
        (5, "spec.source.repoid"),
        (5, "spec.source.path"),
        (5, "spec.source.episodes"),
        (6, "spec.output"),
        (6, "spec.output.existingRows"),
        (7, "spec.model.id"),
        (7, "spec.model.temperature"),
        (7, "spec.model.serving.mode"),
        (7, "spec.model.serving.gpus"),
        (9, "spec.modules.plan.maxStep"),
        (9, "spec.modules.plan.maxSteps"),
        (9, "spec.modules.plan.input"),
        (9, "spec.modules.plan.input"),
        (10, "spec.workers"),
        (11, "spec.queue"),
    ]
    assert str(error).startswith("manifest 'm.yaml' has 17 errors\n")


def test_the_message_reads_as_shown():
    assert str(_error(edited("    vqa: {}", "    vqa: {camera: All}"))) == (
        "manifest 'm.yaml' has 1 error\n"
        "m.yaml:16:11: spec.modules.vqa.camera\n"
        "    got: an unknown field\n"
        "    expected: a field of spec.modules.vqa\n"
        "    next: did you mean 'cameras'?"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            "    path: /data/blocks\n",
            "    path: /data/blocks\n    tokenSecretRef: quietly\n",
            id="a token where its reference belongs",
        ),
        pytest.param(
            "http://127.0.0.1:8000/v1",
            "http://me:quietly@host/v1",  # pragma: allowlist secret
            id="a password in a URL",
        ),
        pytest.param("id: demo-vlm", "id: [hf_quietly12345]", id="a token in a list"),
        pytest.param("{name: blocks}", "{name: hf_quietly12345}", id="a token as a name"),
        pytest.param("  modules:", "  apiKey: quietly\n  modules:", id="a key in an unknown field"),
    ],
)
def test_a_secret_is_not_shown(old, new):
    assert "quietly" not in str(_error(edited(old, new)))


@pytest.mark.parametrize(
    "word",
    ["y", "N", "yes", "No", "on", "Off", "OFF", "017", "-08", "0b11", "-0x1F", "1_000", "1_0.5", ".inf"],
)
def test_a_scalar_that_kubectl_reads_otherwise_has_to_be_in_quotes(word):
    error = _error(edited("  modules:", f"  outputLanguage: {word}\n  modules:"))

    assert [problem.path for problem in error.problems] == ["spec.outputLanguage"]
    assert f"{word!r} without quotes, which kubectl reads as " in error.problems[0].got
    run = local_run("  modules:", f"  outputLanguage: '{word}'\n  modules:")
    assert run.spec.output_language == word


def test_a_key_that_kubectl_reads_otherwise_has_to_be_in_quotes():
    error = _error(edited("{name: blocks}", "{name: blocks, labels: {on: shelf, 'off': shelf}}"))

    assert [problem.path for problem in error.problems] == ["metadata.labels.on"]
    assert "'on' without quotes, which kubectl reads as true" in error.problems[0].got


@pytest.mark.parametrize("word", ["Never", "12:30", "2024-01-01", "=", "_1", "yES", "0o8", "1_000_x", "e3"])
def test_a_text_that_kubectl_reads_as_a_text_needs_no_quotes(word):
    run = local_run("  modules:", f"  outputLanguage: {word}\n  modules:")
    assert run.spec.output_language == word


@pytest.mark.parametrize(("written", "seed"), [("7", 7), ("0x10", 16), ("0o17", 15), ("+3", 3)], ids=str)
def test_whole_numbers_are_those_of_yaml_1_2(written, seed):
    assert local_run("  modules:", f"  seed: {written}\n  modules:").spec.seed == seed


def test_quantities_may_be_whole_numbers():
    run = local_run("  modules:", "  workers: {resources: {limits: {cpu: 4, memory: 1.5Gi}}}\n  modules:")

    assert run.spec.workers.resources.limits == {"cpu": "4", "memory": "1.5Gi"}


def test_anchors_and_aliases_are_followed():
    text = edited("    path: /data/blocks\n", "    path: /x\n    volume: &claim {claimName: datasets}\n")
    run = parse_manifest(edited("blocks-annotated", "out\n    volume: *claim", text), "m.yaml")

    assert run.spec.output.volume == run.spec.source.volume
    assert run.spec.output.volume.claim_name == "datasets"


@pytest.mark.parametrize("written", ["null", "~", ""], ids=["null", "tilde", "nothing"])
def test_a_module_that_is_null_is_off(written):
    assert local_run("    vqa: {}", f"    vqa: {written}").spec.modules.vqa is None


def test_a_file_is_read_with_or_without_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "m.yaml").write_text(LOCAL_MANIFEST, encoding=encoding)
        assert load_manifest(tmp_path / "m.yaml") == local_run()


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "m.yaml"
    with pytest.raises(ManifestError, match=re.escape(f"{path}: the file as a whole")) as caught:
        load_manifest(path)
    assert "No such file" in str(caught.value)


def test_a_folder_is_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="Is a directory"):
        load_manifest(tmp_path)


def test_a_file_that_is_not_utf_8_names_the_byte(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"apiVersion: a\nkind: \xff\n")
    with pytest.raises(ManifestError, match=r"m\.yaml:2:7: ") as caught:
        load_manifest(tmp_path / "m.yaml")
    assert "0xFF" in str(caught.value)


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "m.yaml").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # sparse: a TiB that takes no room
    with pytest.raises(ManifestError, match="more than 1048576 bytes"):
        load_manifest(tmp_path / "m.yaml")


def test_the_error_survives_a_process_boundary():
    error = _error(edited("    vqa: {}", "    vqa: {camera: All}"))
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, PermanentError)
    assert (str(again), again.problems) == (str(error), error.problems)
