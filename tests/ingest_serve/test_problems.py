"""The table of problem codes and what the code can raise are the same."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import ingest_serve
from edge import signing, wire
from edge.errors import SignatureError
from ingest_serve.errors import Refused
from ingest_serve.problems import ADVICE, PROBLEMS, as_refused, problem_response


def raised_codes(source: str) -> set[str]:
    """Every text in the first argument of `Refused(…)` and `SignatureError(…)`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    named = [call for call in calls if getattr(call.func, "id", "") in ("Refused", "SignatureError")]
    values = [call.args[0] for call in named]
    branches = [[one.body, one.orelse] if isinstance(one, ast.IfExp) else [one] for one in values]
    return {one.value for pair in branches for one in pair if isinstance(one, ast.Constant)}


def test_every_code_that_is_raised_is_in_the_table_and_every_one_in_the_table_is_raised() -> None:
    sources = [*Path(ingest_serve.__path__[0]).glob("*.py"), Path(signing.__file__)]
    assert set().union(*(raised_codes(path.read_text()) for path in sources)) == set(PROBLEMS)


def test_every_status_is_a_refusal() -> None:
    assert all(400 <= problem.status < 600 for problem in PROBLEMS.values())


def test_what_is_not_ours_says_nothing_of_its_inside() -> None:
    refused = as_refused(ZeroDivisionError("inside"))
    assert refused.code == "internal_error"
    assert "inside" not in refused.detail


def test_a_problem_names_its_code_status_and_parameter() -> None:
    response = problem_response(Refused("bad_parameter", "seq: is missing", parameter="seq"), retry_after_s=5)
    assert wire.problem(bytes(response.body)).code == "bad_parameter"
    assert b'"parameter":"seq"' in bytes(response.body)
    assert response.media_type == wire.PROBLEM_TYPE


def test_a_problem_says_what_to_do_next() -> None:
    response = problem_response(Refused("clock", "the token is late"), retry_after_s=5)
    assert wire.problem(bytes(response.body)).detail == f"the token is late; {ADVICE['clock']}"
    assert set(ADVICE) <= set(PROBLEMS)
    again = {code for code, problem in PROBLEMS.items() if problem.status in (408, 429, 500, 503)}
    assert again <= set(ADVICE)


def test_a_detail_is_bounded_and_can_be_sent_whatever_is_in_it() -> None:
    response = problem_response(Refused("bad_name", "\ud800" + "x" * 5000), retry_after_s=5)
    detail = json.loads(bytes(response.body))["detail"]
    assert detail.startswith("\\ud800xxx")
    assert len(detail) < 1100


def test_a_signature_error_keeps_its_code() -> None:
    assert as_refused(SignatureError("clock", "late")).code == "clock"
