//! Results that cannot be written, and what a name from outside does to the screen.

use std::fs;
use std::process::Stdio;

use crate::evaluation::trained_as;
use crate::{Scratch, command, ibot, metrics, on_model, stdout, succeeds};

/// A command with what it prints on a full disk.
#[cfg(target_os = "linux")]
fn full() -> Stdio {
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

/// A run of one step, and the flags that name its model and images.
fn trained(name: &str) -> (Scratch, [String; 6]) {
    let scratch = Scratch::new(name);
    assert!(ibot(&scratch.train(&["--steps", "1"])).status.success());
    let model = scratch.path("run/teacher.safetensors");
    let data = scratch.path("images");
    let flags = ["--backend", "flex", "--model", &model, "--data", &data];
    (scratch, flags.map(str::to_owned))
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_on_a_full_disk_is_an_error() {
    let (_scratch, flags) = trained("full-result");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let model = flags[3];
    let knn = [&["knn", "--json"], &flags[..]].concat();
    let knn_text = [&["knn"], &flags[..]].concat();
    let commands: [&[&str]; 6] = [
        &knn,
        &knn_text,
        &["devices"],
        &["inspect", model],
        &["train", "--print-config"],
        &["--help"],
    ];
    for arguments in commands {
        let output = command(arguments).stdout(full()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains("error: standard output: "), "{message}");
    }
    // the result is there although what is said beside it is not
    let output = command(&knn).stderr(full()).output().unwrap();
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["rows"].is_array(), "{report}");
    // a wrong flag, with no room to say so
    let status = command(&["train", "--no-such-flag"])
        .stderr(full())
        .status();
    assert_ne!(status.unwrap().code(), Some(0));
}

/// `ibot inspect FILE | head -1`
#[cfg(unix)]
#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let (_scratch, flags) = trained("pipe-result");
    let mut child = command(&["inspect", flags[3].as_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// A warning of a worker: the cache of reduced images is full.
#[cfg(target_os = "linux")]
#[test]
fn a_warning_without_room_does_not_end_a_run() {
    let scratch = Scratch::new("full-warning");
    let train = scratch.train(&["--steps", "4", "--cache", &scratch.path("cache")]);
    for at in 0..4 {
        let path = scratch.0.join(format!("images/odd/large-{at}.png"));
        image::RgbImage::new(200, 200).save(path).unwrap();
    }
    let tiny = scratch.0.join("tiny.toml");
    let settings = fs::read_to_string(&tiny).unwrap();
    fs::write(&tiny, format!("{settings}[folder]\ncache_mib = 0\n")).unwrap();
    let output = command(&train).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("warn: cache "), "{message}");
    fs::remove_dir_all(scratch.0.join("run")).unwrap();
    let status = command(&train).stderr(full()).stdout(full()).status();
    assert!(status.unwrap().success());
    assert_eq!(metrics(&scratch.0.join("run")).len(), 4);
}

#[test]
fn a_negative_number_is_a_value() {
    for (flag, value) in [("--seed", "-1"), ("--steps", "-5")] {
        let output = ibot(&["train", flag, value]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains(&format!("invalid value '{value}' for '{flag}")),
            "{message}"
        );
    }
    crate::refused(
        &Scratch::new("negative").train(&["--learning-rate", "-1"]),
        &["--learning-rate = -1"],
    );
}

/// Where there is no desktop, no library may complain in the words of this program.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_said_of_a_desktop() {
    let mut devices = command(&["devices"]);
    devices
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("WAYLAND_DISPLAY");
    let output = devices.output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// File names with escape codes and line breaks, in every command that prints them.
#[cfg(unix)]
#[test]
fn names_are_printed_safely() {
    let (scratch, flags) = trained("odd-names");
    let odd = "x\u{1b}[31m\nfake line.png";
    let shown = "x\\u{1b}[31m\\nfake line.png";
    let images = scratch.0.join("images");
    let path = images.join("odd").join(odd);
    fs::copy(images.join("odd/1.png"), &path).unwrap();
    let damaged = images.join("odd/damaged\u{1b}.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let query = path.to_string_lossy().into_owned();
    let out = scratch.path("maps");
    let [backend, flex, model, file, data, folder] = flags.each_ref().map(String::as_str);
    let commands: [&[&str]; 4] = [
        &[
            "search", backend, flex, model, file, data, folder, "--query", &query,
        ],
        &[
            "knn",
            backend,
            flex,
            model,
            file,
            data,
            folder,
            "--held-out",
            "0.4",
        ],
        &["cluster", backend, flex, model, file, data, folder],
        &[
            "visualize",
            backend,
            flex,
            model,
            file,
            "--image",
            &query,
            "--out",
            &out,
        ],
    ];
    for arguments in commands {
        let output = ibot(arguments);
        let text = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains("\nfake line"),
            "{text:?}"
        );
    }
    let text = stdout(&ibot(commands[0]));
    assert!(
        text.contains(shown) && text.contains("damaged\\u{1b}.png"),
        "{text}"
    );
    // files of weights, too
    let weights = scratch.path("w\u{1b}[31m.safetensors");
    fs::write(&weights, "no weights").unwrap();
    crate::refused(&["inspect", &weights], &["w\\u{1b}[31m.safetensors"]);
}

/// Linux allows names that are no Unicode; JSON does not.
#[cfg(target_os = "linux")]
#[test]
fn json_names_paths_that_are_not_unicode() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt as _;
    let (scratch, flags) = trained("json-paths");
    let odd = scratch.0.join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).unwrap();
    let run = odd.join("run");
    fs::rename(scratch.0.join("run"), &run).unwrap();
    let model = scratch.0.join("model.safetensors");
    fs::copy(run.join("teacher.safetensors"), &model).unwrap();
    let json = |arguments: &[&OsStr]| -> String {
        let device = ["--json", "--backend", "flex"].map(OsStr::new);
        let of_model = [OsStr::new("--model"), model.as_os_str()];
        let more: &[&OsStr] = if arguments[0] == "report" {
            &device[..1]
        } else {
            &[&device[..], &of_model].concat()
        };
        let output = ibot(&[arguments, more].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {message}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report.to_string()
    };
    let [html, maps, finetuned] =
        ["map.html", "maps", "classifier"].map(|name| odd.join(name).into_os_string());
    let image = OsString::from(scratch.path("images/odd/1.png"));
    let data = OsString::from(&flags[5]);
    fs::remove_file(scratch.0.join("images/odd/cut.png")).unwrap();
    let commands: [&[&OsStr]; 4] = [
        &["report".as_ref(), run.as_os_str()],
        &["map".as_ref(), &data, "--out".as_ref(), &html],
        &[
            "visualize".as_ref(),
            "--image".as_ref(),
            &image,
            "--out".as_ref(),
            &maps,
        ],
        &[
            "finetune".as_ref(),
            &data,
            "--batch-size".as_ref(),
            "4".as_ref(),
            "--epochs".as_ref(),
            "1".as_ref(),
            "--out".as_ref(),
            &finetuned,
        ],
    ];
    for arguments in commands {
        let report = json(arguments);
        assert!(report.contains(r"caf\\xe9/"), "{arguments:?}: {report}");
    }
}

/// Threads that a system does not grant, as by `ulimit -u`.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_start_are_one_line() {
    // more than there are addresses: no thread gets its stack
    let mut limited = command(&["devices"]);
    let output = limited
        .env("RUST_MIN_STACK", "140737488355328")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("RAYON_NUM_THREADS"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
}

/// Numbers of neighbors beyond all images are named as such, and files that are written are named.
#[test]
fn lines_name_what_was_counted_and_written() {
    let trained = trained_as("named-lines", &["--steps", "1"]);
    let on = on_model("knn", &trained.model, &trained.images);
    let text = succeeds(&[&on[..], &["--k", "3,100"]].concat());
    assert!(text.contains("k = 3  top-1"), "{text}");
    assert!(text.contains("k = 100 (all 8)  top-1"), "{text}");
    assert!(!text.contains("top-5"), "{text}");
    let table = trained.out("clusters.csv");
    let on = on_model("cluster", &trained.model, &trained.images);
    let text = succeeds(&[&on[..], &["--table", &table]].concat());
    assert!(text.contains(&format!("{table}: 10 images\n")), "{text}");
    let (sheet, npy) = (trained.out("found.png"), trained.out("all.npy"));
    let query = trained.scratch.path("images/odd/3.png");
    let on = on_model("search", &trained.model, &trained.images);
    let query = ["--query", &query];
    let text = succeeds(&[&on[..], &query, &["--out", &sheet, "--top", "2"]].concat());
    assert!(text.contains(&format!("{sheet}: 2 images\n")), "{text}");
    // --data refuses a file that does not tell which images changed
    let on = on_model("embed", &trained.model, &trained.images);
    succeeds(&[&on[..], &["--out", &npy]].concat());
    fs::remove_file(trained.scratch.0.join("images/odd/5.png")).unwrap();
    let text = succeeds(&[&["search", "--features", &npy][..], &query].concat());
    assert!(text.contains("make it again: `ibot embed"), "{text}");
}
