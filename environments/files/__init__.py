"""Environments whose tasks come from the user's files.

* ``gsm8k``       GSM8K
* ``math``        MATH and similar sets
* ``humaneval``   HumanEval
* ``mbpp``        MBPP
* ``code_jsonl``  programming tasks
* ``jsonl``       any tasks
* ``pairs``       preference pairs
* ``examples``    completions to imitate

* ``math_problems``  what gsm8k and math have in common
* ``rows``           reads and checks the rows of a JSON-lines file

To add one: a module with a class that reads its files by ``rows.read_files``, and its entry point in
``pyproject.toml``.
"""
