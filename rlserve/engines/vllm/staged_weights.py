"""rlserve's weight-transfer engine inside vLLM's worker: stage beside generation, swap in the pause, then digest.

``stage``           starts a thread that reads the flat file, checks every digest and builds the next weights.
``receive_weights`` vLLM calls it while generation is paused: makes the staged version the served one.
``begin_digest``    starts a thread, after generation resumed, that digests the weights as they are served.

Three ways to update. *exchange* (eager CPU models of known layout): staging does all the work, and the swap moves
references. *copy* (accelerators, the same layouts): staging brings the weights to the device, and the swap copies them
into the parameters. *reload* (any model that vLLM runs): vLLM's layerwise reload from the staged tensors.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rlserve.engines.vllm.direct_copy import Copy, DirectCopy, beside_generation
from rlserve.engines.vllm.in_place_swap import Change, Exchange
from rlserve.engines.vllm.layout import UnknownLayout
from rlserve.engines.vllm.plugin import Job
from rlserve.engines.vllm.readback import (
    Merging,
    checked,
    digest_of,
    policy_from_wire,
    served_tensors,
    tensors_in,
)
from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.weight_sync.device_memory import DeviceMemory, Mappings, device_name
from rlserve.weight_sync.mapped_file import reading

logger = logging.getLogger(__name__)


@dataclass
class InitInfo(WeightTransferInitInfo):
    """How to update: ``"auto"`` chooses exchange or copy where a check proves it right, ``"reload"`` neither."""

    method: str = "auto"
    adapter_scale: float = 0.0
    """See ``EngineOptions``."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Which staged version to serve."""

    version: int


@dataclass(slots=True, eq=False)
class Staged:
    """A version that was read and checked, ready to be swapped in."""

    policy: PolicyVersion
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """For vLLM's own loader."""
    changes: list[Change] = field(default_factory=list)
    """To be exchanged."""
    copies: list[Copy] = field(default_factory=list)
    """To be copied."""
    reading: ExitStack = field(default_factory=ExitStack)
    """Kept open while ``copies`` are from memory of the learner, which writes the next version there afterwards."""
    adapters: str = ""
    """Digest of the adapters that ``policy`` was merged from; empty where whole weights were published."""


class StagedWeightEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Serves weights that were staged in this process.

    Example of one update, as the calls arrive::

        engine.stage(policy, path)       # returns at once; staging.state() reports progress
        engine.start_weight_update()     # generation is paused
        engine.receive_weights(UpdateInfo(version=7))
        engine.finish_weight_update()    # generation resumes
        engine.begin_digest()            # returns at once; digesting.state() reports the digest
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.staging: Job[Staged] | None = None
        self.digesting: Job[str] | None = None
        self._parameters = {name for name, _ in self.model.named_parameters()}
        self._exchange: Exchange | None = None
        self._direct: DirectCopy | None = None
        self._merging: Merging | None = None
        self._mappings = Mappings(self.device)
        self._served: Staged | None = None
        self._replaced: list[object] = []

    @property
    def method(self) -> str:
        """How weights are updated: ``"exchange"``, ``"copy"`` or ``"reload"``."""
        return "exchange" if self._exchange is not None else "copy" if self._direct is not None else "reload"

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Choose how to update: another way than reload only if it reproduces the start weights as vLLM loaded them."""
        self._exchange = self._direct = None
        self._merging = Merging(self._checkpoint(), init_info.adapter_scale) if init_info.adapter_scale else None
        if init_info.method != "auto":
            return
        try:
            if self.device.type == "cpu" and self.parallel_config.world_size == 1:
                exchange = Exchange(self.model)
                exchange.check(self._checkpoint())
                self._exchange = exchange
            else:  # captured graphs hold weights by address
                self._direct = self._checked_copy()
        except UnknownLayout as reason:
            logger.warning("weights will be updated by reload, which holds generation for longer: %s", reason)

    def _checked_copy(self) -> DirectCopy:
        if self.model_config.use_mla:
            raise UnknownLayout("latent attention computes with tensors that vLLM makes of the weights when it loads")
        if self.parallel_config.world_size != self.parallel_config.tensor_parallel_size:
            raise UnknownLayout("the model is shared out to ranks in other ways than tensor parallelism")
        direct = DirectCopy(self.model, self.device, shared_out=self.parallel_config.world_size > 1)
        direct.check(self._checkpoint())
        return direct

    def _checkpoint(self) -> dict[str, Tensor]:
        from vllm.model_executor.model_loader import get_model_loader

        loader: Any = get_model_loader(self.vllm_config.load_config)
        weights = loader.get_all_weights(self.model_config, self.model)
        return {name: tensor.to(self.model_config.dtype) for name, tensor in weights}

    @property
    def memory_device(self) -> str:
        """Device from whose memory ``stage`` takes weights, for ``Subscriber.take_memory_of``; empty for none."""
        # With several ranks each stages its own part; adapters are few bytes.
        whole = self._direct is not None and not self._direct.shared_out and self._merging is None
        return device_name(self.device) if whole else ""

    def stage(self, policy: Mapping[str, Any], path: Path, memory: DeviceMemory | None = None) -> None:
        """Begin to stage. A version that was staged but not swapped in is dropped. Raises RuntimeError if busy."""
        if self.staging is not None and not self.staging.is_done:
            raise RuntimeError(f"version {self.staging.version} is still being staged")
        if self.staging is not None and self.staging.result is not None:
            self.staging.result.reading.close()
        manifest = policy_from_wire(policy)
        self.staging = Job(manifest.version, lambda: self._stage(manifest, path, memory))

    @torch.no_grad()
    def _stage(self, policy: PolicyVersion, path: Path, memory: DeviceMemory | None) -> Staged:
        if self._merging is not None:
            return self._staged_adapters(policy, path, self._merging)
        self._check_dtype(policy)
        if memory is not None and self._direct is not None:
            try:
                return self._staged_in_memory(policy, path, memory, self._direct)
            except Exception as error:  # whatever it was, the file holds the same bytes
                logger.warning("version %d is read from its file, which is slower: %s", policy.version, error)
        try:
            # A device that gets all bytes also digests them, in a hundredth of the time.
            with checked(policy, path, digests=self._direct is None or self._direct.shared_out) as flat:
                if self._exchange is not None:
                    return Staged(policy, changes=self._exchange.prepare(tensors_in(policy, flat)))
                if self._direct is not None:
                    return Staged(policy, copies=self._direct.stage(policy, flat))
                # A copy: vLLM's loader reads it in the pause, when the file may hold another version.
                return Staged(policy, tensors_in(policy, flat.copy()))
        except UnknownLayout as error:
            raise WeightsMismatch(f"weights of version {policy.version}: do not fit the model: {error}") from error

    def _staged_adapters(self, policy: PolicyVersion, path: Path, merging: Merging) -> Staged:
        with checked(policy, path) as flat:
            tensors, whole = merging.version(policy, flat)
        staged = Staged(whole, tensors, adapters=policy.digest)
        changed = {spec.name for spec in whole.tensors}
        if self._exchange is not None:
            staged.changes = self._exchange.prepare(tensors, changed)
        elif self._direct is not None:
            staged.copies = self._direct.stage_tensors(tensors, changed)
        return staged

    def _staged_in_memory(self, policy: PolicyVersion, path: Path, memory: DeviceMemory, direct: DirectCopy) -> Staged:
        with ExitStack() as stack:
            # The learner asks for this lock before it writes to the memory again.
            stack.enter_context(reading(path))
            copies = direct.stage_in_place(policy, self._mappings.content(memory))
            return Staged(policy, copies=copies, reading=stack.pop_all())

    def _check_dtype(self, policy: PolicyVersion) -> None:
        served = str(self.model_config.dtype).removeprefix("torch.")
        for spec in policy.tensors:
            if spec.dtype != served:
                raise WeightsMismatch(
                    f"weights of version {policy.version}: {spec.name} is {spec.dtype}, but the engine computes in "
                    f"{served}; publish in {served}"
                )

    def start_weight_update(self) -> None:
        """Begin an update; generation is paused from before this call until after ``finish_weight_update``."""
        if self.method == "reload":
            from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Make the staged version the served one. Raises RuntimeError when it is not staged."""
        job, self.staging = self.staging, None  # a version is served once; the next stage() may start at once
        if job is None or job.result is None or job.version != update_info.version:
            raise RuntimeError(f"version {update_info.version} is not staged")
        self._served = job.result
        if self._exchange is not None:
            self._replaced = self._exchange.apply(self._served.changes)
        elif self._direct is not None:
            self._direct.apply(self._served.copies)
        else:
            self._load(self._served.tensors)

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        model: Any = self.model
        loaded = model.load_weights(iter(tensors.items()))
        # vLLM ignores missing tensors: without this check old weights would stay among the new ones.
        stale = set() if loaded is None else self._parameters - set(loaded)
        if stale:
            raise RuntimeError(f"the weights hold nothing for {sorted(stale)}")

    def finish_weight_update(self) -> None:
        """Complete a reload."""
        if self.method == "reload":
            from vllm.model_executor.model_loader import reload

            reload.finalize_layerwise_processing(self.model, self.model_config)
            if self.device.type == "cpu":
                _refresh_heads(self.model)
                _pack_experts(self.model)

    def begin_digest(self) -> None:
        """Begin to digest the served weights, and free the replaced ones. Raises RuntimeError if already digested."""
        served, self._served = self._served, None
        if served is None:
            raise RuntimeError("no weights were served since the last digest")
        # vLLM has waited for the device since the copies were begun.
        served.reading.close()
        self.digesting = Job(served.policy.version, lambda: self._digest(served))

    @torch.no_grad()
    def _digest(self, served: Staged) -> str:
        self._replaced = []  # freed here, in the thread: it takes as long as a step of a small model
        with beside_generation(self.device):
            if self._direct is not None and self._direct.shared_out:
                return json.dumps(self._direct.shares(served.policy))
            tensors = served_tensors(self.model, served.policy.tensors, served.tensors, served.changes)
            found = digest_of(served.policy.tensors, tensors)
        return served.adapters if served.adapters and found == served.policy.digest else found

    def shutdown(self) -> None:
        """Nothing to release: everything lives in this process."""


def _refresh_heads(model: nn.Module) -> None:
    """Pack tied output heads again: vLLM 0.32's layerwise reload leaves them stale on CPU, and logits wrong.

    Remove once ``test_a_reload_by_vllm_serves_the_same_weights`` passes without it on a tied model.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            method: Any = module.quant_method
            method.process_weights_after_loading(module)


def _pack_experts(model: nn.Module) -> None:
    """Pack fused experts: vLLM 0.32 does so at their first loading alone, and a CPU then computes with unpacked ones.

    Remove once ``test_experts_are_served_as_they_were_published_by_each_carrier`` passes without it.
    """
    for module in model.modules():
        kernel: Any = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)
