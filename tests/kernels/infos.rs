//! The numbers of a launch stand where the shader looks for them.

use burn::tensor::Tensor;
use burn_wgpu::WgpuDevice;
use ibot::kernels::Gpu;
use ibot::kernels::wgsl::{Launched, copy};
use wgpu::naga;

use crate::shaders::{every_variant, validated};
use crate::values;

/// The host names the fields that it fills: they are those of the shader's `struct Info`, in its order. It may fill more.
pub fn are_those_of_the_shaders(launched: &[Launched]) {
    let known = every_variant();
    let mut compared = 0;
    for launched in launched {
        for (variant, filled) in &launched.infos {
            let is_launched = |kernel: &&ibot::kernels::wgsl::Kernel| {
                kernel.name() == launched.name
                    && kernel.workgroup() == launched.lanes
                    && kernel.variant() == *variant
            };
            let Some(kernel) = known.iter().find(is_launched) else {
                continue; // of a size that no list has; another size of the same shader is looked at
            };
            let (module, _) = validated(&kernel.wgsl().unwrap());
            let mut fields = Vec::new();
            let info = module
                .types
                .iter()
                .find(|(_, t)| t.name.as_deref() == Some("Info"));
            names(&module, info.unwrap().0, &mut fields);
            let filled = filled.get(..fields.len()).unwrap_or(filled);
            assert_eq!(filled, fields, "{} {variant}", launched.name);
            compared += 1;
        }
    }
    assert!(compared > 40, "only {compared} kernels were compared");
}

/// A device keeps the numbers of some thousand launches; those of later ones are written each time, with the same results.
pub fn more_than_are_kept(device: &WgpuDevice) {
    let numbers: Vec<f32> = (0..5_500).map(|at| at as f32).collect();
    let all = Tensor::<Gpu, 1>::from_floats(numbers.as_slice(), device);
    // about 4 500 numbers of chunks: whole vectors or single entries
    for length in 1..=numbers.len() {
        let copied = copy(all.clone().narrow(0, 0, length));
        if length % 500 == 0 || length + 20 > numbers.len() {
            assert_eq!(values(copied), numbers[..length]);
        }
    }
}

/// Names of a type's words; an array has those of its entries again and again.
fn names(module: &naga::Module, of: naga::Handle<naga::Type>, all: &mut Vec<String>) {
    let naga::TypeInner::Struct { members, .. } = &module.types[of].inner else {
        panic!("{:?} is no struct", module.types[of]);
    };
    for member in members {
        match &module.types[member.ty].inner {
            naga::TypeInner::Array { base, size, .. } => {
                let naga::ArraySize::Constant(count) = size else {
                    panic!("an array without an end");
                };
                (0..count.get()).for_each(|_| names(module, *base, all));
            }
            _ => all.push(member.name.clone().unwrap()),
        }
    }
}
