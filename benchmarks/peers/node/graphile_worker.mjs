// graphile-worker, which inserts as system_graphile_worker.py orders, or works until SIGTERM.
import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";
import { job, obey, settings, stopped, url } from "./bench.mjs";

const logger = new Logger(() => () => {});

async function setUp() {
  await runMigrations({ connectionString: url, logger });
}

async function insert() {
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await obey({
    insert: (n) => utils.addJob("noop", { n }),
    insertMany: (numbers) => utils.addJobs(numbers.map((n) => ({ identifier: "noop", payload: { n } }))),
  });
  await utils.release();
}

async function work() {
  const { concurrentJobs, maxPoolSize, localQueueSize, completeJobBatchDelay } = settings;
  const options = { concurrentJobs, maxPoolSize };
  if (localQueueSize) options.localQueue = { size: localQueueSize };
  if (completeJobBatchDelay !== undefined) {
    Object.assign(options, { completeJobBatchDelay, failJobBatchDelay: completeJobBatchDelay });
  }
  const worker = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const noop = job();
  const runner = await run({
    preset: { worker: { connectionString: url, logger, ...worker } },
    noHandleSignals: true,
    parsedCronItems: [],
    taskList: { noop: ({ n }) => noop(n) },
  });
  await stopped();
  await runner.stop();
}

await { set_up: setUp, insert, work }[process.argv[2]]();
process.exit(0);
