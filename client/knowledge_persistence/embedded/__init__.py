"""The embedded stack: PostgreSQL, the Data API, Auth and the worker, without containers.

`Stack` starts, stops and describes one; a stack is a data directory. `Cluster` and `create_database` are its database
alone, for tools and tests.
"""

from .bootstrap import bootstrap_database, create_database
from .home import Home, RetiredSecret, StackConfig
from .postgres import Cluster
from .stack import Stack, StackInfo, StackStatus

__all__ = [
    "Cluster",
    "Home",
    "RetiredSecret",
    "Stack",
    "StackConfig",
    "StackInfo",
    "StackStatus",
    "bootstrap_database",
    "create_database",
]
