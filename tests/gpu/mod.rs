//! The adapter that the tests of the wgpu backend run on.

use std::io::Write as _;

use burn_wgpu::WgpuDevice;
use ibot::device::{BackendChoice, DeviceGuard, Selected, choose};

/// The guarded device of the first adapter. Without one the test is skipped, unless IBOT_REQUIRE_WGPU is 1.
pub fn device() -> Option<(WgpuDevice, DeviceGuard)> {
    match choose(BackendChoice::Wgpu, None) {
        Ok(choice) => {
            let guard = DeviceGuard::install(&choice.selected).unwrap();
            match choice.selected {
                Selected::Wgpu { device, .. } => Some((device, guard)),
                other => panic!("{other} is no wgpu device"),
            }
        }
        Err(error) => {
            let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
            assert!(!required, "IBOT_REQUIRE_WGPU is 1: {error}");
            // not `eprintln!`: the test harness would keep it for itself
            let line = format!("SKIPPED: NO WGPU ADAPTER: {error}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}
