//! Models on the application's own wgpu device, and devices that are lost.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ibot::app::{EmbedRequest, EmbedderConfig, ImageFeatures};
use ibot::device::{
    BackendChoice, DeviceGuard, ExistingDevice, Selected, choose, device_descriptor,
};
use ibot::error::Error;
use ibot::train::{NoObserver, run};

use crate::tiny_model::{Scratch, image};
use crate::{PATIENCE, until};

/// Between two passes of an application that draws 60 times a second.
const FRAME: Duration = Duration::from_millis(16);
/// How long the application is watched beside embedding.
const WATCHED: Duration = Duration::from_secs(4);
/// Longest that it may wait for a pass; blocked by all of the work it would be `WATCHED`.
const LONGEST_GAP: Duration = Duration::from_secs(2);

/// An application's wgpu.
#[derive(Clone)]
pub struct Host {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    pub device: wgpu::Device,
    queue: wgpu::Queue,
}

/// The adapter that wgpu is tested on, with a device as `describe` asks for it; none where the tests of wgpu are skipped.
pub fn host(describe: fn(&wgpu::Adapter) -> wgpu::DeviceDescriptor<'static>) -> Option<Host> {
    if let Err(error) = choose(BackendChoice::Wgpu, None) {
        let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
        assert!(!required, "IBOT_REQUIRE_WGPU is 1: {error}");
        let line = format!("SKIPPED: NO WGPU ADAPTER: {error}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let options = wgpu::RequestAdapterOptions::default();
    let adapter = cubecl::future::block_on(instance.request_adapter(&options)).unwrap();
    let request = adapter.request_device(&describe(&adapter));
    let (device, queue) = cubecl::future::block_on(request).unwrap();
    Some(Host {
        instance,
        adapter,
        device,
        queue,
    })
}

impl Host {
    pub fn existing(&self) -> ExistingDevice {
        ExistingDevice::new(&self.instance, &self.adapter, &self.device, &self.queue)
    }
}

/// A small model on a device, in batches that should take no longer than a few frames.
fn embedder(scratch: &Scratch, selected: &Selected) -> EmbedderConfig {
    EmbedderConfig {
        device: selected.clone().into(),
        batch_size: 8,
        batch_time: Some(Duration::from_millis(50)),
        ..EmbedderConfig::new(scratch.model(2))
    }
}

const PASS: &str = "
@group(0) @binding(0) var<storage, read_write> cells: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { cells[id.x] = sin(cells[id.x] + 1.0); }";

/// Computes one pass a frame on a thread of its own, until it is dropped.
struct Frames {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Duration>>,
}

impl Frames {
    fn start(host: &Host) -> Self {
        let (stop, made) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (host, stopped, counted) = (host.clone(), stop.clone(), made.clone());
        let thread = std::thread::spawn(move || frames(&host, &stopped, &counted));
        Self {
            stop,
            made,
            thread: Some(thread),
        }
    }

    /// The longest time between the ends of two passes.
    fn longest_gap(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn frames(host: &Host, stop: &AtomicBool, made: &AtomicUsize) -> Duration {
    let Host { device, queue, .. } = host;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(PASS.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4 * 4096,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry {
            binding: 0,
            resource: buffer.as_entire_binding(),
        }],
    });
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(64, 1, 1);
        drop(pass);
        let index = queue.submit([encoder.finish()]);
        let waited = device.poll(wgpu::PollType::Wait {
            submission_index: Some(index),
            timeout: Some(PATIENCE),
        });
        if waited.is_err() {
            break; // the device is gone
        }
        made.fetch_add(1, Ordering::Relaxed);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        std::thread::sleep(FRAME);
    }
    longest
}

fn many(scratch: &Scratch) -> EmbedRequest {
    EmbedRequest::new(scratch.images(8).into_iter().cycle().take(200_000))
}

/// The whole life of a model on an application's device: frames go on beside it, and when the device is destroyed the
/// job under way gets an error, later ones too, and the CPU takes over.
#[test]
fn an_application_draws_while_its_device_embeds_and_may_lose_it() {
    let Some(host) = host(device_descriptor) else {
        return;
    };
    let scratch = Scratch::new("host");
    let lost = Arc::new(AtomicUsize::new(0));
    let counted = lost.clone();
    let selected = host
        .existing()
        .on_uncaptured_error(|error| eprintln!("the application's: {error}"))
        .on_device_lost(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .adopt()
        .unwrap();
    let handle = embedder(&scratch, &selected).start().unwrap();
    let on_gpu = handle.embed(image(0)).wait().unwrap().remove(0).unwrap();

    let frames = Frames::start(&host);
    until("frames", || frames.made.load(Ordering::Relaxed) > 3);
    let before = frames.made.load(Ordering::Relaxed);
    let mut job = handle.embed(many(&scratch));
    std::thread::sleep(WATCHED);
    let (made, done) = (
        frames.made.load(Ordering::Relaxed) - before,
        job.progress().done,
    );
    let gap = frames.longest_gap();
    eprintln!("{done} images and {made} frames in {WATCHED:?}, longest gap {gap:?}");
    assert!(done > 0 && !job.is_over());
    assert!(
        made >= 8 && gap < LONGEST_GAP,
        "{made} frames, longest gap {gap:?}"
    );

    let frames = Frames::start(&host);
    until("a frame", || frames.made.load(Ordering::Relaxed) > 0);
    host.device.destroy();
    let started = Instant::now();
    let Err(Error::Device(message)) = job.wait() else {
        panic!("the device is gone");
    };
    // a read that was under way may fail before wgpu tells of the loss
    let known = ["device lost", "Failed to map buffer"];
    assert!(
        known.iter().any(|fault| message.contains(fault)),
        "{message}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(job.take_finished().len(), job.progress().done);
    drop(frames);
    assert!(matches!(
        handle.embed(image(0)).wait(),
        Err(Error::Device(_))
    ));
    until("the application hears of it", || {
        lost.load(Ordering::Relaxed) == 1
    });
    let Err(Error::Device(message)) = handle.rebuild(selected).wait() else {
        panic!("the application's device cannot be opened again");
    };
    assert!(message.contains("adopt another"), "{message}");

    handle.rebuild(BackendChoice::Flex).wait().unwrap();
    let on_cpu = handle.embed(image(0)).wait().unwrap().remove(0).unwrap();
    let pairs = on_gpu.cls.iter().zip(&on_cpu.cls);
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-3);

    // and a new device of the application's is as good as the first
    let next = self::host(device_descriptor).unwrap();
    handle
        .rebuild(next.existing().adopt().unwrap())
        .wait()
        .unwrap();
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
}

#[test]
fn a_device_that_was_requested_with_too_little_is_refused() {
    let poor = |_: &wgpu::Adapter| wgpu::DeviceDescriptor::default();
    let Some(host) = host(poor) else {
        return;
    };
    let message = host.existing().adopt().unwrap_err().to_string();
    let lacks = host.adapter.limits().max_compute_invocations_per_workgroup > 256;
    assert!(
        !lacks || message.contains("max_compute_invocations_per_workgroup 256 of"),
        "{message}"
    );
    assert!(message.contains("device_descriptor(&adapter)"), "{message}");
}

/// wgpu has one handler for all errors of a device: the application's own reach the application, and spoil nothing.
#[test]
fn errors_of_the_application_are_the_applications() {
    let Some(host) = host(device_descriptor) else {
        return;
    };
    let scratch = Scratch::new("errors");
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = heard.clone();
    let existing = host.existing().on_uncaptured_error(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let selected = existing.adopt().unwrap();
    let _ = host.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: u64::MAX,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(heard.load(Ordering::Relaxed), 1);
    DeviceGuard::install(&selected).unwrap().check().unwrap();
    let handle = embedder(&scratch, &selected).start().unwrap();
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
}

/// A guard that cannot hear any more must not look sound.
#[test]
fn a_replaced_error_handler_is_an_error() {
    let Some(host) = host(device_descriptor) else {
        return;
    };
    let scratch = Scratch::new("replaced");
    let selected = host.existing().adopt().unwrap();
    let handle = embedder(&scratch, &selected).start().unwrap();
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
    host.device.on_uncaptured_error(Arc::new(|_| {}));
    let Err(Error::Device(message)) = handle.embed(image(0)).wait() else {
        panic!("the guard is deaf");
    };
    assert!(message.contains("another error handler"), "{message}");
}

#[test]
fn an_own_device_that_was_lost_is_opened_anew() {
    let Ok(choice) = choose(BackendChoice::Wgpu, None) else {
        return;
    };
    let scratch = Scratch::new("own");
    let config = EmbedderConfig {
        device: BackendChoice::Wgpu.into(),
        ..EmbedderConfig::new(scratch.model(2))
    };
    let handle = config.clone().start().unwrap();
    let before = handle.embed(image(0)).wait().unwrap().remove(0).unwrap();
    let memory = handle.memory();
    assert!(memory.gpu.unwrap().in_use_mib > 0.01, "{memory:?}");

    // an unloaded model leaves nothing behind on the device
    handle.unload();
    until("the model is freed", || !handle.memory().is_loaded);
    let left = handle.memory().gpu.unwrap();
    assert!(
        left.in_use_mib < memory.gpu.unwrap().in_use_mib / 2.0,
        "{left:?} of {memory:?}"
    );
    handle.load().wait().unwrap();
    let other = config.start().unwrap();
    other.load().wait().unwrap();

    let DeviceGuard::Gpu(guard) = DeviceGuard::install(&choice.selected).unwrap() else {
        panic!("wgpu was asked for");
    };
    guard.setup().device.destroy();
    // a job that learns of it fails, and the next one opens it again, and so does what moves there
    let first = handle.embed(image(0)).wait();
    assert!(matches!(first, Ok(_) | Err(Error::Device(_))));
    let same = |after: ImageFeatures| {
        assert_eq!(before.cls.len(), after.cls.len());
        let pairs = before.cls.iter().zip(&after.cls);
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
    };
    same(handle.embed(image(0)).wait().unwrap().remove(0).unwrap());
    // another model was there too, without work: its next job is its first to learn of it, and does not fail
    same(other.embed(image(0)).wait().unwrap().remove(0).unwrap());
    let info = handle.rebuild(BackendChoice::Wgpu).wait().unwrap();
    assert!(info.device.starts_with("backend wgpu"), "{}", info.device);
    same(handle.embed(image(0)).wait().unwrap().remove(0).unwrap());
    assert!(matches!(choice.selected, Selected::Wgpu { .. }));

    // and a run, whose request has the device as it was
    let mut request = crate::training::request(&scratch, 2);
    request.selected = choice.selected;
    run(&request, &AtomicBool::new(false), &mut NoObserver).unwrap();
}
