"""Bytes that a learner rank, an engine and a teacher hold; pure functions of a model's shape and our configuration.

Letters: P parameters, b bytes of an element, N ranks, T tokens of a micro-batch, V vocabulary, H hidden size, A and K
widths of queries and keys, I width of the feed-forward part, L layers. docs/memory.md compares them with measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.memory.shape import ModelShape

GIB = 2**30
ITEM = {"float32": 4, "bfloat16": 2}
HEAD_WORK_BYTES = 3 * 2**28
"""Memory for the intermediate results of a chunk of the head, 768 MiB: with less, the products of a vocabulary of
150,000 would be too narrow for a GPU; with twice as much, they are not faster."""
HEAD_ELEMENT, COMPILED_HEAD_ELEMENT = 12, 6
"""Bytes of an element of a chunk: the logit in its own type and two float32 copies, rounded up; compiled at most
one."""
BUCKET_ELEMENTS = 2**26
"""Elements that ZeRO reduces or gathers at once: 256 MiB in float32."""
LIVE_ELEMENTS = 10**9
"""Gathered parameters of stage 3 that DeepSpeed keeps; its own default."""
HEAP = 1.5
"""On a CPU glibc keeps about half as much again as layers hold at once, in holes between their tensors; those of the
head are large enough to be given back."""
LEARNER_LIBRARIES = 480 * 2**20
"""torch, DeepSpeed and transformers, imported in a learner on a CPU."""
ACTOR_BYTES = 160 * 2**20
"""What a learner process on a CPU holds beside its rank: gRPC, the store, groups on their way."""
WORKER_LIBRARIES = 640 * 2**20
"""vLLM imported in a rollout worker on a CPU, with its EngineCore, which shares the imported pages."""
TEACHER_LIBRARIES = 400 * 2**20
CUDA_LIBRARIES = 3 * GIB
"""Host memory of a process with CUDA's libraries and a context; a rollout worker has two such processes."""
CONTEXT = GIB
"""On a GPU, of each process, beside tensors: its context, cuBLAS and NCCL."""
LIGHT_PROCESS = 200 * 2**20
"""A process without torch: hub, environment server, verifier server with its judges."""
GRAPHS = GIB // 2
"""CUDA graphs of an engine."""
VLLM_BATCH_TOKENS = 8192
"""Tokens of one step of vLLM on a GPU, its default for an API server's card."""
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
SAMPLER_COPIES = 4
"""Of float32 logits, one row a running sequence: raw, at the temperature, log-probabilities, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a process holds where it computes, by part, and the most that it holds at once."""

    parts: Mapping[str, int]
    total: int
    """At most the sum of the parts, for some follow one another."""
    host: Mapping[str, int]
    """What it holds in host memory beside, on a GPU; empty on a CPU, where ``parts`` are in host memory."""
    movable: int = 0
    """Of ``total``, what goes to host memory where the GPU has no room for it, at the price of speed."""


def learner_rank(shape: ModelShape, learner: LearnerConfig, *, on_gpu: bool, reference: bool = False) -> Memory:
    """One rank of the learner.

    weights      bP; stage 3: bP/N, and b min(P, 1e9) gathered
    gradients    4P (float32 sums); stages 2 and 3: 4P/N
                 with ``learner.lora`` P is the adapters' here and below, and weights are its bP more
    optimizer    8P moments, with float32 masters 12P; from stage 1 on, which bfloat16 always has, a rank's Nth
    reference    bP; stage 3: bP/N
    activations  T L (one layer) and one layer's more that the backward pass works on; ``layer_bytes`` has a layer. With
                 gradient checkpointing bTH for each layer computed again, and a whole layer
    head         min(768 MiB, T V 12; compiled T V 6), and 4VH, the float32 sums of the weight's gradient
    buckets      what ZeRO reduces at once: min(2^26, P) gradients, on a GPU twice
    update       4P/N, a flat copy of the gradients: after activations and head are freed

    On a GPU the most at once is all but the smaller of update and (activations + head); on a CPU, where memory once
    touched stays, it is all, activations ``HEAP`` times, and the libraries. ``learner.deepspeed`` with
    ``offload_optimizer`` moves optimizer and gradients to the host, with ``offload_param`` the weights.
    """
    count, item, ranks = trained_elements(shape, learner), ITEM[learner.dtype], learner.ranks
    stage = effective_stage(learner)
    share = 1 if stage == 0 else ranks
    weights = item * (shape.parameters + (count if learner.lora else 0))
    gathered = 0
    if stage == 3:
        gathered = item * min(shape.parameters, LIVE_ELEMENTS)
        weights //= ranks
    parts = {
        "weights": weights + gathered,
        "gradients": 4 * count // (ranks if stage >= 2 else 1),
        "optimizer": (12 if stage else 8) * count // share,
        "reference": item * shape.parameters // (ranks if stage == 3 else 1) if reference else 0,
    }
    layers, head = activations(shape, learner), head_bytes(shape, learner)
    bucket = min(BUCKET_ELEMENTS, count) * (4 if stage == 1 else item) if stage else 0
    buckets = bucket * (2 if on_gpu else 1)
    update = 4 * count // share
    moved = {name: parts[name] for name in offloaded(learner)}
    host = {"offloaded": sum(moved.values())}
    parts = {name: 0 if name in moved else size for name, size in parts.items()}
    states = sum(parts.values()) + buckets
    parts |= {"activations": layers, "head": head, "buckets": buckets, "update": update}
    if on_gpu:
        # A whole model passes through host memory while it is loaded; a partitioned one is only mapped.
        host |= {"libraries": CUDA_LIBRARIES, "loading": 0 if stage == 3 else item * shape.parameters}
        return Memory(parts=parts, total=states + max(layers + head, update), host=host)
    parts |= {"activations": int(HEAP * layers), "libraries": LEARNER_LIBRARIES}
    return Memory(parts=parts, total=sum(parts.values()) + host["offloaded"], host={})


def trained_elements(shape: ModelShape, learner: LearnerConfig) -> int:
    """P, or what ``learner.lora`` trains: rank x (in + out) for each layer that gets an adapter."""
    lora, hidden = learner.lora, shape.hidden_size
    if lora is None:
        return shape.parameters
    query, key, inner = hidden + shape.query_width, hidden + shape.key_width, hidden + shape.inner_width
    sizes = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}
    if not shape.experts:  # they get none
        sizes |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), inner)
    targets = sizes if lora.target_modules == "all-linear" else lora.target_modules
    return lora.rank * shape.num_hidden_layers * sum(sizes.get(name, 0) for name in targets)


def effective_stage(learner: LearnerConfig) -> int:
    """The ZeRO stage DeepSpeed runs: bfloat16 at stage 0 runs as stage 1.

    DeepSpeed's own stage 0 in bfloat16 sums micro-batches in bfloat16; stage 1 sums them in float32, and its
    update is otherwise the same.
    """
    return 1 if learner.zero_stage == 0 and learner.dtype == "bfloat16" else learner.zero_stage


def offloaded(learner: LearnerConfig) -> tuple[str, ...]:
    """Parts of a rank that DeepSpeed keeps in host memory."""
    zero = learner.deepspeed.get("zero_optimization", {})

    def moves(key: str) -> bool:
        return bool((zero.get(key) or {}).get("device", "none") != "none")

    optimizer = ("optimizer", "gradients") if moves("offload_optimizer") else ()
    return (*optimizer, *(("weights",) if moves("offload_param") else ()))


def activations(shape: ModelShape, learner: LearnerConfig) -> int:
    """Of a micro-batch, kept from the forward to the backward pass, and the layer that the backward pass is in."""
    tokens, layers = learner.tokens_per_micro_batch, shape.num_hidden_layers
    fused = learner.compile or bool(learner.kernels)
    layer = layer_bytes(shape, learner.dtype, fused=fused)
    again = int(layers * learner.recomputed_share) if learner.gradient_checkpointing else 0
    kept = (layers - again) * layer + again * ITEM[learner.dtype] * shape.hidden_size
    return tokens * (kept + layer)


def layer_bytes(shape: ModelShape, dtype: str, *, fused: bool) -> int:
    """What one layer keeps of one token for its backward pass.

    A norm over w keeps w float32 inputs and w results; a product its input; attention q, k, v and its result; the
    feed-forward part gate, its SiLU, up, and their product. So 2(4 + 2b)H + (4 + b)(A + K) for normalised heads,
    + b(2A + 2K) + 4bI. Fused (``compile``, ``kernels``), norms keep their input once and SiLU is computed again:
    4bH + b(A + K) + b(2A + 2K) + 3bI.
    """
    item, hidden, inner = ITEM[dtype], shape.hidden_size, shape.inner_width
    heads = shape.query_width + shape.key_width
    attention = 2 * item * heads
    if fused:
        normed = item * heads if shape.normed_heads else 0
        return 4 * item * hidden + normed + attention + 3 * item * inner
    normed = (4 + item) * heads if shape.normed_heads else 0
    return 2 * (4 + 2 * item) * hidden + normed + attention + 4 * item * inner


def head_bytes(shape: ModelShape, learner: LearnerConfig) -> int:
    """A chunk of logits and what is made of it, and the float32 sums of the weight's gradient."""
    element = COMPILED_HEAD_ELEMENT if learner.compile else HEAD_ELEMENT
    chunk = min(HEAD_WORK_BYTES, learner.tokens_per_micro_batch * shape.vocab_size * element)
    return chunk + (0 if learner.lora else 4 * shape.embedding)


def kv_bytes(shape: ModelShape, dtype: str, options: Mapping[str, Any] = NO_OPTIONS) -> int:
    """Keys and values of one token in every layer: 2bLK, or 2LK with an fp8 cache (``rollout.options``)."""
    item = 1 if str(options.get("kv_cache_dtype", "")).startswith("fp8") else ITEM[dtype]
    return 2 * item * shape.num_hidden_layers * shape.key_width


def cpu_engine(shape: ModelShape, dtype: str, *, kv_cache: int, step_tokens: int, updated: bool = True) -> Memory:
    """A process with an engine on a CPU, which runs in another process; ``updated``: it takes weights of a learner.

    weights      2bP, as layers hold them and packed, and bVH again where the embeddings are tied: the head is packed
    loading      bP: the checkpoint, which is read once more to check how weights are swapped
    KV cache     as asked for, all of it once every block was used
    staging      2bP beside the served weights until the swap: fused as layers hold them, and packed
    activations  of one step of vLLM: the widest layer
    """
    whole = ITEM[dtype] * shape.parameters
    widest = 2 * shape.hidden_size + 3 * shape.inner_width + shape.query_width + 2 * shape.key_width
    parts = {
        "weights": 2 * whole + (ITEM[dtype] * shape.embedding if shape.tied else 0),
        "loading": whole,
        "KV cache": kv_cache,
        "staging": 2 * whole if updated else 0,
        "activations": ITEM[dtype] * step_tokens * widest,
        "libraries": WORKER_LIBRARIES,
    }
    return Memory(parts=parts, total=sum(parts.values()), host={})


def gpu_engine(
    shape: ModelShape,
    dtype: str,
    *,
    parallel: int,
    budget: int,
    kv_cache: int,
    sequences: int,
    eager: bool,
    options: Mapping[str, Any] = NO_OPTIONS,
    updated: bool = True,
) -> Memory:
    """A GPU's part of an engine with tensor parallelism ``parallel``; ``updated``: it takes weights of a learner.

    weights      bP / parallel; P / parallel with a ``quantization`` in ``options``, those of ``rollout.options``
    activations  of vLLM's largest step, ``max_num_batched_tokens`` of ``options`` or 8,192 tokens:
                 b T (2H + 2(A + 2K) + 4I); 4 x 4V of each running sequence
    graphs       0.5 GiB of CUDA graphs
    KV cache     ``kv_cache`` if that is not 0, else what is left of ``budget``: the share of the GPU that vLLM takes
    staging      bP / parallel: the next version beside generation, outside of vLLM's share; in host memory, and longer
                 pauses, where the GPU has no room
    """
    item = ITEM[dtype]
    whole = item * shape.parameters // parallel
    weights = shape.parameters // parallel if options.get("quantization") else whole
    width = 2 * shape.hidden_size + 2 * (shape.query_width + 2 * shape.key_width) + 4 * shape.inner_width
    tokens = int(options.get("max_num_batched_tokens") or VLLM_BATCH_TOKENS)
    work = item * tokens * width // parallel + SAMPLER_COPIES * 4 * sequences * shape.vocab_size
    graphs = 0 if eager else GRAPHS
    cache = kv_cache or max(budget - weights - work - graphs, 0)
    staging = whole if updated else 0
    parts = {"weights": weights, "activations": work, "graphs": graphs, "KV cache": cache, "staging": staging}
    return Memory(parts=parts, total=sum(parts.values()), host={"libraries": 2 * CUDA_LIBRARIES}, movable=staging)


def teacher_server(shape: ModelShape, teacher: TeacherConfig, *, on_gpu: bool) -> Memory:
    """A server of the engine ``transformers``: bP, hidden states and one layer of a batch, a chunk of the head."""
    item, tokens = ITEM[teacher.dtype], teacher.tokens_per_batch
    width = 4 * shape.hidden_size + 2 * (shape.query_width + 2 * shape.key_width) + 3 * shape.inner_width
    parts = {
        "weights": item * shape.parameters,
        "activations": item * tokens * width,
        "head": min(HEAD_WORK_BYTES, tokens * shape.vocab_size * HEAD_ELEMENT),
    }
    total = sum(parts.values())
    if on_gpu:
        return Memory(parts=parts, total=total, host={"libraries": CUDA_LIBRARIES, "loading": item * shape.parameters})
    parts["libraries"] = TEACHER_LIBRARIES
    return Memory(parts=parts, total=total + TEACHER_LIBRARIES, host={})
