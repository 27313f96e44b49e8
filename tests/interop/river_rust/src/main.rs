//! River's Rust port, for the tests in the folder above: it is told over standard input what to do, and tells over
//! standard output what it did and what happened, in the words of River's program in Go, of which it knows some.
//!
//! Where the database is it reads from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.

mod worker;

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use riverqueue::database::{PostgresDatabase, SchemaName};
use riverqueue::event::EventReceiver;
use riverqueue::{
    BoxError, Client, EventKind, InsertBatch, InsertOpts, QueueConfig, RunHandle, Workers,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::oneshot;

use worker::{Act, ActWorker};

/// Everything that calls share.
pub struct Program {
    pool: PgPool,
    controls: Mutex<HashMap<String, Client>>,
    executed: Mutex<HashMap<String, Vec<Value>>>,
    held: Mutex<HashMap<i64, oneshot::Sender<()>>>,
    running: tokio::sync::Mutex<HashMap<String, RunHandle>>,
}

/// The parameters of all operations; each reads its own.
#[derive(Deserialize)]
#[serde(default)]
struct Params {
    call: i64,
    cancel: bool,
    fetch_only_known_kinds: bool,
    fetch_poll_seconds: f64,
    id: String,
    is_quiet: bool,
    job: i64,
    jobs: Vec<Inserted>,
    leader_election_disabled: bool,
    op: String,
    queues: HashMap<String, usize>,
    schema: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            call: 0,
            cancel: false,
            fetch_only_known_kinds: false,
            fetch_poll_seconds: 1.0,
            id: String::new(),
            is_quiet: false,
            job: 0,
            jobs: Vec::new(),
            leader_election_disabled: false,
            op: String::new(),
            queues: HashMap::new(),
            schema: String::new(),
        }
    }
}

#[derive(Deserialize)]
struct Inserted {
    args: Act,
    #[serde(default)]
    opts: Opts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Opts {
    max_attempts: Option<i32>,
    priority: Option<i16>,
    queue: Option<String>,
}

impl Opts {
    fn river(self) -> InsertOpts {
        let mut opts = InsertOpts::default();
        if let Some(maximum) = self.max_attempts {
            opts = opts.with_max_attempts(maximum);
        }
        if let Some(priority) = self.priority {
            opts = opts.with_priority(priority);
        }
        if let Some(queue) = self.queue {
            opts = opts.with_queue(queue);
        }
        opts
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = PgConnectOptions::new().application_name("river_rust_interop");
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .connect_with(options)
        .await?;
    let program = Arc::new(Program {
        pool,
        controls: Mutex::default(),
        executed: Mutex::default(),
        held: Mutex::default(),
        running: tokio::sync::Mutex::default(),
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        tokio::spawn(answer(program.clone(), serde_json::from_str(&line)?));
    }
    for run in program.running.lock().await.values_mut() {
        let _ = tokio::time::timeout(Duration::from_secs(3), run.stop_and_cancel()).await;
    }
    // Standard input is read by a thread of its own, which nothing else would end.
    std::process::exit(0)
}

/// Writes one line.
pub fn tell(fields: &Value) {
    if writeln!(std::io::stdout().lock(), "{fields}").is_err() {
        std::process::exit(1); // nobody listens any more
    }
}

async fn answer(program: Arc<Program>, params: Params) {
    let call = params.call;
    match operate(program, params).await {
        Ok(result) => tell(&json!({"call": call, "result": result})),
        Err(error) => tell(&json!({"call": call, "error": {"text": error.to_string()}})),
    }
}

async fn operate(program: Arc<Program>, params: Params) -> Result<Value, BoxError> {
    match params.op.as_str() {
        "cancel" => {
            program
                .control(&params.schema)?
                .jobs()
                .cancel(params.job)
                .await?;
            Ok(Value::Null)
        }
        "executed" => Ok(json!(program.executed.lock().unwrap().get(&params.id))),
        "insert" => insert(&program, params).await,
        "release" => {
            let held = program.held.lock().unwrap().remove(&params.job);
            let _ = held.ok_or("job must be held")?.send(());
            Ok(Value::Null)
        }
        "resign" => {
            program.control(&params.schema)?.request_resign().await?;
            Ok(Value::Null)
        }
        "start" => start(program, params).await,
        "stop" => stop(&program, &params).await,
        op => Err(format!("op must be one that this program knows, got {op:?}").into()),
    }
}

impl Program {
    fn database(&self, schema: &str) -> Result<PostgresDatabase, BoxError> {
        Ok(PostgresDatabase::new(self.pool.clone()).with_schema(SchemaName::new(schema)?))
    }

    /// Returns a client of a schema that does not work.
    fn control(&self, schema: &str) -> Result<Client, BoxError> {
        let mut controls = self.controls.lock().unwrap();
        if let Some(client) = controls.get(schema) {
            return Ok(client.clone());
        }
        let client = Client::builder(self.database(schema)?)
            .id("rust_control")
            .fetch_cooldown(Duration::from_millis(1)) // every insert is announced
            .allow_unregistered_job_kinds()
            .build()?;
        controls.insert(schema.to_owned(), client.clone());
        Ok(client)
    }

    /// Waits until the attempt is released.
    pub async fn hold(&self, job: i64) {
        let (release, released) = oneshot::channel();
        self.held.lock().unwrap().insert(job, release);
        let _ = released.await;
    }

    pub fn note(&self, client: &str, executed: Value) {
        let mut all = self.executed.lock().unwrap();
        all.entry(client.to_owned()).or_default().push(executed);
    }
}

async fn insert(program: &Program, params: Params) -> Result<Value, BoxError> {
    let mut batch = InsertBatch::new();
    for job in params.jobs {
        batch.push_with(job.args, job.opts.river());
    }
    let results = program.control(&params.schema)?.insert_batch(batch).await?;
    let told: Vec<Value> = results
        .iter()
        .map(|one| json!({"skipped": one.unique_skipped_as_duplicate, "job": {"id": one.id()}}))
        .collect();
    Ok(json!(told))
}

async fn start(program: Arc<Program>, params: Params) -> Result<Value, BoxError> {
    let mut workers = Workers::new();
    workers.add(ActWorker {
        client: params.id.clone(),
        is_quiet: params.is_quiet,
        program: program.clone(),
    })?;
    let mut builder = Client::builder(program.database(&params.schema)?)
        .id(&params.id)
        .fetch_cooldown(Duration::from_millis(10))
        .fetch_only_known_kinds(params.fetch_only_known_kinds)
        .workers(workers);
    if params.leader_election_disabled {
        builder = builder.without_leader_election();
    }
    for (name, max_workers) in params.queues {
        let queue = QueueConfig::new(max_workers);
        builder = builder.queue(
            name,
            queue.with_fetch_poll_interval(Duration::from_secs_f64(params.fetch_poll_seconds)),
        );
    }
    let client = builder.build()?;
    if !params.is_quiet {
        tokio::spawn(tell_events(
            params.id.clone(),
            client.subscribe(&EVENT_KINDS)?,
        ));
    }
    program
        .executed
        .lock()
        .unwrap()
        .insert(params.id.clone(), Vec::new());
    let mut run = client.start()?;
    run.wait_ready().await?;
    program.running.lock().await.insert(params.id.clone(), run);
    Ok(json!(params.id))
}

const EVENT_KINDS: [EventKind; 5] = [
    EventKind::JobCancelled,
    EventKind::JobCompleted,
    EventKind::JobFailed,
    EventKind::JobInterrupted,
    EventKind::JobSnoozed,
];

async fn tell_events(client: String, mut events: EventReceiver) {
    while let Ok(event) = events.recv().await {
        let Some(told) = event.as_job() else { continue };
        let name = match event.kind() {
            EventKind::JobCancelled => "job_cancelled",
            EventKind::JobCompleted => "job_completed",
            EventKind::JobFailed => "job_failed",
            EventKind::JobInterrupted => "job_interrupted",
            _ => "job_snoozed",
        };
        tell(
            &json!({"event": name, "client": client, "job": told.job.id, "state": told.job.state}),
        );
    }
}

/// Returns when a client has stopped; "cancel" cancels its attempts at once.
async fn stop(program: &Program, params: &Params) -> Result<Value, BoxError> {
    let run = program.running.lock().await.remove(&params.id);
    let mut run = run.ok_or_else(|| format!("client must be started, got {:?}", params.id))?;
    if params.cancel {
        run.stop_and_cancel().await?;
    } else {
        run.stop().await?;
    }
    Ok(Value::Null)
}
