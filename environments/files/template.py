"""A prompt from a row's columns: ``"Question: {question}\\nAnswer:"``."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from rlserve.environments.files.fields import required
from rlserve.errors import InvalidRequest


class Template:
    """A format string whose fields are columns. Raises InvalidRequest for one that is not."""

    def __init__(self, text: str) -> None:
        try:
            self.columns = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
        except ValueError as error:
            raise InvalidRequest(
                f"template: {error}; write {{{{ and }}}} for braces of the text", field="template"
            ) from None
        if not self.columns:
            raise InvalidRequest(f"template: {text[:80]!r} names no column; write e.g. {{question}}", field="template")
        for column in self.columns:
            # No attributes or items: the text of a column is all that a prompt needs.
            if not column or column.isdigit() or set(column) & set(".["):
                raise InvalidRequest(
                    f"template: {{{column}}} is no column; write {{column}}, and {{{{ and }}}} for braces of the text",
                    field="template",
                )
        self._text = text

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row. Raises InvalidRequest for a column that is missing or empty."""
        for column in self.columns:
            if required(row, column, "template") is None:
                raise InvalidRequest(f"{column}: is None; the template needs it")
        try:
            return Formatter().vformat(self._text, (), row)
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"template: cannot be filled ({error})") from None
