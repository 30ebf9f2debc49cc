"""How data files are written: pages that are cheap to read, the same bytes however the source lay."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.image_dataset import FRONT, IMAGE

from annotationrun_worker.language.columns import EpisodeLanguage, LanguageRow
from annotationrun_worker.language.existing import AnnotatedEpisode
from annotationrun_worker.language.rewrite import is_as_rewritten, rewrite_data_file

PICTURE_BYTES = 100_000
LENGTHS = (300, 40, 350)
PAGE_BYTES = 1024 * 1024


def write_source(path: Path, row_group_size: int, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Episodes of frames with a large picture each, no two the same, in row groups of that many frames."""
    schema = pa.schema(
        [
            (FRONT, IMAGE),
            ("observation.state", pa.list_(pa.float32())),
            ("task", pa.string()),
            ("timestamp", pa.float32()),
            ("frame_index", pa.int64()),
            ("episode_index", pa.int64()),
        ]
    )
    frames = [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(frames), row_group_size):
            of_group = frames[start : start + row_group_size]
            rows = [
                {
                    FRONT: {"bytes": os.urandom(PICTURE_BYTES), "path": f"frame-{frame:06d}.png"},
                    "observation.state": [frame / 7.0, float(episode)],
                    "task": "push",
                    "timestamp": frame / 10,
                    "frame_index": frame,
                    "episode_index": episode,
                }
                for episode, frame in of_group
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return path


def one_subtask(episode: AnnotatedEpisode) -> EpisodeLanguage:
    row = LanguageRow("assistant", "push", "subtask", None, None, float(episode.timestamps_seconds[0]))
    return EpisodeLanguage((row,), {})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("pictures") / "source.parquet", sum(LENGTHS))


@pytest.fixture(scope="module")
def rewritten(source: Path) -> Path:
    target = source.with_name("rewritten.parquet")
    rewrite_data_file(source, target, one_subtask)
    return target


READ_ONE = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
file = pq.ParquetFile(sys.argv[1], buffer_size=1024 * 1024, pre_buffer=False)
picture = next(file.iter_batches(batch_size=1, row_groups=[0], columns=[sys.argv[2]]))
print(pa.default_memory_pool().max_memory())
"""


def test_a_picture_is_read_without_those_of_the_whole_episode(rewritten: Path) -> None:
    command = [sys.executable, "-c", READ_ONE, str(rewritten), FRONT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert PICTURE_BYTES <= int(done.stdout) < 10 * PAGE_BYTES < LENGTHS[0] * PICTURE_BYTES


def test_pictures_alone_have_no_dictionary(rewritten: Path) -> None:
    groups = pq.ParquetFile(rewritten).metadata
    assert groups.num_row_groups == len(LENGTHS)
    for group in range(groups.num_row_groups):
        columns = [groups.row_group(group).column(place) for place in range(groups.num_columns)]
        dictionaries = {c.path_in_schema: c.has_dictionary_page for c in columns}
        assert dictionaries.pop(f"{FRONT}.bytes") is False
        assert dictionaries
        assert all(dictionaries.values())


def test_the_same_rows_are_the_same_bytes_however_the_row_groups_lay(source: Path, rewritten: Path) -> None:
    """Read in other pieces: one row group for all episodes, one for each (as written), and across them."""
    across = source.with_name("across.parquet")
    pq.write_table(pq.read_table(source), across, row_group_size=123)
    for again in (rewritten, across):
        target = source.with_name("again.parquet")
        target.unlink(missing_ok=True)
        rewrite_data_file(again, target, one_subtask)
        assert sha256(target) == sha256(rewritten)


def test_a_file_of_ours_is_known_as_such(source: Path, rewritten: Path) -> None:
    assert is_as_rewritten(rewritten, one_subtask)
    assert not is_as_rewritten(rewritten, lambda _: EpisodeLanguage((), {}))
    assert not is_as_rewritten(rewritten, one_subtask, has_language=False)
    assert not is_as_rewritten(source, lambda _: EpisodeLanguage((), {}))


REWRITE = """
import resource, sys
from pathlib import Path
from annotationrun_worker.language.columns import EpisodeLanguage
from annotationrun_worker.language.rewrite import rewrite_data_file
rewrite_data_file(Path(sys.argv[1]), Path(sys.argv[2]), lambda _: EpisodeLanguage((), {}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for count in (2, 16):
        source = write_source(tmp_path / f"{count}.parquet", 100, (100,) * count)
        command = [sys.executable, "-c", REWRITE, str(source), str(tmp_path / f"{count}-out.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    episode_bytes = 100 * PICTURE_BYTES
    assert peaks[1] - peaks[0] < 3 * episode_bytes, peaks
