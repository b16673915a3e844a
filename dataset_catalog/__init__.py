"""The library a researcher imports: find, pin and iterate what the fleet recorded. No Ray is imported here.

from dataset_catalog import Catalog
catalog = Catalog.open("s3://fleetfeed")
"""

import os

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.mixture import mix
from dataset_catalog.relative import RelativeTo
from dataset_catalog.spec import horizon, steps

__all__ = ["Catalog", "Dataset", "RelativeTo", "horizon", "mix", "steps"]
