"""Memory that is free goes back to the system."""

import ctypes

import pyarrow as pa


def return_freed_memory() -> None:
    """Give what was freed back to the system, after a file with very many row groups was read or written.

    The footer of a file with ten thousand episodes becomes 200 MB of small objects. glibc keeps what is
    freed, for each thread apart: a few threads that read one file each would hold that much each, for ever.
    Takes some milliseconds; does nothing where the C library is another.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
