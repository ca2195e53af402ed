//! Faults provoked on a real device must end a process with an error, soon, and without numbers.
//!
//! A fault spoils its process, so each runs in a child: this same test binary, told by `IBOT_FAULT` what to provoke.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};
use burn_wgpu::{
    CubeBackend, CubeDim, KernelSource, SourceKernel, SourceTemplate, WgpuDevice, WgpuRuntime,
};
use cubecl::prelude::{CubeCount, KernelId};
use cubecl::server::{Handle, KernelArguments};
use cubecl::{CubeTask, Runtime};
use ibot::device::{BackendChoice, DeviceGuard, GpuGuard, Selected, choose};
use ibot::error::Error;

type Gpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

const FAULT: &str = "IBOT_FAULT";
const REQUIRED: &str = "IBOT_REQUIRE_WGPU";
const PATIENCE: Duration = Duration::from_secs(60);
/// What a child's numbers are printed behind; only a sound device may print them.
const NUMBERS: &str = "NUMBERS:";
const FAILED: i32 = 3;

// ---- the children ----

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

impl KernelSource for Wgsl {
    fn source(&self) -> SourceTemplate {
        SourceTemplate::new(self.0)
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.0)
    }
}

fn launch(device: &WgpuDevice, source: &'static str, buffers: &[&Handle]) {
    let kernel = SourceKernel::new(Wgsl(source), CubeDim::new_1d(64));
    let bindings = buffers
        .iter()
        .map(|handle| (*handle).clone().binding())
        .collect();
    WgpuRuntime::client(device).launch(
        Box::new(kernel) as Box<dyn CubeTask<_>>,
        CubeCount::Static(1, 1, 1),
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

/// Takes memory until there is none.
fn exhaust(gpu: &GpuGuard, guard: &DeviceGuard, device: &WgpuDevice) -> Result<Vec<f32>, Error> {
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
fn provoke(fault: &str) -> Result<Vec<f32>, Error> {
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
        "lost" | "lost, then sync" | "lost, then work" => lose(gpu, &guard, device, fault),
        other => Err(Error::Device(format!("no such fault: {other}"))),
    }
    .inspect_err(|_| end_of_a_broken_device(&guard, device))
}

/// After a fault: the guard stays shut at once, and an unguarded read ends too, whatever it gives.
fn end_of_a_broken_device(guard: &DeviceGuard, device: &WgpuDevice) {
    assert!(guard.check().is_err());
    assert!(guard.check_sync::<Gpu>(device).is_err());
    assert!(guard.catch(|| ()).is_err());
    assert!(guard.gpu_memory().is_none());
    let read = || Tensor::<Gpu, 1>::ones([64], device).sum().into_scalar();
    let start = Instant::now();
    let read = std::panic::catch_unwind(read);
    let how = if read.is_ok() { "returned" } else { "panicked" };
    eprintln!("unguarded read: {how} after {:?}", start.elapsed());
    let start = Instant::now();
    let sync = std::panic::catch_unwind(|| <Gpu as Backend>::sync(device).is_ok());
    eprintln!("unguarded sync: {sync:?} after {:?}", start.elapsed());
}

/// The child's side; without `IBOT_FAULT` a test that does nothing.
#[test]
fn child() {
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    let code = match provoke(&fault) {
        Ok(numbers) => {
            println!("{NUMBERS} {numbers:?}");
            0
        }
        Err(error) => {
            eprintln!("error: {error}");
            FAILED
        }
    };
    std::process::exit(code);
}

// ---- the parent ----

struct Outcome {
    status: ExitStatus,
    output: String,
    seconds: f64,
}

/// Runs this binary as a child that provokes `fault`; one that hangs is killed and fails the test.
fn run_child(fault: &str) -> Outcome {
    run(fault, Command::new(std::env::current_exe().unwrap()))
}

fn run(fault: &str, mut command: Command) -> Outcome {
    let start = Instant::now();
    let mut child = command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FAULT, fault)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipes: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    std::thread::scope(|scope| {
        let readers = pipes.each_mut().map(|pipe| {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = readers.map(|reader| reader.join().unwrap()).concat();
        let seconds = start.elapsed().as_secs_f64();
        let status =
            status.unwrap_or_else(|| panic!("{fault}: no end after {PATIENCE:?}\n{output}"));
        eprintln!("--- {fault}: {status}, {seconds:.1} s\n{output}");
        Outcome {
            status,
            output,
            seconds,
        }
    })
}

/// Past the test harness, which hides what a passing test prints.
fn skip(why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "SKIPPED: {why}").unwrap();
}

/// Whether there is an adapter to break; where there must be one, its absence fails.
fn has_adapter() -> bool {
    match choose(BackendChoice::Wgpu, None) {
        Ok(_) => true,
        Err(error) if std::env::var(REQUIRED).is_ok_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            skip(&error.to_string());
            false
        }
    }
}

/// `fault` must end the child with an error that starts with `kind` and says `remedy`.
fn expect_fault(fault: &str, kind: &str, remedy: &str) {
    if !has_adapter() {
        return;
    }
    expect_outcome(&run_child(fault), kind, remedy);
}

fn expect_outcome(outcome: &Outcome, kind: &str, remedy: &str) {
    assert_eq!(outcome.status.code(), Some(FAILED), "{}", outcome.output);
    assert!(!outcome.output.contains(NUMBERS), "{}", outcome.output);
    assert!(
        outcome.output.contains(&format!("error: {kind} on ")),
        "{}",
        outcome.output
    );
    assert!(outcome.output.contains(remedy), "{}", outcome.output);
    assert!(outcome.seconds < PATIENCE.as_secs_f64());
}

#[test]
fn a_sound_device_gives_numbers() {
    if has_adapter() {
        let outcome = run_child("none");
        assert!(outcome.status.success(), "{}", outcome.output);
        assert!(
            outcome.output.contains("NUMBERS: [3.0, -4.0, 6.0]"),
            "{}",
            outcome.output
        );
    }
}

#[test]
fn a_syntax_error_in_a_kernel() {
    expect_fault("syntax", "shader does not compile", "--backend flex");
}

#[test]
fn a_type_error_in_a_kernel() {
    expect_fault("type", "shader does not compile", "--backend flex");
}

#[test]
fn a_missing_binding() {
    expect_fault("missing binding", "validation error", "--backend flex");
}

#[test]
fn an_extra_binding() {
    expect_fault("extra binding", "validation error", "--backend flex");
}

#[test]
fn a_tensor_above_the_binding_size() {
    expect_fault("binding size", "out of memory", "Lower --batch-size");
}

#[test]
fn a_random_tensor_above_the_binding_size() {
    expect_fault("random", "out of memory", "Lower --batch-size");
}

#[test]
fn a_tensor_above_the_buffer_size() {
    expect_fault("buffer size", "out of memory", "Lower --batch-size");
}

/// The driver itself refuses. Only on software, where a limit on the process stands in for a full GPU.
#[cfg(target_os = "linux")]
#[test]
fn no_memory_left() {
    let software =
        |s: &Selected| matches!(s, Selected::Wgpu { adapter, .. } if adapter.is_software());
    if !has_adapter() {
        return;
    }
    if !choose(BackendChoice::Wgpu, None).is_ok_and(|choice| software(&choice.selected)) {
        skip("filling the memory of a real GPU");
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 12000000 && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    expect_outcome(
        &run("exhaust", command),
        "out of memory",
        "Lower --batch-size",
    );
}

#[test]
fn a_lost_device() {
    for how in ["lost", "lost, then sync", "lost, then work"] {
        expect_fault(how, "device lost", "last checkpoint");
    }
}
