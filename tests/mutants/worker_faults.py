"""Mutants of the worker: which fault, where, and the tests that must find it."""

from mutant import JOIN, Mutant

WORKER = "worker/annotationrun_worker"

SECOND_LOOKS = (JOIN, "-k", "second_labels")
OTHER_INPUTS = (JOIN, "-k", "one_by_one")
UNIT = "tests/unit/worker"
COMPONENT = "tests/component/worker"
KEYS = (f"{UNIT}/pipeline/test_result_keys.py",)
ASKING = (f"{COMPONENT}/vlm/test_asking_again.py",)
READING = (f"{COMPONENT}/dataset/test_dataset_reading.py", "-k", "tasks")
BASE = (f"{COMPONENT}/output/test_merge_base.py",)
CLAIMS = (f"{UNIT}/staging/test_claims.py",)
FAILURES = (f"{UNIT}/staging/test_failures.py",)
UNANSWERED = ("tests/component/worker/pipeline/test_unanswered.py", "-k", "alone")
PENDING = ("tests/component/worker/pipeline/test_pending.py", "-k", "have_gone")
QUICK_FINGERPRINT = ("tests/unit/worker/dataset/test_quick_fingerprint.py",)
GC = (
    f"{COMPONENT}/staging/test_gc.py",
    "-k",
    "of_a_worker_that_lives or (nobody_used_for_long and folder)",
)
RESULT_MAKER = (f"{COMPONENT}/pipeline/test_result_maker.py",)
ENDING = (f"{UNIT}/commands/test_output.py",)
JOURNAL = (f"{UNIT}/output/test_journal.py",)
RECORD = (f"{UNIT}/output/test_merge_record.py",)
TAGS = (f"{COMPONENT}/hub/test_tags.py",)
PUBLISH_JOURNAL = (f"{UNIT}/hub/test_publish_journal.py",)


WORKER_MUTANTS = (
    Mutant(
        "decode shifted by one frame",
        f"{WORKER}/video/provider.py",
        "wanted = targets[batch]",
        "wanted = targets[np.minimum(batch + 1, len(targets) - 1)]",
    ),
    Mutant(
        "a frame outside of the episode's span",
        f"{WORKER}/video/timestamps.py",
        "return np.minimum(tolerances_seconds, np.minimum(after, before))",
        "return tolerances_seconds",
        (f"{UNIT}/video/test_timestamps.py",),
    ),
    Mutant(
        "an episode with more rows than its video has frames",
        f"{WORKER}/video/decoder.py",
        "if packets != video.frame_count:",
        "if packets > video.frame_count:",
        (f"{COMPONENT}/video/test_fingerprint.py",),
    ),
    Mutant(
        "the task of meta/episodes, which nobody corrected",
        f"{WORKER}/dataset/episodes.py",
        "return summary.tasks if sorted(set(summary.tasks)) == sorted(tasks) else tasks",
        "return summary.tasks or tasks",
        READING,
    ),
    Mutant(
        "timestamps that run on over episodes",
        f"{WORKER}/dataset/episodes.py",
        "expected = np.arange(len(timestamps_seconds)) / fps",
        "expected = timestamps_seconds[0] + np.arange(len(timestamps_seconds)) / fps",
        (f"{UNIT}/dataset/test_consistency.py",),
    ),
    Mutant(
        "an episode whose span is another one's",
        f"{WORKER}/dataset/episodes.py",
        "if first[:2] == second[:2] or first[1] - second[0] <= half_frame_seconds(fps):",
        "if first[:2] != second[:2]:",
        (f"{UNIT}/dataset/test_consistency.py",),
    ),
    Mutant(
        "boxes of a picture that the server shrank",
        f"{WORKER}/modules/coordinates.py",
        "if max(factors) > 1 - MAX_SHRINKING or",
        "if max(factors) > 0 or",
        (f"{UNIT}/modules/test_coordinate_probe.py",),
    ),
    Mutant(
        "a smaller run takes the output's other rows away",
        f"{WORKER}/output/merge.py",
        "episode = replace(episode, language=there.language)",
        "self._others.add(index)",
        BASE,
    ),
    Mutant(
        "rows taken over from another episode",
        f"{WORKER}/output/base.py",
        "_is_same(table[name], theirs[name]) for name in names",
        "name in names for name in names",
        BASE,
    ),
    Mutant(
        "rows of a video that was replaced taken over",
        f"{WORKER}/output/base.py",
        "return not cameras or self._has_same_videos(episode.index, cameras)",
        "return True",
        ("tests/component/worker/pipeline/test_replaced_videos.py", "-k", "go_and_are_named"),
    ),
    Mutant(
        "the tag of a planted note created",
        f"{WORKER}/hub/publish.py",
        "return made is not None and intent.merge_digest in made.merge_digests",
        "return made is not None",
        ("tests/component/worker/hub/test_hub_publish.py", "-k", "planted"),
    ),
    Mutant(
        "rows that another run published meanwhile overwritten",
        f"{WORKER}/hub/push.py",
        "if set(made.merge_digests) - {self._publication.merge_digest}",
        "if not made.merge_digests",
        (f"{COMPONENT}/hub/test_hub_publish_again.py", "-k", "published_since"),
    ),
    Mutant(
        "a row of another tool dropped",
        f"{WORKER}/language/existing.py",
        "return tuple(row for row in rows if module_of(row.style) not in modules)",
        "return tuple(row for row in rows if module_of(row.style) not in {None, *modules})",
        (f"{UNIT}/output/test_replacement.py",),
    ),
    Mutant(
        "cameras swapped",
        f"{WORKER}/video/provider.py",
        "episode.videos.get(self._known(camera))",
        "episode.videos.get(self.camera_keys[1 - self.camera_keys.index(camera)])",
    ),
    Mutant(
        "badges shifted by one tile",
        f"{WORKER}/modules/prompt_media.py",
        "enumerate(zip(tiles, seconds, strict=True))",
        "enumerate(zip(tiles, [*seconds[1:], seconds[-1]], strict=True))",
    ),
    Mutant(
        "window offset by half a second",
        f"{WORKER}/modules/segments.py",
        "start_seconds=window.zero_seconds + min(max(start, 0.0), window.seconds)",
        "start_seconds=window.zero_seconds + 0.5 + min(max(start, 0.0), window.seconds)",
    ),
    Mutant(
        "second window counted from the episode's start",
        f"{WORKER}/modules/prompt_media.py",
        "zero_seconds=float(timestamps_seconds[part[0]])",
        "zero_seconds=float(timestamps_seconds[0])",
    ),
    Mutant(
        "wrong episode offset in the video file",
        f"{WORKER}/video/timestamps.py",
        "return from_timestamp_seconds + timestamps_seconds.astype(np.float64)",
        "return 0.5 * from_timestamp_seconds + timestamps_seconds.astype(np.float64)",
    ),
    Mutant(
        "subtask one frame late",
        f"{WORKER}/modules/plan.py",
        'StagedRow(frame=s.frame, role="assistant", style="subtask"',
        'StagedRow(frame=s.frame + 1, role="assistant", style="subtask"',
    ),
    Mutant(
        "answer on the frame after the one asked about",
        f"{WORKER}/modules/vqa.py",
        'StagedRow(frame=frame, role=role, style="vqa"',
        'StagedRow(frame=frame + 1, role=role, style="vqa"',
    ),
    Mutant(
        "interjection one frame late",
        f"{WORKER}/modules/interjections.py",
        'StagedRow(frame=frame, role="user", style="interjection"',
        'StagedRow(frame=frame + 1, role="user", style="interjection"',
        SECOND_LOOKS,
    ),
    Mutant(
        "interjection shown what comes after it",
        f"{WORKER}/modules/interjections.py",
        "np.linspace(middle - reach, middle + reach, count)",
        "np.linspace(middle, middle + 2 * reach, count)",
        SECOND_LOOKS,
    ),
    Mutant(
        "second look at the wrong neighbours",
        f"{WORKER}/modules/segments.py",
        "range(max(place - 1, 0), min(place + 2, len(starts)))",
        "range(max(place, 0), min(place + 3, len(starts)))",
        SECOND_LOOKS,
    ),
    Mutant(
        "times told before single frames shifted by one",
        f"{WORKER}/vlm/messages.py",
        "pairs = zip(times_seconds, images, strict=True)",
        "pairs = zip([*times_seconds[1:], times_seconds[-1]], images, strict=True)",
        OTHER_INPUTS,
    ),
    Mutant(
        "the video's pace taken for the frames' times",
        f"{WORKER}/modules/prompt_media.py",
        "inside = float(np.interp(seconds, self.told_seconds, self.true_seconds))",
        "inside = seconds + 0.2",
        OTHER_INPUTS,
    ),
    Mutant(
        "events merged onto the next frame",
        f"{WORKER}/language/existing.py",
        "events.setdefault(row.frame, [])",
        "events.setdefault(row.frame + 1, [])",
    ),
    Mutant(
        "persistent rows at the time of the frame before",
        f"{WORKER}/language/existing.py",
        "float(timestamps_seconds[row.frame])",
        "float(timestamps_seconds[max(row.frame - 1, 0)])",
    ),
    Mutant(
        "an edited prompt asks nothing again",
        f"{WORKER}/pipeline/modules.py",
        '"prompts": self.prompts,',
        '"prompts": {},',
        KEYS,
    ),
    Mutant(
        "a result made for other subtasks taken for this one",
        f"{WORKER}/pipeline/modules.py",
        '"builds_on": list(self.builds_on),',
        '"builds_on": [],',
        KEYS,
    ),
    Mutant(
        "servers tried with the smallest prompt",
        f"{WORKER}/pipeline/capacity.py",
        "largest = max(prompts, key=lambda prompt: (prompt.pixels",
        "largest = min(prompts, key=lambda prompt: (prompt.pixels",
        (f"{UNIT}/pipeline/test_needs.py",),
    ),
    Mutant(
        "the default camera of the manifest not looked at",
        f"{WORKER}/pipeline/estimate.py",
        "CameraKey(spec.frames.default_camera or features.cameras[0])",
        "CameraKey(features.cameras[0])",
        (f"{UNIT}/pipeline/test_estimate.py",),
    ),
    Mutant(
        "an episode tried once more than it may",
        f"{WORKER}/pipeline/result_maker.py",
        "if len(failed) >= policy.attempts:",
        "if len(failed) > policy.attempts:",
        RESULT_MAKER,
    ),
    Mutant(
        "a failed episode tried again with the same seed",
        f"{WORKER}/pipeline/result_maker.py",
        "replace(self.worker.asker, attempt=attempt)",
        "replace(self.worker.asker, attempt=0)",
        RESULT_MAKER,
    ),
    Mutant(
        "a result that was staged just before the claim made twice",
        f"{WORKER}/pipeline/result_maker.py",
        "        if staged is not None:\n            return staged\n        # under",
        "        # under",
        RESULT_MAKER,
    ),
    Mutant(
        "a run that lost too many episodes goes on to the merge",
        f"{WORKER}/pipeline/annotate.py",
        "return len(self.report.failed_episodes) > self.limits.failures",
        "return not self.report.episodes_done",
        ENDING,
    ),
    Mutant(
        "exit code 0 although episodes failed",
        f"{WORKER}/commands/output.py",
        "if report.fault is not None:",
        "if report.fault is not None and file is None:",
        ENDING,
    ),
    Mutant(
        "a report file that tells exit code 0 of a run that failed",
        f"{WORKER}/pipeline/steps.py",
        "int(ExitCode.OK if self.fault is None else ExitCode.INCOMPLETE)",
        "int(ExitCode.OK if self.merge is None else ExitCode.INCOMPLETE)",
        ENDING,
    ),
    Mutant(
        "a retry asks with the seed that failed",
        f"{WORKER}/vlm/request.py",
        "seed=(self.seed + attempt) % SEEDS",
        "seed=self.seed % SEEDS",
        ASKING,
    ),
    Mutant(
        "an answer of another revision of the model taken",
        f"{WORKER}/vlm/ask.py",
        '{"body": digest, "model_revision": self.model_revision}',
        '{"body": digest}',
        ASKING,
    ),
    Mutant(
        "equal questions at once asked one by one",
        f"{WORKER}/vlm/ask.py",
        "await self.in_flight.do(request.key, read_or_ask)",
        "await read_or_ask()",
        ASKING,
    ),
    Mutant(
        "a retry asks again what was answered",
        f"{WORKER}/vlm/ask.py",
        "for attempt in range(self.attempt):",
        "for attempt in range(self.attempt, 0):",
        ASKING,
    ),
    Mutant(
        "who gives up a question takes it from all others",
        f"{WORKER}/vlm/ask.py",
        "await asyncio.shield(flight.task)",
        "await flight.task",
        (f"{UNIT}/vlm/test_single_flight.py",),
    ),
    Mutant(
        "the picture of another request deleted",
        f"{WORKER}/vlm/transport.py",
        "self._uses[path] += 1",
        "self._uses[path] = 1",
        (f"{UNIT}/vlm/test_media_files.py",),
    ),
    Mutant(
        "a JSON object taken out of the model's thinking",
        f"{WORKER}/vlm/json_extraction.py",
        "text = text.rpartition(end)[2].partition(start)[0]",
        "text = text.strip()",
        (f"{UNIT}/vlm/test_json_extraction.py",),
    ),
    Mutant(
        "the first JSON object taken instead of the last",
        f"{WORKER}/vlm/json_extraction.py",
        "for value in reversed(values):",
        "for value in values:",
        (f"{UNIT}/vlm/test_json_extraction.py",),
    ),
    Mutant(
        "a claim stolen from a living worker",
        f"{WORKER}/staging/leases.py",
        "if before and await self._liveness.is_alive(before):",
        "if before and not await self._liveness.is_alive(before):",
        CLAIMS,
    ),
    Mutant(
        "the claim of whoever took over released",
        f"{WORKER}/staging/leases.py",
        "if chain and chain[-1] > number:",
        "if not chain:",
        CLAIMS,
    ),
    Mutant(
        "a worker that goes on beating taken for dead",
        f"{WORKER}/staging/leases.py",
        "if seen is None or seen.content != content:",
        "if seen is None:",
        CLAIMS,
    ),
    Mutant(
        "a new retry token gives up at once",
        f"{WORKER}/staging/failures.py",
        "/{token_digest(token)}",
        "/{token_digest('')}",
        FAILURES,
    ),
    Mutant(
        "of two failures at once one lost",
        f"{WORKER}/staging/failures.py",
        "if await _read(store, folder, number, token) == failed:",
        "if await _read(store, folder, number, token) is not None:",
        FAILURES,
    ),
    Mutant(
        "gc deletes results that went into a merge",
        f"{WORKER}/staging/gc.py",
        "if self._is_unused(found) and merged is not None and key not in merged.keys:",
        "if self._is_unused(found) and merged is not None:",
        GC,
    ),
    Mutant(
        "gc deletes the claims of a living worker",
        f"{WORKER}/staging/gc.py",
        "if holder not in self._living:",
        "if holder:",
        GC,
    ),
    Mutant(
        "a damaged journal of a merge believed",
        f"{WORKER}/output/in_place.py",
        'if value["sha256"] != digest_json(body):',
        'if not value["sha256"]:',
        JOURNAL,
    ),
    Mutant(
        "a file that somebody changed overwritten by a killed merge",
        f"{WORKER}/output/in_place.py",
        "if found != rename.old or staged != rename.new:",
        "if staged != rename.new:",
        JOURNAL,
    ),
    Mutant(
        "the merge of another source taken for this one",
        f"{WORKER}/output/record.py",
        '"source": source_identity,',
        '"source": "",',
        RECORD,
    ),
    Mutant(
        "a file put into the output lost with it",
        f"{WORKER}/output/record.py",
        "others = sorted(present.keys() ^ record.files.keys())",
        "others = sorted(record.files.keys() - present.keys())",
        RECORD,
    ),
    Mutant(
        "a publish in place deletes what it does not know",
        f"{WORKER}/hub/commit.py",
        "() if is_in_place else tuple(surplus)",
        "tuple(surplus)",
        (f"{UNIT}/hub/test_commit_plan.py",),
    ),
    Mutant(
        "the version tag at the branch's head",
        f"{WORKER}/hub/publish.py",
        "tag=tag, revision=commit, repo_type",
        'tag=tag, revision="main", repo_type',
        TAGS,
    ),
    Mutant(
        "the version tag of a later publish pulled back",
        f"{WORKER}/hub/publish.py",
        "in {self.commit, *self.newer}",
        "in {self.commit}",
        TAGS,
    ),
    Mutant(
        "the journal of another merge's publish believed",
        f"{WORKER}/hub/publish.py",
        "[self.merge_digest, self.repo_id, self.branch]",
        "[self.repo_id, self.branch]",
        PUBLISH_JOURNAL,
    ),
    Mutant(
        "publishes into other repositories finished here",
        f"{WORKER}/hub/publish.py",
        "if intent is not None and intent.repo_id == repo_id:",
        "if intent is not None:",
        PUBLISH_JOURNAL,
    ),
    Mutant(
        "questions without an answer never asked again",
        f"{WORKER}/pipeline/result_maker.py",
        "return may_lack_answers and token_digest(self.basis.policy.retry_token) in rounds.retry_tokens",
        "return True",
        UNANSWERED,
    ),
    Mutant(
        "questions without an answer asked again with the seed that gave none",
        f"{WORKER}/staging/results.py",
        "next_attempt = found.attempt + 1",
        "next_attempt = found.attempt",
        UNANSWERED,
    ),
    Mutant(
        "an episode of another task taken for done",
        f"{WORKER}/dataset/types.py",
        'value = {"task": task, "parts"',
        'value = {"task": "", "parts"',
        QUICK_FINGERPRINT,
    ),
    Mutant(
        "a result that has gone taken for staged",
        f"{WORKER}/staging/results.py",
        "if entry is not None and entry.key in staged:",
        "if entry is not None:",
        PENDING,
    ),
)
