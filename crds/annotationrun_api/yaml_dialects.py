"""Plain scalars that kubectl reads otherwise than YAML 1.2 does.

kubectl reads manifests with a go-yaml that keeps much of YAML 1.1 (``goyaml.v2/resolve.go`` in
https://github.com/kubernetes-sigs/yaml): ``no`` is false there, ``017`` is 15, ``1_000`` is a number.
A manifest must mean the same to both, so such a scalar has to be written in quotes or in another way.
"""

import re

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF"})
_OCTAL = re.compile(r"[-+]?0[0-9]+")
_PREFIXED = re.compile(r"[-+]?0[bB][01]+|[-+]0[oO][0-7]+|[-+]0[xX][0-9a-fA-F]+|0O[0-7]+|0X[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(0[oO][0-7]+|0[xX][0-9a-fA-F]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def kubectl_reads(plain: str) -> str | None:
    """What kubectl makes of a scalar written without quotes, where that is not what YAML 1.2 makes of it."""
    if plain in _TRUE:
        return "true"
    if plain in _FALSE:
        return "false"
    if _OCTAL.fullmatch(plain):
        return "an octal number"
    if _INFINITE.fullmatch(plain):
        return "a number that JSON does not have"
    without = plain.replace("_", "")
    if _PREFIXED.fullmatch(without) or (without != plain and plain[0] != "_" and _NUMBER.fullmatch(without)):
        return "a number"
    return None
