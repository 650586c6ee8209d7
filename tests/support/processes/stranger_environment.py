"""A stranger's environment server, which knows the proto and nothing else of rlserve: prints its address."""

import hashlib
import sys
from concurrent import futures

import grpc

from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc
from rlserve.v1 import hub_service_pb2 as hub_pb
from rlserve.v1 import task_pb2


class Letters(pb_grpc.EnvironmentServiceServicer):
    """``word`` is to be answered with its first letter."""

    def Describe(self, request, context):  # type: ignore[no-untyped-def]
        spec = hub_pb.EnvironmentSpec(name="letters", version="1", splits={"train": 0, "test": 0}, verifier="exact")
        spec.weight = 1.0
        return pb.DescribeEnvironmentsResponse(environments=[spec])

    def GetTasks(self, request, context):  # type: ignore[no-untyped-def]
        numbers = range(request.first_index, request.first_index + request.count)
        return pb.GetTasksResponse(tasks=[self._task(request, number) for number in numbers])

    def _task(self, request, number):  # type: ignore[no-untyped-def]
        word = hashlib.sha256(f"{request.seed}/{request.split}/{number}".encode()).hexdigest()[:6]
        return task_pb2.Task(
            environment="letters",
            environment_version="1",
            split=request.split,
            index=number,
            task_id=f"{request.split}/{number}",
            text=word,
            verifier="exact",
            payload=b'{"answer": "%s"}' % word[0].encode(),
            seed=request.seed,
        )


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_EnvironmentServiceServicer_to_server(Letters(), server)
    port = server.add_insecure_port(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()
