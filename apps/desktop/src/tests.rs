//! The window without a screen, driven by what a screen reader finds in it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eframe::egui::accesskit::{Action, ActionData, ActionRequest};
use eframe::egui::{Event, Key, Ui};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ibot::app::DeviceRequest;
use ibot::device::BackendChoice;

use super::app::Desktop;
use super::run_settings::CHOSEN;

mod devices;
mod models;
mod parts;
mod runs;
mod settings;
#[allow(dead_code, reason = "made for more than these tests")]
#[path = "../../../tests/tiny_model/mod.rs"]
mod tiny_model;
use tiny_model::Scratch;

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

type Window = Harness<'static, Desktop>;

/// A window on these, on the CPU.
fn window(folder: Option<PathBuf>, model: Option<PathBuf>) -> Window {
    window_on(BackendChoice::Flex.into(), folder, model)
}

fn window_on(device: DeviceRequest, folder: Option<PathBuf>, model: Option<PathBuf>) -> Window {
    let mut given = Some((folder, model));
    let show = move |ui: &mut Ui, desktop: &mut Desktop| {
        if let Some((folder, model)) = given.take() {
            if let Some(folder) = folder {
                desktop.open_images(ui.ctx(), folder);
            }
            if let Some(model) = model {
                desktop.open_model(model, None);
            }
        }
        desktop.receive(ui.ctx());
        desktop.show(ui, None);
    };
    let desktop = Desktop::new(device, "small-data");
    let builder = Harness::builder().with_size([1200.0, 800.0]);
    builder.build_ui_state(show, desktop)
}

/// Draws frames until something holds.
#[track_caller]
fn until(window: &mut Window, what: &str, mut holds: impl FnMut(&Window) -> bool) {
    let started = Instant::now();
    loop {
        window.step();
        if holds(window) {
            return;
        }
        let said = || format!("{what}: not after {PATIENCE:?}\n{:#?}", window.root());
        assert!(started.elapsed() < PATIENCE, "{}", said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn until_said(window: &mut Window, text: &str) {
    until(window, text, |window| {
        window.query_all_by_label_contains(text).next().is_some()
    });
}

#[track_caller]
fn press(window: &mut Window, key: Key) {
    window.key_press(key);
    window.step();
    window.step();
}

/// The number in a field.
fn number(window: &Window, label: &str) -> Option<f64> {
    let field = window.get_by_label(label);
    field.accesskit_node().numeric_value()
}

/// Writes a number into a field.
fn set_number(window: &mut Window, label: &str, number: f64) {
    let (target_node, target_tree) = window.get_by_label(label).accesskit_node().locate();
    window.event(Event::AccessKitActionRequest(ActionRequest {
        action: Action::SetValue,
        target_tree,
        target_node,
        data: Some(ActionData::NumericValue(number)),
    }));
    window.run_steps(2);
    assert_eq!(self::number(window, label), Some(number));
}

/// The images in the grid that are said to be selected.
fn selected(window: &Window) -> Vec<String> {
    let cells = window.query_all_by_label_contains(", image ");
    let selected = cells.filter(|cell| {
        let node = cell.accesskit_node();
        node.is_selected() == Some(true) || node.toggled() == Some(true.into())
    });
    selected
        .filter_map(|cell| cell.accesskit_node().label())
        .collect()
}

fn folder_of(images: &[PathBuf]) -> Option<PathBuf> {
    Some(images[0].parent().unwrap().to_path_buf())
}

#[test]
fn images_are_embedded_and_looked_at_by_keyboard_and_mouse() {
    let scratch = Scratch::new("desktop-look");
    let images = scratch.images(30);
    std::fs::write(scratch.path("images/31.png"), b"no image").unwrap();
    let mut window = window(folder_of(&images), Some(scratch.model(2)));
    until_said(&mut window, "30 images, 30 embedded");
    assert_eq!(selected(&window), [""; 0]);

    press(&mut window, Key::ArrowRight);
    assert_eq!(selected(&window), ["0.png, image 1 of 30"]);
    press(&mut window, Key::ArrowRight);
    assert_eq!(selected(&window), ["1.png, image 2 of 30"]);
    press(&mut window, Key::End);
    assert_eq!(selected(&window), ["9.png, image 30 of 30"]);
    until_said(&mut window, "9.png, with attention");
    window.get_by_label("Patches").click();
    until_said(&mut window, "9.png, with patch features");

    until(&mut window, "12 neighbors", |window| {
        let neighbors = window.query_all_by_label_contains("of the nearest");
        neighbors.count() == 12
    });
    let neighbors = || window.query_all_by_label_contains("of the nearest");
    let nearest = neighbors().next().unwrap();
    let name = nearest.accesskit_node().label().unwrap();
    nearest.click();
    window.run_steps(3);
    let [now] = &selected(&window)[..] else {
        panic!("{:?}", selected(&window));
    };
    assert_eq!(now.split(',').next(), name.split(',').next());
    until_said(&mut window, "with patch features");
}

/// How many of 400 images are embedded, as the window says it.
fn done_of_400(window: &Window) -> Option<usize> {
    let said = window.query_all_by_label_contains("embedded");
    let labels = said.filter_map(|node| {
        let node = node.accesskit_node();
        node.label().or_else(|| node.value())
    });
    let done = labels.filter_map(|label| match label.strip_prefix("400 images, ") {
        Some(rest) => rest.strip_suffix(" embedded")?.parse().ok(),
        None => label.strip_suffix(" of 400 embedded")?.parse().ok(),
    });
    done.max()
}

/// Some of 400 images embedded, and then the embedding cancelled; how many that is.
#[track_caller]
fn cancelled(window: &mut Window) -> usize {
    until(window, "some are embedded", |window| {
        done_of_400(window).is_some_and(|done| done > 0)
    });
    press(window, Key::Escape);
    until_said(window, "400 images, ");
    let done = done_of_400(window).unwrap();
    assert!((1..400).contains(&done), "cancelled too late to tell");
    done
}

#[track_caller]
fn until_all_400(window: &mut Window, from: usize) {
    until(window, "all embedded", |window| {
        let done = done_of_400(window);
        assert!(done.is_none_or(|done| done >= from), "{done:?} < {from}");
        done == Some(400)
    });
}

#[test]
fn a_cancelled_embedding_keeps_what_is_done_and_goes_on_when_asked() {
    let scratch = Scratch::new("desktop-cancel");
    let images = scratch.images(400);
    let mut window = window(folder_of(&images), Some(scratch.model(12)));
    let done = cancelled(&mut window);
    window.get_by_label("Embed").click();
    until_all_400(&mut window, done);
}

/// As after a device that failed: the same file is loaded again.
#[test]
fn the_same_model_goes_on_and_another_one_starts_over() {
    let scratch = Scratch::new("desktop-again");
    let images = scratch.images(400);
    let model = scratch.model(12);
    let mut window = window(folder_of(&images), Some(model.clone()));
    let done = cancelled(&mut window);
    window.state_mut().open_model(model, None);
    until_all_400(&mut window, done);
    window.state_mut().open_model(scratch.model(11), None);
    until(&mut window, "another model starts over", |window| {
        done_of_400(window).is_some_and(|done| done < 400)
    });
    until_all_400(&mut window, 0);
}

#[test]
fn what_can_not_be_opened_says_so() {
    let scratch = Scratch::new("desktop-refused");
    let model = scratch.path("broken.safetensors");
    std::fs::write(&model, b"nothing of the kind").unwrap();
    let mut window = window(Some(scratch.path("absent")), Some(model));
    until_said(&mut window, "broken.safetensors: ");
    until_said(&mut window, "absent");
    // another device would not help
    assert!(window.query_by_label("Use the CPU").is_none());
    window.get_by_label("Try again").click();
    window.run_steps(2);
    until_said(&mut window, "broken.safetensors: ");
}

/// Not the 64 images a step and 300 epochs of `small-data`, but what 12 images on a CPU are given.
#[test]
fn settings_are_chosen_for_the_images_and_the_device() {
    let scratch = Scratch::new("desktop-chosen");
    let mut window = window(folder_of(&scratch.images(12)), None);
    until_said(&mut window, "12 images, 0 embedded");
    window.get_by_label("Training").click();
    window.step();
    window.get_by_label("Preset").click();
    window.run_steps(3);
    assert!(window.query_by_label("adapt").is_none());
    window.get_by_label(CHOSEN).click();
    window.run_steps(3);
    assert_eq!(number(&window, "Batch size"), Some(12.0));
    assert_eq!(number(&window, "Epochs"), Some(100.0));
}

/// Starts a run of the preset `demo` on the 12 images of the window.
#[track_caller]
fn start_demo(window: &mut Window) {
    until_said(window, "12 images, 0 embedded");
    window.get_by_label("Training").click();
    window.step();
    window.get_by_label("Preset").click();
    window.run_steps(3);
    window.get_by_label("demo").click();
    window.run_steps(3);
    window.get_by_label("Start training").click();
}

#[test]
fn a_run_is_started_paused_stopped_and_looked_through() {
    let scratch = Scratch::new("desktop-training");
    let images = scratch.images(12);
    let mut window = window(folder_of(&images), None);
    start_demo(&mut window);
    until_said(&mut window, "of 2000");
    // the first check comes later
    assert!(window.query_by_label_contains("Health").is_none());
    window.get_by_label("Pause").click();
    until_said(&mut window, "paused after step ");
    window.get_by_label("Resume").click();
    until_said(&mut window, "resumed");
    until_said(&mut window, "Patch features of the teacher after step");
    window.get_by_label("Stop").click();
    until_said(&mut window, "stopped after step ");
    window.get_by_label("Open this model").click();
    until_said(&mut window, "12 images, 12 embedded");
}

/// A path is not always text: it is the folder beside the images that is written, unless the text is edited.
#[test]
#[cfg(target_os = "linux")]
fn the_run_folder_is_beside_images_whose_folder_is_not_unicode() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let scratch = Scratch::new("desktop-unicode");
    scratch.images(12);
    let beside = |name: &[u8]| scratch.path("").join(OsStr::from_bytes(name));
    let folder = beside(b"b\xe9");
    std::fs::rename(scratch.path("images"), &folder).unwrap();
    let mut window = window(Some(folder), None);
    start_demo(&mut window);
    until_said(&mut window, "of 2000");
    window.get_by_label("Stop").click();
    until_said(&mut window, "stopped after step ");
    assert!(beside(b"b\xe9-ibot/run.json").exists());

    window.get_by_label("Run folder").focus();
    window.step();
    window.get_by_label("Run folder").type_text("2");
    window.run_steps(2);
    let edited = window.get_by_label("Run folder").value().unwrap();
    assert!(edited.contains('2'), "{edited}");
    window.get_by_label("Start training").click();
    until_said(&mut window, "of 2000");
    assert!(PathBuf::from(&edited).join("run.json").exists(), "{edited}");
}
