"""The align spec: which clock a dataset's steps follow, and which values and pictures each of them takes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dataset_catalog.sampling import Policy
from dataset_catalog.schema import steps_schema
from ray_jobs.errors import SpecError

# names become column names in SQL and Lance
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Tolerant(_Frozen):
    tolerance_ms: float = Field(ge=0)

    @property
    def tolerance_ns(self) -> int:
        return round(self.tolerance_ms * 1_000_000)


class Camera(_Tolerant):
    """A camera's stream: each step takes the nearest frame within the tolerance."""


class Column(_Tolerant):
    """A vector of `size` numbers: the message's `field` (`position`, `pose.orientation`), or null.

    An object with the fields w, x, y, z or x, y, z is a vector in this order. `names` of the vector's elements are
    given here, or found in another field of the message.
    """

    topic: str
    field: str
    policy: Policy
    size: int = Field(ge=1)
    names: str | tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Column:
        if isinstance(self.names, tuple) and len(self.names) != self.size:
            raise ValueError(f"size is {self.size}, but there are {len(self.names)} names")
        if self.policy == "slerp" and self.size != 4:
            raise ValueError(f"slerp takes quaternions of size 4, got {self.size}")
        return self


RESERVED = frozenset({"main", "telemetry", "segments", "information_schema", "pg_catalog", "system", "temp"})


class AlignSpec(_Frozen):
    """`reference` names the camera whose frames are the steps; or else `rate_hz` is the steps' fixed rate."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    reference: Name | None = None
    rate_hz: float | None = Field(None, gt=0, le=10_000)
    cameras: dict[Name, Camera] = {}
    columns: dict[Name, Column] = {}

    @field_validator("name")
    @classmethod
    def _names_no_schema(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"a dataset cannot be called any of {', '.join(sorted(RESERVED))}: SQL knows them already")
        return name

    @model_validator(mode="before")
    @classmethod
    def _reference_is_a_camera(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("reference") and isinstance(data.get("cameras", {}), dict):
            cameras = {data["reference"]: {"tolerance_ms": 0}, **data.get("cameras", {})}
            return {**data, "cameras": cameras}
        return data

    @model_validator(mode="after")
    def _fits(self) -> AlignSpec:
        if (self.reference is None) == (self.rate_hz is None):
            raise ValueError("give either reference (a camera) or rate_hz")
        both = set(self.cameras) & set(self.columns)
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: a camera and a column cannot have the same name")
        names = steps_schema(self._sizes, tuple(self.cameras)).names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: two columns of steps would have this name")
        return self

    @classmethod
    def load(cls, path: Path) -> AlignSpec:
        """Read a TOML file. Raises `SpecError` that says what is wrong at which place."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text()))
        except FileNotFoundError as error:
            ours = ", ".join(sorted(one.stem for one in Path(__file__).with_name("specs").glob("*.toml")))
            raise SpecError(f"there is no align spec {path}; those that come with us: {ours}") from error
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: {error}") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'spec'}: {one['msg']}" for one in error.errors())
            raise SpecError(f"{path}: {wrong}") from error

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: column.size for name, column in self.columns.items()}

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(column.topic for column in self.columns.values())

    def fields_of(self, topic: str) -> frozenset[str]:
        """The fields of a topic's messages in which columns, or the names of their elements, lie."""
        columns = [column for column in self.columns.values() if column.topic == topic]
        paths = [path for column in columns for path in (column.field, column.names) if isinstance(path, str)]
        return frozenset(path.split(".")[0] for path in paths)

    @property
    def reach_ns(self) -> int:
        """How far beyond an episode its values and frames may lie."""
        return max((one.tolerance_ns for one in (*self.cameras.values(), *self.columns.values())), default=0)

    @property
    def steps_schema(self) -> pa.Schema:
        return steps_schema(self._sizes, tuple(self.cameras))
