//! `ibot devices`.

use ibot::Result;
use ibot::device::{auto_choice, list_adapters};

/// Flags of `ibot devices`.
#[derive(Debug, clap::Args)]
pub struct DevicesArgs {
    /// One JSON array instead of text.
    #[arg(long)]
    json: bool,
}

impl DevicesArgs {
    pub fn run(&self) -> Result<()> {
        let adapters = list_adapters();
        if self.json {
            println!("{}", serde_json::json!(adapters));
            return Ok(());
        }
        if adapters.is_empty() {
            println!("no GPU that wgpu can use (Vulkan, Metal or DX12)");
        }
        for adapter in &adapters {
            println!("{adapter}");
        }
        println!("auto takes {}", auto_choice());
        Ok(())
    }
}
