//! The counts of a benchmark: each launch, submit and read, and nothing else.

use burn::tensor::Tensor;
use burn_wgpu::WgpuDevice;
use ibot::bench::{counted, observe_log};
use ibot::device::DeviceGuard;
use ibot::kernels::{Gpu, wgsl};

/// Passes every record on, as the command's logger does.
struct Passes;

impl log::Log for Passes {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        observe_log(record);
    }

    fn flush(&self) {}
}

pub fn are_counted(device: &WgpuDevice, guard: &DeviceGuard) {
    let source = Tensor::<Gpu, 1>::ones([1000], device);
    let copies = || {
        let copies: Vec<_> = (0..3).map(|_| wgsl::copy(source.clone())).collect();
        guard.check_sync::<Gpu>(device).unwrap();
        copies
    };
    copies();
    assert_eq!(counted(copies).1, None, "without a logger nothing is known");
    log::set_logger(&Passes).unwrap();
    let (copies, traffic) = counted(copies);
    let traffic = traffic.unwrap();
    assert_eq!(
        (traffic.launches, traffic.host_reads),
        (3, 0),
        "{traffic:?}"
    );
    assert!(traffic.submits >= 1, "{traffic:?}");
    let (data, traffic) = counted(|| copies[0].clone().into_data());
    let traffic = traffic.unwrap();
    assert_eq!(
        (traffic.launches, traffic.host_reads),
        (0, 1),
        "{traffic:?}"
    );
    assert_eq!(data.iter::<f32>().sum::<f32>(), 1000.0);
}
