//! A web server with the files of a folder, which fails as it is told to.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a server does about a request, instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Status(u16),
    /// Half of the bytes, then nothing.
    Cut,
    /// All bytes, whatever part was asked for.
    NoRanges,
    /// No answer.
    Stall,
    /// No part of more than 64 KiB: headers are read, images are not.
    Long,
    /// A weak tag of the file's version, which no request may ask for (RFC 9110, 13.1.1).
    WeakTags,
    /// No tag of the file's version, and no look at the one that is asked for.
    NoTags,
}

/// Which faults a path has: so many of them, then none.
type Faults = Arc<Mutex<HashMap<String, (usize, Fault)>>>;

/// A web server with the files of a folder.
pub struct Server {
    address: String,
    faults: Faults,
    /// Path and range of each.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            faults: Faults::default(),
            requests: Arc::default(),
        };
        let (folder, faults, requests) = (
            folder.to_path_buf(),
            server.faults.clone(),
            server.requests.clone(),
        );
        // ends with the process
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (folder, faults, requests) = (folder.clone(), faults.clone(), requests.clone());
                thread::spawn(move || answer(&stream.unwrap(), &folder, &faults, &requests));
            }
        });
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.address))
    }

    /// Gives so many answers about a file this fault.
    pub fn fail(&self, name: &str, times: usize, fault: Fault) {
        let mut faults = self.faults.lock().unwrap();
        faults.insert(format!("/{name}"), (times, fault));
    }

    /// Gives all answers about these files this fault.
    pub fn fail_all(&self, names: &[String], fault: Fault) {
        let mut faults = self.faults.lock().unwrap();
        for name in names {
            faults.insert(format!("/{name}"), (usize::MAX, fault));
        }
    }

    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.next()?;
        let header = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.take_while(|line| !line.is_empty());
        let mut words = first.split(' ').map(str::to_owned);
        Some(Self {
            method: words.next()?,
            path: words.next()?,
            headers: headers.filter_map(header).collect(),
        })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The part of so many bytes that is asked for, if one is.
    fn range(&self, length: usize) -> Option<std::ops::Range<usize>> {
        let (from, to) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some(from.parse().ok()?..length.min(to.parse::<usize>().ok()? + 1))
    }
}

fn write(mut stream: &TcpStream, head: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

fn answer(stream: &TcpStream, folder: &Path, faults: &Faults, requests: &Mutex<Vec<String>>) {
    let Some(request) = Request::read(stream) else {
        return;
    };
    let line = format!(
        "{} {} {}",
        request.method,
        request.path,
        request.header("range")
    );
    requests.lock().unwrap().push(line.trim_end().to_owned());
    let mut faults = faults.lock().unwrap();
    let fault = faults.get_mut(&request.path).and_then(|(times, fault)| {
        *times = times.checked_sub(1)?;
        Some(*fault)
    });
    drop(faults);
    let refuse = |status: &str| write(stream, &format!("{status}\r\nContent-Length: 0"), b"");
    match fault {
        Some(Fault::Stall) => return thread::sleep(Duration::from_secs(3600)),
        Some(Fault::Status(status)) => return refuse(&format!("{status} Fault")),
        Some(Fault::Long) if (request.range(usize::MAX)).is_some_and(|of| of.len() > 64 << 10) => {
            return refuse("500 Fault");
        }
        _ => {}
    }
    let Ok(bytes) = fs::read(folder.join(request.path.trim_start_matches('/'))) else {
        return refuse("404 Not Found");
    };
    let is_weak = fault == Some(Fault::WeakTags);
    let e_tag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    let e_tag = if is_weak { format!("W/{e_tag}") } else { e_tag };
    let has_tags = fault != Some(Fault::NoTags);
    let matching = if is_weak { "" } else { &e_tag };
    if has_tags && !["", matching].contains(&request.header("if-match")) {
        return refuse("412 Precondition Failed");
    }
    let range = request
        .range(bytes.len())
        .filter(|_| fault != Some(Fault::NoRanges));
    let sent = range.clone().unwrap_or(0..bytes.len());
    let status = match range {
        Some(of) => format!(
            "206 Partial Content\r\nContent-Range: bytes {}-{}/{}",
            of.start,
            of.end - 1,
            bytes.len()
        ),
        None => "200 OK".to_owned(),
    };
    let tag = has_tags.then(|| format!("ETag: {e_tag}\r\n"));
    let tag = tag.unwrap_or_default();
    let head = format!("{status}\r\n{tag}Content-Length: {}", sent.len());
    let count = match (request.method.as_str(), fault) {
        ("HEAD", _) => 0,
        (_, Some(Fault::Cut)) => sent.len() / 2,
        _ => sent.len(),
    };
    write(stream, &head, &bytes[sent][..count]);
}
