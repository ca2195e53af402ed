//! Warnings of the libraries, on stderr and to the device guard.

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

/// Installs the logger; later calls do nothing.
pub fn install() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        ibot::device::observe_log(record);
        ibot::bench::observe_log(record);
        // wgpu reports each fault to the guard too, which ends the run with one clear message
        if self.enabled(record.metadata()) && record.target().starts_with("ibot") {
            eprintln!(
                "{}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}
