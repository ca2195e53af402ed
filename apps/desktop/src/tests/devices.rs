//! The window's GPU, and where it failed.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use eframe::egui_wgpu::{WgpuSetup, WgpuSetupExisting};
use eframe::wgpu::Device;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ibot::app::DeviceRequest;
use ibot::device::BackendChoice;

use super::tiny_model::Scratch;
use super::{Window, folder_of, start_demo, until, until_said, window_on};
use crate::gpu;

/// What the app would share with its window, and its device; none where wgpu is not tested.
fn shared() -> Option<(DeviceRequest, Device)> {
    let opened = gpu::open(BackendChoice::Wgpu).unwrap();
    let WgpuSetup::Existing(WgpuSetupExisting { device, .. }) = opened.window else {
        let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
        assert!(!required, "IBOT_REQUIRE_WGPU is 1: {:?}", opened.note);
        // past the test harness, which hides what a passing test prints
        let line = b"SKIPPED: NO WGPU ADAPTER\n";
        std::io::stderr().write_all(line).unwrap();
        return None;
    };
    Some((opened.device, device))
}

/// The app on twelve images and that device; none where wgpu is not tested.
fn window_on_shared(name: &str) -> Option<(Scratch, Window, Device)> {
    let (request, device) = shared()?;
    let scratch = Scratch::new(name);
    let window = window_on(request, folder_of(&scratch.images(12)), None);
    Some((scratch, window, device))
}

/// For ibot the device is as good as lost: it would not hear of its errors.
fn fail(device: &Device) {
    device.on_uncaptured_error(Arc::new(|_| {}));
}

#[test]
fn a_run_goes_on_on_the_cpu_where_the_windows_gpu_failed() {
    let Some((scratch, mut window, device)) = window_on_shared("desktop-failed") else {
        return;
    };
    start_demo(&mut window);
    let record = scratch.path("images-ibot/run.json");
    until(&mut window, "the run began", |_| record.exists());
    fail(&device);
    until_said(&mut window, "another error handler");
    let start = window.get_by_label("Start training");
    assert!(start.accesskit_node().is_disabled());
    window.get_by_label("Use the CPU").click();
    window.run_steps(3);
    window.get_by_label("Start training").click();
    until_said(&mut window, "backend: wgpu -> flex");
    until_said(&mut window, "of 2000");
}

#[test]
fn a_run_goes_on_on_the_gpu_apart_from_the_window() {
    let Some((_scratch, mut window, device)) = window_on_shared("desktop-apart") else {
        return;
    };
    fail(&device);
    start_demo(&mut window);
    until_said(&mut window, "another error handler");
    window
        .get_by_label("Use the GPU apart from the window")
        .click();
    window.run_steps(3);
    assert!(window.query_by_label("Use the CPU").is_none());
    window.get_by_label("Start training").click();
    until_said(&mut window, "of 2000");
}

/// In a process of its own, as the variable is the whole process's.
#[test]
fn the_window_takes_the_api_that_is_asked_for() {
    const CHILD: &str = "IBOT_DESKTOP_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let Err(error) = gpu::open(BackendChoice::Flex) else {
            panic!("there is no such API");
        };
        println!("refused: {error}");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = "tests::devices::the_window_takes_the_api_that_is_asked_for";
    child.args([name, "--exact", "--nocapture"]);
    let output = child
        .env(CHILD, "1")
        .env("IBOT_API", "opencl")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("refused: IBOT_API = opencl"), "{text}");
}
