"""A section of the settings, and what its model says of its keys."""

import types
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from watcher.settings.errors import EMPTY

__all__ = ["Section", "is_optional", "keys", "section_of", "wants_text"]


class Section(BaseModel):
    """A mapping in the file.

    A key with nothing after it counts as not written: `recovery:` above lines that are all commented out means the
    defaults. A section that null would switch off is the exception: `snapshot:` could mean either, and is an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # all at once, as parts of the outermost

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_not_written(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = keys(cls)
        written = {key: value for key, value in data.items() if value is not EMPTY or _is_ambiguous(known.get(key))}
        return {**_sections_by_default(known), **written}


def _is_ambiguous(field: FieldInfo | None) -> bool:
    return field is not None and section_of(field) is not None and is_optional(field)


def _sections_by_default(known: dict[str, FieldInfo]) -> dict[str, object]:
    """Sections of nothing but defaults, to be made by the validator of the section around them: one that is made by
    itself needs a validator of its own, and building those would take as long as building that one."""
    return {key: {} for key, field in known.items() if field.default_factory is not None and section_of(field)}


def keys(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section, as they are written in the file."""
    return {field.alias or name: field for name, field in section.model_fields.items() if not field.exclude}


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a key holds, optional ones included; None for a key that holds a value."""
    for kind in _alternatives(field):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def is_optional(field: FieldInfo) -> bool:
    """Whether null may stand there."""
    return types.NoneType in _alternatives(field)


def wants_text(field: FieldInfo) -> bool:
    """Whether the key takes a text, perhaps null, and nothing else."""
    kinds = [_plain(kind) for kind in _alternatives(field) if kind is not types.NoneType]
    return all(isinstance(kind, type) and issubclass(kind, str | Path | StrEnum) for kind in kinds)


def _alternatives(field: FieldInfo) -> tuple[object, ...]:
    annotation = field.annotation
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def _plain(kind: object) -> object:
    """`Annotated[str, …]` without its annotations."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
