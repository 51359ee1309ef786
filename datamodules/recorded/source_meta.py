"""A flat file's description of itself in `meta`: a JSON object with `name`, `ref_random`, `ref_expert`, and `env_id` or
`environment_spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.envs.recorded_environment import Plain, from_meta
from modules.trust.files import finite, json_object
from modules.trust.names import short

LONGEST_NAME = 200


@dataclass(frozen=True)
class Meta:
    """Identity of a dataset as its file gives it; what the file does not say is None.

    Attributes:
        name: short name for people.
        environment: plain description of the environment, see `datamodules.envs.recorded_environment`.
        reference_min: return of a random policy.
        reference_max: return of an expert.
    """

    name: str | None = None
    environment: Plain | None = None
    reference_min: float | None = None
    reference_max: float | None = None


def read_meta(path: Path, value: Any) -> Meta:
    """Read the JSON text of an HDF5 attribute or of an array `[]` of an NPZ file.

    Raises:
        ValueError: it is no JSON text, no object, or one of its entries is of the wrong type.
    """
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(value, str | bytes):
        raise ValueError(
            f"{path}: meta is of type {type(value).__name__}; JSON text is needed: json.dumps({{'name': 'walks'}})"
        )
    fields = json_object(f"{path}: meta", value)
    return Meta(
        _name(path, fields),
        from_meta(fields, f"{path}: meta"),
        _number(path, fields, "ref_random"),
        _number(path, fields, "ref_expert"),
    )


def _name(path: Path, fields: dict[str, Any]) -> str | None:
    name = fields.get("name")
    if name is None or (isinstance(name, str) and 0 < len(name) <= LONGEST_NAME):
        return name
    raise ValueError(f"{path}: name in meta is {short(name)}, text of up to {LONGEST_NAME} letters is needed")


def _number(path: Path, fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not finite(value):
        raise ValueError(f"{path}: {name} in meta is {short(value)}, a finite number is needed")
    return value
