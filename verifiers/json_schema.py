"""The verifier ``json_schema``: JSON that is valid against a schema."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.payloads import decode_object
from rlserve.verifiers.reasoning import MARK, answer_of, thinks_at_end

# A fenced block that names JSON or no language; the closing fence must be the same mark on a line of its own.
FENCE = re.compile(
    r"^[ \t]*(```|~~~)(?:json[0-9a-z]*)?[ \t]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL | re.IGNORECASE
)
MAX_DEPTH = 100
"""Of nested lists and objects. Far below Python's recursion limit, which jsonschema meets at several frames a level."""


class JsonSchemaVerifier:
    """Reward 1 when the completion is JSON that is valid against the payload's ``schema``.

    Drafts of JSON Schema up to 2020-12 are supported; a schema without ``$schema`` is read as 2020-12. The JSON is the
    last fenced block if there is one, else the whole text, without thoughts (``<think>...</think>``) around it.
    References to other documents are never fetched. JSON that parses but is invalid gets the reward ``partial``.
    """

    name = "json_schema"
    version = "1"
    description = "JSON that a schema allows"
    limit_seconds = 2.0
    """A schema's patterns may need exponential time on some texts; honest ones are done in milliseconds."""
    timeout_is_failure = True
    """The schema is fixed and other texts pass in time, so a text that takes longer is wrong."""

    def __init__(self, *, partial: float = 0.0) -> None:
        if not 0 <= partial < 1:
            raise InvalidRequest(f"options.partial: is {partial}; give a reward from 0 to below 1")
        self._partial = partial

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        _task_validator(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion. Raises InvalidRequest for a payload without a valid schema."""
        allows = _task_validator(payload)
        try:
            value = _parse(completion, prompt)
        except ValueError as error:
            return self._verdict(0.0, 0.0, f"no JSON: {error}")
        # iter_errors is lazy: the search ends at the first fault.
        fault = next(allows.iter_errors(value), None)
        if fault is None:
            return self._verdict(1.0, 1.0, "valid")
        where = "/".join(map(str, fault.absolute_path)) or "the value"
        return self._verdict(1.0, 0.0, f"{where[:80]}: {fault.message[:150]!a}")

    def _verdict(self, parses: float, valid: float, reason: str) -> Verdict:
        return Verdict(
            outcome=Outcome.PASS if valid else Outcome.FAIL,
            reward=1.0 if valid else self._partial * parses,
            parts={"parses": parses, "valid": valid},
            reason=reason,
            verifier=self.name,
        )


def _task_validator(payload: bytes) -> Any:
    schema = decode_object(payload, fields=("schema",)).get("schema")
    if not isinstance(schema, dict):
        raise InvalidRequest("payload.schema: is no object; send a JSON schema")
    # As text, since lru_cache needs a hashable key; sorted, so that equal schemas share one.
    return _validator(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=256)
def _validator(schema_json: str) -> Any:
    # Here: the library is imported with the first schema, not with every list of plug-ins.
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema: Mapping[str, Any] = json.loads(schema_json)
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise InvalidRequest(f"payload.schema: is no JSON schema: {error.message[:200]}") from error
    return kind(schema, registry=Registry())  # an empty registry fetches nothing


def _parse(completion: str, prompt: str) -> Any:
    """Return the value of the JSON in a completion. Raises ValueError."""
    answer = answer_of(completion, prompt)
    begins = completion.lstrip()
    if begins[:1] in ("{", "[", '"') and not MARK.match(begins) and not thinks_at_end(prompt):
        answer = completion  # JSON from its first character on: a "<think>" inside of it is part of a string
    blocks = [block[1] for block in FENCE.findall(answer.replace("\r\n", "\n"))]
    try:
        value = json.loads(blocks[-1] if blocks else answer, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if _depth(value) > MAX_DEPTH:
        raise ValueError(f"deeper than {MAX_DEPTH}")
    return value


def _refuse(constant: str) -> Any:
    # Python's parser accepts NaN and Infinity, which the JSON standard does not.
    raise ValueError(f"{constant} is not JSON")


def _depth(value: Any) -> int:
    """Return the nesting depth, computed without recursion."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(item, list):
            stack += [(child, depth + 1) for child in item]
        elif isinstance(item, dict):
            stack += [(child, depth + 1) for child in item.values()]
    return deepest
