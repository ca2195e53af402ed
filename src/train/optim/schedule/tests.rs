//! Schedules at chosen steps.

use super::*;

#[test]
fn the_learning_rate_warms_up_and_falls() {
    let config = ScheduleConfig {
        base_learning_rate: 1e-3,
        final_learning_rate: 1e-6,
        warmup_epochs: 1.0,
        ..ScheduleConfig::default()
    };
    let schedule = Schedule::new(&config, 100, 10, 128);
    let rates: Vec<f64> = (0..100).map(|step| schedule.learning_rate(step)).collect();
    assert!((rates[0] - 5e-5).abs() < 1e-12 && (rates[9] - 5e-4).abs() < 1e-12);
    assert!(rates[10..].windows(2).all(|pair| pair[1] < pair[0]));
    assert!(rates[99] < 2e-6 && rates[99] >= 1e-6);
}

#[test]
fn no_warm_up_goes_above_the_peak() {
    let rates = |warmup_epochs: f64, steps: usize, per_epoch: usize| -> Vec<f64> {
        let config = ScheduleConfig {
            base_learning_rate: 1e-3,
            warmup_epochs,
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, steps, per_epoch, 256);
        (0..steps)
            .map(|step| schedule.learning_rate(step))
            .collect()
    };
    // warm-ups of 1.5 and 2.5 steps, which are half of a run; of 0.4, 1.2 and 3.5
    let cases = [
        (10.0, 3, 1, 2),
        (10.0, 5, 1, 3),
        (0.4, 20, 1, 1),
        (0.4, 30, 3, 2),
        (0.35, 100, 10, 4),
    ];
    for (epochs, steps, per_epoch, peak_at) in cases {
        let rates = rates(epochs, steps, per_epoch);
        let case = format!("{epochs} epochs of {per_epoch} steps: {rates:?}");
        assert!(rates.iter().all(|rate| *rate <= 1e-3), "{case}");
        assert_eq!(rates[peak_at - 1], 1e-3, "{case}");
        assert!(rates[..peak_at].is_sorted(), "{case}");
    }
    // whole numbers of steps keep their bits
    for warmup in 1..50_usize {
        let rates = rates(warmup as f64, 200, 1);
        for (step, rate) in rates.iter().take(warmup).enumerate() {
            let expected = 1e-3 * (step as f64 + 1.0) / warmup as f64;
            assert_eq!(rate.to_bits(), expected.to_bits(), "{step} of {warmup}");
        }
    }
}

#[test]
fn the_backbone_is_frozen_for_at_most_half_of_the_run() {
    let frozen = |epochs: f64, steps: usize| {
        let config = ScheduleConfig {
            freeze_backbone_epochs: epochs,
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, steps, 10, 256);
        let rates = |step| schedule.rates(&IbotConfig::default(), 0.04, step);
        let frozen: Vec<usize> = (0..steps)
            .filter(|step| rates(*step).freeze_backbone)
            .collect();
        assert!(frozen.iter().enumerate().all(|(at, step)| at == *step));
        assert_eq!(rates(steps - 1).frozen_backbone_steps, frozen.len());
        assert_eq!(rates(1).frozen_backbone_steps, frozen.len().min(1));
        frozen.len()
    };
    assert_eq!(
        [(0.0, 40), (0.55, 40), (1.0, 40), (9.0, 41)].map(|(e, s)| frozen(e, s)),
        [0, 6, 10, 20]
    );
}

#[test]
fn weight_decay_rises_and_prototypes_thaw() {
    let config = ScheduleConfig {
        final_weight_decay: Some(0.4),
        freeze_prototypes_epochs: 1.0,
        ema_pace: Pace::Step,
        ..ScheduleConfig::default()
    };
    let schedule = Schedule::new(&config, 100, 10, 256);
    let method = IbotConfig {
        temperature_teacher_patch: Some(0.02),
        ..IbotConfig::default()
    };
    let rates: Vec<Rates> = (0..100)
        .map(|step| schedule.rates(&method, 0.04, step))
        .collect();
    let decay: Vec<f64> = rates
        .iter()
        .filter_map(|rates| rates.weight_decay)
        .collect();
    assert_eq!(decay.len(), 100);
    assert!((decay[0] - 0.04).abs() < 1e-12 && (decay[50] - 0.22).abs() < 1e-12);
    assert!(decay.windows(2).all(|pair| pair[1] > pair[0]) && decay[99] < 0.4);
    let frozen = rates.iter().filter(|rates| rates.freeze_prototypes);
    assert_eq!(frozen.count(), 10);
    assert!(
        rates
            .windows(2)
            .all(|pair| pair[1].ema_decay > pair[0].ema_decay)
    );
    assert!(
        rates[..10]
            .iter()
            .all(|rates| rates.temperature_teacher == 0.04)
    );
    let config = ScheduleConfig {
        temperature_pace: Pace::Step,
        ..config
    };
    let by_step = Schedule::new(&config, 100, 10, 256).rates(&method, 0.04, 15);
    assert!((by_step.temperature_teacher - (0.04 + 0.03 * 1.5 / 30.0)).abs() < 1e-12);
    let later = IbotConfig {
        mask_start_epoch: 5,
        ..method.clone()
    };
    let patch_temperature = |step| schedule.rates(&later, 0.04, step).temperature_teacher_patch;
    assert_eq!(patch_temperature(50), Some(0.04));
    assert!(patch_temperature(60) < Some(0.04));
    assert!(
        rates[50]
            .temperature_teacher_patch
            .is_some_and(|t| t < rates[50].temperature_teacher)
    );
}
