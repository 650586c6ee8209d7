"""The verifier ``function``: rewards by functions in the user's files, called as TRL calls them.

* ``verifier``  FunctionVerifier: the verdicts of a group from its functions
* ``reward``    RewardFunction: one function, its arguments and the checks of what it returns
"""
