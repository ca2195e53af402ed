//! The C library: `cargo build --release --features capi --example ibot_c`; its header is `src/capi/ibot.h`.

pub use ibot::capi::*;
