//! `ibot devices`.

use ibot::Result;
use ibot::device::{auto_choice, list_adapters};

use super::flags::in_flags;
use super::output::answer;

/// Flags of `ibot devices`.
#[derive(Debug, clap::Args)]
pub struct DevicesArgs {
    /// Print one JSON array instead of text.
    #[arg(long)]
    json: bool,
}

impl DevicesArgs {
    pub fn run(&self) -> Result<()> {
        let adapters = list_adapters()?;
        if self.json {
            return answer(serde_json::json!(adapters));
        }
        if adapters.is_empty() {
            answer("wgpu found no GPU (Vulkan, Metal or DX12)")?;
        }
        for adapter in &adapters {
            answer(adapter)?;
        }
        answer(in_flags(&format!("auto takes {}", auto_choice()?)))
    }
}
