"""Multi-turn tasks: each sample of a group is an episode, a dialogue between policy and environment.

* ``episode``     all episodes of a group at once
* ``dialogue``    the policy's side of one episode: sample a turn, receive the answer, stop at a limit
* ``stream``      plays a dialogue over a stream to an environment server, and over another when that one breaks
* ``transcript``  the tokens of one episode, and which of them the policy sampled
* ``chat_turns``  the tokens between two turns, as the chat template writes them

To add a limit of episodes: a field of ``EpisodesConfig`` (table ``[episodes]``), checked in ``dialogue``.
"""
