//! The events of a run as JSON, each with its name under `event`; texts in the words of `ibot_train`.

use ibot::app::TrainingEvent;
use ibot::error::printable;
use serde_json::{Value, json};

use crate::errors::in_python;

/// An event as an object.
pub fn as_json(event: &TrainingEvent) -> Value {
    match event {
        TrainingEvent::Note(text) => json!({ "event": "note", "text": in_python(text) }),
        TrainingEvent::Started(start) => json!({
            "event": "started",
            "steps": start.steps,
            "start_step": start.start_step,
            "epochs": start.epochs,
            "steps_per_epoch": start.steps_per_epoch,
            "images": start.images,
            "parameters": start.parameters,
        }),
        TrainingEvent::Step(metrics) => named("step", json!(metrics)),
        TrainingEvent::Epoch { epoch, step } => {
            json!({ "event": "epoch", "epoch": epoch, "step": step })
        }
        TrainingEvent::Evaluated(when, evaluation) => {
            let mut event = named("evaluated", json!(evaluation));
            event["when"] = when.to_string().into();
            event
        }
        TrainingEvent::Anomalies { step, anomalies } => {
            let texts: Vec<String> = (anomalies.iter())
                .map(|anomaly| in_python(&anomaly.to_string()))
                .collect();
            json!({ "event": "anomaly", "step": step, "anomalies": texts })
        }
        TrainingEvent::RolledBack(step) => json!({ "event": "rolled_back", "step": step }),
        TrainingEvent::Checkpoint(step) => json!({ "event": "checkpoint", "step": step }),
        // drawn only where `patches_every` asks for it
        TrainingEvent::Patches { step, .. } => json!({ "event": "patches", "step": step }),
        TrainingEvent::Paused(step) => json!({ "event": "paused", "step": step }),
        TrainingEvent::Resumed => json!({ "event": "resumed" }),
        TrainingEvent::Finished(run) => json!({ "event": "finished", "run": printable(run) }),
        TrainingEvent::Cancelled { step, run } => {
            json!({ "event": "cancelled", "step": step, "run": printable(run) })
        }
        TrainingEvent::Failed(error) => json!({ "event": "failed", "error": in_python(error) }),
    }
}

fn named(name: &str, mut fields: Value) -> Value {
    fields["event"] = name.into();
    fields
}
