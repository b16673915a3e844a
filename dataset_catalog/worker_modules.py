"""What a worker process imports, imported once: the fork server reads this module, and every worker begins as a copy.

Imports alone: nothing is opened, so that neither Lance nor PyTorch has threads yet, which a copy would not have.
"""

from __future__ import annotations

import warnings

import torch.utils.data  # noqa: F401

import dataset_catalog.catalog
import dataset_catalog.feed
import dataset_catalog.mixture
import dataset_catalog.windows  # noqa: F401

warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)  # once it has threads; see above
