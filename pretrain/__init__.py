"""Pretraining and fine-tuning of a small start model; imported as ``rlserve.pretrain``. See README.md.

* ``train``       the stage ``pretrain``: tokenizer, random weights, all tokens of a corpus
* ``sft``         the stage ``sft``: completions only
* ``stage``       the loop of both stages
* ``corpus``      texts: an environment's demonstrations, or JSON lines
* ``data``        batches of token ids and weights
* ``tokenizer``   trains a tokenizer
* ``model``       a model from its configuration
* ``sampling``    samples completions with the model in training
* ``accuracy``    accuracy of these samples, to stop early
* ``checkpoint``  saves a checkpoint atomically

To add a stage: a module like ``sft`` on top of ``stage`` and its section in ``rlserve/config/tables/pretrain.py``.
Then its field in ``RunConfig`` and in ``TeacherConfig`` (``is_made_here``), its key in ``config/resume.FIXED``, its
checkpoint in ``RunPaths``, its place in ``launch/prepare._make``, ``launch/plan`` and
``launch/preflight/tasks.corpora``, its table in the ``exclude`` of ``cli/models/evaluate`` and ``cli/models/generate``,
and its subcommand.
"""
