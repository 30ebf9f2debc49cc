"""Where the parts of a manifest lie: folders, volumes, endpoints; pure but for symbolic links."""

from pathlib import Path

import pytest
from tests.support.manifests import LOCAL_MANIFEST, local_run

from annotationrun_api.errors import ManifestError
from annotationrun_api.manifest import parse_manifest
from annotationrun_api.spec_types import VolumeClaim
from annotationrun_worker.commands.demo import demo_manifest
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.pipeline.annotate import allowed_failures
from annotationrun_worker.pipeline.config import Overrides, named_claims, resolve_places

SPEC = local_run().spec
"""Source /data/blocks, output /data/blocks-annotated."""


def test_staging_lies_beside_the_output() -> None:
    places = resolve_places(SPEC, Overrides())
    assert places.staging == Path("/data/blocks-annotated.staging")


def test_a_staging_folder_beside_source_and_output_is_fine() -> None:
    assert resolve_places(SPEC, Overrides(staging="/data/staged")).staging == Path("/data/staged")


@pytest.mark.parametrize(
    "staging",
    [
        pytest.param("/data/blocks", id="the source"),
        pytest.param("/data/blocks/staged", id="in the source"),
        pytest.param("/data", id="around both"),
        pytest.param("/data/blocks-annotated", id="the output"),
        pytest.param("/data/blocks-annotated/.staging", id="in the output"),
        pytest.param("/data/staged/../blocks/staged", id="in the source, by a detour"),
    ],
)
def test_a_staging_folder_that_overlaps_is_refused(staging: str) -> None:
    with pytest.raises(ConfigurationError, match=r"staging folder .* overlap.*--staging or spec\.staging"):
        resolve_places(SPEC, Overrides(staging=staging))
    by_uri = local_run("  modules:", f"  staging: {{uri: 'file://{staging}'}}\n  modules:").spec
    with pytest.raises(ConfigurationError, match="overlap"):
        resolve_places(by_uri, Overrides())


def test_a_staging_volume_that_holds_the_output_is_refused() -> None:
    volume = "    volume: {claimName: disk}\n"
    run = local_run(
        "    path: /data/blocks-annotated\n",
        f"    path: /out\n{volume}  staging:\n{volume}",
    )
    with pytest.raises(ConfigurationError, match="subPath"):
        resolve_places(run.spec, Overrides(volumes={"disk": Path("/mnt/disk")}))


@pytest.mark.parametrize("field", ["source", "output", "staging"])
@pytest.mark.parametrize(
    ("folder", "sub_path"),
    [
        pytest.param("../../etc", None, id="the path"),
        pytest.param("/blocks/../../team-b", "team-a", id="the path below a subPath"),
        pytest.param("blocks", "../team-b", id="the subPath"),
    ],
)
def test_a_folder_that_leads_out_of_its_volume_is_refused_whoever_made_the_spec(
    field, folder, sub_path, printed
) -> None:
    """The loader refuses it before; the steps rely on no loader."""
    if field == "staging" and sub_path != "../team-b":
        folder, sub_path = None, folder
    volume = VolumeClaim.model_construct(claim_name="disk", sub_path=sub_path)
    given = {"volume": volume} | ({"path": folder} if folder else {})
    part = getattr(SPEC, field).model_copy(update=given)
    spec = SPEC.model_copy(update={field: part})
    with pytest.raises(ConfigurationError, match=rf"spec\.{field} is .*without '\.\.'") as refused:
        resolve_places(spec, Overrides(volumes={"disk": Path("/mnt/disk")}))
    printed(
        f"spec.{field}: path {folder}, subPath {sub_path}: exit code {exit_code_of(refused.value)}",
        title="attacks",
    )


def test_a_link_in_a_folder_that_stands_for_a_volume_is_followed(tmp_path) -> None:
    """On one machine it is the user's own; in a pod it finds what is mounted, and no more."""
    (tmp_path / "blocks").symlink_to("/data/blocks")
    run = local_run("/data/blocks\n", "blocks\n    volume: {claimName: disk}\n")
    places = resolve_places(run.spec, Overrides(volumes={"disk": tmp_path}))
    assert places.source == Path("/data/blocks")


@pytest.mark.parametrize("field", ["source", "output"])
def test_a_path_out_of_its_volume_is_refused_and_one_of_this_machine_is_not(field) -> None:
    old = {"source": "/data/blocks\n", "output": "/data/blocks-annotated\n"}[field]
    with pytest.raises(ManifestError, match=rf"spec\.{field}\.path\n.*\n.*without '\.\.'"):
        local_run(old, "../blocks\n    volume: {claimName: disk}\n")
    here = resolve_places(local_run(old, "../elsewhere\n").spec, Overrides())
    assert getattr(here, field) == Path("../elsewhere").resolve()


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        pytest.param("/data/blocks\n", "~/blocks\n", r"spec\.source\.path", id="the source"),
        pytest.param("/data/blocks-annotated", "~ada/out", r"spec\.output\.path", id="somebody's home"),
    ],
)
def test_a_home_folder_is_not_expanded_and_said(old: str, new: str, where: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{where} is '{new.strip()}'.*write the full path"):
        resolve_places(local_run(old, new).spec, Overrides())


def test_a_home_folder_for_staging_is_not_expanded_and_said() -> None:
    with pytest.raises(ConfigurationError, match=r"--staging is '~/x'.*write the full path"):
        resolve_places(SPEC, Overrides(staging="~/x"))


def test_the_claims_of_a_manifest_are_those_of_all_its_volumes() -> None:
    run = parse_manifest(
        LOCAL_MANIFEST.replace("blocks\n", "blocks\n    volume: {claimName: a}\n", 1)
        .replace("blocks-annotated", "out\n    volume: {claimName: b, subPath: x}")
        .replace("  modules:", "  staging: {volume: {claimName: a, subPath: s}}\n  modules:")
        .replace("      mode:", "      cache: {claimName: models}\n      mode:"),
        "m.yaml",
    )
    assert named_claims(run.spec) == ["a", "b", "models"]
    assert named_claims(SPEC) == []


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://:8000/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://[::1/v1",
        "http://a host/v1",
        "http://ho\tst/v1",
        "http://user:hunter2@host/v1",  # pragma: allowlist secret
        "http://user:hun/ter2@host/v1",
        "http://host/v1?key=hunter2",
        "http://host/v1#hunter2",
        "http://host/v1?mail=a@hunter2",
    ],
)
def test_an_endpoint_that_is_no_plain_url_is_refused_without_a_word_of_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a base URL") as refused:
        resolve_places(SPEC, Overrides(endpoint=url))
    assert "ter2" not in str(refused.value)
    quoted = url.replace("\t", "\\t")
    with pytest.raises(ManifestError, match="expected: a base URL") as refused_in_manifest:
        local_run("[http://127.0.0.1:8000/v1]", f'["{quoted}"]')
    assert "ter2" not in str(refused_in_manifest.value)


def test_an_endpoint_of_the_command_line_takes_the_place_of_the_manifests() -> None:
    places = resolve_places(SPEC, Overrides(endpoint="https://gpu-3:8443/v1"))
    assert places.endpoints == ("https://gpu-3:8443/v1",)


@pytest.mark.parametrize("name", ["d, e", "d: e", "d #e", "{d}", '"d"', "d\\e", "- d", "dé 中", "d\nd", "'"])
def test_the_demos_manifest_holds_any_path(name: str) -> None:
    source, output = Path("/tmp", name, "dataset"), Path("/tmp", name, "annotated")
    spec = parse_manifest(demo_manifest(source, output, "http://127.0.0.1:1/v1"), "m.yaml").spec
    assert (spec.source.path, spec.output.path) == (str(source), str(output))


@pytest.mark.parametrize(
    ("limit", "episodes", "allowed"),
    [(0, 6, 0), (3, 6, 3), ("0%", 6, 0), ("5%", 19, 0), ("5%", 20, 1), ("34%", 6, 2), ("100%", 6, 6)],
)
def test_a_share_of_the_episodes_that_may_fail_is_rounded_down(
    limit: int | str, episodes: int, allowed: int
) -> None:
    assert allowed_failures(limit, episodes) == allowed
