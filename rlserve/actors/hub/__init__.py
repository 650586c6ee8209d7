"""The hub: which actors are alive, which environments exist, how the run stands.

* ``main``                  the process: serves until a signal, expires silent actors
* ``service``               HubService: translates messages, calls the state below
* ``registry``              actors by registration; a pure state machine with the clock passed in
* ``environment_registry``  EnvironmentRegistry: which environment specs are offered, and which of them workers see
* ``memory``                what a hub must know after a restart, kept by the run's store
* ``watchers``              one bounded queue of changes per Watch stream
* ``paging``                splits long lists into messages

To add an RPC: declare it in ``proto/rlserve/v1/hub_service.proto``, answer it in ``service``, call it in
``discovery.hub_client``, the client.
"""
