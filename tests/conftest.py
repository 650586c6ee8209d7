"""Before any test imports torch: the suite shares its cores, like everything that rlserve starts."""

from rlserve.idle_threads import sleep_when_idle

sleep_when_idle()
