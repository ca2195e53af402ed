//! Names on the Hugging Face hub: with the feature from a cache, and from a hub that this test plays; never from the real
//! one.

#[cfg(not(feature = "hub"))]
#[test]
fn names_need_the_feature() {
    use crate::{Scratch, refused};

    let scratch = Scratch::new("no-hub");
    let images = scratch.images();
    let parts = ["hf:timm/vit_tiny_patch16_224", "the feature hub"];
    let model = parts[0];
    let out = scratch.path("features.csv");
    let embed = ["embed", "--model", model, "--data", &images, "--out", &out];
    refused(&embed, &parts);
    refused(&["train", "--data", &images, "--pretrained", model], &parts);
}

#[cfg(feature = "hub")]
mod with_feature {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::process::Output;
    use std::time::{Duration, Instant};

    use burn_flex::Flex;
    use ibot::backbone::vit_from_name;
    use ibot::random::{Random, Stream};

    use crate::{Scratch, command, stdout};

    const NAME: &str = "hf:timm/vit_tiny_patch16_224.some_tag";
    const REPOSITORY: &str = "timm/vit_tiny_patch16_224.some_tag";
    const DESCRIPTION: &str = r#"{"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg":
        {"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.75], "interpolation": "bicubic"}}"#;
    /// Nobody listens there.
    const CLOSED: &str = "http://127.0.0.1:9";

    /// The bytes of a tiny transformer for images of 32 pixels.
    fn weights(scratch: &Scratch) -> Vec<u8> {
        let config = vit_from_name("vit_tiny_patch16_224", 32).unwrap();
        let mut random = Random::new(0, 0, 0, Stream::Init);
        let model = config
            .init::<Flex>(&mut random, &Default::default())
            .unwrap();
        let path = PathBuf::from(scratch.path("written.safetensors"));
        ibot::files::save(&model, &path).unwrap();
        fs::read(path).unwrap()
    }

    /// A cache as huggingface_hub makes it, in HF_HOME; `files` without the endings of their contents.
    fn cache(home: &Path, files: &[(&str, &[u8])]) {
        let repository = home
            .join("hub")
            .join(format!("models--{}", REPOSITORY.replace('/', "--")));
        let snapshot = repository.join("snapshots/0123abcd");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "0123abcd").unwrap();
        for (name, bytes) in files {
            fs::write(snapshot.join(name), bytes).unwrap();
        }
    }

    fn run(arguments: &[&str], home: &str, endpoint: &str) -> Output {
        let mut command = command(arguments);
        let command = command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint);
        let command = command.env("NO_PROXY", "127.0.0.1");
        command.output().unwrap()
    }

    #[track_caller]
    fn succeeds(arguments: &[&str], home: &str, endpoint: &str) -> String {
        let output = run(arguments, home, endpoint);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        stdout(&output)
    }

    /// Features of the images by the model, as a table.
    fn embedded(scratch: &Scratch, more: &[&str], home: &str, endpoint: &str) -> String {
        let (images, out) = (scratch.images(), scratch.path("features.csv"));
        let embed = [
            "embed",
            "--data",
            &images,
            "--out",
            &out,
            "--image-size",
            "32",
        ];
        let embed = [&embed[..], &["--backend", "flex"], more].concat();
        succeeds(&embed, home, endpoint);
        fs::read_to_string(out).unwrap()
    }

    #[test]
    fn the_cache_is_enough() {
        let scratch = Scratch::new("hub-cache");
        let home = scratch.path("home");
        let bytes = weights(&scratch);
        let files: [(&str, &[u8]); 2] = [
            ("config.json", DESCRIPTION.as_bytes()),
            ("model.safetensors", &bytes),
        ];
        cache(Path::new(&home), &files);
        let by_name = embedded(&scratch, &["--model", NAME], &home, CLOSED);
        let file = scratch.path("written.safetensors");
        let by_path = ["--model", &file, "--encoder", "vit_tiny_patch16_224"];
        let by_path = embedded(&scratch, &by_path, &home, CLOSED);
        assert_eq!(by_name.lines().count(), by_path.lines().count());
        assert_ne!(
            by_name, by_path,
            "the mean and deviation of config.json are not taken"
        );

        // as are the start of a run
        let print = [
            "train",
            "--data",
            "x",
            "--preset",
            "stable-pretraining",
            "--pretrained",
            NAME,
            "--print-config",
        ];
        let text = succeeds(&print, &home, CLOSED);
        assert!(
            text.contains("encoder_name = \"vit_tiny_patch16_224\""),
            "{text}"
        );
        let table: toml::Table = text.parse().unwrap();
        let std: Vec<f64> = table["augment"]["std"].clone().try_into().unwrap();
        assert_eq!(std, [0.25, 0.5, 0.75]);
        let other = [&print[..], &["--encoder", "vit_small_patch16_224"]].concat();
        assert!(succeeds(&other, &home, CLOSED).contains("\"vit_small_patch16_224\""));
    }

    #[test]
    fn without_network_it_says_so() {
        let scratch = Scratch::new("hub-closed");
        let (home, images) = (scratch.path("home"), scratch.images());
        let out = scratch.path("features.csv");
        let refusal = |name: &str, endpoint: &str| {
            let embed = ["embed", "--model", name, "--data", &images, "--out", &out];
            let output = run(&embed, &home, endpoint);
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let closed = refusal(NAME, CLOSED);
        for part in [
            NAME,
            "cannot be downloaded",
            "onnection refused",
            "or give a file",
            &home,
        ] {
            assert!(closed.contains(part), "{part:?} is not in {closed:?}");
        }
        // one that accepts and never answers
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let started = Instant::now();
        let message = refusal(NAME, &endpoint);
        assert!(message.contains("no answer within 20 s"), "{message}");
        assert!(started.elapsed() < Duration::from_secs(60));
        for name in [
            "hf:vit_tiny",
            "hf:a/b/c",
            "hf:/x",
            "hf:a/../b",
            "hf:a/..",
            "hf:",
        ] {
            let message = refusal(name, CLOSED);
            assert!(
                message.contains("is not a name on the hub"),
                "{name}: {message}"
            );
        }
    }

    /// Answers as the hub does, as far as it is asked.
    fn play_the_hub(files: Vec<(&'static str, Vec<u8>)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &files);
            }
        });
        endpoint
    }

    fn answer(mut stream: TcpStream, files: &[(&str, Vec<u8>)]) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap();
        let path = request.split(' ').nth(1).unwrap();
        let header: Vec<String> = lines
            .map(|line| line.unwrap().to_lowercase())
            .take_while(|line| !line.is_empty())
            .collect();
        let (status, headers, body) = if path == format!("/api/models/{REPOSITORY}/revision/main") {
            let listed: Vec<String> = files
                .iter()
                .map(|(name, _)| format!(r#"{{"rfilename": "{name}"}}"#))
                .collect();
            let body = format!(
                r#"{{"sha": "0123abcd", "siblings": [{}]}}"#,
                listed.join(", ")
            );
            ("200 OK", String::new(), body.into_bytes())
        } else {
            let name = path.strip_prefix(&format!("/{REPOSITORY}/resolve/main/"));
            let (name, bytes) = files
                .iter()
                .find(|(name_, _)| Some(*name_) == name)
                .unwrap();
            let range = header
                .iter()
                .find_map(|line| line.strip_prefix("range: bytes="));
            let (first, last) = range.unwrap().split_once('-').unwrap();
            let first: usize = first.parse().unwrap();
            let last = last.parse().unwrap_or(bytes.len() - 1);
            let headers = format!(
                "ETag: \"{name}-tag\"\r\nX-Repo-Commit: 0123abcd\r\nContent-Range: bytes {first}-{last}/{}\r\n",
                bytes.len()
            );
            ("206 Partial Content", headers, bytes[first..=last].to_vec())
        };
        let length = body.len();
        let start = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let written = stream.write_all(start.as_bytes());
        written.and_then(|()| stream.write_all(&body)).unwrap();
    }

    /// All parts of a model, and both descriptions, which say what no flag says.
    #[test]
    fn a_model_of_transformers_in_parts_is_downloaded() {
        let scratch = Scratch::new("hub-transformers");
        let home = scratch.path("home");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join("../../tests/fixtures/transformers/registers");
        let names = [
            "config.json",
            "preprocessor_config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        let files = names.map(|name| (name, fs::read(folder.join(name)).unwrap()));
        let endpoint = play_the_hub(files.to_vec());
        let (images, out) = (scratch.images(), scratch.path("features.csv"));
        let embedded = |model: &str, endpoint: &str| {
            let embed = [
                "embed",
                "--backend",
                "flex",
                "--model",
                model,
                "--data",
                &images,
            ];
            succeeds(&[&embed[..], &["--out", &out]].concat(), &home, endpoint);
            fs::read_to_string(&out).unwrap()
        };
        let by_name = embedded(NAME, &endpoint);
        assert_eq!(embedded(NAME, CLOSED), by_name);
        assert_eq!(embedded(&folder.to_string_lossy(), CLOSED), by_name);
    }

    #[test]
    fn what_the_hub_has_is_downloaded_once() {
        let scratch = Scratch::new("hub-download");
        let home = scratch.path("home");
        let bytes = weights(&scratch);
        let endpoint = play_the_hub(vec![
            ("README.md", b"text".to_vec()),
            ("config.json", DESCRIPTION.into()),
            ("pytorch_model.bin", b"not asked for".to_vec()),
            ("model.safetensors", bytes.clone()),
        ]);
        let first = embedded(&scratch, &["--model", NAME], &home, &endpoint);
        assert_eq!(embedded(&scratch, &["--model", NAME], &home, CLOSED), first);
        let snapshot = Path::new(&home).join(format!(
            "hub/models--{}/snapshots/0123abcd",
            REPOSITORY.replace('/', "--")
        ));
        assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), bytes);
        assert!(!snapshot.join("pytorch_model.bin").exists());

        let other = play_the_hub(vec![("tf_model.h5", b"other".to_vec())]);
        let empty = scratch.path("empty");
        let print = [
            "train",
            "--data",
            "x",
            "--preset",
            "stable-pretraining",
            "--pretrained",
            NAME,
            "--print-config",
        ];
        let output = run(&print, &empty, &other);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains("it has no model.safetensors and no pytorch_model.bin"),
            "{message}"
        );
    }
}
