"""The root of every error this project raises.

AnnotationRunError
├── TransientError          worth another try, unchanged
└── PermanentError          the same input fails again: somebody has to change something
    ├── ManifestError       the manifest is not one (annotationrun_api.manifest)
    └── UnsupportedError    the manifest is right, this version can't do it yet

Each package draws its own branch in its own ``errors.py``. An error says what, where, what was got, what was
expected and what to do next; names are quoted with ``!r``; remote text is cut; tokens never appear.
"""


class AnnotationRunError(Exception):
    """Base of all errors; ``str()`` is the whole message for the user."""


class TransientError(AnnotationRunError):
    """Something outside that may well work next time: a busy server, a lost connection."""


class PermanentError(AnnotationRunError):
    """Something that another try won't mend."""


class UnsupportedError(PermanentError):
    """A valid setting that this version does not carry out yet; it is never ignored in silence."""
