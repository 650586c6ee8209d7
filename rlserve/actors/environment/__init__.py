"""The environment server: serves environment plug-ins over gRPC, tasks and multi-turn episodes.

* ``main``            the process: loads plug-ins, registers their specs at the hub
* ``service``         EnvironmentService: translates messages, fills in default sampling
* ``tasks``           makes tasks, each environment in its own thread, with a deadline
* ``rewarded``        tasks for functions of the user's in place of a verifier
* ``episodes``        runs episodes: order of turns, time limits, number of open ones
* ``episode_thread``  a thread for calls into a plug-in
* ``blame``           turns an exception of a plug-in into PluginFailed with its file and line
* ``client``          asks one environment server, in any language
* ``episode_call``    one episode from the client's side
* ``conformance``     the checks behind ``rlserve env check``

To add an environment, see the package ``rlserve.environments``. To add a check of all environments, add a function to
``conformance/checks`` and list it in its ``CHECKS``.
"""
