"""Whether the Hugging Face Hub can be reached. Its own clients retry for half a minute before they say so."""

import os
import urllib.error
import urllib.request

SECONDS = 3.0
"""Limit for one answer; without a network a check must not hold up a start."""


def endpoint() -> str:
    """Address of the Hub, or of the mirror that ``HF_ENDPOINT`` names."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def answers() -> bool:
    """Whether the Hub, or the mirror that ``HF_ENDPOINT`` names, answers now; False in offline mode."""
    # Here: a host that only verifies has no such package.
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=SECONDS).close()
    # A server that answers with an error is reachable. HTTPError is an OSError, so this clause comes first.
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
