/** EnvironmentService: every field of every request is checked, and each refusal names the field. */

import * as grpc from "@grpc/grpc-js";

import { NAME, SPLITS, VERSION, isSplit, task } from "./tasks.js";

const MAX_COUNT = 1024;
const MAX_INDEX = 2n ** 53n;

interface GetTasksRequest {
  environment: string;
  split: string;
  firstIndex: string;
  count: number;
  seed: string;
}

/** What the hub and Describe are told. */
export function spec(address: string, weight: number): object {
  return {
    name: NAME,
    version: VERSION,
    address,
    splits: Object.fromEntries(SPLITS.map((split) => [split, 0])),
    verifier: "exact",
    weight,
    payloadSchemaJson: JSON.stringify({
      type: "object",
      required: ["answer"],
      properties: { answer: { type: "string" } },
    }),
    description: "Write a word backwards.",
  };
}

export function handlers(weight: number): grpc.UntypedServiceImplementation {
  return {
    describe: (_call: grpc.ServerUnaryCall<object, object>, reply: grpc.sendUnaryData<object>) =>
      reply(null, { environments: [spec("", weight)] }),

    getTasks: (call: grpc.ServerUnaryCall<GetTasksRequest, object>, reply: grpc.sendUnaryData<object>) => {
      const fault = faultOf(call.request);
      if (fault) return reply(fault);
      const { split, count, seed, firstIndex } = call.request;
      const first = BigInt(firstIndex);
      if (!isSplit(split)) return reply(refusal(grpc.status.NOT_FOUND, `split: "${split}" is unknown`));
      const tasks = Array.from({ length: count }, (_, offset) => task(split, first + BigInt(offset), BigInt(seed)));
      reply(null, { tasks });
    },

    episode: (call: grpc.ServerDuplexStream<object, object>) =>
      call.emit("error", refusal(grpc.status.FAILED_PRECONDITION, `environment: "${NAME}" is single-turn`)),
  };
}

function faultOf(request: GetTasksRequest): Partial<grpc.StatusObject> | undefined {
  if (request.environment !== NAME)
    return refusal(grpc.status.NOT_FOUND, `environment: "${request.environment}" is not served here (known: ${NAME})`);
  if (!isSplit(request.split))
    return refusal(grpc.status.NOT_FOUND, `split: "${request.split}" is not one of ${SPLITS.join(", ")}`);
  if (request.count < 1 || request.count > MAX_COUNT)
    return refusal(grpc.status.INVALID_ARGUMENT, `count: is ${request.count}; give 1 to ${MAX_COUNT}`);
  if (BigInt(request.firstIndex) > MAX_INDEX)
    return refusal(grpc.status.INVALID_ARGUMENT, `first_index: is ${request.firstIndex}; give at most ${MAX_INDEX}`);
  return undefined;
}

function refusal(code: grpc.status, details: string): Partial<grpc.StatusObject> {
  return { code, details };
}
