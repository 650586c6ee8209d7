"""The run configuration: strict pydantic sections, one a table of the TOML. Imports no torch.

* ``run``           ``RunConfig``: all tables, and the checks between them
* ``tables``        one module a table
* ``algorithms``    one section an algorithm, for the ``[algorithm]`` table
* ``base``          what every section is: strict, frozen, documented
* ``load``          TOML files and overrides to a configuration, and back
* ``shipped``       the configurations that come with the package
* ``reference``     every key as a page of Markdown
* ``editor_schema`` every key as a JSON schema for editors
* ``schema``        the keys of a section, for messages
* ``faults``        pydantic's errors as messages that name key, value and fix
* ``deepspeed``     keys of DeepSpeed's configuration that are passed on
* ``foreign_keys``  names of the same keys in other trainers, as hints
* ``waits``         time limits that contain one another
* ``live``          keys that may change while a run goes on
* ``resume``        keys that may not change when a run is resumed
* ``paths``         names of files in a run directory
* ``digest``        digest of the ``config.toml`` that all processes of a run share
"""
