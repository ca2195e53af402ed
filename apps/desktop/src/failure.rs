//! Why a model or a run failed, and the devices to go on with.

use eframe::egui::Ui;
use ibot::Error;
use ibot::app::DeviceRequest;
use ibot::device::BackendChoice;

use super::words::{in_window, is_of_changes};

/// Why there is no model or no run.
pub struct Failure {
    pub reason: String,
    /// Whether the device failed, and another one may do.
    pub is_of_device: bool,
    /// Whether a run was refused that may go on with other settings or images.
    pub is_of_changes: bool,
}

impl Failure {
    /// Of this error.
    pub fn new(error: &Error) -> Self {
        Self {
            reason: in_window(&error.to_string()),
            is_of_device: matches!(error, Error::Device(_)),
            is_of_changes: is_of_changes(error),
        }
    }

    /// A button for another device; that device if it is clicked.
    pub fn show_devices(&self, ui: &mut Ui) -> Option<DeviceRequest> {
        let is_wanted = self.is_of_device && ui.button("Use the CPU").clicked();
        is_wanted.then(|| BackendChoice::Flex.into())
    }
}
