//! Messages of the libraries, on stderr and to the device guard.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

use super::flags::in_flags;
use super::output::warn;
use super::screen::is_silent;

/// Log level: `warn`, which is the default, `info` (`-v`) or `debug` (`-vv`), which also print the time.
const VARIABLE: &str = "IBOT_LOG";

static LOGGER: OnceLock<Stderr> = OnceLock::new();

/// How often --verbose was given.
static VERBOSE: AtomicU8 = AtomicU8::new(0);

struct Stderr {
    level: LevelFilter,
    started: Instant,
}

/// Installs the logger; later calls do nothing.
pub fn install() {
    let asked = std::env::var(VARIABLE).ok();
    let level = asked.as_deref().map(str::parse::<LevelFilter>);
    if let (Some(Err(_)), Some(asked)) = (&level, &asked) {
        warn(format_args!(
            "WARNING {VARIABLE} = {asked}: must be one of off, error, warn, info, debug, trace"
        ));
    }
    let level = level.and_then(Result::ok);
    let level = level.unwrap_or(LevelFilter::Warn);
    let logger = LOGGER.get_or_init(|| Stderr {
        level,
        started: Instant::now(),
    });
    if log::set_logger(logger).is_ok() {
        // the device guard needs warnings whatever level the user chose
        log::set_max_level(level.max(LevelFilter::Warn));
    }
}

/// Logs more than `IBOT_LOG` says, for so many --verbose.
pub fn raise(verbose: u8) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    log::set_max_level(of_flags(verbose).max(log::max_level()));
}

fn of_flags(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    }
}

impl Stderr {
    fn level(&self) -> LevelFilter {
        match VERBOSE.load(Ordering::Relaxed) {
            0 => self.level,
            verbose => self.level.max(of_flags(verbose)),
        }
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level()
    }

    fn log(&self, record: &Record<'_>) {
        ibot::device::observe_log(record);
        super::bench::observe_log(record);
        // wgpu also reports each fault to the guard, which ends the run with one clear message
        let is_ours = record.target().starts_with("ibot") && !is_silent();
        if self.enabled(record.metadata()) && is_ours {
            let level = record.level().as_str().to_lowercase();
            let message = in_flags(&record.args().to_string());
            if self.level() > LevelFilter::Warn {
                let seconds = self.started.elapsed().as_secs_f64();
                warn(format_args!("{level} {seconds:.3} s: {message}"));
            } else {
                warn(format_args!("{level}: {message}"));
            }
        }
    }

    fn flush(&self) {}
}
