"""Environments of other libraries, each judged by its own reward; ``environments/README.md`` shows how to set them.

* ``gymnasium``    Gymnasium: any environment whose actions and observations can be text
* ``textarena``    TextArena: text games
* ``mcp``          tools of an MCP server, offered to the policy
* ``openenv``      OpenEnv: the environment of a server

* ``play``         what they have in common: prompts, seeds, verdicts
* ``mcp_session``  one connection to an MCP server

``prime/`` beside this folder is an adapter whose library needs a virtual environment of its own. To add one: a module
with a class, its entry point and its extra in ``pyproject.toml``, its row and configuration in
``environments/README.md``, which ``tests/environments/test_adapters.py`` runs.
"""
