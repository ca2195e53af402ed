//! The window's GPU, and one that failed.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use eframe::wgpu::{Backends, Device, Instance, InstanceDescriptor, RequestAdapterOptions};
use egui_kittest::kittest::Queryable as _;
use ibot::app::DeviceRequest;
use ibot::device::{ExistingDevice, device_descriptor};
use pollster::block_on;

use super::tiny_model::Scratch;
use super::{Window, folder_of, start_demo, until, until_said, window_on};
use crate::gpu;

/// A device that a test can make fail; none where wgpu is not tested.
fn adopted() -> Option<(DeviceRequest, Device)> {
    let instance = Instance::new(InstanceDescriptor {
        backends: Backends::PRIMARY,
        ..InstanceDescriptor::new_without_display_handle()
    });
    let Ok(adapter) = block_on(instance.request_adapter(&RequestAdapterOptions::default())) else {
        let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
        assert!(!required, "IBOT_REQUIRE_WGPU is 1: there is no adapter");
        // past the test harness, which hides what a passing test prints
        let line = b"SKIPPED: NO WGPU ADAPTER\n";
        std::io::stderr().write_all(line).unwrap();
        return None;
    };
    let opened = block_on(adapter.request_device(&device_descriptor(&adapter)));
    let (device, queue) = opened.unwrap();
    let existing = ExistingDevice::new(&instance, &adapter, &device, &queue);
    Some((existing.adopt().unwrap().into(), device))
}

/// The app on twelve images and that device; none where wgpu is not tested.
fn window_on_adopted(name: &str) -> Option<(Scratch, Window, Device)> {
    let (request, device) = adopted()?;
    let scratch = Scratch::new(name);
    let window = window_on(request, folder_of(&scratch.images(12)), None);
    Some((scratch, window, device))
}

/// For ibot the device is as good as lost: it would not hear of its errors.
fn fail(device: &Device) {
    device.on_uncaptured_error(Arc::new(|_| {}));
}

#[test]
fn a_run_goes_on_on_the_cpu_where_the_gpu_failed() {
    let Some((scratch, mut window, device)) = window_on_adopted("desktop-failed") else {
        return;
    };
    start_demo(&mut window);
    let record = scratch.path("images-ibot/run.json");
    until(&mut window, "the run began", |_| record.exists());
    fail(&device);
    until_said(&mut window, "another error handler");
    window.get_by_label("Use the CPU").click();
    window.run_steps(3);
    window.get_by_label("Start training").click();
    until_said(&mut window, "backend: wgpu -> flex");
    until_said(&mut window, "of 2000");
}

/// In a process of its own, as the variable is the whole process's.
#[test]
fn the_window_takes_the_api_that_is_asked_for() {
    const CHILD: &str = "IBOT_DESKTOP_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let Err(error) = gpu::of_window() else {
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
