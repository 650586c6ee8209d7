"""Messages, texts and tokens: what rollout workers, teachers and the learner must agree on.

* ``chat``           messages as text, by a model's chat template
* ``prompts``        a task's prompt as tokens and text
* ``tokenizer``      loads and fingerprints tokenizers
* ``model_tokens``   a model's tokenizer, its end tokens, and its text for verifiers and environments
* ``end_tokens``     the tokens that end a completion
* ``token_text``     tokens to text and back, with the byte at which each token ends
* ``token_bytes``    the bytes that each token stands for
* ``alignment``      aligns the tokens of two tokenizers by the offsets where they end
* ``shared_tokens``  the tokens that two vocabularies share

To support another kind of tokenizer: the bytes of its tokens in ``token_bytes``; the rest follows from them.
"""
