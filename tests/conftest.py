"""Before any test imports torch: the suite shares its cores, like everything that rlserve starts."""

from hypothesis import settings

from rlserve.idle_threads import sleep_when_idle

sleep_when_idle()

# How long an example takes is the machine's affair.
settings.register_profile("rlserve", deadline=None)
settings.load_profile("rlserve")
