//! Why a model or a run failed, and the devices to go on with.

use eframe::egui::Ui;
use ibot::Error;
use ibot::app::DeviceRequest;
use ibot::device::{BackendChoice, DeviceGuard};

/// Why there is no model or no run.
pub struct Failure {
    pub reason: String,
    /// Whether the device failed, and another one may do.
    pub is_of_device: bool,
    /// Whether that device is shared with the window: nothing is computed on it any more until the program is started
    /// again, whereas ibot opens a device of its own again.
    pub is_final: bool,
}

impl Failure {
    /// A failure on `device`.
    pub fn new(error: &Error, device: &DeviceRequest) -> Self {
        let is_final = match device {
            DeviceRequest::Selected(selected) => {
                let guard = DeviceGuard::install(selected);
                guard.and_then(|guard| guard.check()).is_err()
            }
            DeviceRequest::Choose(..) => false,
        };
        Self {
            reason: error.to_string(),
            is_of_device: is_final || matches!(error, Error::Device(_)),
            is_final,
        }
    }

    /// Buttons for other devices; the one that is clicked.
    pub fn show_devices(&self, ui: &mut Ui) -> Option<DeviceRequest> {
        let mut wanted = None;
        if self.is_final {
            ui.label(
                "Nothing can be computed on the GPU that the window shares until this program is started again.",
            );
            let hint = "A device of its own on the GPU.";
            let button = ui.button("Use the GPU apart from the window");
            if button.on_hover_text(hint).clicked() {
                wanted = Some(BackendChoice::Wgpu);
            }
        }
        if self.is_of_device && ui.button("Use the CPU").clicked() {
            wanted = Some(BackendChoice::Flex);
        }
        wanted.map(Into::into)
    }
}
