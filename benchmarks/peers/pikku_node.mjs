// The questions for Pikku, asked from `with_pikku.py`; see there.
//
//     node pikku_node.mjs QUESTION --size N --folder DIR
//
// Pikku is found in the node_modules beside the environment that PEER_ENVIRONMENT names. Its generator writes what is
// known of workflows and functions ahead of time; here it is written by hand.

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const STEPS_PER_RUN = 5;
const WARM_UP = 5;

const dist = join(process.env.PEER_ENVIRONMENT, "node_modules", "@pikku", "core", "dist");
const load = (name) => import(pathToFileURL(join(dist, name)).href);
const { InMemoryWorkflowService } = await load("services/in-memory-workflow-service.js");
const { pikkuState } = await load("pikku-state.js");
const { addWorkflow } = await load("wirings/workflow/index.js");
const { addFunction } = await load("function/index.js");
const { rpcService } = await load("wirings/rpc/index.js");

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: "string" }, folder: { type: "string" } },
});
const size = Number(values.size);
const now = () => performance.now() / 1000;
const sum = (steps) => (steps * (steps - 1)) / 2;
const check = (fact, text) => {
  if (!fact) throw new Error(text);
};

const silent = { error: console.error, info() {}, warn() {}, debug() {} };
const services = { logger: silent };
pikkuState(null, "package", "singletonServices", services);
const waits = [];

function know(name, func) {
  pikkuState(null, "workflows", "meta")[name] = { name, pikkuFuncId: name, source: "dsl", graphHash: name };
  pikkuState(null, "function", "meta")[name] = { pikkuFuncId: name, sessionless: true, permissions: [] };
  addWorkflow(name, { func });
}

know("chain", async (_services, data, { workflow }) => {
  let total = 0;
  for (let number = 0; number < data.steps; number += 1) {
    total += await workflow.do(`step ${number}`, async () => number);
  }
  return total;
});

pikkuState(null, "rpc", "meta").echo = "echo";
pikkuState(null, "function", "meta").echo = { pikkuFuncId: "echo", sessionless: true, permissions: [] };
addFunction("echo", { func: async (_services, data) => data.number });
know("caller", async (_services, data, { workflow }) => {
  let total = 0;
  for (let number = 0; number < data.steps; number += 1) {
    const asked = now();
    total += await workflow.do(`echo ${number}`, "echo", { number });
    waits.push(now() - asked);
  }
  return total;
});

const workflows = new InMemoryWorkflowService();
services.workflowService = workflows;
const rpc = rpcService.getContextRPCService(services, {}, false);

// Seconds for so many runs that were started at once; a run goes on in the process that has started it.
async function many(name, runs, steps) {
  await workflows.runToCompletion(name, { steps: WARM_UP }, rpc, { pollIntervalMs: 1 });
  waits.length = 0;
  const begun = now();
  const started = Array.from({ length: runs }, () =>
    workflows.runToCompletion(name, { steps }, rpc, { pollIntervalMs: 5 }),
  );
  const totals = await Promise.all(started);
  const seconds = now() - begun;
  check(totals.every((total) => total === sum(steps)), `a total is wrong: ${totals}`);
  return { seconds, steps: runs * steps };
}

const asks = {
  sequential: () => many("chain", 1, size),
  throughput: () => many("chain", size, STEPS_PER_RUN),
  async rpc() {
    await many("caller", 1, size);
    const ordered = [...waits].sort((a, b) => a - b);
    return {
      seconds: waits.reduce((a, b) => a + b),
      steps: waits.length,
      p50_ms: 1000 * ordered[Math.floor(ordered.length / 2)],
    };
  },
};

process.stdout.write(`${JSON.stringify(await asks[positionals[0]]())}\n`);
process.exit(0);
