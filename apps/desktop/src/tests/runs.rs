//! Runs that go on: in another window, with changes, and until the window may close.

use eframe::egui::{ViewportCommand, ViewportEvent, ViewportId};
use egui_kittest::kittest::{NodeT as _, Queryable as _};

use super::tiny_model::Scratch;
use super::{Window, folder_of, number, set_number, start_demo, until, until_said, window};

/// Its button would go on with a run in the folder of now, which was never shown.
#[test]
fn a_refusal_does_not_outlive_the_folder_it_is_of() {
    let scratch = Scratch::new("desktop-refused-run");
    let images = scratch.images(12);
    let other = scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(&images[0], other.join("0.png")).unwrap();
    let mut window = window(folder_of(&images), None);
    start_demo(&mut window);
    until_said(&mut window, "of 2000");
    window.get_by_label("Stop").click();
    until_said(&mut window, "stopped after step ");
    window.run_steps(2);
    set_number(&mut window, "Steps", 2500.0);
    window.get_by_label("Start training").click();
    until_said(&mut window, "steps: 2000 -> 2500");
    assert!(window.query_by_label("Resume anyway").is_some());
    let ctx = window.ctx.clone();
    window.state_mut().open_images(&ctx, other);
    window.run_steps(2);
    assert!(window.query_by_label("Resume anyway").is_none());
}

/// What the window asks of the system in a frame.
fn commands(window: &Window) -> &[ViewportCommand] {
    let output = window.output().viewport_output.get(&ViewportId::ROOT);
    output.map_or(&[], |output| &output.commands)
}

fn close(window: &mut Window) {
    let viewports = &mut window.input_mut().viewports;
    let root = viewports.entry(ViewportId::ROOT).or_default();
    root.events.push(ViewportEvent::Close);
    window.step();
}

/// The window's own preset is `small-data`, of epochs.
#[test]
fn a_run_goes_on_in_another_window_with_its_own_settings_or_with_changes() {
    let scratch = Scratch::new("desktop-goes-on");
    let images = scratch.images(12);
    let mut first = window(folder_of(&images), None);
    start_demo(&mut first);
    until_said(&mut first, "of 2000");
    first.get_by_label("Stop").click();
    until_said(&mut first, "stopped after step ");
    drop(first);

    let mut window = window(folder_of(&images), None);
    until_said(&mut window, "12 images, 0 embedded");
    window.get_by_label("Training").click();
    window.run_steps(2);
    assert_eq!(number(&window, "Steps"), Some(2000.0));
    assert_eq!(number(&window, "Batch size"), Some(12.0));
    let preset = window.get_by_label("Preset");
    assert!(preset.accesskit_node().is_disabled());
    window.get_by_label("Start training").click();
    until_said(&mut window, "resuming from step ");
    until_said(&mut window, "of 2000");
    window.get_by_label("Stop").click();
    until_said(&mut window, "stopped after step ");

    set_number(&mut window, "Steps", 2500.0);
    window.get_by_label("Start training").click();
    until_said(&mut window, "steps: 2000 -> 2500");
    assert!(window.query_by_label_contains("`").is_none());
    window.get_by_label("Resume anyway").click();
    until_said(&mut window, "resuming from step ");
    until_said(&mut window, "of 2500");
    assert!(window.query_by_label("Resume anyway").is_none());
}

#[test]
fn a_window_with_a_run_closes_once_its_checkpoint_is_written() {
    let scratch = Scratch::new("desktop-close");
    let mut window = window(folder_of(&scratch.images(12)), None);
    start_demo(&mut window);
    until_said(&mut window, "of 2000");
    close(&mut window);
    assert!(commands(&window).contains(&ViewportCommand::CancelClose));
    window.step();
    if !commands(&window).contains(&ViewportCommand::Close) {
        assert!(
            window
                .query_by_label_contains("Writing a checkpoint")
                .is_some()
        );
    }
    until(&mut window, "it closes", |window| {
        commands(window).contains(&ViewportCommand::Close)
    });
    let checkpoints = scratch.path("images-ibot/checkpoints");
    assert!(checkpoints.read_dir().unwrap().next().is_some());
    close(&mut window);
    assert!(!commands(&window).contains(&ViewportCommand::CancelClose));
}
