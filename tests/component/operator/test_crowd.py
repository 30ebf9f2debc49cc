"""A tenant with very many objects: the operator takes them in, and does not count as dead meanwhile."""

import copy
import time
from pathlib import Path

import pytest
from tests.support.crowded_api import CrowdedApi, crowded_api
from tests.support.kube_api import wait_for
from tests.support.operator_process import OperatorProcess, operator_process
from tests.support.run_world import MANIFEST
from tests.support.watch_proxy import plain_kubeconfig

INTAKE_SECONDS = 75.0
"""Half of what 1,500 pods take at 10 objects a second."""
PEAK_MEBIBYTES = 256
PAGE_OBJECTS = 100


def crowd_of_pods() -> CrowdedApi:
    """Pods that a tenant labelled himself, each with a run that is none."""
    api = CrowdedApi()
    for number in range(1500):
        api.add_pod(f"pod-{number}", f"none-{number}")
    return api


def crowd_of_runs() -> CrowdedApi:
    """Runs that are held, each with prompts of 20 KB."""
    spec = copy.deepcopy(MANIFEST["spec"])
    spec |= {"suspend": True, "prompts": {"vqa_bbox": "x" * 10_000, "vqa_count": "y" * 10_000}}
    api = CrowdedApi()
    for number in range(300):
        api.add_run(f"run-{number}", spec)
    return api


def peak_mebibytes(operator: OperatorProcess) -> float:
    status = Path(f"/proc/{operator.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.parametrize(
    ("crowd", "names"),
    [
        pytest.param(crowd_of_pods, {f"none-{number}" for number in range(1500)}, id="1,500 labelled pods"),
        pytest.param(crowd_of_runs, {f"run-{number}" for number in range(300)}, id="300 runs of 20 KB"),
    ],
)
def test_a_crowd_is_taken_in_and_the_operator_counts_as_alive(crowd, names, tmp_path, request, printed):
    with crowded_api(crowd()) as api:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(plain_kubeconfig(api.url), encoding="utf-8")
        with operator_process(tmp_path, kubeconfig, "") as operator:
            operator.wait_until_ready()
            began = time.monotonic()

            def is_taken_in() -> bool:
                assert operator.health() == (200, "ok\n")
                assert time.monotonic() - began < INTAKE_SECONDS, f"{len(api.runs_read)} of {len(names)}"
                return names <= api.runs_read

            wait_for("the crowd", is_taken_in)
            seconds, peak = time.monotonic() - began, peak_mebibytes(operator)
            operator.stop()
    assert api.largest_page <= PAGE_OBJECTS
    assert peak < PEAK_MEBIBYTES
    printed(f"{request.node.callspec.id}: healthy, {peak:.0f} MiB, {seconds:.1f} s", title="attacks")
