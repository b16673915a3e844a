"""The platform team's routes as OpenAPI has them: arguments of `add_api_route`, one function a route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingest_serve.described import Schema, one
from ingest_serve.openapi import JSON, answer, route

_BODY = ("bad_body", "incomplete_body", "length_required", "too_large", "slow_body")


def invite_docs() -> dict[str, Any]:
    """A one-time token for a robot."""
    made = answer("The robot may enrol with it; it is told only here.", one("Invitation"))
    return _asking("inviteRobot", one("InvitationWish"), answers={201: made}, codes=["bad_name"])


def revoke_robot_docs() -> dict[str, Any]:
    """The end of all of a robot's keys and invitations."""
    ended = answer("None of them counts any longer.", one("RobotRevoked"))
    return _asking("revokeRobot", one("Nothing"), answers={200: ended}, codes=["bad_name", "unknown_robot"])


def make_token_docs() -> dict[str, Any]:
    """A person's token."""
    made = answer("It counts from now on; it is told only here.", one("TokenMade"))
    return _asking("makeToken", one("TokenWish"), answers={201: made})


def revoke_token_docs() -> dict[str, Any]:
    """The end of a person's token."""
    gone = answer("The token counts no longer, perhaps since before.")
    return route("revokeToken", "platform", who=["admin"], answers={204: gone}, codes=["unknown_token_id"])


def tokens_docs() -> dict[str, Any]:
    """People's tokens."""
    return _telling("listTokens", "Every token that ever was, in the order of their ids.", "Tokens")


def registry_docs() -> dict[str, Any]:
    """Robots and their keys."""
    return _telling("listRegisteredRobots", "The robots that ever enrolled, with their keys that count.", "Robots")


def quarantine_docs() -> dict[str, Any]:
    """What did not get through."""
    return _telling("listQuarantine", "Kept bodies of conflicts, then segments that were set aside.", "Quarantine")


def audit_docs() -> dict[str, Any]:
    """Who let whom in and out."""
    return _telling("readAudit", "The acts of the time asked for, in order.", "AuditPage")


def _asking(operation: str, body: Schema, *, answers: dict[int, Schema], codes: Sequence[str] = ()) -> dict[str, Any]:
    """A route with a small JSON body, which needs no digest."""
    found = route(operation, "platform", who=["admin"], answers=answers, codes=[*_BODY, *codes])
    found["openapi_extra"]["requestBody"] = {"required": False, "content": {JSON: {"schema": body}}}
    return found


def _telling(operation: str, what: str, schema: str) -> dict[str, Any]:
    return route(operation, "platform", who=["admin"], answers={200: answer(what, one(schema))})
