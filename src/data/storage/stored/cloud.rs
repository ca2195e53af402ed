//! Objects of S3, Google Cloud Storage, Azure and web servers, by `object_store`: signatures, retries and time limits are its own.
//!
//! Credentials come from the environment, under the names that other tools read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_REGION`, `AWS_ENDPOINT_URL`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME` and their like.

mod errors;

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    RetryConfig,
};
use tokio::runtime::{Builder, Runtime};

use crate::data::storage::names::{is_list, is_shard};
use crate::data::storage::stored::cloud::errors::{changed, in_words};
use crate::data::storage::stored::facts::Facts;
use crate::lock::lock;
use crate::path_text::path_text;

/// Until when a whole answer must be there, unless the environment says it: 8 MiB over a link that 8 requests share take a minute at
/// 9 Mbit/s.
const TIMEOUT: &str = "60 s";
/// How often a request is made again, and for how long, before its file counts as unreadable. Longer than `TIMEOUT`, as a request without
/// an answer would not be made again otherwise.
const RETRIES: usize = 5;
const RETRY_TIME: Duration = Duration::from_secs(180);
/// Why a folder of a web server is refused.
const NOT_LISTED: &str = "a web server does not list its files: name the shards, such as {0000..0099}.tar, or give a list (.txt, .csv)";
/// So many requests in a row that fail or are refused are an outage, as when credentials expire.
const OUTAGE: usize = 16;

/// The servers that were used, by scheme and host or bucket.
static SERVERS: LazyLock<Mutex<HashMap<String, Arc<Server>>>> = LazyLock::new(Mutex::default);
/// What servers said of their objects.
static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Arc<ObjectMeta>>>> = LazyLock::new(Mutex::default);

/// Runs requests. They wait for a network most of the time.
static RUNTIME: LazyLock<Result<Runtime>> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("ibot-cloud");
    builder.enable_all().build()
});

/// A bucket, container or host.
#[derive(Debug)]
struct Server {
    store: Box<dyn ObjectStore>,
    failures: Mutex<Failures>,
}

/// Requests in a row that failed though they were made again, or were refused.
#[derive(Debug, Default)]
struct Failures {
    count: usize,
    last: String,
}

impl Server {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        lock(&self.failures)
    }

    /// Waits for a request, which ends by the limits of its client.
    fn wait<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        let runtime = RUNTIME.as_ref();
        let runtime = runtime.map_err(|error| Error::other(error.to_string()))?;
        let result = runtime.block_on(request).map_err(in_words);
        let mut failures = self.failures();
        match &result {
            // that a file is missing or has changed is an answer
            Err(error)
                if [ErrorKind::Other, ErrorKind::PermissionDenied].contains(&error.kind()) =>
            {
                failures.count += 1;
                failures.last = error.to_string();
            }
            _ => failures.count = 0,
        }
        drop(failures);
        result
    }
}

/// Why nothing comes from the server of this address any more, if that is so.
pub(in crate::data) fn outage(path: &Path) -> Option<String> {
    let server = Address::of(path).ok()?.server().ok()?;
    let failures = server.failures();
    (failures.count >= OUTAGE).then(|| {
        format!(
            "{} requests in a row failed, the last one: {}",
            failures.count, failures.last
        )
    })
}

/// An object, which nobody reads yet.
#[derive(Debug)]
pub(in crate::data) struct Object {
    path: PathBuf,
    server: Arc<Server>,
    meta: Arc<ObjectMeta>,
}

impl Object {
    /// An object; the server is asked for it only the first time.
    ///
    /// # Errors
    /// Those of [`Object::asked`].
    pub fn known(path: &Path) -> Result<Self> {
        let Some(meta) = known().get(path).cloned() else {
            return Self::asked(path);
        };
        Ok(Self {
            path: path.to_path_buf(),
            server: Address::of(path)?.server()?,
            meta,
        })
    }

    /// An object as it is now.
    ///
    /// # Errors
    /// It is missing, the server refuses or does not answer.
    pub fn asked(path: &Path) -> Result<Self> {
        let address = Address::of(path)?;
        let (server, key) = (address.server()?, address.key()?);
        let meta = server.wait(server.store.head(&key));
        let meta = Arc::new(meta.map_err(|error| match error.kind() {
            ErrorKind::NotFound if address.is_web() && !is_of_files(path) => {
                Error::new(ErrorKind::NotFound, format!("no such file; {NOT_LISTED}"))
            }
            _ => error,
        })?);
        known().insert(path.to_path_buf(), meta.clone());
        Ok(Self {
            path: path.to_path_buf(),
            server,
            meta,
        })
    }

    pub fn facts(&self) -> Facts {
        Facts {
            length: self.meta.size,
            modified: Some(self.meta.last_modified.into()),
            tag: tag(&self.meta).map(Arc::from),
            is_file: true,
        }
    }

    /// Whether it is the one that was asked for, by its tag, or by its time in seconds where a server gives no tag.
    fn is_version(&self, now: &ObjectMeta) -> bool {
        let tags = tag(&self.meta).zip(tag(now));
        let is_same = tags.map_or_else(
            || self.meta.last_modified.timestamp() == now.last_modified.timestamp(),
            |(before, now)| before == now,
        );
        is_same && self.meta.size == now.size
    }

    /// Some bytes of it.
    ///
    /// # Errors
    /// The server refuses or does not answer, or the object has changed.
    pub fn get(&self, start: u64, length: u64) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let end = start.saturating_add(length);
        let options = GetOptions::new()
            .with_range(Some(start..end))
            // a weak tag never matches here (RFC 9110, 13.1.1)
            .with_if_match(tag(&self.meta).filter(|tag| !tag.starts_with("W/")));
        let store = &self.server.store;
        let bytes = self.server.wait(async {
            let found = store.get_opts(&self.meta.location, options).await?;
            // not every server looks at the tag that it is asked for
            if self.is_version(&found.meta) {
                found.bytes().await.map(Some)
            } else {
                Ok(None)
            }
        });
        let bytes = bytes.and_then(|bytes| bytes.ok_or_else(changed));
        // whoever opens it later gets what is there then
        if (bytes.as_ref()).is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
            known().remove(&self.path);
        }
        let bytes = bytes?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let reason = format!("the server sent {} of {length} bytes", bytes.len());
        Err(Error::new(ErrorKind::UnexpectedEof, reason))
    }
}

/// What a server calls this version of an object, in the quotes that HTTP asks for: lists of Azure have none.
fn tag(meta: &ObjectMeta) -> Option<String> {
    let tag = meta.e_tag.as_deref()?;
    Some(if tag.ends_with('"') {
        tag.to_owned()
    } else {
        format!("\"{tag}\"")
    })
}

fn known() -> MutexGuard<'static, HashMap<PathBuf, Arc<ObjectMeta>>> {
    lock(&KNOWN)
}

/// Whether it is a file for sure, so that no server is asked whether it is a folder.
fn is_of_files(path: &Path) -> bool {
    is_shard(path) || is_list(path)
}

/// Whether objects begin with this address and a `/`.
pub(in crate::data) fn is_folder(path: &Path) -> Result<bool> {
    if is_of_files(path) {
        return Ok(false);
    }
    let address = Address::of(path)?;
    if address.is_web() {
        return Ok(false);
    }
    let (server, prefix) = (address.server()?, address.key()?);
    let first = async { server.store.list(Some(&prefix)).next().await.transpose() };
    let first = server.wait(first)?;
    Ok(first.is_some())
}

/// Names of the folders of the first level.
pub(in crate::data) fn folders_in(path: &Path) -> Result<Vec<OsString>> {
    // who may read a file may not be allowed to list
    if is_of_files(path) {
        return Ok(Vec::new());
    }
    let (server, prefix) = Address::of(path)?.listed()?;
    let listed = server.wait(server.store.list_with_delimiter(Some(&prefix)))?;
    let names = listed.common_prefixes.iter();
    Ok(names
        .filter_map(|folder| folder.filename().map(OsString::from))
        .collect())
}

/// Every object below a folder, by its path from there.
///
/// # Errors
/// The server does not list them; [`ErrorKind::Interrupted`] soon after `stop` is raised.
pub(in crate::data) fn objects_in(folder: &Path, stop: &AtomicBool) -> Result<Vec<PathBuf>> {
    let (server, prefix) = Address::of(folder)?.listed()?;
    let mut found = Vec::new();
    server.wait(async {
        let mut objects = server.store.list(Some(&prefix));
        while let Some(meta) = objects.next().await.transpose()? {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let Some(parts) = meta.location.prefix_match(&prefix) else {
                continue;
            };
            let path: PathBuf = parts.map(|part| part.as_ref().to_owned()).collect();
            known().insert(folder.join(&path), Arc::new(meta));
            found.push(path);
        }
        Ok(())
    })?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::from(ErrorKind::Interrupted));
    }
    Ok(found)
}

/// The parts of an address.
struct Address {
    scheme: String,
    /// Host of a web server, bucket or container of the others.
    host: String,
    key: String,
}

impl Address {
    fn of(path: &Path) -> Result<Self> {
        let mut text = path_text(path);
        let invalid = |reason: &str| Error::new(ErrorKind::InvalidInput, reason);
        if cfg!(windows) {
            // paths are joined by it there
            text = text.replace('\\', "/");
        }
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| invalid("is no address"))?;
        // paths that are made of components have only one `/` there
        let rest = rest.trim_start_matches('/');
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(invalid("names no bucket or host"));
        }
        if scheme.starts_with("http") && key.contains('?') {
            let reason = "has a query (`?`), which would be stored with the run; use the scheme of the store (s3://, gs://, az://)";
            return Err(invalid(reason));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            key: key.trim_end_matches('/').to_owned(),
        })
    }

    fn is_web(&self) -> bool {
        self.scheme.starts_with("http")
    }

    /// The name of the object at its server.
    fn key(&self) -> Result<Key> {
        let key = if self.is_web() {
            // decoded here, as the request encodes it again
            Key::from_url_path(&self.key)
        } else {
            Key::parse(&self.key)
        };
        key.map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string()))
    }

    fn server(&self) -> Result<Arc<Server>> {
        let root = format!("{}://{}", self.scheme, self.host);
        let mut servers = lock(&SERVERS);
        if let Some(server) = servers.get(&root) {
            return Ok(server.clone());
        }
        let server = Arc::new(Server {
            store: self.connected(&root).map_err(in_words)?,
            failures: Mutex::default(),
        });
        servers.insert(root, server.clone());
        Ok(server)
    }

    /// A server that lists its objects, and what their names begin with.
    fn listed(&self) -> Result<(Arc<Server>, Key)> {
        if self.is_web() {
            return Err(Error::new(ErrorKind::Unsupported, NOT_LISTED));
        }
        Ok((self.server()?, self.key()?))
    }

    /// A client, which makes no request yet.
    fn connected(&self, root: &str) -> object_store::Result<Box<dyn ObjectStore>> {
        let retries = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
            ..RetryConfig::default()
        };
        let key = ClientConfigKey::Timeout;
        let timeout = |variable: &str| env::var(variable).unwrap_or_else(|_| TIMEOUT.to_owned());
        Ok(match self.scheme.as_str() {
            "s3" => {
                let builder = AmazonS3Builder::from_env().with_url(root);
                let key = AmazonS3ConfigKey::Client(key);
                let builder = builder.with_config(key, timeout("AWS_TIMEOUT"));
                Box::new(builder.with_retry(retries).build()?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_url(root);
                let key = GoogleConfigKey::Client(key);
                let builder = builder.with_config(key, timeout("GOOGLE_TIMEOUT"));
                Box::new(builder.with_retry(retries).build()?)
            }
            "az" => {
                let builder = MicrosoftAzureBuilder::from_env().with_url(root);
                let key = AzureConfigKey::Client(key);
                let builder = builder.with_config(key, timeout("AZURE_TIMEOUT"));
                Box::new(builder.with_retry(retries).build()?)
            }
            _ => {
                let options = ClientOptions::new().with_allow_http(self.scheme == "http");
                let options = options.with_config(key, timeout("HTTP_TIMEOUT"));
                let builder = HttpBuilder::new().with_url(root);
                let builder = builder.with_client_options(options).with_retry(retries);
                Box::new(builder.build()?)
            }
        })
    }
}
