//! This program, the system, the processor and the memory.

use ibot::memory::in_gib;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::check::Check;

/// Memory below which ViT-S does not train: a step with a batch of 4 takes 1.4 GiB on a CPU (README, "Speed"). The demo
/// takes 135 MiB.
const LEAST_BYTES: u64 = 2 << 30;

pub fn checks() -> Vec<Check> {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds);
    vec![
        program(),
        system_name(),
        processor(&system),
        memory(&system),
    ]
}

/// The features of this build.
pub fn features() -> Vec<&'static str> {
    // as the build script found them, like those of `--version`
    env!("IBOT_FEATURES").split_whitespace().collect()
}

fn program() -> Check {
    let features = match features().as_slice() {
        [] => "none".to_owned(),
        features => features.join(", "),
    };
    let found = format!("{}, features: {features}", env!("CARGO_PKG_VERSION"));
    if cfg!(debug_assertions) {
        Check::missing(
            "ibot",
            format!("{found}; built without optimization"),
            ["build it with cargo's --release: it is many times faster"],
        )
    } else {
        Check::ok("ibot", found)
    }
}

fn system_name() -> Check {
    let name = System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into());
    let kernel = System::kernel_version().map_or_else(String::new, |of| format!(", kernel {of}"));
    let place = match (ibot::device::is_wsl(), is_container()) {
        (true, _) => ", in WSL",
        (false, true) => ", in a container",
        (false, false) => "",
    };
    let found = format!("{name}{kernel}, {}{place}", std::env::consts::ARCH);
    Check::ok("system", found)
}

/// Whether this is a Linux container, by the marks that Docker, Podman and Kubernetes leave.
pub fn is_container() -> bool {
    cfg!(target_os = "linux")
        && (["/.dockerenv", "/run/.containerenv"]
            .iter()
            .any(|mark| std::path::Path::new(mark).exists())
            || ["container", "KUBERNETES_SERVICE_HOST"]
                .iter()
                .any(|name| std::env::var_os(name).is_some()))
}

fn processor(system: &System) -> Check {
    let brand = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
    let brand = match brand {
        "" => "unknown model",
        brand => brand,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let instructions = instructions();
    let with = |has: bool| {
        let named = instructions.iter().filter(|(_, there)| *there == has);
        named.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let mut found = format!("{brand}, {}", ibot::error::counted(threads, "thread"));
    for (word, names) in [("", with(true)), ("no ", with(false))] {
        if !names.is_empty() {
            found += &format!("; {word}{names}");
        }
    }
    match instructions.first() {
        Some((name, false)) => Check::missing(
            "processor",
            found,
            [format!(
                "without {name} the CPU is several times slower; a virtual machine must pass the host's processor on (QEMU: -cpu host)"
            )],
        ),
        _ => Check::ok("processor", found),
    }
}

/// The instructions that products on the CPU take where they are there; without the first one they are slow.
#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<(&'static str, bool)> {
    vec![
        (
            "AVX2",
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        ),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX512-BF16", is_x86_feature_detected!("avx512bf16")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> Vec<(&'static str, bool)> {
    vec![("NEON", std::arch::is_aarch64_feature_detected!("neon"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instructions() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Memory of the machine, or what the container may have of it.
fn memory(system: &System) -> Check {
    let bytes = ibot::memory::machine_bytes().unwrap_or_else(|| system.total_memory());
    let free = system.available_memory().min(bytes);
    let found = format!("{}, {} of it free", in_gib(bytes), in_gib(free));
    if bytes < LEAST_BYTES {
        Check::missing(
            "memory",
            found,
            ["enough for small transformers; `ibot train --plan` says what a run takes"],
        )
    } else {
        Check::ok("memory", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn each_part_of_the_machine_is_named() {
        let checks = checks();
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["ibot", "system", "processor", "memory"]);
        assert!(
            checks[0].found.starts_with(env!("CARGO_PKG_VERSION")),
            "{}",
            checks[0]
        );
        assert!(
            checks[1].found.contains(std::env::consts::ARCH),
            "{}",
            checks[1]
        );
        assert!(checks[2].found.contains("thread"), "{}", checks[2]);
        assert_eq!(checks[3].state, State::Ok, "{}", checks[3]);
        assert!(!checks[3].found.starts_with("0.0"), "{}", checks[3]);
    }
}
