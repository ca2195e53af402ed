//! A bucket of S3 is what a folder is, for every command. The server is moto (Python), in which credentials are not checked: where there is
//! none, or the program is built without the feature `cloud`, these tests are skipped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::resume::{assert_same, wait_for_a_step};
use crate::shards::{files, packed};
use crate::{Scratch, command};

/// A server with one bucket, `set`, which ends with the test.
struct Bucket {
    server: Child,
    port: u16,
    /// Of the commands.
    cache: PathBuf,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Bucket {
    /// None, and a line that says so, where there is no server.
    fn start(scratch: &Scratch) -> Option<Self> {
        let python = std::env::var_os("IBOT_MOTO").unwrap_or_else(|| "python3".into());
        let mut asked = Command::new(&python);
        asked
            .args(["-c", "import moto.server"])
            .stderr(Stdio::null());
        let has_moto = asked.status();
        if !cfg!(feature = "cloud") || !has_moto.is_ok_and(|status| status.success()) {
            let line =
                b"SKIPPED: NO CLOUD, OR NO MOTO (pip install 'moto[server]'; IBOT_MOTO=python)\n";
            std::io::stderr().write_all(line).unwrap();
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        let mut server = Command::new(python);
        server.args([
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        let bucket = Self {
            server: server.spawn().unwrap(),
            port,
            cache: scratch.0.join("cache"),
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "no server");
            sleep(Duration::from_millis(50));
        }
        bucket.put("", b"");
        Some(bucket)
    }

    /// Writes an object; the bucket itself where there is no name.
    fn put(&self, name: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "PUT /set/{name} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS test:test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Writes all files below a folder under their names from there.
    fn put_all(&self, folder: &Path, below: &str) {
        for name in files(folder) {
            let bytes = fs::read(folder.join(&name)).unwrap();
            self.put(&format!("{below}{}", name.to_str().unwrap()), &bytes);
        }
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = command(arguments);
        command.envs([
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ]);
        for variable in ["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] {
            command.env(variable, &self.cache);
        }
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        command.env("AWS_ENDPOINT_URL", endpoint);
        command
    }

    fn says(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "shard")
}

fn train(scratch: &Scratch, data: &str, out: &str, more: &[&str]) -> Vec<String> {
    let [config, out] = ["tiny.toml", out].map(|name| scratch.path(name));
    let fixed = [
        "train",
        data,
        "--backend",
        "flex",
        "--config",
        &config,
        "--out",
        &out,
    ];
    let all = [&fixed[..], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// Folder, archives and lists of a bucket: what `data` and `embed` say of them is what they say of the files here.
#[test]
fn commands_say_of_a_bucket_what_they_say_of_the_folder() {
    let scratch = Scratch::new("bucket");
    let Some(bucket) = Bucket::start(&scratch) else {
        return;
    };
    let folder = PathBuf::from(scratch.pictures());
    packed(&scratch);
    bucket.put_all(&folder, "pictures/");
    for number in 0..3 {
        let name = format!("set-{number:02}.tar");
        bucket.put(&name, &fs::read(scratch.path(&name)).unwrap());
    }
    let names = files(&folder);
    let list = names
        .iter()
        .map(|name| format!("pictures/{}\n", name.display()));
    bucket.put("all.txt", list.collect::<String>().as_bytes());
    let model = scratch.path("run/teacher.safetensors");
    let pictures = folder.to_str().unwrap();
    let trained = command(&train(&scratch, pictures, "run", &["--steps", "2"])).output();
    assert!(trained.unwrap().status.success());
    let features = |data: &str| {
        let out = scratch.path("features.csv");
        let _ = fs::remove_file(&out);
        let with = ["--backend", "flex", "--model", &model];
        bucket.says(&[&["embed", data, "--out", &out][..], &with].concat());
        let mut rows: Vec<String> = (fs::read_to_string(&out).unwrap().lines().skip(1))
            .map(|row| {
                // the name of the file stays
                let (path, rest) = row.split_once(',').unwrap();
                let (_, name) = path.rsplit_once('/').unwrap();
                format!("{name},{rest}")
            })
            .collect();
        rows.sort();
        rows
    };
    let expected = features(pictures);
    assert_eq!(
        expected.len(),
        10,
        "one of {} is a text, one is damaged",
        names.len()
    );
    for there in [
        "s3://set/pictures",
        "s3://set/pictures/",
        "s3://set/set-{00..02}.tar",
    ] {
        assert_eq!(features(there), expected, "{there}");
    }
    // a list has no classes, a folder has
    let unlabeled = |rows: Vec<String>| -> Vec<String> {
        let without = rows.iter().map(|row| {
            let parts: Vec<&str> = row.split(',').collect();
            [&parts[..1], &parts[2..]].concat().join(",")
        });
        without.collect()
    };
    assert_eq!(
        unlabeled(features("s3://set/all.txt")),
        unlabeled(expected.clone())
    );
    let report = |data: &str| {
        let said = bucket.says(&["data", data, "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        (said["images"].clone(), said["classes"].clone())
    };
    assert_eq!(report("s3://set/pictures"), report(pictures));
    let mut missing = bucket.command(&["data".into(), "s3://set/photos".into()]);
    let said = stderr(&missing.output().unwrap());
    assert!(said.contains("s3://set/photos: no such object"), "{said}");
    // each archive has an index, which is of the archive that it was made of
    let indexes = || {
        files(&bucket.cache)
            .iter()
            .filter(|file| is_index(file))
            .count()
    };
    assert_eq!(indexes(), 3);
    let archives = "s3://set/set-{00..02}.tar";
    let other = fs::read(scratch.path("set-02.tar")).unwrap();
    let own = fs::read(scratch.path("set-00.tar")).unwrap();
    bucket.put("set-00.tar", &other);
    assert_ne!(features(archives), expected);
    bucket.put("set-00.tar", &own);
    assert_eq!(features(archives), expected);
    assert_eq!(features(archives), expected, "by indexes");
    assert_eq!(indexes(), 3);
}

/// A run on archives of a bucket that is killed goes on in the bits of one on the folder that was not.
#[test]
fn killed_runs_on_a_bucket_go_on_bit_for_bit() {
    const STEPS: &str = "61"; // not a multiple of the epoch, nor of the checkpoints
    let scratch = Scratch::new("killed-on-a-bucket");
    let Some(bucket) = Bucket::start(&scratch) else {
        return;
    };
    packed(&scratch);
    for number in 0..3 {
        let name = format!("set-{number:02}.tar");
        bucket.put(&name, &fs::read(scratch.path(&name)).unwrap());
    }
    let flags = ["--steps", STEPS, "--checkpoint-every", "7"];
    let whole = train(&scratch, &scratch.path("pictures"), "undisturbed", &flags);
    assert!(command(&whole).status().unwrap().success());
    let [run, undisturbed] = ["run", "undisturbed"].map(|name| scratch.0.join(name));
    let data = "s3://set/set-{00..02}.tar";
    for kill in 0..3 {
        let workers = (1 + kill % 3).to_string();
        let flags = [&flags[..], &["--workers", &workers]].concat();
        let mut child = bucket.command(&train(&scratch, data, "run", &flags));
        let mut child = child.stdout(Stdio::null()).spawn().unwrap();
        let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
        wait_for_a_step(&run, before.saturating_sub(7 * 600));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = bucket
        .command(&train(&scratch, data, "run", &flags))
        .output();
    let last = last.unwrap();
    assert!(last.status.success(), "{}", stderr(&last));
    assert_same(&run, &undisturbed, 61);
}
