"""The JSON schema of a configuration file, for editors that complete and check TOML."""

from typing import Any

from rlserve.config.run import RunConfig


def editor_schema() -> dict[str, Any]:
    """As that of ``RunConfig``, for a file: which may take keys from a ``base``, so that none of them is required.

    It accepts the short forms, too, and checks types, choices, bounds and names; what needs two keys at once is checked
    by ``rlserve run --dry-run``.
    """
    schema = RunConfig.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    text = {"type": "string"}
    properties = schema["properties"]
    properties["base"] = {**text, "description": "Path of a TOML file whose keys this file takes over."}
    properties["environment"] = {**text, "description": "Short for [[environments]] with this name alone."}
    # anyOf: `type` is the one key by which the tables of algorithms differ, and a plug-in's may be any text.
    algorithm = properties["algorithm"]
    algorithm["anyOf"] = [*algorithm.pop("oneOf"), text]
    algorithm.pop("discriminator", None)
    for section in (schema, schema["$defs"]["EnvironmentConfig"]):
        listed = section["properties"]["reward"]
        one = {"anyOf": [text, listed["items"]]}
        section["properties"]["reward"] = {
            "description": listed["description"],
            "anyOf": [text, listed["items"], {"type": "array", "items": one}],
        }
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
