"""Built-in verifiers, plug-ins like any others; imported as ``rlserve.verifiers``.

* ``text``           ``exact`` and ``regex``: comparison of texts
* ``math``           ``math``: mathematical equality
* ``code``           ``code``: runs programs against tests in the sandbox
* ``countdown``      ``countdown``: an expression over given numbers
* ``format``         ``format``: required tags
* ``length``         ``length``: penalty for long completions
* ``json_schema``    ``json_schema``: JSON that matches a schema
* ``reasoning_gym``  ``reasoning_gym``: the scorers of that library
* ``function``       ``function``: functions in the user's files
* ``rubric``         ``rubric``: several verifiers as one
* ``model``          ``judge`` and ``reward_model``: verifiers that call a model over HTTP

* ``reasoning``  splits reasoning from the answer, the same way for every verifier
* ``payloads``   checks the fields of a JSON payload

To add a verifier: a module with a class as in README.md, and its entry point in ``pyproject.toml``.
"""
