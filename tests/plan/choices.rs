//! Parts and checkpointing that a plan chooses on devices of given memories.

use ibot::backbone::VitConfig;
use ibot::device::{AdapterKind, AdapterLimits, AdapterSummary, Api, Selected};
use ibot::train::RunConfig;
use ibot::train::plan::{Choosable, Moment, Plan, Verdict};

const GIB: u64 = 1 << 30;
const BOTH: Choosable = Choosable {
    micro_batch_size: true,
    grad_checkpointing: true,
};

/// A discrete GPU, of which nothing is opened.
fn gpu(memory_bytes: Option<u64>, tensor_bytes: u64) -> Selected {
    let adapter = AdapterSummary {
        index: 0,
        name: "a card".into(),
        kind: AdapterKind::Discrete,
        api: Api::Vulkan,
        driver: String::new(),
        driver_info: String::new(),
        id: String::new(),
        pci_bus: String::new(),
        memory_bytes,
        has_f16: false,
        limits: AdapterLimits {
            buffer_bytes: 2 * tensor_bytes,
            binding_bytes: tensor_bytes,
            storage_buffers: 16,
            workgroup_bytes: 32 << 10,
            workgroup_invocations: 1024,
        },
    };
    Selected::Wgpu {
        device: burn_wgpu::WgpuDevice::DiscreteGpu(0),
        adapter,
    }
}

fn plan_on(selected: &Selected, change: impl FnOnce(&mut RunConfig)) -> Plan {
    let mut config = RunConfig::default();
    change(&mut config);
    Plan::new(&config, selected, 100_000, BOTH).unwrap()
}

fn with_memory(gib: f64, change: impl FnOnce(&mut RunConfig)) -> Plan {
    plan_on(&gpu(Some((gib * GIB as f64) as u64), 2 * GIB), change)
}

/// What was chosen.
fn savers(plan: &Plan) -> (Option<usize>, bool) {
    (plan.choice.micro_batch_size, plan.choice.grad_checkpointing)
}

#[test]
fn a_large_card_needs_no_thrift() {
    let plan = with_memory(80.0, |_| {});
    assert_eq!(savers(&plan), (None, false));
    assert_eq!(plan.verdict, Verdict::Fits);
    assert_eq!(plan.choice.relative_cost, 1.0);
    assert!(matches!(
        plan.memory.moment,
        Moment::BlockBackward(_) | Moment::Losses
    ));
    assert_eq!(
        (plan.length.steps_per_epoch, plan.length.epochs),
        (1_562, 100)
    );
}

#[test]
fn a_smaller_card_gets_parts_then_checkpointing() {
    let mut before = 1.0;
    let mut chosen = Vec::new();
    for gib in [16.0, 8.0, 6.0, 4.0, 3.0, 2.5] {
        let plan = with_memory(gib, |_| {});
        let memory = &plan.memory;
        println!(
            "{gib} GiB: {:?}, {} MiB in tensors, {} MiB needed, cost {:.2}",
            savers(&plan),
            memory.peak_bytes >> 20,
            memory.needed_bytes >> 20,
            plan.choice.relative_cost
        );
        assert_eq!(plan.verdict, Verdict::Fits, "{gib} GiB");
        assert!(memory.needed_bytes as f64 <= gib * GIB as f64 * 0.9);
        assert!(plan.choice.relative_cost >= before, "{gib} GiB");
        before = plan.choice.relative_cost;
        chosen.push(savers(&plan));
    }
    assert_eq!(chosen[0], (None, false));
    assert!(
        chosen[3].0.is_some_and(|size| size < 32) && !chosen[3].1,
        "{chosen:?}"
    );
    // parts so small that to run blocks twice costs less
    let (micro, checkpointing) = chosen[chosen.len() - 1];
    assert!(
        checkpointing && micro.is_some_and(|size| size < 64),
        "{chosen:?}"
    );
}

#[test]
fn nothing_fits_a_card_that_the_weights_fill() {
    let plan = with_memory(1.0, |_| {});
    assert!(matches!(plan.verdict, Verdict::TooMuch { .. }), "{plan}");
    assert!(plan.to_string().contains("DOES NOT FIT"), "{plan}");
    assert!(plan.choice.reason.contains("nothing fits"));
}

#[test]
fn what_is_set_stays() {
    let set = with_memory(6.0, |config| config.micro_batch_size = Some(32));
    assert_eq!(set.choice.micro_batch_size, Some(32));
    let set = with_memory(80.0, |config| config.method.grad_checkpointing = true);
    assert_eq!(savers(&set), (None, true));
    let config = RunConfig::default();
    let judged = Plan::new(
        &config,
        &gpu(Some(4 * GIB), GIB),
        1000,
        Choosable::default(),
    )
    .unwrap();
    assert_eq!(savers(&judged), (None, false));
    assert!(!judged.verdict.may_run());
    assert!(
        judged
            .choice
            .reason
            .contains("with the settings of the run")
    );
}

#[test]
fn each_tensor_must_fit_a_binding() {
    // ViT-S's hidden layer of 128 views takes 148 MiB
    let plan = plan_on(&gpu(None, 128 << 20), |_| {});
    assert_eq!(plan.verdict, Verdict::Unknown);
    let (micro, checkpointing) = savers(&plan);
    assert!(
        micro.is_some_and(|size| (16..64).contains(&size)) && !checkpointing,
        "{plan}"
    );
    assert!(plan.memory.largest.bytes <= 128 << 20);
    assert!(
        plan.to_string().contains("does not say how much memory"),
        "{plan}"
    );
    let whole = Plan::new(
        &RunConfig::default(),
        &gpu(None, 128 << 20),
        1000,
        Choosable::default(),
    );
    let verdict = whole.unwrap().verdict;
    assert!(matches!(verdict, Verdict::TensorTooLarge { limit, .. } if limit == 128 << 20));
}

#[test]
fn absurd_settings_do_not_overflow() {
    let plan = with_memory(80.0, |config| {
        config.batch_size = 1 << 16;
        config.method.image_size = 1 << 12;
        config.method.vit = Some(VitConfig {
            patch_size: 1,
            embed_dim: 1 << 16,
            depth: 1 << 10,
            num_heads: 1,
            ..VitConfig::default()
        });
    });
    assert!(!plan.verdict.may_run());
    assert!(plan.memory.needed_bytes > 1 << 50);
}

#[test]
fn a_batch_larger_than_the_set_is_refused() {
    let refused = Plan::new(&RunConfig::default(), &Selected::Flex, 63, BOTH).unwrap_err();
    assert!(refused.to_string().contains("only 63 images"), "{refused}");
}
