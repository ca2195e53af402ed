//! What no compiler here complains of, and some GPU answers with wrong numbers or with a refusal.

use ibot::kernels::wgsl::{Kernel, all_kernels};
use ibot::method::SMALLEST_TEMPERATURE;
use naga::valid::ModuleInfo;
use naga::{
    AddressSpace, Block, Expression, Function, Handle, Literal, Module, Statement, TypeInner,
};
use wgpu::naga;

use crate::shader_uniformity::divergent_barriers;
use crate::shaders::{every_variant, validated};

/// Storage buffers that WebGPU guarantees.
const STORAGE_BUFFERS: usize = 8;

/// Kernels that bind as many tensors as the device offers: a number that is tested with what chooses it.
const PACKED: [&str; 4] = ["adamw", "ema", "grad_scale", "sum_of_squares"];

#[test]
fn every_variant_is_free_of_what_some_gpu_refuses() {
    let mut found = Vec::new();
    for kernel in every_variant() {
        let (module, info) = validated(&kernel.wgsl().unwrap());
        let mut of_kernel = divergent_barriers(&module);
        of_kernel.extend(parts_of_shared_vectors(&module, &info));
        of_kernel.extend(infinities(&module));
        of_kernel.sort();
        of_kernel.dedup();
        let name = |finding| format!("{} of {}: {finding}", kernel.name(), kernel.workgroup());
        found.extend(of_kernel.into_iter().map(name));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn eight_storage_buffers_are_enough() {
    let bindings = |kernel: &Kernel| {
        let (module, _) = validated(&kernel.wgsl().unwrap());
        let variables = module.global_variables.iter();
        variables.filter(|(_, v)| v.binding.is_some()).count()
    };
    let (mut most, mut packed) = (0, 0);
    for kernel in every_variant() {
        let count = bindings(&kernel);
        if PACKED.contains(&kernel.name()) {
            packed = packed.max(count);
        } else {
            assert!(count <= STORAGE_BUFFERS, "{}: {count}", kernel.name());
            most = most.max(count);
        }
    }
    assert_eq!(most, STORAGE_BUFFERS, "of the cross-entropy");
    assert!(packed > STORAGE_BUFFERS);
    let of_one_tensor = all_kernels(&[8], &[1], &[1]);
    let of_one_tensor = of_one_tensor.iter().filter(|k| k.name() != "grad_scale");
    assert!(of_one_tensor.map(bindings).max() <= Some(STORAGE_BUFFERS));
}

/// Stores to a component of a vector in workgroup memory: on Metal and DX12 such a store may write the whole vector, over
/// what other lanes write there (gpuweb issue 2112).
pub fn parts_of_shared_vectors(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let functions = module.functions.iter();
    let functions = functions.map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(at, entry)| (&entry.function, info.get_entry_point(at)));
    let mut found = Vec::new();
    for (function, info) in functions.chain(entries) {
        let is_shared_vector =
            |pointer: Handle<Expression>| match info[pointer].ty.inner_with(&module.types) {
                TypeInner::Pointer {
                    base,
                    space: AddressSpace::WorkGroup,
                } => matches!(module.types[*base].inner, TypeInner::Vector { .. }),
                TypeInner::ValuePointer { size, space, .. } => {
                    size.is_some() && *space == AddressSpace::WorkGroup
                }
                _ => false,
            };
        each_store(&function.body, &mut |pointer| {
            let (Expression::Access { base, .. } | Expression::AccessIndex { base, .. }) =
                function.expressions[pointer]
            else {
                return;
            };
            if is_shared_vector(base) {
                let name = name_of(module, function, base);
                found.push(format!("a store to a part of a vector of {name}"));
            }
        });
    }
    found
}

/// Calls `report` with the place of each store, atomic ones too.
fn each_store(block: &Block, report: &mut impl FnMut(Handle<Expression>)) {
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } | Statement::Atomic { pointer, .. } => {
                report(*pointer);
            }
            Statement::Block(block) => each_store(block, report),
            Statement::If { accept, reject, .. } => {
                each_store(accept, report);
                each_store(reject, report);
            }
            Statement::Switch { cases, .. } => {
                for case in cases {
                    each_store(&case.body, report);
                }
            }
            Statement::Loop {
                body, continuing, ..
            } => {
                each_store(body, report);
                each_store(continuing, report);
            }
            _ => {}
        }
    }
}

fn name_of(module: &Module, function: &Function, mut pointer: Handle<Expression>) -> String {
    loop {
        match function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
                pointer = base;
            }
            Expression::GlobalVariable(global) => {
                let name = &module.global_variables[global].name;
                return name.clone().unwrap_or_default();
            }
            _ => return "a parameter".to_owned(),
        }
    }
}

/// Where LOWEST is not finite in a difference or times an inverse temperature. Metal's compiler takes it that no float is
/// infinite (wgpu leaves fast math on), and may turn (a - b) c into a c - b c.
fn infinities(module: &Module) -> Option<String> {
    let (_, lowest) = module
        .constants
        .iter()
        .find(|(_, constant)| constant.name.as_deref() == Some("LOWEST"))?;
    let Expression::Literal(Literal::F32(lowest)) = module.global_expressions[lowest.init] else {
        return Some("LOWEST is no f32".to_owned());
    };
    let largest = 2.0 * lowest * (1.0 / SMALLEST_TEMPERATURE) as f32;
    (!largest.is_finite()).then(|| format!("LOWEST {lowest} leaves f32 in a sum"))
}

/// A shader with this body of `main`, and what the lints say of it.
fn findings(body: &str) -> Vec<String> {
    let text = format!(
        "struct Lane {{ @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32> }}
         struct Group {{ @builtin(num_workgroups) number: vec3<u32> }}
         struct Info {{ rows: u32 }}
         @group(0) @binding(0) var<storage, read_write> sizes: array<u32>;
         @group(0) @binding(1) var<storage, read> info: Info;
         var<workgroup> shared_vectors: array<vec2<f32>, 8>;
         var<workgroup> shared_numbers: array<f32, 8>;
         fn meet() {{ workgroupBarrier(); }}
         fn twice(number: u32) -> u32 {{ return 2u * number; }}
         @compute @workgroup_size(8) fn main(all: Lane, group: Group, @builtin(local_invocation_index) lane: u32) {{ {body} }}"
    );
    let (module, info) = validated(&text);
    let mut found = divergent_barriers(&module);
    found.extend(parts_of_shared_vectors(&module, &info));
    found
}

#[track_caller]
fn assert_found(body: &str, expected: &str) {
    let found = findings(body);
    let is_expected = !found.is_empty() && found.iter().all(|finding| finding.contains(expected));
    assert!(is_expected, "{body}: {found:?} instead of {expected}");
}

#[test]
fn barriers_that_lanes_may_miss_are_found() {
    let (own, writable) = ("lane is a lane's own", "sizes is a writable buffer");
    assert_found("if lane > 4u { return; } workgroupBarrier();", own);
    assert_found("if lane > 4u { workgroupBarrier(); }", own);
    assert_found("if lane > 4u { meet(); }", own);
    assert_found("if twice(lane) > 4u { return; } meet();", own);
    assert_found("for (var at = lane; at < 8u; at += 1u) { meet(); }", own);
    assert_found(
        "for (var at = 0u; at < 8u; at += 1u) { meet(); if at > lane { break; } }",
        own,
    );
    assert_found(
        "var last = 0u; if lane > 1u { last = 1u; } if last > 0u { meet(); }",
        own,
    );
    assert_found(
        "switch lane { case 0u: { return; } default: {} } meet();",
        own,
    );
    assert_found(
        "var before = 0u; var now = 0u; loop { if before > 3u { break; } meet(); before = now; now = lane; }",
        own,
    );
    // in fact the same for all lanes; a compiler that looks at structs as a whole does not see it
    assert_found(
        "if all.group.x > 4u { return; } meet();",
        "all is a lane's own",
    );
    assert_found("if sizes[0] > 4u { return; } meet();", writable);
    assert_found(
        "for (var at = 0u; at < sizes[0]; at += 1u) { meet(); }",
        writable,
    );
    assert_found("if info.rows > sizes[group.number.x] { meet(); }", writable);
    assert_found(
        "if shared_numbers[0] > 1.0 { meet(); }",
        "shared_numbers is memory",
    );
}

#[test]
fn barriers_that_all_lanes_meet_are_not() {
    for body in [
        "if group.number.x > info.rows { return; } meet();",
        "for (var half = 4u; half > 0u; half /= 2u) { if lane < half { shared_numbers[lane] += 1.0; } meet(); }",
        "for (var at = lane; at < 8u; at += 1u) { shared_numbers[at] = 0.0; } meet();",
        "if twice(group.number.x) > 4u { return; } meet();",
        "for (var at = 0u; at < 8u; at += 1u) { if at > info.rows { break; } meet(); }",
        "if lane > 4u { shared_numbers[lane] = 1.0; } meet(); if lane == 0u { return; }",
        "switch info.rows { case 0u: { for (var at = lane; at < 8u; at += 2u) { sizes[at] = 0u; } } default: {} } meet();",
    ] {
        assert_eq!(findings(body), [""; 0], "{body}");
    }
}

#[test]
fn stores_to_parts_of_shared_vectors_are_found() {
    let expected = "a part of a vector of shared_vectors";
    assert_found("shared_vectors[lane].x = 1.0;", expected);
    assert_found("shared_vectors[lane][lane % 2u] = 1.0;", expected);
    assert_found("shared_vectors[lane].y += 1.0;", expected);
    assert_found(
        "let place = &shared_vectors[lane]; (*place).x = 1.0;",
        expected,
    );
    for sound in [
        "shared_vectors[lane] = vec2<f32>(1.0);",
        "shared_vectors[lane] += vec2<f32>(1.0);",
        "shared_numbers[lane] = shared_vectors[lane].x;",
        "var own = vec2<f32>(); own.x = 1.0; shared_vectors[lane] = own;",
    ] {
        assert_eq!(findings(sound), [""; 0], "{sound}");
    }
}

#[test]
fn a_lowest_that_leaves_f32_is_found() {
    let finding = |lowest: &str| {
        let text = format!(
            "const LOWEST = {lowest}; @compute @workgroup_size(1) fn main() {{ let low: f32 = LOWEST; }}"
        );
        infinities(&validated(&text).0)
    };
    assert!(finding("-3.0e38f").is_some());
    assert_eq!(finding("-1.0e30f"), None);
}
