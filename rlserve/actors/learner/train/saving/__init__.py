"""What a rank writes to disk and reads back: a checkpoint, of which every rank writes its own part beside training.

* ``checkpoint``       one rank's part of a checkpoint: copies now, files and seal in another thread; restores
* ``shard_writer``     writes shards in order, in a thread, digested on the way, with bounded memory
* ``model_files``      the files of a Hugging Face model directory
* ``optimizer_state``  the parts of AdamW's state that a rank holds, by parameter name and place
* ``saved_parts``      reads any stretch of that state out of the files of all ranks
"""
