"""From ``[launch] type`` to a launcher.

To add one: a module with a class that keeps the promises of ``rlserve.launch.base.Launcher``, and its name here (or, in
a package of your own, an entry point of the group ``rlserve.launchers``).
"""

from collections.abc import Mapping

from rlserve import plugins
from rlserve.launch.base import LauncherType
from rlserve.launch.local import LocalLauncher
from rlserve.launch.ray.launcher import RayLauncher
from rlserve.plugins import LAUNCHER_GROUP

LAUNCHERS: Mapping[str, LauncherType] = {"local": LocalLauncher, "ray": RayLauncher}


def launcher_type(name: str) -> LauncherType:
    """The launcher registered as ``name``. Raises UnknownName, which lists the known ones, or PluginFailed."""
    found: LauncherType = plugins.load(LAUNCHER_GROUP, name, built_in=LAUNCHERS)
    return found
