//! River's Rust port, which inserts as system_river_rust.py orders, or works until SIGTERM.
//!
//! Where the database is it reads from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

const LANES: usize = 4;
const NUM_SLOTS: usize = 2_000_000;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    n: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    workers: Option<usize>,
    cooldown_ms: Option<u64>,
    poll_ms: Option<u64>,
    wait_ms: u64,
}

#[derive(Deserialize)]
struct Order {
    word: String,
    first: usize,
    count: usize,
    rate: f64,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = PgPoolOptions::new()
        .connect_with(PgConnectOptions::new())
        .await?;
    if std::env::args().nth(1).as_deref() == Some("insert") {
        return insert(pool).await;
    }
    work(pool).await
}

async fn work(pool: PgPool) -> Result<(), BoxError> {
    let wanted: Settings = serde_json::from_str(&std::env::var("BENCH_SETTINGS")?)?;
    let slots = board()?;
    let wait = Duration::from_millis(wanted.wait_ms);
    let mut workers = Workers::new();
    workers.add_fn(move |_: WorkContext, job: Job<Noop>| async move {
        mark(slots, job.args.n);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok::<_, BoxError>(WorkOutcome::Complete)
    })?;
    let mut queue = QueueConfig::new(wanted.workers.unwrap_or(100));
    if let Some(poll) = wanted.poll_ms {
        queue = queue.with_fetch_poll_interval(Duration::from_millis(poll));
    }
    let mut builder = Client::builder(pool)
        .workers(workers)
        .queue("default", queue);
    if let Some(cooldown) = wanted.cooldown_ms {
        builder = builder.fetch_cooldown(Duration::from_millis(cooldown));
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let mut run = builder.build()?.start()?;
    terminated.recv().await;
    run.stop().await?;
    Ok(())
}

/// Notes when a job is begun. One that is begun twice shows in its slot's lowest bit.
fn mark(slots: &[AtomicI64], n: usize) {
    let now = monotonic_ns() & !1;
    let was = slots[n].load(Ordering::Relaxed);
    slots[n].store(if was == 0 { now } else { now | 1 }, Ordering::Relaxed);
}

fn monotonic_ns() -> i64 {
    let mut at = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes nothing but the struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec * 1_000_000_000 + at.tv_nsec
}

fn board() -> Result<&'static [AtomicI64], BoxError> {
    let path = std::env::var("BENCH_BOARD")?;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?;
    // SAFETY: the file is as long as this; the mapping is never undone, and all that is in it are atomic integers.
    unsafe {
        let mapped = libc::mmap(
            std::ptr::null_mut(),
            NUM_SLOTS * 8,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(std::slice::from_raw_parts(mapped.cast(), NUM_SLOTS))
    }
}

async fn insert(pool: PgPool) -> Result<(), BoxError> {
    let client = Client::builder(pool)
        .allow_unregistered_job_kinds()
        .build()?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        let wanted: Order = serde_json::from_str(&line)?;
        let numbers = wanted.first..wanted.first + wanted.count;
        let mut returned = Vec::new();
        match wanted.word.as_str() {
            "each" => {
                for n in numbers {
                    client.insert(Noop { n }).await?;
                }
            }
            "many" => {
                client.insert_many(numbers.map(|n| Noop { n })).await?;
            }
            "rate" => returned = insert_at_rate(&client, &wanted).await?,
            word => return Err(format!("word must be each, many or rate, got {word:?}").into()),
        }
        println!("{}", serde_json::to_string(&returned)?);
    }
    // Standard input is read by a thread of its own, which nothing else would end.
    std::process::exit(0)
}

/// Inserts each at its instant, whether the last has returned or not; returns when each had returned.
async fn insert_at_rate(client: &Client, wanted: &Order) -> Result<Vec<i64>, BoxError> {
    let returned: Arc<Vec<AtomicI64>> =
        Arc::new((0..wanted.count).map(|_| AtomicI64::new(0)).collect());
    let (began, first, rate) = (Instant::now(), wanted.first, wanted.rate);
    let mut lanes = Vec::new();
    for lane in 0..LANES {
        let (client, returned) = (client.clone(), returned.clone());
        lanes.push(tokio::spawn(async move {
            for i in (lane..returned.len()).step_by(LANES) {
                sleep_until(began + Duration::from_secs_f64(i as f64 / rate)).await;
                client.insert(Noop { n: first + i }).await?;
                returned[i].store(monotonic_ns(), Ordering::Relaxed);
            }
            Ok::<_, riverqueue::Error>(())
        }));
    }
    for lane in lanes {
        lane.await??;
    }
    Ok(returned
        .iter()
        .map(|at| at.load(Ordering::Relaxed))
        .collect())
}
