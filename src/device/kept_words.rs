//! Words that stay on a device: the sizes that a kernel gets beside its tensors are the same in each step, so that each is
//! written once and not at each launch (704 writes a step of ViT-S before, with a lock and a staging copy each).
//!
//! They lie in a buffer of their own: a shader reads its info and may write its tensors, and wgpu forbids both in one buffer.

use std::collections::HashMap;
use std::sync::Mutex;

use burn_wgpu::WgpuRuntime;
use cubecl::client::ComputeClient;
use cubecl::server::{Binding, Handle};

use crate::device::known::{client_key, queue_of};
use crate::device::panics;
use crate::lock::lock;

/// Where an info may begin: WebGPU's `min_storage_buffer_offset_alignment` is at most this.
const SLOT: usize = 256;
/// Infos that are kept for a device: a step needs about 150. Later ones are written at each launch. 1 MiB in all.
const SLOTS: usize = 4_096;
/// One slot more than a round number, so that no tensor is likely to have this size: cubecl gives all tensors of a size that
/// was once allocated for good a buffer of their own.
const BYTES: usize = (SLOTS + 1) * SLOT;

/// The infos of one device.
struct Kept {
    memory: Handle,
    buffer: wgpu::Buffer,
    queue: wgpu::Queue,
    /// First slot of each.
    slots: HashMap<Vec<u32>, usize>,
    /// Slots taken.
    taken: usize,
}

/// By device; none where they cannot be kept.
static KEPT: Mutex<Option<HashMap<usize, Option<Kept>>>> = Mutex::new(None);

/// The words as a buffer of the device; none where the device has no guard, or as many infos as it keeps.
pub(crate) fn kept(client: &ComputeClient<WgpuRuntime>, words: &[u32]) -> Option<Binding> {
    let mut all = lock(&KEPT);
    let all = all.get_or_insert_default();
    let of_device = all.entry(client_key(client));
    of_device
        .or_insert_with(|| Kept::new(client))
        .as_mut()?
        .binding(words)
}

/// Gives the memory of a device's words back.
pub(super) fn forget(client: &ComputeClient<WgpuRuntime>) {
    let mut all = lock(&KEPT);
    if let Some(all) = all.as_mut() {
        all.remove(&client_key(client));
    }
}

impl Kept {
    fn new(client: &ComputeClient<WgpuRuntime>) -> Option<Self> {
        let queue = queue_of(client)?;
        let memory = client
            .memory_persistent_allocation((), |()| client.empty(BYTES))
            .ok()?;
        let resource = client.get_resource(memory.clone()).ok()?;
        let resource = resource.resource();
        // anything else would lie beside tensors
        let is_alone = resource.offset == 0 && resource.buffer.size() == BYTES as u64;
        let buffer = resource.buffer.clone();
        // the memory may be what `forget` gave back, and launches that read it there may wait to be submitted
        client.flush().ok()?;
        is_alone.then(|| Self {
            memory,
            buffer,
            queue,
            slots: HashMap::new(),
            taken: 0,
        })
    }

    fn binding(&mut self, words: &[u32]) -> Option<Binding> {
        let slot = match self.slots.get(words) {
            Some(slot) => *slot,
            None => self.write(words)?,
        };
        let (start, bytes) = (slot * SLOT, size_of_val(words));
        let memory = self.memory.clone().offset_start(start as u64);
        let memory = memory.offset_end((BYTES - start - bytes) as u64);
        Some(memory.binding())
    }

    /// Writes into slots that no launch has used, so that it does not matter that wgpu makes the write before all launches
    /// that are not yet submitted.
    fn write(&mut self, words: &[u32]) -> Option<usize> {
        let slot = self.taken;
        let taken = slot + size_of_val(words).div_ceil(SLOT);
        if taken > SLOTS {
            return None;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // wgpu takes memory for it
        panics::own_call(|| {
            self.queue
                .write_buffer(&self.buffer, (slot * SLOT) as u64, &bytes);
        });
        self.slots.insert(words.to_vec(), slot);
        self.taken = taken;
        Some(slot)
    }
}
