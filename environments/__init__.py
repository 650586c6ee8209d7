"""Built-in environments, plug-ins like any others; imported as ``rlserve.environments``.

* ``arithmetic``     digit sums modulo ten: the quick start's task
* ``calculator``     sums with a tool, over several turns
* ``guess``          a guessing game, over several turns
* ``countdown``      reach a target from given numbers
* ``reasoning_gym``  the data sets of that library

* ``gsm8k``       GSM8K from files
* ``math``        MATH and similar sets from files
* ``humaneval``   HumanEval from a file
* ``mbpp``        MBPP from files
* ``code_jsonl``  programming tasks from files
* ``jsonl``       any tasks from files
* ``pairs``       preference pairs from a file
* ``examples``    completions to imitate, from a file

* ``math_problems``  what gsm8k and math have in common
* ``rows``       reads and checks the rows of a JSON-lines file
* ``draws``      reproducible random draws

``typescript/`` is an environment in TypeScript, ``prime/`` an adapter for the ``verifiers`` library.

To add an environment: a module with a class as in README.md, and its entry point in ``pyproject.toml``.
"""
