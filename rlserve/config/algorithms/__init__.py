"""One section per algorithm, discriminated by ``type``; the class defaults are the vetted setting.

* ``section``          what all sections share, and the section of an installed plug-in
* ``policy_gradient``  ``grpo``, ``cispo``, ``gspo``, ``reinforce``
* ``preference``       ``dpo``, ``orpo``, ``kto``
* ``distillation``     ``distill``, ``mixed``

A ``type`` that is not built in names an installed plug-in, and takes its settings from ``options``.

To add one: a section in the module of its family, and its name in the union at the end of that module. The other places
are listed in docs/algorithms.md.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union, get_args

from pydantic import Discriminator, Tag

from rlserve.config.algorithms.distillation import DistillationSections
from rlserve.config.algorithms.policy_gradient import PolicyGradientSections
from rlserve.config.algorithms.preference import PreferenceSections
from rlserve.config.algorithms.section import PluginAlgorithmConfig

BuiltIn: TypeAlias = PolicyGradientSections | PreferenceSections | DistillationSections
SECTIONS: Mapping[str, type[BuiltIn]] = {section.model_fields["type"].default: section for section in get_args(BuiltIn)}
"""Sections of the built-in algorithms by ``type``."""
BUILT_IN = tuple(SECTIONS)
DEFAULT = BUILT_IN[0]
"""``type`` of a run that names none."""


def _tag(value: Any) -> str:
    name = value.get("type", DEFAULT) if isinstance(value, dict) else getattr(value, "type", DEFAULT)
    # Not an error here: the plug-in may be installed where the run starts, and preflight names one that is not.
    return name if name in SECTIONS else "plugin"


if TYPE_CHECKING:
    AlgorithmConfig: TypeAlias = BuiltIn | PluginAlgorithmConfig
else:
    # The same union with a tag for each member, made from the list above so that there is no second one. Pydantic then
    # checks the one section that `type` names and reports its faults alone, not those of all sections.
    AlgorithmConfig = Annotated[
        Union[(*(Annotated[s, Tag(n)] for n, s in SECTIONS.items()), Annotated[PluginAlgorithmConfig, Tag("plugin")])],
        Discriminator(_tag),
    ]

__all__ = ["BUILT_IN", "DEFAULT", "SECTIONS", "AlgorithmConfig"]
