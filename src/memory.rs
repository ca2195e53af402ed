//! Memory of the process and of a GPU, in MiB, for the metrics; and sizes in words.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

/// The largest resident size seen by this module, in bytes.
static PEAK_SEEN: AtomicUsize = AtomicUsize::new(0);

/// Resident memory of this process, in MiB; `None` if the system does not report it.
#[must_use]
pub fn resident_mib() -> Option<f64> {
    let bytes = memory_stats::memory_stats()?.physical_mem;
    PEAK_SEEN.fetch_max(bytes, Ordering::Relaxed);
    Some(mib(bytes as u64))
}

/// Peak resident memory of this process, in MiB.
///
/// Linux reports it. Elsewhere it is the largest value that [`resident_mib`] or this function has seen.
#[must_use]
pub fn peak_rss_mib() -> Option<f64> {
    if let Some(peak) = counted_peak_mib() {
        return Some(peak);
    }
    resident_mib()?;
    Some(mib(PEAK_SEEN.load(Ordering::Relaxed) as u64))
}

/// `VmHWM` of `/proc/self/status`, which is in KiB.
#[cfg(target_os = "linux")]
fn counted_peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(not(target_os = "linux"))]
fn counted_peak_mib() -> Option<f64> {
    None
}

/// Bytes of this machine's memory, or of what its control group lets this process have; `None` if the system does not tell,
/// as on Windows.
#[must_use]
pub fn machine_bytes() -> Option<u64> {
    let installed = installed_bytes()?;
    Some(control_group_bytes().map_or(installed, |most| most.min(installed)))
}

#[cfg(unix)]
fn installed_bytes() -> Option<u64> {
    // SAFETY: reads two numbers of the system.
    let [pages, page_bytes] = unsafe {
        [
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        ]
    };
    let product = u64::try_from(pages)
        .ok()?
        .checked_mul(u64::try_from(page_bytes).ok()?)?;
    (product > 0).then_some(product)
}

#[cfg(not(unix))]
fn installed_bytes() -> Option<u64> {
    None
}

/// The limit of the container or job, where it is the mounted one (version 2).
#[cfg(target_os = "linux")]
fn control_group_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    text.trim().parse().ok() // "max" for none
}

#[cfg(not(target_os = "linux"))]
fn control_group_bytes() -> Option<u64> {
    None
}

/// Memory that burn holds on a GPU, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GpuMemory {
    /// In tensors that are alive.
    pub in_use_mib: f64,
    /// Allocated from the driver; far more than what is in use is normal.
    pub reserved_mib: f64,
}

impl GpuMemory {
    pub(crate) fn from_bytes(in_use: u64, reserved: u64) -> Self {
        Self {
            in_use_mib: mib(in_use),
            reserved_mib: mib(reserved),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes in words, `23.5 GiB`; below one, in MiB.
#[must_use]
pub fn in_gib(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => in_mib(bytes),
        _ => format!("{:.1} GiB", mib(bytes) / 1024.0),
    }
}

/// Bytes in words, `412 MiB` or `13.9 MiB`.
#[must_use]
pub fn in_mib(bytes: u64) -> String {
    match mib(bytes) {
        few @ ..100.0 => format!("{few:.1} MiB"),
        many => format!("{many:.0} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_mib_and_gib() {
        let said = [13 << 19, 412 << 20, 1 << 30, 24_106 << 20].map(in_gib);
        assert_eq!(said, ["6.5 MiB", "412 MiB", "1.0 GiB", "23.5 GiB"]);
    }

    #[test]
    fn the_machine_has_what_the_process_has() {
        if let (Some(machine), Some(resident)) = (machine_bytes(), resident_mib()) {
            assert!(mib(machine) >= resident, "{machine} bytes, {resident} MiB");
        }
    }

    #[test]
    fn the_peak_follows_an_allocation() {
        let before = peak_rss_mib();
        let block = vec![1_u8; 64 << 20];
        let resident = resident_mib();
        assert_eq!(std::hint::black_box(&block)[123], 1);
        drop(block);
        let (Some(before), Some(resident), Some(after)) = (before, resident, peak_rss_mib()) else {
            return; // this system does not report it
        };
        assert!(resident >= 64.0, "{resident} MiB");
        assert!(after >= before && after >= 64.0, "{before} -> {after} MiB");
    }
}
