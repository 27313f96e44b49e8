//! A worker that plays a script: the args say what an attempt is to do, as they do for River's program in Go.

use std::sync::Arc;
use std::time::Duration;

use riverqueue::jiff::Timestamp;
use riverqueue::{
    BoxError, Job, JobArgs, WorkCancelled, WorkContext, WorkError, WorkOutcome, Worker,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Program, tell};

/// Acts, one after the other, each a list of a verb and what it needs.
#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "act")]
pub struct Act {
    #[serde(rename = "do")]
    acts: Vec<Vec<Value>>,
}

impl Act {
    fn retry_seconds(&self) -> Option<f64> {
        let found = self.acts.iter().find(|act| act[0] == "retry_in")?;
        found[1].as_f64()
    }
}

pub struct ActWorker {
    pub client: String,
    pub is_quiet: bool,
    pub program: Arc<Program>,
}

impl Worker<Act> for ActWorker {
    type Error = BoxError;

    fn next_retry(&self, job: &Job<Act>, _: &WorkError, _: Timestamp) -> Option<Duration> {
        job.args.retry_seconds().map(Duration::from_secs_f64)
    }

    async fn work(&self, context: WorkContext, job: Job<Act>) -> Result<WorkOutcome, BoxError> {
        let row = &job.row;
        let executed = json!({"job": row.id, "attempt": row.attempt, "priority": row.priority});
        self.program.note(&self.client, executed);
        if !self.is_quiet {
            self.tell(
                "begun",
                row.id,
                json!({"attempt": row.attempt, "kind": row.kind, "args": row.encoded_args}),
            );
        }
        self.play(&context, &job).await
    }
}

impl ActWorker {
    fn tell(&self, event: &str, job: i64, mut fields: Value) {
        fields["event"] = json!(event);
        fields["client"] = json!(self.client);
        fields["job"] = json!(job);
        tell(&fields);
    }

    async fn play(&self, context: &WorkContext, job: &Job<Act>) -> Result<WorkOutcome, BoxError> {
        for act in &job.args.acts {
            match (act[0].as_str().unwrap_or_default(), &act[1..]) {
                ("fail", [text]) => return Err(text.as_str().unwrap_or_default().into()),
                ("fail_before", [attempt])
                    if i64::from(job.row.attempt) < attempt.as_i64().unwrap_or(0) =>
                {
                    return Err("too early".into());
                }
                ("fail_before" | "retry_in", _) => {}
                ("hold", []) => self.hold(context, job.row.id).await?,
                ("output", [value]) => context.record_output(value)?,
                ("snooze", [seconds]) => {
                    return Ok(WorkOutcome::Snooze(Duration::from_secs_f64(
                        seconds.as_f64().unwrap_or(0.0),
                    )));
                }
                ("step", [name, acts]) => self.step(context, job, name, acts).await?,
                ("cursor_step", [name, acts]) => self.cursor_step(context, job, name, acts).await?,
                (verb, _) => {
                    return Err(
                        format!("verb must be one that this worker knows, got {verb:?}").into(),
                    );
                }
            }
        }
        Ok(WorkOutcome::Complete)
    }

    async fn hold(&self, context: &WorkContext, job: i64) -> Result<(), BoxError> {
        self.tell("held", job, json!({}));
        tokio::select! {
            () = self.program.hold(job) => Ok(()),
            () = context.cancellation_token().cancelled() => Err(WorkCancelled.into()),
        }
    }

    /// Plays the acts of a step: `fail` and `fail_before` are known there.
    fn in_step(
        &self,
        job: &Job<Act>,
        step: &Value,
        cursor: i64,
        acts: &[Value],
    ) -> Result<(), BoxError> {
        self.tell(
            "step",
            job.row.id,
            json!({"attempt": job.row.attempt, "step": step, "cursor": cursor}),
        );
        for act in acts {
            match act[0].as_str().unwrap_or_default() {
                "fail" => return Err(act[1].as_str().unwrap_or_default().into()),
                "fail_before" if i64::from(job.row.attempt) < act[1].as_i64().unwrap_or(0) => {
                    return Err("too early".into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn step(
        &self,
        context: &WorkContext,
        job: &Job<Act>,
        name: &Value,
        acts: &Value,
    ) -> Result<(), BoxError> {
        let acts = acts.as_array().cloned().unwrap_or_default();
        let step = || async { self.in_step(job, name, 0, &acts) };
        Ok(context
            .resumable_step(name.as_str().unwrap_or_default(), step)
            .await?)
    }

    async fn cursor_step(
        &self,
        context: &WorkContext,
        job: &Job<Act>,
        name: &Value,
        acts: &Value,
    ) -> Result<(), BoxError> {
        let acts = acts.as_array().cloned().unwrap_or_default();
        let step = |cursor: i64| {
            let acts = &acts;
            async move {
                let by: i64 = acts
                    .iter()
                    .filter(|act| act[0] == "advance")
                    .filter_map(|act| act[1].as_i64())
                    .sum();
                if by > 0 {
                    context.resumable_set_cursor(&(cursor + by))?;
                }
                self.in_step(job, name, cursor, acts)
            }
        };
        Ok(context
            .resumable_step_with_cursor(name.as_str().unwrap_or_default(), step)
            .await?)
    }
}
