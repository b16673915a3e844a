"""Who may import whom: an AST walk over our packages, imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("edge", "dataset_catalog", "ingest_serve", "ray_jobs", "fleetfeed")

# package → what it may import of ours: whole packages, or single modules
ALLOWED = {
    "edge": set(),
    "dataset_catalog": set(),
    "ingest_serve": {"edge.wire", "edge.signing", "edge.segment", "edge.errors", "dataset_catalog"},
    "ray_jobs": {
        "edge.wire", "edge.segment", "edge.segment_reader", "edge.errors", "dataset_catalog", "ingest_serve.raw_store",
        "ingest_serve.errors", "ingest_serve.arrivals", "ingest_serve.pieces",
    },
    "fleetfeed": set(OURS),
}  # fmt: skip
RAY_RIM = {"ingest_serve/deployment.py"}
RAY_FOR_RESEARCHERS = {"dataset_catalog/ray_data.py"}  # inside a function, for whoever asks for `to_ray`


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, `from a import b` as both `a` and `a.b`, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)


def is_within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(allowed + ".")


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_the_design_allows(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in modules(package)
        for module, line in imports(path)
        if module.split(".")[0] in OURS
        and not any(is_within(module, allowed) for allowed in {package, *ALLOWED[package]})
    ]
    assert not wrong


@pytest.mark.parametrize(("package", "allowed"), [("edge", set()), ("dataset_catalog", RAY_FOR_RESEARCHERS)])
def test_robots_and_researchers_need_no_ray(package: str, allowed: set[str]) -> None:
    found = {
        str(path.relative_to(ROOT)) for path in modules(package) for name, _ in imports(path) if is_within(name, "ray")
    }
    assert found == allowed


def test_ray_is_imported_only_at_the_rim_of_ingest() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules("ingest_serve")
        for module, _ in imports(path)
        if is_within(module, "ray")
    }
    assert found == RAY_RIM


def test_robots_need_no_lance_and_no_torch() -> None:
    heavy = ("lance", "torch", "fastapi", "ray", "duckdb")
    found = [
        (str(path), module) for path in modules("edge") for module, _ in imports(path) if module.split(".")[0] in heavy
    ]
    assert not found
