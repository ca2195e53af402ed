//! Other programs that print one JSON object a line: this one, for a process of its own, and Python.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

use serde::de::DeserializeOwned;

use super::size::StepSize;
use super::step::StepReport;
use ibot::error::{Error, Result, printable};

/// Lines of a failed program that are shown.
const SHOWN: usize = 12;

/// Runs `ibot bench` as `program` in a process of its own, so that its peak memory is that of these steps alone.
///
/// `device` holds the flags that choose the device.
///
/// # Errors
/// The program does not start, fails, or prints something else.
pub fn bench_in_process(
    program: &Path,
    size: &StepSize,
    steps: usize,
    device: &[String],
) -> Result<StepReport> {
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--steps", &steps.to_string()]);
    command.args(size.flags()).args(device);
    let output = command.output().map_err(Error::io(program))?;
    if !output.status.success() {
        let size = size.to_string();
        return Err(Error::Training(format!("{size}: {}", last_lines(&output))));
    }
    let mut reports = lines(program, &output)?;
    Ok(reports.swap_remove(0)) // there is at least one
}

/// Runs a script of `benches/reference` and reads what it measured.
///
/// # Errors
/// Python or one of its modules is missing, with the command that installs it; or the script fails.
pub(super) fn run_script<T: DeserializeOwned>(
    python: &Path,
    script: &Path,
    arguments: &[String],
) -> Result<Vec<T>> {
    if !script.is_file() {
        let reason = "is missing: --against needs benches/reference of this program's source";
        return Err(Error::data(script, reason));
    }
    let mut command = Command::new(python);
    let output = command.arg(script).args(arguments).output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => no_python(python, script, "is not a program"),
        _ => Error::io(python)(error),
    })?;
    if output.status.success() {
        return lines(script, &output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(match missing_module(&stderr) {
        Some(module) => no_python(python, script, &format!("has no module {module}")),
        None => Error::data(script, last_lines(&output)),
    })
}

/// The module that an uncaught `ModuleNotFoundError` names.
fn missing_module(stderr: &str) -> Option<&str> {
    let line = stderr.lines().last()?;
    let rest = line.strip_prefix("ModuleNotFoundError: No module named '")?;
    rest.strip_suffix('\'')
}

fn no_python(python: &Path, script: &Path, reason: &str) -> Error {
    let requirements = script.with_file_name("requirements.txt");
    let remedy = format!(
        "{reason}; `PYTHON -m pip install -r {}`, in a virtual environment if you like, and set IBOT_PYTHON to that PYTHON",
        requirements.display()
    );
    Error::config("IBOT_PYTHON", python.display(), remedy)
}

fn lines<T: DeserializeOwned>(program: &Path, output: &Output) -> Result<Vec<T>> {
    let text = String::from_utf8_lossy(&output.stdout);
    // The reference's libraries say things of their own on the same stream.
    let objects = text.lines().filter(|line| line.starts_with('{'));
    let read = objects.map(|line| {
        serde_json::from_str(line)
            .map_err(|error| Error::data(program, format!("printed {}: {error}", printable(line))))
    });
    let read: Vec<T> = read.collect::<Result<_>>()?;
    if read.is_empty() {
        return Err(Error::data(program, "printed no measurement"));
    }
    Ok(read)
}

fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    format!("ended with {}\n{shown}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named() {
        let stderr = "Traceback (most recent call last):\n  File \"x.py\", line 1\n\
                      ModuleNotFoundError: No module named 'torch'\n";
        assert_eq!(missing_module(stderr), Some("torch"));
        assert_eq!(missing_module("ValueError: No module named 'torch'"), None);
    }

    #[test]
    fn a_missing_python_says_what_to_install() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/reference");
        let python = Path::new("no-such-python");
        let failed = run_script::<serde_json::Value>(python, &folder.join("step.py"), &[]);
        let message = failed.unwrap_err().to_string();
        for part in [
            "IBOT_PYTHON = no-such-python",
            "pip install -r",
            "requirements.txt",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let elsewhere = run_script::<serde_json::Value>(python, Path::new("step.py"), &[]);
        assert!(elsewhere.unwrap_err().to_string().contains("is missing"));
    }
}
