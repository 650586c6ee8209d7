"""From ``[store] type`` to the store of a run.

To add one: a module with a ``Store`` and a ``StoreBackend``, and its name here (or, in a package of your own, an entry
point of the group ``rlserve.stores``). Every store passes ``tests/contract/test_store_contract.py``.
"""

from collections.abc import Callable, Mapping

from rlserve import plugins
from rlserve.config.tables.store import StoreConfig
from rlserve.plugins import STORE_GROUP
from rlserve.store.base import StoreBackend
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.sqlite_backend import SqliteBackend

BACKENDS: Mapping[str, Callable[..., StoreBackend]] = {"redis": RedisBackend, "sqlite": SqliteBackend}


def backend_of(config: StoreConfig) -> StoreBackend:
    """The backend registered as ``store.type``, made with ``store.options``.

    Raises UnknownName, which lists the known ones, ConfigError for options that it does not take, or PluginFailed.
    """
    backend: StoreBackend = plugins.make(
        STORE_GROUP, config.type, config.options, where="store.options", built_in=BACKENDS
    )
    return backend
