"""Built-in environments, plug-ins like any others; imported as ``rlserve.environments``.

* ``arithmetic``     digit sums modulo ten: the quick start's task
* ``sums``           sums of two numbers in a chat message, for a real model
* ``calculator``     sums with a tool, over several turns
* ``guess``          a guessing game, over several turns
* ``countdown``      reach a target from given numbers
* ``reasoning_gym``  the data sets of that library
* ``adapters``       environments of other libraries: Gymnasium, TextArena, OpenEnv, tools of MCP servers
* ``files``          tasks from the user's files: GSM8K, MATH, HumanEval, MBPP, any others

* ``draws``          reproducible random draws

``typescript/`` is an environment in TypeScript, ``prime/`` an adapter for the ``verifiers`` library.

To add an environment: a module with a class as in README.md, and its entry point in ``pyproject.toml``.
"""
