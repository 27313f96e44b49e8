// What every Node program needs: the board in shared memory, and the orders on standard input.
import koffi from "koffi";
import { createInterface } from "node:readline";

const LANES = 4;
const NUM_SLOTS = 2_000_000;
const O_RDWR = 2;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;

export const settings = JSON.parse(process.env.BENCH_SETTINGS ?? "{}");
export const url = process.env.BENCH_DATABASE;

const now = () => process.hrtime.bigint();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function board() {
  const libc = koffi.load(null);
  const open = libc.func("int open(const char *path, int flags)");
  const mmap = libc.func("void *mmap(void *at, size_t size, int protection, int flags, int file, int64_t offset)");
  const size = NUM_SLOTS * 8;
  const mapped = mmap(null, size, PROT_READ_WRITE, MAP_SHARED, open(process.env.BENCH_BOARD, O_RDWR), 0);
  return new BigInt64Array(koffi.view(mapped, size));
}

// Return the job: it records its start, and waits if the settings ask for it.
export function job() {
  const slots = board();
  const mark = (n) => {
    const at = now() & ~1n;
    slots[n] = slots[n] ? at | 1n : at;
  };
  const { wait_ms: waitMs } = settings;
  if (!waitMs) return mark;
  return (n) => {
    mark(n);
    return sleep(waitMs);
  };
}

// Obey the orders of `program.py`, one JSON object a line.
export async function obey({ insert, insertMany }) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { word, first, count, rate } = JSON.parse(line);
    let returned = [];
    if (word === "each") for (let n = first; n < first + count; n++) await insert(n);
    else if (word === "many") await insertMany(Array.from({ length: count }, (_, i) => first + i));
    else returned = await insertAtRate(insert, first, count, rate);
    process.stdout.write(`${JSON.stringify(returned)}\n`);
  }
}

async function insertAtRate(insert, first, count, rate) {
  const returned = new Array(count);
  const began = performance.now();
  const lane = async (start) => {
    for (let i = start; i < count; i += LANES) {
      await sleep(Math.max(0, began + (i / rate) * 1000 - performance.now()));
      await insert(first + i);
      returned[i] = Number(now());
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, start) => lane(start)));
  return returned;
}

// Resolve at SIGTERM.
export const stopped = () => new Promise((resolve) => process.once("SIGTERM", resolve));
