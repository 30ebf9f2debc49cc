"""A run and its Jobs as values: decisions are carried out on them, and Jobs end as a test says."""

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from annotationrun_api.conditions import ConditionType, find_condition
from annotationrun_api.labels import KUEUE_QUEUE_LABEL, SPEC_DIGEST_ANNOTATION, Step
from annotationrun_api.status import RunStatus, read_status, write_status
from annotationrun_api.step_results import MergeOutcome, PlanResult, PrefetchResult, write_result
from annotationrun_operator.core.decide import decide
from annotationrun_operator.core.status import CreateJob, Decision, DeleteJob
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.manifests.pods import WORKER_CONTAINER
from annotationrun_operator.manifests.sidecar import SIDECAR_CONTAINER
from annotationrun_operator.observation import (
    ClaimView,
    ContainerView,
    JobCondition,
    JobView,
    Observation,
    PodView,
    RunObject,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = JobSettings(worker_image="worker:1", vllm_image="vllm:1")
PLAN = "ab" * 32
MERGED = "cd" * 32
COMMIT = "ef" * 20
"""Of the model that a prefetch finds."""

MANIFEST = {
    "apiVersion": "annotationrun.dev/v1alpha1",
    "kind": "AnnotationRun",
    "metadata": {"name": "run", "namespace": "robots"},
    "spec": {
        "source": {"path": "in", "volume": {"claimName": "data"}},
        "output": {"path": "out", "volume": {"claimName": "data"}},
        "model": {"id": "demo-vlm"},
        "modules": {"vqa": {}},
        "workers": {"parallelism": 3},
        "staging": {"volume": {"claimName": "data", "subPath": "staging"}},
    },
}
CACHED_MODEL = {"id": "org/model", "serving": {"cache": {"claimName": "data", "subPath": "models"}}}
"""One that is fetched into a claim first."""


@dataclass
class RunWorld:
    """One run; time stands still but for `wait`."""

    manifest: dict = field(default_factory=lambda: copy.deepcopy(MANIFEST))
    annotations: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    status: RunStatus = field(default_factory=RunStatus)
    generation: int = 1
    now: datetime = START
    jobs: dict[str, JobView] = field(default_factory=dict)
    created: list[dict] = field(default_factory=list)
    """Every Job's object, in order."""
    pods: dict[str, list[PodView]] = field(default_factory=dict)
    claims: dict = field(default_factory=lambda: {"data": ClaimView("data", ("ReadWriteMany",), "Bound")})
    deletes_wait: bool = False
    """Deleted Jobs stay, being deleted, until `finish_deleting`."""
    settings: JobSettings = SETTINGS
    extra: dict = field(default_factory=dict)
    """Further fields of the next observations."""

    def edit(self, **spec) -> None:
        self.manifest["spec"].update(spec)
        self.generation += 1

    def observe(self) -> Observation:
        run = RunObject(
            name="run",
            namespace="robots",
            uid="run-uid",
            generation=self.generation,
            resource_version="1",
            manifest=self.manifest,
            labels=self.labels,
            annotations=self.annotations,
            status=self.status,
            created=START,
        )
        pods = tuple(pod for found in self.pods.values() for pod in found)
        return Observation(run, tuple(self.jobs.values()), pods, claims=self.claims, **self.extra)

    def decide(self) -> Decision:
        """What would be decided now; nothing of it is done. The status survives being written and read."""
        decision = decide(self.observe(), self.now, self.settings)
        written = write_status(decision.status)
        assert write_status(read_status(written)) == written
        return decision

    def step(self) -> Decision:
        """One pass, carried out."""
        decision = self.decide()
        self.status = decision.status
        for action in decision.actions:
            self.carry_out(action)
        return decision

    def carry_out(self, action: CreateJob | DeleteJob) -> None:
        if isinstance(action, DeleteJob):
            if self.deletes_wait:
                self.jobs[action.name] = replace(self.jobs[action.name], is_deleting=True)
            else:
                del self.jobs[action.name]
                self.pods.pop(action.name, None)
            return
        manifest, name = action.manifest, action.name
        assert name not in self.jobs, f"{name} is created twice"
        metadata, spec = manifest["metadata"], manifest["spec"]
        self.created.append(dict(manifest))
        self.jobs[name] = JobView(
            name=name,
            uid=f"uid-{len(self.created)}",
            step=Step(metadata["labels"]["annotationrun.dev/step"]),
            attempt=int(metadata["labels"]["annotationrun.dev/attempt"]),
            spec_digest=metadata["annotations"][SPEC_DIGEST_ANNOTATION],
            created=self.now,
            is_suspended=spec.get("suspend", False),
            queue=metadata["labels"].get(KUEUE_QUEUE_LABEL, ""),
            completions=spec["completions"],
        )

    def finish_deleting(self) -> None:
        for name in [name for name, job in self.jobs.items() if job.is_deleting]:
            del self.jobs[name]
            self.pods.pop(name, None)

    def settle(self) -> Decision:
        """Passes until nothing changes any more."""
        for _ in range(20):
            before = (self.status, dict(self.jobs))
            decision = self.step()
            if (self.status, dict(self.jobs)) == before:
                return decision
        raise AssertionError("the passes do not come to rest")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def live(self) -> list[Step]:
        return [job.step for job in self.jobs.values() if not job.has_ended]

    def job(self, step: Step) -> JobView:
        """The one Job of a step that has not ended."""
        (job,) = [job for job in self.jobs.values() if job.step is step and not job.has_ended]
        return job

    def put_pod(self, step: Step, number: int = 0, **fields) -> PodView:
        """A pod of the step's Job, in place of the one of that number."""
        job = self.job(step)
        name = f"{job.name}-{number}"
        defaults = {"ip": "10.0.0.1", "phase": "Pending", "created": self.now}
        pod = PodView(name=name, uid=f"pod-{name}", job_name=job.name, step=step, **(defaults | fields))
        rest = [other for other in self.pods.get(job.name, []) if other.name != name]
        self.pods[job.name] = [*rest, pod]
        return pod

    def run_pod(self, step: Step, number: int = 0, **fields) -> PodView:
        """A pod whose containers run."""
        containers = [ContainerView(WORKER_CONTAINER, is_running=True)]
        if step is Step.ANNOTATE:
            containers.append(ContainerView(SIDECAR_CONTAINER, is_sidecar=True, is_running=True))
        return self.put_pod(step, number, phase="Running", containers=tuple(containers), **fields)

    def end(self, step: Step, code: int = 0, message: str = "", exit_reason: str = "") -> None:
        """The step's Job ends, as the exit code of its one pod says."""
        job = self.job(step)
        worker = ContainerView(
            WORKER_CONTAINER, exit_code=code, exit_message=message, exit_reason=exit_reason
        )
        phase = "Failed" if code else "Succeeded"
        self.put_pod(step, phase=phase, containers=(worker,), ended=self.now)
        kind = "Failed" if code else "Complete"
        condition = JobCondition(kind, "PodFailurePolicy" if code else "", "")
        self.jobs[job.name] = replace(job, conditions=(condition,), succeeded=int(not code))

    def end_plan(
        self,
        episodes: int = 6,
        pending: int = 6,
        plan: str = PLAN,
        source_commit: str = "",
        model_commit: str = "",
    ) -> None:
        told = PlanResult(
            plan=plan,
            episodes=episodes,
            pending=pending,
            source_commit=source_commit,
            model_commit=model_commit,
        )
        self.end(Step.PLAN, 0, write_result(told))

    def end_prefetch(self, commit: str = COMMIT) -> None:
        told = PrefetchResult(model="org/model", commit=commit, files=3, size_bytes=7)
        self.end(Step.PREFETCH, 0, write_result(told))

    def end_merge(self, outcome: str = "Published", total: int = 6, **fields) -> None:
        fields = {"done": total, "results": total, "merge_digest": MERGED, "place": "data:out"} | fields
        told = MergeOutcome(outcome=outcome, plan=PLAN, total=total, **fields)
        self.end(Step.MERGE, 5 if outcome in ("Missing", "TooManyFailed") else 0, write_result(told))

    def end_well(self, step: Step) -> None:
        """The step's Job ends; the merge has one way more to do so."""
        {
            Step.PLAN: self.end_plan,
            Step.PREFETCH: self.end_prefetch,
            Step.ANNOTATE: lambda: self.end(Step.ANNOTATE),
        }[step]()

    def go_to(self, step: Step) -> None:
        """Passes, and Jobs that end well, until the step's Job is there."""
        self.settle()
        while self.live != [step]:
            (current,) = self.live
            self.end_well(current)
            self.settle()

    def complete(self) -> None:
        self.go_to(Step.MERGE)
        self.end_merge()
        self.settle()

    def condition(self, kind: ConditionType) -> tuple[str, str]:
        """Status and reason."""
        found = find_condition(self.status.conditions, kind)
        assert found is not None
        assert found.observed_generation == self.generation
        return found.status, found.reason

    def message(self, kind: ConditionType = ConditionType.READY) -> str:
        found = find_condition(self.status.conditions, kind)
        assert found is not None
        return found.message
