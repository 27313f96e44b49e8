// pg-boss, which inserts as system_pg_boss.py orders, or works until SIGTERM.
import { PgBoss } from "pg-boss";
import { job, obey, settings, stopped, url } from "./bench.mjs";

const QUEUE = "noop";
const { notify = false, ...options } = settings;
delete options.wait_ms;

const boss = new PgBoss({ connectionString: url, useListenNotify: notify });
boss.on("error", (error) => console.error(error));
await boss.start();

async function setUp() {
  await boss.createQueue(QUEUE, { notify });
}

async function insert() {
  await obey({
    insert: (n) => boss.send(QUEUE, { n }),
    insertMany: (numbers) => boss.insert(QUEUE, numbers.map((n) => ({ data: { n } }))),
  });
}

async function work() {
  const noop = job();
  await boss.work(QUEUE, options, (jobs) => Promise.all(jobs.map((one) => noop(one.data.n))).then(() => {}));
  await stopped();
}

await { set_up: setUp, insert, work }[process.argv[2]]();
await boss.stop({ graceful: true, timeout: 5_000 });
process.exit(0);
