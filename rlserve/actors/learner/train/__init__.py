"""Training over one rank or many: rank 0 commands, every rank computes its share, DeepSpeed adds the gradients up.

* ``trainer``          rank 0: commands the ranks, publishes weights, writes checkpoints
* ``ranks``            commands between ranks, one rank's share of the work, and the loop of the other ranks
* ``engine``           one rank's policy under DeepSpeed: scores, steps, copies weights out
* ``scorer``           loads the model, and scores the tokens that the loss reads
* ``reference``        a frozen copy of the model, or the model without its adapters, for log-probabilities beside the
                         policy's
* ``sequence_parallel``  rows of tokens that several ranks share (Ulysses)
* ``zero``             DeepSpeed's engines, and models of stage 3 that are partitioned as they are loaded
* ``deepspeed_setup``  rank and address, process group, DeepSpeed's configuration, optimizer, threads
* ``rank_links``       host collectives: sums, commands and values over gloo
* ``rank_health``      heartbeats, and which rank failed
* ``tensor_wire``      records of tensors as two plain tensors, nothing pickled
* ``gather``           whole weights by Hugging Face name, also from partitioned ones
* ``saving/``          a checkpoint, of which every rank writes its part beside training, and resuming from it
* ``schedule``         learning rate, and when the sampler is due new weights

To add a piece of work that all ranks do: a ``Command`` and its branch in ``ranks``, and the method of ``trainer`` that
sends it. Every rank must make the same collective calls in the same order.
"""
