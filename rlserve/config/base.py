"""The strict base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values immutable, each field's docstring its help."""

    # forbid: a misspelt key would otherwise keep its default, and the run would train with a setting that the user did
    # not choose. frozen: all coroutines of an actor share one object.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
