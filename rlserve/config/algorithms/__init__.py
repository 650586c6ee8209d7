"""One section per algorithm, discriminated by ``type``; the class defaults are the vetted setting.

* ``section``          what all sections share, and the section of an installed plug-in
* ``policy_gradient``  ``grpo``, ``cispo``, ``gspo``, ``reinforce``
* ``preference``       ``dpo``, ``orpo``, ``kto``
* ``distillation``     ``distill``, ``mixed``

A ``type`` that is not built in names an installed plug-in, and takes its settings from ``options``.
"""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from rlserve.config.algorithms.section import AlgorithmSection, PluginAlgorithmConfig

BUILT_IN = ("grpo", "cispo", "gspo", "reinforce", "dpo", "orpo", "kto", "distill", "mixed")
DEFAULT = "grpo"


def _tag(value: Any) -> str:
    name = value.get("type", DEFAULT) if isinstance(value, dict) else getattr(value, "type", DEFAULT)
    return name if name in BUILT_IN else "plugin"


AlgorithmConfig = Annotated[
    Annotated[GrpoConfig, Tag("grpo")]
    | Annotated[CispoConfig, Tag("cispo")]
    | Annotated[GspoConfig, Tag("gspo")]
    | Annotated[ReinforceConfig, Tag("reinforce")]
    | Annotated[DpoConfig, Tag("dpo")]
    | Annotated[OrpoConfig, Tag("orpo")]
    | Annotated[KtoConfig, Tag("kto")]
    | Annotated[DistillConfig, Tag("distill")]
    | Annotated[MixedConfig, Tag("mixed")]
    | Annotated[PluginAlgorithmConfig, Tag("plugin")],
    Discriminator(_tag),
]
"""Union of all algorithm sections, discriminated by ``type``."""

__all__ = [
    "AlgorithmConfig",
    "AlgorithmSection",
    "CispoConfig",
    "DistillConfig",
    "DpoConfig",
    "GrpoConfig",
    "GspoConfig",
    "KtoConfig",
    "MixedConfig",
    "OrpoConfig",
    "PluginAlgorithmConfig",
    "ReinforceConfig",
]
