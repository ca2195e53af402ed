//! What a device fault is, and the log of one device's faults.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::error::Error;
use crate::lock::lock;

/// Reports kept per device: the first one is the cause, the others may explain it.
const KEPT: usize = 8;
/// Length of a report in an error message.
const REPORT_LINES: usize = 12;
const REPORT_CHARS: usize = 1200;
/// What stands before the cause in a report, and how much of it goes.
const WRAPPERS: [(&str, usize); 2] = [
    ("WGSL compilation failed for kernel", 0),
    (UNWRAPPED, UNWRAPPED.len()),
];
const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";

/// The kinds of fault, each with its own remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A tensor or the sum of all is too large for the adapter.
    OutOfMemory,
    /// A kernel's source does not compile.
    Shader,
    /// A kernel asks for more workgroup memory or lanes than the adapter has.
    Limits,
    /// A kernel and its buffers do not fit together.
    Validation,
    /// The driver took the device away.
    DeviceLost,
    /// The device finished none of its work until the deadline.
    NoAnswer,
    /// Anything else that stopped the device's thread.
    Other,
}

impl FaultKind {
    /// Classifies a report by its text, which is all that cubecl keeps of many errors.
    #[must_use]
    pub fn of_report(report: &str) -> Self {
        const SIGNS: [(FaultKind, &[&str]); 5] = [
            (
                FaultKind::OutOfMemory,
                &[
                    "can't allocate buffer",
                    "buffertoobig",
                    "out of memory",
                    "outofmemory",
                    "not enough memory",
                    "maximum buffer size",
                    "max_buffer_size",
                    "binding_size",
                    "binding size",
                ],
            ),
            (
                FaultKind::DeviceLost,
                &[
                    "device is lost",
                    "device lost",
                    "devicelost",
                    "has been destroyed",
                ],
            ),
            // the exact messages with which cubecl refuses such kernels
            (
                FaultKind::Limits,
                &[
                    "too much shared memory requested",
                    "total unit count exceeds",
                    "cube dim exceeds",
                ],
            ),
            (FaultKind::Shader, &["wgsl compilation failed", "shader"]),
            (
                FaultKind::Validation,
                &["validation error", "bind group", "pipeline"],
            ),
        ];
        let report = report.to_lowercase();
        let found = SIGNS
            .iter()
            .find(|(_, signs)| signs.iter().any(|sign| report.contains(sign)));
        found.map_or(Self::Other, |(kind, _)| *kind)
    }

    /// Whether other faults follow from it, and so may be reported before it.
    const fn is_cause(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::DeviceLost | Self::NoAnswer)
    }

    /// Whether it may follow from another fault.
    const fn is_vague(self) -> bool {
        matches!(self, Self::Validation | Self::Other)
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::OutOfMemory => {
                "Lower `batch_size`, the number or size of the crops, or the number of prototypes; `ibot devices` shows \
                 the largest tensor on this adapter."
            }
            Self::Shader => {
                "A kernel does not compile on this adapter: update its driver or compute with `backend` flex, and \
                 please report the lines above."
            }
            Self::Limits => {
                "burn's own kernel is too large for this adapter: unset IBOT_KERNELS if it is set, build with \
                 the feature autotune, which skips such kernels, or compute with `backend` flex, and please report \
                 the lines above."
            }
            Self::Validation => {
                "A kernel does not match its buffers, which is a bug: compute with `backend` flex, and \
                 please report the lines above."
            }
            Self::DeviceLost => {
                "The driver reset the GPU or took it away (a kernel ran too long, too much memory, suspend, another \
                 program). Start again to resume from the last checkpoint. If it happens again: use fewer images per step \
                 (`batch_size`, or `micro_batch_size`); update the driver; give kernels more time (Windows: \
                 TdrDelay in the registry; AMD on Linux: amdgpu.lockup_timeout)."
            }
            Self::NoAnswer => {
                "The GPU is stuck or too slow. Start again to resume from the last checkpoint. If \
                 it happens again: use fewer images per step (`batch_size`, or `micro_batch_size`); update the driver; \
                 a GPU that is only slow needs a longer IBOT_GPU_DEADLINE, and kernels that the driver kills need \
                 more time (Windows: TdrDelay in the registry; AMD on Linux: amdgpu.lockup_timeout)."
            }
            Self::Other => {
                "Start again to resume from the last checkpoint; if it happens again, compute with `backend` flex, and \
                 please report the lines above."
            }
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "out of memory",
            Self::Shader => "shader does not compile",
            Self::Limits => "kernel too large",
            Self::Validation => "validation error",
            Self::DeviceLost => "device lost",
            Self::NoAnswer => "no answer",
            Self::Other => "device error",
        })
    }
}

/// One report of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What sort of fault it is.
    pub kind: FaultKind,
    /// The message of wgpu, cubecl or the device's thread, without stack traces.
    pub report: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, report: &str) -> Self {
        let report = shorten(report);
        Self { kind, report }
    }

    pub(crate) fn of_report(report: &str) -> Self {
        Self::new(FaultKind::of_report(report), report)
    }
}

/// Drops stack frames (`  12: name` and the place that follows) and wrappers, and cuts what is too long to read.
fn shorten(report: &str) -> String {
    // Nested errors arrive in Debug form, their line breaks escaped.
    let report = report.replace("\\n", "\n").replace("\\\"", "\"");
    let cause = WRAPPERS
        .iter()
        .filter_map(|w| report.find(w.0).map(|at| at + w.1))
        .max();
    let report = &report[cause.unwrap_or(0)..];
    let is_frame = |line: &str| {
        let line = line.trim_start();
        let after_number = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let numbered = after_number.len() < line.len() && after_number.starts_with(": ");
        numbered
            || ["at ", "Backtrace", "No backtrace"]
                .iter()
                .any(|sign| line.starts_with(sign))
    };
    let lines = report
        .lines()
        .filter(|line| !line.trim().is_empty() && !is_frame(line));
    let text = lines.take(REPORT_LINES).collect::<Vec<_>>().join("\n  ");
    match text.char_indices().nth(REPORT_CHARS) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.trim_end().to_owned(),
    }
}

/// States of a device, each worse than the one before.
const SOUND: u8 = 0;
const BROKEN: u8 = 1;
/// Broken, and nothing may block on it any more.
const SILENT: u8 = 2;

/// Everything that one device reported.
#[derive(Debug)]
pub(crate) struct FaultLog {
    device: String,
    /// [`SOUND`], [`BROKEN`] or [`SILENT`]: one number, or a thread could see a device that does not answer and is not broken.
    state: AtomicU8,
    told: AtomicBool,
    faults: Mutex<Vec<Fault>>,
}

impl FaultLog {
    /// An empty log; `device` is the device's name in messages.
    pub(crate) fn new(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            state: AtomicU8::new(SOUND),
            told: AtomicBool::new(false),
            faults: Mutex::new(Vec::new()),
        }
    }

    /// Remembers a fault; the device counts as broken from here on.
    pub(crate) fn record(&self, fault: Fault) {
        log::debug!("{}: {}: {}", self.device, fault.kind, fault.report);
        let state = match fault.kind {
            FaultKind::NoAnswer => SILENT,
            _ => BROKEN,
        };
        let mut faults = lock(&self.faults);
        if !faults.contains(&fault) {
            if faults.len() == KEPT && fault.kind.is_cause() {
                faults.pop();
            }
            if faults.len() < KEPT {
                faults.push(fault);
            }
        }
        self.state.fetch_max(state, Ordering::Release);
    }

    /// Remembers a report that follows from a fault, or is the only sign of it.
    pub(crate) fn record_symptom(&self, report: &str) {
        if !self.is_broken() {
            self.record(Fault::of_report(report));
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Ordering::Acquire) != SOUND
    }

    /// Whether the device once did not answer: nothing may block on it any more.
    pub(crate) fn is_silent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SILENT
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    /// Whether the cause may still be unreported: a lost device shows as failed launches before wgpu reports the loss.
    pub(crate) fn is_vague(&self) -> bool {
        lock(&self.faults).iter().all(|fault| fault.kind.is_vague())
    }

    /// Whether the error was returned to anyone.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// The cause as an error: kind, report, remedy.
    pub(crate) fn error(&self) -> Error {
        self.told.store(true, Ordering::Release);
        let faults = self.faults();
        let cause = match faults.first() {
            Some(first) if first.kind.is_vague() => faults
                .iter()
                .find(|fault| fault.kind.is_cause())
                .or(Some(first)),
            first => first,
        };
        let Some(cause) = cause else {
            return Error::Device(format!("{}: no fault was reported", self.device));
        };
        let more = match faults.len() {
            1 => String::new(),
            2 => "\n  (and one more report)".to_owned(),
            n => format!("\n  (and {} more reports)", n - 1),
        };
        Error::Device(format!(
            "{} on {}: {}{more}\nAll results computed since then were discarded. {}",
            cause.kind,
            self.device,
            cause.report,
            cause.kind.remedy()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_sorted_by_their_text() {
        let expected = [
            (
                "can't allocate buffer of size: 160000000",
                FaultKind::OutOfMemory,
            ),
            (
                "Buffer size 9 is greater than the maximum buffer size (8)",
                FaultKind::OutOfMemory,
            ),
            (
                "WGSL compilation failed for kernel `main`",
                FaultKind::Shader,
            ),
            (
                "Validation Error: Number of bindings in bind group",
                FaultKind::Validation,
            ),
            ("Parent device is lost", FaultKind::DeviceLost),
            (
                "Too much shared memory requested.\nRequested 40960 bytes, maximum 32768 bytes available.",
                FaultKind::Limits,
            ),
            (
                "Total unit count exceeds maximum.\nRequested 512 units, max units is 256.",
                FaultKind::Limits,
            ),
            ("index out of bounds", FaultKind::Other),
        ];
        for (report, kind) in expected {
            assert_eq!(FaultKind::of_report(report), kind, "{report}");
        }
    }

    #[test]
    fn a_device_that_does_not_answer_is_broken_for_good() {
        let log = FaultLog::new("card");
        assert!(!log.is_broken() && !log.is_silent());
        log.record(Fault::of_report("Parent device is lost"));
        assert!(log.is_broken() && !log.is_silent());
        log.record(Fault::new(FaultKind::NoAnswer, "no work was finished"));
        log.record(Fault::of_report("index out of bounds"));
        assert!(log.is_broken() && log.is_silent());
    }

    #[test]
    fn stack_frames_are_dropped() {
        let report = "cause\n   0: std::panic\n             at /rustc/x.rs:1\n\n  12: main\nend";
        assert_eq!(shorten(report), "cause\n  end");
        assert!(shorten(&"x".repeat(5000)).len() < 1300);
        assert_eq!(
            shorten("called `Result::unwrap()` on an `Err` value: too big"),
            "too big"
        );
        assert_eq!(
            shorten("Caused by: WGSL compilation failed for kernel `x`"),
            "WGSL compilation failed for kernel `x`"
        );
    }
}
