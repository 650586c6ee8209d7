"""The example of environments/README.md works as it stands there."""

import re
from pathlib import Path

from rlserve import plugins
from rlserve.records import Outcome

README = Path(__file__).parents[2] / "environments" / "README.md"


def test_the_example_is_an_environment_whose_verifier_accepts_the_right_answer() -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)[0]
    namespace: dict[str, object] = {"__name__": "dice"}
    exec(code, namespace)
    environment = namespace["DiceEnvironment"]()  # type: ignore[operator]
    assert isinstance(environment, plugins.Environment)
    task = environment.task("train", 3, 0)
    assert task == environment.task("train", 3, 0)
    total = sum(map(int, str(task.prompt).rstrip("? ").split()))
    verifier = plugins.load(plugins.VERIFIER_GROUP, task.verifier)()
    assert verifier.verify(f" {total}", task.payload, str(task.prompt)).outcome is Outcome.PASS
    assert verifier.verify(str(total + 1), task.payload, str(task.prompt)).outcome is Outcome.FAIL
