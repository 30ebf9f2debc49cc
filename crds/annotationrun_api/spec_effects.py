"""Settings of a run that have no effect where it runs, or beside its other settings.

In which runs a field has one is said by its mark, `EffectOnly`, beside the field in the models.
"""

from collections import defaultdict
from collections.abc import Iterator

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_fields import FieldType, field_types, walk_fields
from annotationrun_api.spec_types import EffectOnly, SpecModel


def effect_of(field_type: FieldType) -> EffectOnly | None:
    """The mark of a field; None: it has an effect in every run."""
    return next((item for item in field_type.constraints if isinstance(item, EffectOnly)), None)


def paths_with(*marks: EffectOnly) -> list[str]:
    """The fields that bear one of the marks, in the order of the spec."""
    return [path for path, field_type in walk_fields(RunSpec, "spec") if effect_of(field_type) in marks]


def settings_without_effect(spec: RunSpec, *, in_cluster: bool) -> str:
    """Name the settings that have no effect, and say where they would have one; empty where all have one.

    A setting counts if it differs from its default: the API server of a cluster fills in defaults, so that
    whether somebody wrote them down can't be seen.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path, mark in _settings(spec, "spec"):
        if not _has_effect(mark, spec, in_cluster=in_cluster):
            found[_where(mark, spec)].append(path)
    return "; ".join(f"{', '.join(paths)} (only {where})" for where, paths in found.items())


def _has_effect(mark: EffectOnly, spec: RunSpec, *, in_cluster: bool) -> bool:
    match mark:
        case EffectOnly.CLUSTER:
            return in_cluster
        case EffectOnly.SIDECAR:
            return in_cluster and spec.model.serving.mode == "Sidecar"
        case EffectOnly.HUB_SOURCE:
            return spec.source.repo_id is not None
        case EffectOnly.HUB_OUTPUT:
            return spec.output.repo_id is not None
        case EffectOnly.HUB:
            return spec.source.repo_id is not None or spec.output.repo_id is not None


def _where(mark: EffectOnly, spec: RunSpec) -> str:
    """Where the setting would have an effect, as far as this is not the case."""
    is_sidecar = spec.model.serving.mode == "Sidecar"
    return (EffectOnly.CLUSTER if mark is EffectOnly.SIDECAR and is_sidecar else mark).value


def _settings(model: SpecModel, prefix: str) -> Iterator[tuple[str, EffectOnly]]:
    """The fields under a mark that differ from their defaults, by path."""
    values = model.by_yaml_name()
    for name, field_type in field_types(type(model)).items():
        path, value, mark = f"{prefix}.{name}", values[name], effect_of(field_type)
        if mark is not None and field_type.field is not None:
            default = field_type.field.get_default(call_default_factory=True, validated_data={})
            yield from ((found, mark) for found in _differing(path, value, default))
        elif isinstance(value, SpecModel):
            yield from _settings(value, path)


def _differing(path: str, value: object, default: object) -> Iterator[str]:
    if isinstance(value, SpecModel) and isinstance(default, SpecModel):
        defaults = default.by_yaml_name()
        for name, inner in value.by_yaml_name().items():
            yield from _differing(f"{path}.{name}", inner, defaults[name])
    elif value != default:
        yield path
