"""More and fewer processes of a pool while a run goes on: by hand, or between bounds by what is measured.

* ``requests``  what ``rlserve scale`` asks for, as a file of the run directory
* ``policy``    when to add one and when to remove one; pure
* ``readings``  what is measured, from the hub
* ``pools``     the processes of each pool, and the next one's plan; pure
* ``scaler``    looks at requests and readings, and has processes added and removed
"""
