//! How burn allocates memory of a GPU.
//!
//! By itself cubecl 0.10 cuts tensors out of pages as large as the largest tensor may be, 2 GiB on most GPUs: one tensor
//! of more than an eighth of that takes a page for itself, for as long as the process lives, and a GPU is full with half
//! of its memory in use. Here pages end at 256 MiB, and at an eighth of the GPU's memory; what is
//! larger has a buffer of about its own size.

use burn_wgpu::MemoryConfiguration;
use cubecl_runtime::memory_management::{MemoryPoolOptions, PoolType};

const MIB: u64 = 1 << 20;

/// Pages that tensors share, and the largest tensor of each, in MiB. If a tensor may have 128 MiB, as on lavapipe, they are
/// cubecl's own.
const SHARED: [(u64, u64); 3] = [(8, 2), (32, 16), (256, 256)];

/// A buffer of a single tensor that is not used in this many allocations (some steps) is freed. cubecl's own number.
const UNUSED: u64 = 5000;

/// Sizes are multiples of this: WebGPU's `min_*_offset_alignment`, where a buffer may begin, is at most this.
const ALIGNMENT: u64 = 256;

/// Part of a GPU's memory that a page takes at most: integrated ones may have 256 MiB in all.
const PAGE_PART: u64 = 8;

/// The pools for a device whose largest tensor has this many bytes, and which has so much memory, where that is known.
pub(super) fn configuration(binding_bytes: u64, memory_bytes: Option<u64>) -> MemoryConfiguration {
    let largest_page = memory_bytes.map_or(u64::MAX, |bytes| bytes / PAGE_PART);
    let largest = binding_bytes / ALIGNMENT * ALIGNMENT;
    // as in cubecl's own: a tensor without entries has no place in a page
    let mut pools = vec![MemoryPoolOptions {
        pool_type: PoolType::ExclusivePages { max_alloc_size: 0 },
        dealloc_period: None,
    }];
    let mut covered = 0;
    for (page, tensor) in SHARED {
        let is_too_large = covered > 0 && page * MIB > largest_page;
        if covered == largest || is_too_large {
            break;
        }
        covered = (page * MIB).min(largest);
        pools.push(MemoryPoolOptions {
            pool_type: PoolType::SlicedPages {
                page_size: covered,
                max_slice_size: (tensor * MIB).min(largest),
            },
            dealloc_period: None,
        });
    }
    // A buffer of such a pool has at least half of its largest size: no tensor's memory is more than doubled.
    while covered < largest {
        covered = (2 * covered).min(largest);
        pools.push(MemoryPoolOptions {
            pool_type: PoolType::ExclusivePages {
                max_alloc_size: covered,
            },
            dealloc_period: Some(UNUSED),
        });
    }
    MemoryConfiguration::Custom {
        pool_options: pools,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cubecl::ir::MemoryDeviceProperties;
    use cubecl::server::IoError;
    use cubecl_runtime::logging::ServerLogger;
    use cubecl_runtime::memory_management::{MemoryManagement, MemoryManagementOptions};
    use cubecl_runtime::storage::{ComputeStorage, StorageHandle, StorageId, StorageUtilization};

    use super::*;
    use crate::device::opening::use_one_stream;

    /// What most Vulkan drivers let a kernel bind.
    const GPU: u64 = (1 << 31) - 4;

    /// Memory that is counted alone.
    struct Counted;

    impl ComputeStorage for Counted {
        type Resource = ();

        fn alignment(&self) -> usize {
            ALIGNMENT as usize
        }

        fn get(&mut self, _: &StorageHandle) {}

        fn alloc(&mut self, size: u64) -> Result<StorageHandle, IoError> {
            let utilization = StorageUtilization { offset: 0, size };
            Ok(StorageHandle::new(StorageId::new(), utilization))
        }

        fn dealloc(&mut self, _: StorageId) {}

        fn flush(&mut self) {}
    }

    /// MiB that the pools take for living tensors of these MiB.
    fn reserved(configuration: MemoryConfiguration, tensors: &[u64]) -> u64 {
        let properties = MemoryDeviceProperties {
            max_page_size: GPU,
            alignment: ALIGNMENT,
        };
        // the logger fixes cubecl's settings for all tests of this process
        use_one_stream().unwrap();
        let logger = Arc::new(ServerLogger::default());
        let options = MemoryManagementOptions::new("test");
        let mut memory = MemoryManagement::from_configuration(
            Counted,
            &properties,
            configuration,
            logger,
            options,
        );
        let held: Vec<_> = tensors
            .iter()
            .map(|mib| memory.reserve(mib * MIB).unwrap())
            .collect();
        let reserved = memory.memory_usage().bytes_reserved / MIB;
        drop(held);
        reserved
    }

    /// An MLP's hidden tensor of ViT-B at 64 images of 2 views, two of its inputs, and a weight.
    #[test]
    fn a_large_tensor_takes_about_its_size() {
        let tensors = [296, 74, 74, 9];
        let in_use: u64 = tensors.iter().sum();
        let by_itself = reserved(MemoryConfiguration::default(), &tensors);
        assert!(by_itself > 4 * in_use, "{by_itself} of {in_use}");
        let ours = reserved(configuration(GPU, None), &tensors);
        assert!(ours < in_use + in_use / 2, "{ours} of {in_use}");
    }

    /// The page, or the largest buffer, that each pool takes, in MiB, and the largest tensor in it.
    fn pools(binding_bytes: u64, memory_bytes: Option<u64>) -> Vec<(u64, u64)> {
        let configuration = configuration(binding_bytes, memory_bytes);
        let MemoryConfiguration::Custom { pool_options } = configuration else {
            panic!("not of our own");
        };
        let sizes = |pool: &MemoryPoolOptions| match pool.pool_type {
            PoolType::SlicedPages {
                page_size,
                max_slice_size,
            } => (page_size, max_slice_size),
            PoolType::ExclusivePages { max_alloc_size } => (max_alloc_size, max_alloc_size),
        };
        let mut pools: Vec<_> = pool_options.iter().map(sizes).collect();
        assert_eq!(pools.remove(0), (0, 0));
        for size in pools.iter().flat_map(|pool| [pool.0, pool.1]) {
            assert!(size.is_multiple_of(ALIGNMENT) && size <= binding_bytes);
        }
        pools.iter().map(|(a, b)| (a / MIB, b / MIB)).collect()
    }

    #[test]
    fn pools_end_at_the_largest_tensor() {
        // lavapipe: what cubecl does by itself
        assert_eq!(pools(128 * MIB, None), [(8, 2), (32, 16), (128, 128)]);
        // Vulkan and DX12; the last one stays below the 2 GiB that AMD's driver allocates at most
        let gpu = [
            (8, 2),
            (32, 16),
            (256, 256),
            (512, 512),
            (1024, 1024),
            (2047, 2047),
        ];
        assert_eq!(pools(GPU, None), gpu);
        // Metal
        assert_eq!(
            pools((4 << 30) - 4, None)[5..],
            [(2048, 2048), (4095, 4095)]
        );
        // tiny ones
        assert_eq!(pools(256 * MIB, None)[2..], [(256, 256)]);
        assert_eq!(pools(MIB, None), [(1, 1)]);
    }

    #[test]
    fn a_page_is_a_small_part_of_the_memory() {
        let small = pools(GPU, Some(512 * MIB));
        assert_eq!(small[..4], [(8, 2), (32, 16), (64, 64), (128, 128)]);
        assert_eq!(pools(GPU, Some(2 << 30)), pools(GPU, None));
        assert_eq!(pools(GPU, Some(MIB))[..2], [(8, 2), (16, 16)]);
    }
}
