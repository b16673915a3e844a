"""The interface's description is checked in, is valid, and says of every route what a client needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge import signing, wire
from edge.errors import BadName
from ingest_serve import described, openapi
from ingest_serve.app import create_app
from ingest_serve.problems import PROBLEMS
from ingest_serve.settings import IngestSettings

CHECKED_IN = Path(__file__).parents[2] / "docs/openapi.json"
RENEW = "fleetfeed ingest openapi > docs/openapi.json"
BODILESS = ("204", "302", "304", "307")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CHECKED_IN.read_text())
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolved(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, or the thing itself."""
    if "$ref" not in found:
        return found
    _, _, kind, name = found["$ref"].split("/")
    target: dict[str, Any] = document["components"][kind][name]
    return target


def test_the_description_that_is_checked_in_is_that_of_the_application() -> None:
    app = create_app(Storage.open("s3://any", settings=StorageSettings(url="s3://any")), IngestSettings())
    assert CHECKED_IN.read_text() == openapi.as_text(app), f"docs/openapi.json is stale; renew it: {RENEW}"


def test_it_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()


def test_every_reference_leads_somewhere_and_every_component_is_used(document: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/([^"]+)"', json.dumps(document)))
    kinds = ("schemas", "headers", "parameters")
    named = {f"{kind}/{name}" for kind in kinds for name in document["components"][kind]}
    assert used == named


def test_every_operation_has_a_name_of_its_own_and_says_who_may_call(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    free = {operation["operationId"] for _, _, operation in operations(document) if not operation.get("security")}
    assert free == {"isAlive", "isReady"}


def test_every_parameter_has_a_schema_that_bounds_it(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        parameters = [resolved(document, one) for one in operation.get("parameters", [])]
        assert set(re.findall(r"{(\w+)}", path)) == {one["name"] for one in parameters if one["in"] == "path"}
        assert len({(one["in"], one["name"]) for one in parameters}) == len(parameters)
        for parameter in parameters:
            bounds = {"pattern", "enum", "maximum", "maxLength"} & set(resolved(document, parameter["schema"]))
            assert bounds, f"{operation['operationId']}: {parameter['name']} may be anything"


def test_every_answer_is_described_with_its_body(document: dict[str, Any]) -> None:
    for _, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert {wire.SERVER_TIME_HEADER, wire.REQUEST_ID_HEADER} <= set(answer["headers"])
            if status not in BODILESS:
                assert answer["content"] or method == "head", (operation["operationId"], status)


def test_every_refusal_names_its_codes_and_every_code_is_named(document: dict[str, Any]) -> None:
    named = set[str]()
    for _, _, operation in operations(document):
        assert "422" not in operation["responses"]
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get(wire.PROBLEM_TYPE)
            if content:
                codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
                assert {PROBLEMS[code].status for code in codes} == {int(status)}
                named.update(codes)
    assert set(PROBLEMS) - named == {"method_not_allowed"}  # of no operation: there it is none


def test_a_code_that_nobody_knows_is_not_described() -> None:
    with pytest.raises(ValueError, match="bad_nmae"):
        openapi.route("x", "uploads", answers={204: openapi.answer("x")}, codes=["bad_nmae"])


def test_every_route_describes_itself() -> None:
    app = create_app(Storage.open("s3://any", settings=StorageSettings(url="s3://any")), IngestSettings())
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    assert routes
    unsaid = [route.path for route in routes if not (route.operation_id and route.tags)]
    assert not unsaid


@pytest.mark.parametrize(
    ("name", "check"),
    [("Robot", wire.check_robot), ("Stream", wire.check_stream), ("Recording", wire.check_recording)],
)
def test_names_are_described_as_they_are_checked(name: str, check: Any) -> None:
    pattern, right = described.NAMES[name]["pattern"], described.NAMES[name]["examples"][0]
    tried = [
        right,
        right.lower(),
        right.upper(),
        right[:1],
        right * 4,
        "_agent",
        ".x",
        "-x",
        "",
        "a b",
        "é",
        right + "\n",
    ]
    for text in tried:
        try:
            taken = check(text) == text
        except BadName:
            taken = False
        assert bool(re.fullmatch(pattern[1:-1], text)) == taken, text


def test_examples_are_what_they_are_examples_of() -> None:
    for name, schema in described.SCHEMAS.items():
        for example in schema.get("examples", []):
            assert "pattern" not in schema or re.fullmatch(schema["pattern"], example), (name, example)
            assert "maximum" not in schema or schema["minimum"] <= example <= schema["maximum"], (name, example)
    digest = described.REQUEST_HEADERS["Content-Digest"][1]
    assert re.fullmatch(digest["pattern"], wire.content_digest(bytes(32)))
    clock = described.REQUEST_HEADERS[wire.ROBOT_CLOCK_HEADER][1]
    assert wire.RobotClock.parse_field(clock["examples"][0]).as_field() == clock["examples"][0]
    assert re.fullmatch(clock["pattern"], clock["examples"][0])
    assert re.fullmatch(described.NAMES["KeyId"]["pattern"], signing.key_id(bytes(32)))
