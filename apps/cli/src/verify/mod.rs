//! `ibot verify`.

mod all;
mod check;
mod compare;
mod inputs;
mod layers;
mod losses;
mod optimizer;
mod report;
mod sizes;
mod steps;
mod submission;

use std::path::{Path, PathBuf};

use ibot::error::{counted, printable};
use ibot::{Error, Result};

use self::all::verify;
use self::report::VerifyReport;
use super::destination;
use super::device::DeviceArgs;
use super::output::{answer, say};

/// Flags of `ibot verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// JSON report to write: the file to attach to a bug report [default: ibot-verify.json, with --only ibot-verify-only.json].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run only the checks whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl VerifyArgs {
    pub fn run(&self) -> Result<()> {
        // some checks do not replace the report of all
        let name = match self.only {
            None => "ibot-verify.json",
            Some(_) => "ibot-verify-only.json",
        };
        let out = self.out.clone().unwrap_or_else(|| name.into());
        check(&out)?;
        let selected = self.device.select()?;
        say(&selected);
        let (precision, only) = (self.device.precision(), self.only.as_deref());
        let report = verify(&selected, precision, only, &mut |check| say(check))?;
        report.write(&out)?;
        if let Some(adapter) = &report.adapter {
            say(report.kernels_that_ran());
            say(adapter);
        }
        let failed = report.checks.iter().filter(|check| !check.passed).count();
        let seconds = report.seconds;
        if report.passed {
            return answer(format_args!(
                "PASS: {} checks against {} in {seconds:.0} s; report in {}",
                report.checks.len(),
                report.reference,
                printable(&out)
            ));
        }
        let opened = match report.reopened {
            0 => String::new(),
            times => format!(
                "; the device was reopened {} after a fault",
                counted(times, "time")
            ),
        };
        answer(format_args!(
            "FAIL: {failed} of {} checks in {seconds:.0} s{opened}",
            report.checks.len()
        ))?;
        Err(Error::Device(format!(
            "the results of this device differ from those of {}; the report is in {}. A newer driver may help; \
             IBOT_KERNELS=reference avoids this crate's own kernels except matrix multiplication; --backend flex computes on the CPU",
            report.reference,
            printable(&out)
        )))
    }
}

/// Refuses a path that no report can be written to, before minutes of work.
fn check(out: &Path) -> Result<()> {
    destination::json("--out", out)?;
    if out.exists() && !VerifyReport::is_one(out)? {
        let remedy = "exists and is no report of `ibot verify`: choose another place";
        return Err(Error::config("--out", out.display(), remedy));
    }
    Ok(())
}
