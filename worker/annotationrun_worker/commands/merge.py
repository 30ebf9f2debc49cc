"""``annotationrun merge``: the merge step alone."""

from rich.console import Console

from annotationrun_worker.commands.options import (
    AccountOption,
    CacheOption,
    LimitOption,
    Manifest,
    ModelRevisionOption,
    ReportOption,
    ResultOption,
    RetryTokenOption,
    RevisionOption,
    RunOptions,
    StagingOption,
    VolumeOption,
)
from annotationrun_worker.commands.output import episode_progress, finish, tell_result
from annotationrun_worker.pipeline.steps import merge_outcome, merge_run


def merge(
    manifest: Manifest,
    volume: VolumeOption = None,
    staging: StagingOption = None,
    limit: LimitOption = None,
    retry_token: RetryTokenOption = None,
    report: ReportOption = None,
    result: ResultOption = None,
    account: AccountOption = None,
    revision: RevisionOption = None,
    model_revision: ModelRevisionOption = None,
    cache: CacheOption = None,
) -> None:
    """Write the annotated dataset from what is staged; nothing is asked.

    Exits 5 if results are missing: 'annotationrun annotate' makes them.
    """
    options = RunOptions(
        manifest, None, tuple(volume or ()), staging, limit, retry_token, account=account,
        revision=revision, model_revision=model_revision, cache=cache,
    )  # fmt: skip
    console = Console()
    local = options.load(asks=False, publishes=True)
    with episode_progress(console) as progress:
        done = merge_run(local, progress)
    tell_result(merge_outcome(done), result)
    finish(console, done, report)
