/** In the hub's registry while this process lives: register, heartbeat, register again when the hub forgot. */

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";

import * as grpc from "@grpc/grpc-js";

import { NAME, VERSION } from "./tasks.js";
import { spec } from "./server.js";

const DEADLINE_MS = 5000;
const RETRY_MS = 500;

type Call = (request: object) => Promise<Record<string, unknown>>;

export class Registration {
  private leaseId = "";
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private readonly incarnation = randomUUID();

  constructor(
    private readonly hub: grpc.Client,
    private readonly address: string,
    private readonly weight: number,
  ) {}

  /** Keep at it until `stop`: a hub that is away is tried again. */
  async keep(): Promise<void> {
    let seconds = 1;
    try {
      seconds = this.leaseId ? await this.renew() : await this.enter();
    } catch (error) {
      const code = (error as grpc.ServiceError).code;
      if (code === grpc.status.NOT_FOUND) this.leaseId = "";
      console.error(`hub: ${(error as Error).message}; trying again`);
      seconds = (3 * RETRY_MS) / 1000;
    }
    if (!this.stopped) this.timer = setTimeout(() => void this.keep(), (seconds * 1000) / 3);
  }

  /** Leave at once. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    if (this.leaseId) await this.call("deregister")({ leaseId: this.leaseId });
  }

  private async enter(): Promise<number> {
    const actor = {
      actorId: `environment-${NAME}`,
      kind: "ACTOR_KIND_ENVIRONMENT",
      address: this.address,
      incarnation: this.incarnation,
      host: hostname(),
      pid: process.pid,
      serves: [NAME],
      status: { version: VERSION },
    };
    const entered = await this.call("register")({ actor });
    this.leaseId = String(entered["leaseId"]);
    await this.call("registerEnvironment")({ spec: spec(this.address, this.weight), leaseId: this.leaseId });
    console.log(`registered ${NAME} at ${this.address}`);
    return Number(entered["leaseSeconds"]);
  }

  private async renew(): Promise<number> {
    const renewed = await this.call("heartbeat")({ leaseId: this.leaseId, status: { version: VERSION } });
    return Number(renewed["leaseSeconds"]);
  }

  private call(method: string): Call {
    const client = this.hub as unknown as Record<string, Function>;
    return (request) =>
      new Promise((resolve, reject) => {
        const options = { deadline: Date.now() + DEADLINE_MS };
        const done = (error: Error | null, answer: Record<string, unknown>) => (error ? reject(error) : resolve(answer));
        client[method]!.call(this.hub, request, options, done);
      });
  }
}
