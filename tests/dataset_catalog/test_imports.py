"""Whoever only looks at data needs neither PyTorch nor Ray."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = """
import sys
for name in ("torch", "ray", "edge", "ingest_serve", "ray_jobs", "fleetfeed"):
    sys.modules[name] = None
import dataset_catalog.import_lerobot, dataset_catalog.export_lerobot, dataset_catalog.export_mcap
import dataset_catalog, dataset_catalog.windows, dataset_catalog.__main__, dataset_catalog.contact_sheet
assert dataset_catalog.Catalog and dataset_catalog.Dataset and dataset_catalog.horizon(0.2, hz=10) == (0.0, 0.1)
try:
    import dataset_catalog.loader
except ImportError as error:
    print(error.name)
"""


def test_everything_but_the_loader_imports_without_torch_ray_or_our_other_packages() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch"
