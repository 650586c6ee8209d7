"""Tokens that a teacher's vocabulary shares with the policy's."""

import numpy as np
import numpy.typing as npt

from rlserve.tokens.token_bytes import shared_tokens
from rlserve.tokens.token_text import TokenText
from rlserve.v1 import teacher_service_pb2 as pb


def shared_token_ids(vocabulary: pb.VocabularyResponse, policy: TokenText) -> npt.NDArray[np.int64]:
    """``[W]``: the policy's token for each of the teacher's, or -1."""
    their_end = vocabulary.end_id if vocabulary.HasField("end_id") else None
    found = shared_tokens(vocabulary.token_bytes, policy.token_bytes.pieces, their_end=their_end, our_end=policy.end_id)
    return np.array(found, dtype=np.int64)
