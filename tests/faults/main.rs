//! Faults provoked on a real device must end a process with an error, soon, and without numbers.
//!
//! A fault spoils its process, so each runs in a child: this same test binary, told by `IBOT_FAULT` what to provoke.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod child;

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ibot::device::{
    BackendChoice, DEADLINE_VARIABLE, Selected, WITNESS_VARIABLE, choose, end_process, on_no_answer,
};

const FAULT: &str = "IBOT_FAULT";
const REQUIRED: &str = "IBOT_REQUIRE_WGPU";
const PATIENCE: Duration = Duration::from_secs(60);
/// What a child's numbers are printed behind; only a sound device may print them.
const NUMBERS: &str = "NUMBERS:";
const FAILED: u8 = 3;

/// The child's side; without `IBOT_FAULT` a test that does nothing.
#[test]
fn child() {
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    on_no_answer(fail);
    match child::provoke(&fault) {
        Ok(numbers) => {
            println!("{NUMBERS} {numbers:?}");
            end_process(0);
        }
        Err(error) => fail(error),
    }
}

fn fail(error: ibot::Error) {
    eprintln!("error: {error}");
    end_process(FAILED);
}

struct Outcome {
    status: ExitStatus,
    output: String,
    seconds: f64,
}

/// Runs this binary as a child that provokes `fault`; one that hangs is killed and fails the test.
fn run_child(fault: &str) -> Outcome {
    run(fault, Command::new(std::env::current_exe().unwrap()))
}

fn run(fault: &str, mut command: Command) -> Outcome {
    let start = Instant::now();
    let mut child = command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FAULT, fault)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipes: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    std::thread::scope(|scope| {
        let readers = pipes.each_mut().map(|pipe| {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = readers.map(|reader| reader.join().unwrap()).concat();
        let seconds = start.elapsed().as_secs_f64();
        let status =
            status.unwrap_or_else(|| panic!("{fault}: no end after {PATIENCE:?}\n{output}"));
        eprintln!("--- {fault}: {status}, {seconds:.1} s\n{output}");
        Outcome {
            status,
            output,
            seconds,
        }
    })
}

/// Past the test harness, which hides what a passing test prints.
fn skip(why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "SKIPPED: {why}").unwrap();
}

/// Whether there is an adapter to break; where there must be one, its absence fails.
fn has_adapter() -> bool {
    match choose(BackendChoice::Wgpu, None) {
        Ok(_) => true,
        Err(error) if std::env::var(REQUIRED).is_ok_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            skip(&error.to_string());
            false
        }
    }
}

/// `fault` must end the child with an error that starts with `kind` and says `remedy`.
fn expect_fault(fault: &str, kind: &str, remedy: &str) {
    if !has_adapter() {
        return;
    }
    expect_outcome(&run_child(fault), kind, remedy);
}

fn expect_outcome(outcome: &Outcome, kind: &str, remedy: &str) {
    assert_eq!(
        outcome.status.code(),
        Some(FAILED.into()),
        "{}",
        outcome.output
    );
    assert!(!outcome.output.contains(NUMBERS), "{}", outcome.output);
    assert!(
        outcome.output.contains(&format!("error: {kind} on ")),
        "{}",
        outcome.output
    );
    assert!(outcome.output.contains(remedy), "{}", outcome.output);
    assert!(outcome.seconds < PATIENCE.as_secs_f64());
}

#[test]
fn a_sound_device_gives_numbers() {
    if has_adapter() {
        let outcome = run_child("none");
        assert!(outcome.status.success(), "{}", outcome.output);
        assert!(
            outcome.output.contains("NUMBERS: [3.0, -4.0, 6.0]"),
            "{}",
            outcome.output
        );
    }
}

/// With a counter for what a driver does not report: it agrees with sound work, and work that is gone is a lost device.
#[test]
fn work_that_was_not_done() {
    if !has_software("zeroing memory of a real GPU") {
        return;
    }
    let run_counted = |fault: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(WITNESS_VARIABLE, "1");
        run(fault, command)
    };
    let sound = run_counted("counted");
    assert!(sound.status.success(), "{}", sound.output);
    assert!(sound.output.contains(NUMBERS), "{}", sound.output);
    let gone = run_counted("forgotten");
    expect_outcome(&gone, "device lost", "counted launches did not run");
}

#[test]
fn a_syntax_error_in_a_kernel() {
    expect_fault("syntax", "shader does not compile", "`backend` flex");
}

#[test]
fn a_type_error_in_a_kernel() {
    expect_fault("type", "shader does not compile", "`backend` flex");
}

#[test]
fn a_missing_binding() {
    expect_fault("missing binding", "validation error", "`backend` flex");
}

#[test]
fn an_extra_binding() {
    expect_fault("extra binding", "validation error", "`backend` flex");
}

#[test]
fn a_tensor_above_the_binding_size() {
    expect_fault("binding size", "out of memory", "Lower `batch_size`");
}

#[test]
fn a_random_tensor_above_the_binding_size() {
    expect_fault("random", "out of memory", "Lower `batch_size`");
}

#[test]
fn a_tensor_above_the_buffer_size() {
    expect_fault("buffer size", "out of memory", "Lower `batch_size`");
}

/// Whether the adapter is software, which may be filled or blocked without harm.
fn has_software(what: &str) -> bool {
    if !has_adapter() {
        return false;
    }
    let selected = choose(BackendChoice::Wgpu, None).unwrap().selected;
    let software = matches!(selected, Selected::Wgpu { adapter, .. } if adapter.is_software());
    if !software {
        skip(what);
    }
    software
}

/// Each way to wait ends at the deadline, and so does the process, whose driver still computes. Amid burn's
/// own work lavapipe holds the thread that computes, so there the watching thread ends the process.
#[test]
fn a_device_that_does_not_answer() {
    if !has_software("a kernel without end on a real GPU") {
        return;
    }
    for how in [
        "",
        ", then sync",
        ", then work",
        ", then burn's work",
        ", then memory",
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(DEADLINE_VARIABLE, "0.3");
        let outcome = run(&format!("endless{how}"), command);
        for remedy in ["fewer images per step", "TdrDelay", DEADLINE_VARIABLE] {
            expect_outcome(&outcome, "no answer", remedy);
        }
        assert!(outcome.seconds < 20.0, "{}", outcome.seconds);
    }
}

/// The driver itself refuses. Only on software, where a limit on the process stands in for a full GPU.
#[cfg(target_os = "linux")]
#[test]
fn no_memory_left() {
    if !has_software("filling the memory of a real GPU") {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 12000000 && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    expect_outcome(
        &run("exhaust", command),
        "out of memory",
        "Lower `batch_size`",
    );
}

/// Memory of a software device is the process's own, which Linux tells.
#[cfg(target_os = "linux")]
#[test]
fn a_broken_device_is_opened_again() {
    if !has_software("looking for a GPU's memory in that of the process") {
        return;
    }
    let outcome = run_child("reopened");
    assert!(outcome.status.success(), "{}", outcome.output);
    let numbers = "NUMBERS: [3.0, -4.0, 6.0]";
    assert!(outcome.output.contains(numbers), "{}", outcome.output);
}

#[test]
fn a_lost_device() {
    for how in ["lost", "lost, then sync", "lost, then work"] {
        expect_fault(how, "device lost", "last checkpoint");
    }
}
