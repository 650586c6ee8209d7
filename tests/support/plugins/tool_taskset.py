"""A taskset of the verifiers library with tools: read two numbers from a shelf, and add them."""

import verifiers.v1 as vf


class ShelfState(vf.State):
    looked: int = 0


class ShelfData(vf.TaskData):
    first: int
    second: int


class ShelfToolset(vf.Toolset[vf.ToolsetConfig, ShelfState]):
    async def setup_task(self, task) -> None:
        self._shelf = {"first": task.first, "second": task.second}

    @vf.tool
    def look_up(self, key: str) -> str:
        """The number that stands on the shelf under a key."""
        self.state.looked += 1
        return str(self._shelf[key])


class ShelfTask(vf.Task[ShelfData, ShelfState]):
    @classmethod
    def toolsets(cls, config):
        return [ShelfToolset(vf.ToolsetConfig())]

    @vf.reward(weight=1.0)
    async def right(self, trace) -> float:
        return float(trace.last_reply.strip() == str(self.data.first + self.data.second))

    @vf.metric
    async def looked(self, trace) -> float:
        return float(trace.state.looked)


class ShelfTaskset(vf.Taskset[ShelfTask, vf.TasksetConfig]):
    def load(self):
        for number in range(20):
            data = ShelfData(prompt="What is first + second?", first=number, second=3 * number)
            yield ShelfTask(data, self.config.task)


__all__ = ["ShelfTaskset"]
