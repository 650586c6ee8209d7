"""The strict base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values immutable, each field's docstring its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
