//! Many tensors a dispatch: how they are dealt out to dispatches, and where each has its workgroups.

use super::chunk::Chunk;
use super::info::{Info, info};
use super::lanes::is_software;
use super::launch::{Client, GpuTensor, Kernel, bindings, launch};
use super::walk::Walk;

/// A tensor of an operation on many.
pub(super) struct Item<'a, const BUFFERS: usize> {
    /// What is bound for it, of equal shape, in the order of the shader.
    buffers: [&'a GpuTensor; BUFFERS],
    /// Its own fields of the info, before its first workgroup and its chunks.
    fields: Info,
}

impl<'a, const BUFFERS: usize> Item<'a, BUFFERS> {
    /// Panics where the buffers differ in shape, which no caller passes: a shader looks at no bounds.
    pub fn new(buffers: [&'a GpuTensor; BUFFERS], fields: Info) -> Self {
        let shape = buffers[0].meta.shape();
        let same = buffers.iter().all(|buffer| buffer.meta.shape() == shape);
        assert!(same, "the tensors of a pass over all are of one shape");
        Self { buffers, fields }
    }

    fn entries(&self) -> usize {
        self.buffers[0].meta.shape().num_elements()
    }

    fn chunk(&self) -> Chunk {
        Chunk::for_length(self.entries())
    }

    fn groups(&self, walk: Walk) -> usize {
        walk.groups(self.chunk().count(self.entries()))
    }
}

/// Tensors of a dispatch on a software device, which runs all cases of a switch one after the other, whichever is taken
/// (the moving average of 51 M entries in 164 tensors on lavapipe: 87 ms with one tensor, 54 ms with 4, 57 ms with 15).
const SOFTWARE_TENSORS: usize = 4;

/// Tensors of a dispatch on any device. Desktop drivers allow a million bindings; a shader of as many cases would take
/// long to compile.
const MAX_TENSORS: usize = 32;

/// Tensors of a dispatch that suit the device, with so many buffers a tensor and one for all.
pub(super) fn tensors_per_dispatch(client: &Client, buffers: usize) -> usize {
    let most = tensors_that_fit(client, buffers);
    if is_software(client) {
        SOFTWARE_TENSORS.min(most)
    } else {
        most
    }
}

fn tensors_that_fit(client: &Client, buffers: usize) -> usize {
    tensors_within(bindings(client), buffers)
}

/// Buffers that a dispatch has for all of its tensors, at most.
const SHARED: usize = 2;

/// Of so many bindings beside the info, some are the buffers for all tensors, and one is left to naga, which on Metal binds a
/// buffer with the sizes of all others.
fn tensors_within(bindings: u32, buffers: usize) -> usize {
    let left = (bindings as usize).saturating_sub(SHARED + 1);
    (left / buffers).clamp(1, MAX_TENSORS)
}

/// An operation on many tensors.
pub(super) struct Packed<'a> {
    /// Its kernel for this many tensors.
    pub kernel: fn(Walk, Chunk, usize) -> Kernel,
    /// Bound after the tensors' buffers; at most [`SHARED`].
    pub shared: &'a [&'a GpuTensor],
    /// First fields of the info, by the number of workgroups before the dispatch.
    pub head: &'a dyn Fn(usize) -> Info,
    /// Most tensors of a dispatch, if that many fit.
    pub max_tensors: usize,
}

/// Workgroups of all tensors together.
pub(super) fn groups<const BUFFERS: usize>(items: &[Item<'_, BUFFERS>]) -> usize {
    let Some(item) = items.first() else {
        return 0;
    };
    let walk = Walk::choose(&item.buffers[0].client);
    items.iter().map(|item| item.groups(walk)).sum()
}

impl Packed<'_> {
    /// Runs the operation on all tensors; those without entries are left out.
    pub fn launch<const BUFFERS: usize>(&self, items: &[Item<'_, BUFFERS>]) {
        let mut groups = 0;
        for chunk in Chunk::ALL {
            let alike = items.iter().filter(|item| item.chunk() == chunk);
            let mut alike: Vec<&Item<'_, BUFFERS>> =
                alike.filter(|item| item.entries() > 0).collect();
            // tensors of one size are done at one time
            alike.sort_by_key(|item| std::cmp::Reverse(item.entries()));
            let Some(item) = alike.first() else {
                continue;
            };
            let most = tensors_that_fit(&item.buffers[0].client, BUFFERS);
            for items in alike.chunks(self.max_tensors.clamp(1, most)) {
                groups += self.dispatch(items, chunk, groups);
            }
        }
    }

    /// One kernel over these tensors, after so many workgroups of others; gives its own.
    fn dispatch<const BUFFERS: usize>(
        &self,
        items: &[&Item<'_, BUFFERS>],
        chunk: Chunk,
        before: usize,
    ) -> usize {
        let client = &items[0].buffers[0].client;
        let walk = Walk::choose(client);
        let mut info = (self.head)(before);
        let mut groups = 0;
        for item in items {
            info.extend(item.fields.clone());
            info.extend(info! { first_group: groups, chunks: chunk.count(item.entries()) });
            groups += item.groups(walk);
        }
        let mut tensors: Vec<&GpuTensor> = items.iter().flat_map(|item| item.buffers).collect();
        tensors.extend(self.shared);
        let kernel = (self.kernel)(walk, chunk, items.len());
        launch(client, kernel, groups, &tensors, &info);
        groups
    }
}

/// The values that every shader of such an operation takes.
pub(super) fn values(walk: Walk, chunk: Chunk, tensors: usize) -> Vec<(&'static str, String)> {
    let mut values = chunk.values();
    values.extend([
        walk.value(),
        ("tensor", tensors.to_string()),
        ("tensors", tensors.to_string()),
    ]);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Storage buffers of a dispatch of `tensors_within` tensors, the info among them.
    fn bound(buffers_of_device: u32, buffers: usize) -> usize {
        tensors_within(buffers_of_device - 1, buffers) * buffers + SHARED + 1
    }

    #[test]
    fn tensors_fit_the_device() {
        for buffers in [1, 2, 4] {
            // WebGPU's least, SwiftShader, DX12's least
            for of_device in [8, 10, 16] {
                assert!(bound(of_device, buffers) <= of_device as usize);
            }
            // Metal's 31 slots, one of them for naga's sizes
            assert!(bound(31, buffers) < 31);
        }
        assert_eq!(tensors_within(30, 4), 6);
        assert_eq!(tensors_within(1_000_000, 4), MAX_TENSORS);
    }
}
