// The questions for OpenWorkflow, asked from `with_openworkflow.py`; see there.
//
//     node openworkflow_node.mjs QUESTION --size N --folder DIR [--life 1|2]
//
// OpenWorkflow is found in the node_modules beside the environment that PEER_ENVIRONMENT names.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const STEPS_PER_RUN = 5;
const WARM_UP = 5;
const SETTLE_MS = 1000;
const AT_ONCE = 100; // runs that the worker has in hand

const require = createRequire(join(process.env.PEER_ENVIRONMENT, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { OpenWorkflow } = await load("openworkflow");
const { BackendSqlite } = await load("openworkflow/sqlite");

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: "string" }, folder: { type: "string" }, life: { type: "string", default: "0" } },
});
const size = Number(values.size);
const life = Number(values.life);

const backend = BackendSqlite.connect(join(values.folder, "peer.db"));
const ow = new OpenWorkflow({ backend });
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const now = () => performance.now() / 1000;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const sum = (steps) => (steps * (steps - 1)) / 2;
const percentile = (list, percent) =>
  [...list].sort((a, b) => a - b)[Math.min(Math.floor((list.length * percent) / 100), list.length - 1)];
const check = (fact, text) => {
  if (!fact) throw new Error(text);
};

let ran = 0;
let gone = false;
let left = 0; // bodies that came to their end
const waits = [];

function step(number) {
  ran += 1;
  if (life === 1 && positionals[0] === "recovery" && ran === Math.floor((size * STEPS_PER_RUN) / 2)) die();
  return number;
}

function die() {
  tell({ ran });
  process.kill(process.pid, "SIGKILL");
}

function liveOn(runs) {
  tell({ ran, runs });
  process.exit(0);
}

const chain = ow.defineWorkflow({ name: "chain" }, async ({ input, step: api }) => {
  let total = 0;
  for (let number = 0; number < input.steps; number += 1) {
    const asked = now();
    total += await api.run({ name: `step ${number}` }, () => step(number));
    waits.push(now() - asked);
  }
  left += 1;
  return total;
});

const askedAt = new Map();
const late = [];
const nap = ow.defineWorkflow({ name: "nap" }, async ({ input, step: api }) => {
  if (!askedAt.has(input.number)) askedAt.set(input.number, Date.now());
  await api.sleep("nap", "1s");
  await api.run({ name: "woken" }, () => {
    late.push(Date.now() - askedAt.get(input.number) - 1000);
  });
  left += 1;
});

const waiting = ow.defineWorkflow({ name: "waiting" }, async ({ input, step: api }) => {
  for (let number = 0; number < input.steps; number += 1) {
    await api.run({ name: `step ${number}` }, () => step(number));
  }
  await api.waitForSignal({ signal: "go on" });
  await api.run({ name: "gone on" }, () => {
    step(0);
    gone = true;
    liveOn(1);
  });
});

const worker = ow.newWorker({ concurrency: AT_ONCE });

async function ended(handles) {
  const totals = [];
  for (const handle of handles) totals.push(await handle.result({ timeoutMs: 600_000 }));
  return totals;
}

async function allCompleted(runs, bodies = runs) {
  while (left < bodies) await sleep(1);
  for (;;) {
    const counts = await backend.countWorkflowRuns();
    if (counts.completed === runs) return;
    check(!counts.failed, "a run has failed");
    await sleep(10);
  }
}

// Seconds for so many runs that were started at once. Their ends are looked for in the database as soon as all bodies are
// through, because a handle looks once a second.
async function many(runs, steps) {
  await worker.start();
  const warm = await chain.run({ steps: WARM_UP });
  await allCompleted(1);
  waits.length = 0;
  const begun = now();
  const handles = [warm];
  for (let number = 0; number < runs; number += 1) handles.push(await chain.run({ steps }));
  await allCompleted(runs + 1);
  const seconds = now() - begun;
  const totals = await ended(handles.slice(1));
  check(totals.every((total) => total === sum(steps)), "a total is wrong");
  return { seconds, steps: runs * steps };
}

const asks = {
  sequential: () => many(1, size),
  throughput: () => many(size, STEPS_PER_RUN),
  async rpc() {
    await many(1, size);
    return { seconds: waits.reduce((a, b) => a + b), steps: waits.length, p50_ms: 1000 * percentile(waits, 50) };
  },
  async sleepers() {
    await worker.start();
    const begun = now();
    for (let number = 0; number < size; number += 1) await nap.run({ number });
    await allCompleted(size);
    return {
      seconds: now() - begun,
      steps: late.length,
      late_p50_ms: percentile(late, 50),
      late_p99_ms: percentile(late, 99),
      late_least_ms: Math.min(...late),
    };
  },
  async recovery() {
    if (life === 1) for (let number = 0; number < size; number += 1) await chain.run({ steps: STEPS_PER_RUN });
    await worker.start();
    await allCompleted(size, 0); // some had come to their end in the first life
    const { data } = await backend.listWorkflowRuns({ limit: size });
    liveOn(data.filter((run) => run.output === sum(STEPS_PER_RUN)).length);
  },
  async replay() {
    await worker.start();
    if (life === 1) {
      await waiting.run({ steps: size });
      while (ran < size) await sleep(10);
      await sleep(SETTLE_MS);
      die();
    }
    await ow.sendSignal({ signal: "go on" });
    while (!gone) await sleep(1000);
  },
};

tell(await asks[positionals[0]]());
process.exit(0);
