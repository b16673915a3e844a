"""The library a researcher imports: find, pin and iterate what the fleet recorded. No Ray is imported here.

from dataset_catalog import Catalog
catalog = Catalog.open("s3://fleetfeed")
"""

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.spec import horizon

__all__ = ["Catalog", "Dataset", "horizon"]
