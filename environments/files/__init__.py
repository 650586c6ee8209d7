"""Environments whose tasks come from the user's files.

* ``dataset``     any tasks: JSON lines, CSV, Parquet, saved data sets, the Hub
* ``gsm8k``       GSM8K
* ``math``        MATH and similar sets
* ``humaneval``   HumanEval
* ``mbpp``        MBPP
* ``code_jsonl``  programming tasks
* ``pairs``       preference pairs
* ``examples``    completions to imitate

* ``math_problems``  what gsm8k and math have in common
* ``rows``           reads and checks the rows of a file (``rlserve.data.source``)
* ``fields``         cells of a row: texts, answers
* ``conversation``   messages, tool calls and tools of a row
* ``template``       a prompt from a row's columns

To add one: a module with a class that reads its files by ``rows.read_files``, and its entry point in
``pyproject.toml``.
"""
