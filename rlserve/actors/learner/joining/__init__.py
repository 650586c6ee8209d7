"""What the learner gives to hosts that join: a configuration and files, by role; ``rlserve.actors.join`` takes them.

* ``parcel``   what each role gets, and what it does not
* ``service``  JoinService: the version check, the list of files, their bytes
"""
