"""Writes docs/SETTINGS.md from the settings classes: `python -m fleetfeed.describe_settings > docs/SETTINGS.md`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from dataset_catalog.settings import FeedSettings, StorageSettings
from edge.settings import EdgeSettings
from fleetfeed.settings import StackSettings
from ingest_serve.read_settings import ReadSettings
from ingest_serve.settings import IngestSettings
from ray_jobs.settings import JobsSettings

SECTIONS: tuple[tuple[str, str, type[BaseSettings]], ...] = (
    ("storage", "The bucket, for ingest, jobs and catalog", StorageSettings),
    ("edge", "Robots", EdgeSettings),
    ("ingest", "The ingest service", IngestSettings),
    ("reads", "What researchers read over HTTP", ReadSettings),
    ("jobs", "Jobs", JobsSettings),
    ("feed", "Training nodes", FeedSettings),
    ("stack", "The embedded stack", StackSettings),
)
HEAD = """# Settings

Each package reads its settings once, from environment variables and from the table of the same name in the TOML file
named by `FLEETFEED_CONFIG`; the environment wins. This page is made from the code:
`python -m fleetfeed.describe_settings > docs/SETTINGS.md`.
"""


def describe() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for section in SECTIONS for line in _section(*section))])


def _section(table: str, title: str, settings: type[BaseSettings]) -> Iterator[str]:
    yield f"## {title}: `[{table}]`\n"
    yield "| variable | default | meaning |\n|---|---|---|"
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        yield f"| `{prefix}{name.upper()}` | {_default(field)} | {field.description} |"
    yield ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, SecretStr):
        return "unset"
    return f"`{value}`"


if __name__ == "__main__":
    print(describe(), end="")
