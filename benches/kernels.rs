//! The WGSL kernels against tensor operations and the device's copy bandwidth: `cargo bench --bench kernels`, which
//! prints the table of `ibot bench --kernels`.

use ibot::bench::bench_kernels;
use ibot::device::{BackendChoice, select};

const ROUNDS: usize = 7;

fn main() -> ibot::Result<()> {
    let selected = select(BackendChoice::Wgpu, None)?;
    println!("{}", bench_kernels(&selected, ROUNDS)?);
    Ok(())
}
