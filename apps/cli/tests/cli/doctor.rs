//! `ibot doctor`: what is there, what is missing, and the status.

use serde_json::Value;

use crate::{CACHE_VARIABLE, Scratch, command, stdout, succeeds};

#[test]
fn the_machine_is_described() {
    let text = succeeds(&["doctor"]);
    for (name, part) in [
        ("ibot", env!("CARGO_PKG_VERSION")),
        ("system", std::env::consts::ARCH),
        ("processor", "thread"),
        ("memory", "GiB"),
        ("GPU", ""),
        ("auto", "backend "),
        ("cache", "writable"),
    ] {
        let is_its = |line: &&str| line.split_whitespace().nth(1) == Some(name);
        let line = text.lines().find(is_its);
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(line.starts_with("OK ") || line.starts_with("MISSING "));
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn programs_read_the_same() {
    let report: Value = serde_json::from_str(&succeeds(&["doctor", "--json"])).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let adapters = ibot::device::list_adapters().unwrap();
    assert_eq!(report["adapters"], serde_json::json!(adapters));
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let is_missing = check["state"] == "missing";
        assert!(is_missing || check["state"] == "ok", "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
    }
    // a GPU, or that it is missing
    assert!(checks.iter().any(|check| check["name"] == "GPU"));
}

/// Without any driver: no error, because the CPU computes.
#[cfg(target_os = "linux")]
#[test]
fn a_missing_gpu_is_no_failure_and_has_a_remedy() {
    let scratch = Scratch::new("no-driver");
    let none = scratch.path("none.json");
    let mut doctor = command(&["doctor"]);
    doctor.env("VK_DRIVER_FILES", &none);
    let output = doctor.env("IBOT_API", "vulkan").output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("MISSING  GPU "), "{text}");
    assert!(text.contains("\n                    -> "), "{text}");
    assert!(text.contains("backend flex: CPU"), "{text}");
    assert!(
        text.contains("ibot works without a GPU, on the CPU"),
        "{text}"
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let scratch = Scratch::new("no-cache");
    let file = scratch.path("file");
    std::fs::write(&file, "in the way").unwrap();
    let output = command(&["doctor"])
        .env(CACHE_VARIABLE, &file)
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("commands fail without: cache"), "{error}");
    let line = text
        .lines()
        .find(|line| line.starts_with("MISSING  cache "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("cannot be written"), "{line}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "in the way");
}

#[test]
fn a_variable_that_stops_all_commands_is_a_failure() {
    let mut doctor = command(&["doctor"]);
    let output = doctor.env("IBOT_API", "opencl").output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("MISSING  GPU        IBOT_API = opencl: must be one of "),
        "{text}"
    );
    assert!(
        text.contains("OK       memory "),
        "the rest is told too: {text}"
    );
}
