//! `ibot doctor`: what this machine has, what is missing, and what to install.
//!
//! - `check`: a line of the report
//! - `machine`: this program, the system, processor and memory
//! - `graphics`: GPUs without a driver, and the remedy by system; `linux` reads what it needs there
//! - `folders`: what ibot keeps on this machine

mod check;
mod folders;
mod graphics;
#[cfg(target_os = "linux")]
mod linux;
mod machine;

use ibot::device::{AdapterSummary, DeviceChoice, auto_choice, list_adapters};
use ibot::error::counted;
use ibot::{Error, Result};

use super::output::answer;
use check::{Check, State};

/// Flags of `ibot doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub fn run(&self) -> Result<()> {
        // a wrong IBOT_API is one of the things to report
        let adapters = list_adapters();
        let checks = checks(&adapters);
        if self.json {
            let report = serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "features": machine::features(),
                "checks": checks,
                "adapters": adapters.as_ref().unwrap_or(&Vec::new()),
            });
            answer(format_args!("{report:#}"))?;
        } else {
            for check in &checks {
                answer(check)?;
            }
        }
        let missing = checks
            .iter()
            .filter(|check| check.is_needed && check.state == State::Missing);
        let names: Vec<_> = missing.map(|check| check.name).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            return Err(Error::Device(format!("commands fail without: {names}")));
        }
        if self.json {
            Ok(())
        } else {
            answer(last_line(&checks))
        }
    }
}

fn checks(adapters: &Result<Vec<AdapterSummary>>) -> Vec<Check> {
    let mut checks = machine::checks();
    match adapters {
        Ok(adapters) => {
            let graphics = graphics::Graphics::of_system();
            #[cfg(target_os = "linux")]
            let graphics = linux::completed(graphics);
            checks.extend(graphics::checks(adapters, &graphics));
            checks.push(match auto_choice() {
                Ok(choice) => Check::ok("auto", auto(&choice)),
                Err(error) => Check::missing("auto", error.to_string(), [""; 0]),
            });
        }
        Err(error) => {
            checks.push(Check::missing(graphics::GPU, error.to_string(), [""; 0]).needed());
        }
    }
    checks.extend(folders::checks());
    checks
}

/// What `--backend auto` takes, and why.
fn auto(choice: &DeviceChoice) -> String {
    let reason = choice.reason.strip_prefix("auto takes the CPU: ");
    let reason = reason.unwrap_or(&choice.reason);
    // settings here are flags of other commands
    let text = format!("{}; {reason}", choice.selected);
    text.replace("`backend`", "--backend")
        .replace("`device`", "--device")
}

fn last_line(checks: &[Check]) -> String {
    let missing = checks
        .iter()
        .filter(|check| check.state == State::Missing)
        .count();
    let has_gpu = checks
        .iter()
        .any(|check| check.name == graphics::GPU && check.state == State::Ok);
    match (missing, has_gpu) {
        (0, _) => {
            "Next: `ibot verify --backend wgpu` checks the GPU's numbers; `ibot train` runs a demo"
                .into()
        }
        (missing, true) => format!("{} missing; the rest works", counted(missing, "thing")),
        (missing, false) => format!(
            "{} missing; ibot works without a GPU, on the CPU, but slower",
            counted(missing, "thing")
        ),
    }
}
