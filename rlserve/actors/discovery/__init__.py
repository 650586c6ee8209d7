"""How an actor registers at the hub and finds the others; used by every actor.

* ``hub_client``     HubClient: one method per RPC, plus ``watch``, ``wait_for``, ``registered``
* ``registration``   registers an actor and keeps sending heartbeats
* ``starting``       actors that announce that they start
* ``registry_view``  RegistryView: merges the streams before and after a reconnect into one sequence of changes
* ``endpoint``       a channel to one actor
* ``pool``           EndpointPool: balances calls over all live actors of a kind, retries on another
"""
