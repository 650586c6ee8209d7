"""The hub: which actors are alive, which environments exist, how the run stands; and how other actors use it.

The server:

* ``main``          the process: serves until a signal, expires silent actors
* ``service``       HubService: translates messages, calls the state below
* ``registry``      actors by registration; a pure state machine with the clock passed in
* ``environments``  EnvironmentRegistry: which environment specs are offered, and which of them workers see
* ``watchers``      one bounded queue of changes per Watch stream
* ``paging``        splits long lists into messages

The client side, used by every other actor:

* ``client``        HubClient: one method per RPC, plus ``watch``, ``wait_for``, ``registered``
* ``registration``  registers an actor and keeps sending heartbeats
* ``mirror``        RegistryView: merges the streams before and after a reconnect into one sequence of changes
* ``endpoint``      a channel to one actor
* ``pool``          EndpointPool: balances calls over all live actors of a kind, retries on another

To add an RPC: declare it in ``proto/rlserve/v1/hub_service.proto``, answer it in ``service``, call it in ``client``.
"""
