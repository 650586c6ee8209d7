"""A taskset of the verifiers library: double a number."""

import verifiers.v1 as vf


class DoubleData(vf.TaskData):
    answer: int


class DoubleTask(vf.Task[DoubleData, vf.State]):
    @vf.reward(weight=1.0)
    async def right(self, trace) -> float:
        if "break" in trace.last_reply:
            raise RuntimeError("a broken reward")
        return float(trace.last_reply.strip() == str(self.data.answer))

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))


class DoubleTaskset(vf.Taskset[DoubleTask, vf.TasksetConfig]):
    def load(self):
        for number in range(20):
            yield DoubleTask(DoubleData(prompt=f"double {number}", answer=2 * number), self.config.task)


__all__ = ["DoubleTaskset"]
