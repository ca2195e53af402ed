//! The children's side: each provokes one fault.

use std::time::Instant;

use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};
use burn_wgpu::{
    CubeBackend, CubeDim, KernelSource, SourceKernel, SourceTemplate, WgpuDevice, WgpuRuntime,
};
use cubecl::prelude::{CubeCount, KernelId};
use cubecl::server::{Handle, KernelArguments};
use cubecl::{CubeTask, Runtime};
#[cfg(target_os = "linux")]
use ibot::device::reopened_if_lost;
use ibot::device::{BackendChoice, DeviceGuard, GpuGuard, Selected, choose};
use ibot::error::Error;
use ibot::kernels::IbotBackend;

type Gpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

/// A kernel from a string: two storage buffers, or whatever the string says.
struct Wgsl(&'static str);

const DOUBLE: &str = "
@group(0) @binding(0) var<storage, read_write> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> target_: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&target_) { target_[id.x] = 2.0 * source[id.x]; }
}";

const BROKEN: &str = "
@group(0) @binding(0) var<storage, read_write> source: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { source[id.x] = ; }";

const ILL_TYPED: &str = "
@group(0) @binding(0) var<storage, read_write> source: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { source[id.x] = 1u; }";

/// In 2^32 workgroups it takes days. lavapipe leaves loops after 65 535 rounds, all of an invocation together.
const ENDLESS: &str = "
@group(0) @binding(0) var<storage, read_write> cells: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = cells[0];
    for (var i = 0; i < 60000; i++) { sum = fract(sum * 1.7 + 0.3); }
    cells[0] = sum;
}";

impl KernelSource for Wgsl {
    fn source(&self) -> SourceTemplate {
        SourceTemplate::new(self.0)
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.0)
    }
}

fn launch(device: &WgpuDevice, source: &'static str, groups: u32, buffers: &[&Handle]) {
    let kernel = SourceKernel::new(Wgsl(source), CubeDim::new_1d(64));
    let bindings = buffers
        .iter()
        .map(|handle| (*handle).clone().binding())
        .collect();
    WgpuRuntime::client(device).launch(
        Box::new(kernel) as Box<dyn CubeTask<_>>,
        CubeCount::Static(groups, groups, 1),
        KernelArguments::new().with_buffers(bindings),
    );
}

/// Doubles three numbers with `source`, on as many buffers as asked for, and reads them.
fn run_kernel(
    guard: &DeviceGuard,
    device: &WgpuDevice,
    source: &'static str,
    buffers: usize,
) -> Result<Vec<f32>, Error> {
    let client = WgpuRuntime::client(device);
    let bytes: Vec<u8> = [1.5_f32, -2.0, 3.0]
        .iter()
        .flat_map(|x| x.to_ne_bytes())
        .collect();
    let handles: Vec<Handle> = (0..buffers.max(2))
        .map(|_| client.create_from_slice(&bytes))
        .collect();
    launch(
        device,
        source,
        1,
        &handles.iter().take(buffers).collect::<Vec<_>>(),
    );
    let output = handles[1].clone();
    let bytes = guard.read::<Gpu, _>(device, || client.read_one_unchecked(output))?;
    let number = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    Ok(bytes.chunks_exact(4).map(number).collect())
}

fn sum(
    guard: &DeviceGuard,
    device: &WgpuDevice,
    tensor: Tensor<Gpu, 1>,
) -> Result<Vec<f32>, Error> {
    guard.read::<Gpu, _>(device, || {
        tensor.slice(0..64).sum().into_data().to_vec().unwrap()
    })
}

/// Destroys the device amid work, then reads, or synchronizes at once, or first computes on.
fn lose(
    gpu: &GpuGuard,
    guard: &DeviceGuard,
    device: &WgpuDevice,
    how: &str,
) -> Result<Vec<f32>, Error> {
    let mut tensor = Tensor::<Gpu, 1>::ones([64], device);
    sum(guard, device, tensor.clone())?;
    gpu.setup().device.destroy();
    match how {
        "lost, then sync" => guard.check_sync::<Gpu>(device)?,
        "lost, then work" => {
            for _ in 0..100 {
                tensor = tensor + 1.0;
            }
            guard.check_sync::<Gpu>(device)?;
        }
        _ => {}
    }
    sum(guard, device, tensor)
}

/// A driver that does not do its work and says nothing: what was counted on the device is gone.
fn forget(
    gpu: &GpuGuard,
    guard: &DeviceGuard,
    device: &WgpuDevice,
    how: &str,
) -> Result<Vec<f32>, Error> {
    let mut tensor = Tensor::<Gpu, 2>::ones([8, 8], device);
    guard.catch(|| {
        for _ in 0..200 {
            tensor = Gpu::exact_gelu(tensor.clone());
        }
    })?;
    let before = sum(guard, device, tensor.clone().reshape([64]))?;
    if how == "forgotten" {
        // small tensors, the counter among them, lie in one buffer
        let client = WgpuRuntime::client(device);
        let small = client.get_resource(client.create_from_slice(&[0; 4]));
        let small = small.map_err(|error| Error::Device(error.to_string()))?;
        let buffer = small.resource().buffer.clone();
        let zeros = vec![0; 1 << 16];
        gpu.setup().queue.write_buffer(&buffer, 0, &zeros);
        gpu.setup().queue.submit([]);
        sum(guard, device, tensor.reshape([64]))?;
    }
    Ok(before)
}

/// Work behind a kernel without end, and how it is waited for. A real GPU would be reset, or freeze its screen.
fn wait_for_ever(
    gpu: &GpuGuard,
    guard: &DeviceGuard,
    device: &WgpuDevice,
    how: &str,
) -> Result<Vec<f32>, Error> {
    assert!(gpu.adapter().is_software());
    let mut tensor = Tensor::<Gpu, 2>::ones([8, 8], device);
    let first = tensor.clone().reshape([64]);
    sum(guard, device, first.clone())?;
    let handle = first.clone().into_primitive().tensor().handle;
    launch(device, ENDLESS, 65_535, &[&handle]);
    match how {
        "endless, then sync" => guard.check_sync::<Gpu>(device)?,
        // more of them than cubecl takes before it waits
        "endless, then work" => guard.catch(|| {
            for _ in 0..2000 {
                tensor = Gpu::exact_gelu(tensor.clone());
            }
        })?,
        // the same of burn's kernels, of which nobody knows
        "endless, then burn's work" => guard.catch(|| {
            for _ in 0..2000 {
                tensor = tensor.clone() + 1.0;
            }
        })?,
        "endless, then memory" => assert!(guard.gpu_memory().is_none()),
        _ => {}
    }
    sum(guard, device, first)
}

/// A device that broke with tensors on it gives their memory back, and two threads that ask for another one share it; so does
/// the one after it, though both are asked for by the first.
#[cfg(target_os = "linux")]
fn reopen(selected: &Selected) -> Result<Vec<f32>, Error> {
    let mut open = selected.clone();
    for _ in 0..2 {
        let (guard, device) = opened(&open)?;
        let cells = 24 << 20;
        let ones = || Tensor::<Gpu, 1>::ones([cells], &device);
        let held = [ones(), ones(), ones()];
        for tensor in held.clone() {
            sum(&guard, &device, tensor)?;
        }
        let full = resident_bytes();
        let DeviceGuard::Gpu(gpu) = &guard else {
            return Err(Error::Device("wgpu was asked for".to_owned()));
        };
        assert!(gpu.adapter().is_software());
        let too_large = usize::try_from(gpu.adapter().limits.buffer_bytes / 4 + 1024).unwrap();
        let tensor = Tensor::<Gpu, 1>::empty([too_large], &device);
        assert!(sum(&guard, &device, tensor).is_err());
        let again = || {
            let selected = selected.clone();
            std::thread::spawn(move || reopened_if_lost(selected))
        };
        let threads = [again(), again()];
        let [one, two] = threads.map(|thread| thread.join().unwrap());
        let (one, two) = (one?, two?);
        assert_eq!(one, two);
        assert_ne!(one, open);
        let freed = full.saturating_sub(resident_bytes());
        let bytes = held.len() * cells * size_of::<f32>();
        assert!(freed > bytes / 2, "{freed} of {full} bytes are free");
        open = one;
    }
    let (guard, device) = opened(&open)?;
    run_kernel(&guard, &device, DOUBLE, 2)
}

#[cfg(target_os = "linux")]
fn opened(selected: &Selected) -> Result<(DeviceGuard, WgpuDevice), Error> {
    match selected {
        Selected::Wgpu { device, .. } => Ok((DeviceGuard::install(selected)?, device.clone())),
        _ => Err(Error::Device("wgpu was asked for".to_owned())),
    }
}

/// Memory of this process.
#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    4096 * pages.parse::<usize>().unwrap()
}

/// Takes memory until there is none. Real ones are left alone: macOS and Windows would swap long before.
fn exhaust(gpu: &GpuGuard, guard: &DeviceGuard, device: &WgpuDevice) -> Result<Vec<f32>, Error> {
    assert!(gpu.adapter().is_software());
    let bytes = gpu.adapter().limits.binding_bytes.min(1 << 30);
    let size = usize::try_from(bytes / 4).unwrap_or(usize::MAX);
    let mut tensors: Vec<Tensor<Gpu, 1>> = Vec::new();
    for _ in 0..4096 {
        tensors.push(Tensor::empty([size], device));
        guard.check_sync::<Gpu>(device)?;
    }
    sum(guard, device, tensors.remove(0))
}

/// Provokes `fault`; numbers come back only where the guard lets them.
pub fn provoke(fault: &str) -> Result<Vec<f32>, Error> {
    let selected = choose(BackendChoice::Wgpu, None)?.selected;
    println!("{selected}");
    let guard = DeviceGuard::install(&selected)?;
    let (Selected::Wgpu { device, .. }, DeviceGuard::Gpu(gpu)) = (&selected, &guard) else {
        return Err(Error::Device("wgpu was asked for".to_owned()));
    };
    let limits = &gpu.adapter().limits;
    let floats = |bytes: u64| [usize::try_from(bytes / 4 + 1024).unwrap_or(usize::MAX)];
    match fault {
        "none" => run_kernel(&guard, device, DOUBLE, 2),
        "syntax" => run_kernel(&guard, device, BROKEN, 1),
        "type" => run_kernel(&guard, device, ILL_TYPED, 1),
        "missing binding" => run_kernel(&guard, device, DOUBLE, 1),
        "extra binding" => run_kernel(&guard, device, DOUBLE, 3),
        "binding size" => {
            let tensor = Tensor::zeros(floats(limits.binding_bytes), device);
            sum(&guard, device, tensor)
        }
        "buffer size" => {
            let tensor = Tensor::empty(floats(limits.buffer_bytes), device);
            sum(&guard, device, tensor)
        }
        "random" => {
            let size = floats(limits.binding_bytes);
            sum(
                &guard,
                device,
                Tensor::random(size, Distribution::Default, device),
            )
        }
        "exhaust" => exhaust(gpu, &guard, device),
        #[cfg(target_os = "linux")]
        "reopened" => return reopen(&selected),
        "lost" | "lost, then sync" | "lost, then work" => lose(gpu, &guard, device, fault),
        "counted" | "forgotten" => forget(gpu, &guard, device, fault),
        endless if endless.starts_with("endless") => wait_for_ever(gpu, &guard, device, endless),
        other => Err(Error::Device(format!("no such fault: {other}"))),
    }
    .inspect_err(|_| end_of_a_broken_device(&guard, device, fault))
}

/// After a fault: the guard stays shut at once, and an unguarded read ends too, whatever it gives; but for a device that
/// does not answer.
fn end_of_a_broken_device(guard: &DeviceGuard, device: &WgpuDevice, fault: &str) {
    assert!(guard.check().is_err());
    assert!(guard.check_sync::<Gpu>(device).is_err());
    assert!(guard.catch(|| ()).is_err());
    assert!(guard.gpu_memory().is_none());
    guard.free_unused();
    if fault.starts_with("endless") {
        return;
    }
    let read = || Tensor::<Gpu, 1>::ones([64], device).sum().into_scalar();
    let start = Instant::now();
    let read = std::panic::catch_unwind(read);
    let how = if read.is_ok() { "returned" } else { "panicked" };
    eprintln!("unguarded read: {how} after {:?}", start.elapsed());
    let start = Instant::now();
    let sync = std::panic::catch_unwind(|| <Gpu as Backend>::sync(device).is_ok());
    eprintln!("unguarded sync: {sync:?} after {:?}", start.elapsed());
}
