/** `node dist/main.js --hub HOST:PORT [--address HOST:PORT] [--weight 1] [--proto ../../proto]` */

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import { Registration } from "./registration.js";
import { handlers } from "./server.js";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    hub: { type: "string", default: "" },
    address: { type: "string", default: "127.0.0.1:0" },
    weight: { type: "string", default: "1" },
    proto: { type: "string", default: join(here, "..", "..", "..", "proto") },
  },
});

interface Protos {
  rlserve: { v1: Record<string, grpc.ServiceClientConstructor> };
}

const files = ["rlserve/v1/environment_service.proto", "rlserve/v1/hub_service.proto"];
const definition = loadSync(files, { includeDirs: [values.proto], longs: String, enums: String, defaults: true });
const { EnvironmentService, HubService } = (grpc.loadPackageDefinition(definition) as unknown as Protos).rlserve.v1;

const weight = Number(values.weight);
const server = new grpc.Server();
server.addService(EnvironmentService!.service, handlers(weight));
server.bindAsync(values.address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    console.error(`address: ${values.address} cannot be served: ${error.message}`);
    process.exit(1);
  }
  const address = `${values.address.slice(0, values.address.lastIndexOf(":"))}:${port}`;
  console.log(address);
  if (!values.hub) return;
  const hub = new HubService!(values.hub, grpc.credentials.createInsecure());
  const registration = new Registration(hub, address, weight);
  void registration.keep();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      const leave = registration.stop().catch((reason: Error) => console.error(`hub: ${reason.message}`));
      void leave.then(() => server.tryShutdown(() => process.exit(0)));
    });
  }
});
