//! Folders in object stores: S3, Google Cloud Storage, Azure Blob Storage, and local folders named
//! `file://`.
//!
//! An object appears whole or not at all. What is asked of a store beyond that is one thing: that of
//! several processes which create one object, exactly one succeeds.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig, WriteMultipart,
};

use self::address::{Address, Scheme};
use self::fault::explained;

mod address;
mod fault;

pub(crate) use address::is_address;
pub(crate) use fault::{StoreBusy, no_conditional_puts};

/// A folder of an object store.
#[derive(Debug, Clone)]
pub(crate) struct ObjectFolder {
    /// The address as the user wrote it, without a slash at its end.
    address: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
}

/// One object as a list tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedObject {
    /// Its name in the folder.
    pub key: String,
    /// What changes whenever the object is written.
    pub tag: String,
    /// When the store took it, by the store's own clock, in milliseconds.
    pub modified: i64,
}

/// How often a request is tried again that the store answers with a fault of its own, or not at all.
const RETRIES: usize = 8;
/// The time after which a request is not tried again.
const RETRY_TIME: Duration = Duration::from_secs(60);
/// How often a request is sent that the network broke off.
const ATTEMPTS: u32 = 5;
/// The pause before it is sent the second time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Larger objects are sent in parts, so that a part that is lost is sent again alone.
const PART_BYTES: usize = 16 << 20;
/// How many requests are under way at the same time.
const AT_ONCE: usize = 16;

impl ObjectFolder {
    /// The folder at an address, such as `s3://bucket/prefix`. Credentials come from the environment.
    /// Nothing is asked of the store yet.
    ///
    /// # Errors
    /// Fails if the address is malformed, or if the environment names no credentials.
    pub(crate) fn open(address: &str) -> Result<ObjectFolder> {
        let parsed = Address::parse(address)?;
        let store = connect(&parsed).with_context(|| address.to_owned())?;
        Ok(ObjectFolder {
            address: address.trim_end_matches('/').to_owned(),
            store,
            prefix: Key::from(parsed.prefix.as_str()),
        })
    }

    /// A folder of a store that is open already.
    #[cfg(test)]
    pub(crate) fn in_store(store: Arc<dyn ObjectStore>, prefix: &str) -> ObjectFolder {
        ObjectFolder {
            address: format!("memory:///{prefix}"),
            store,
            prefix: Key::from(prefix),
        }
    }

    /// The address, without a slash at its end.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The address of one object.
    pub(crate) fn address_of(&self, key: &str) -> String {
        format!("{}/{key}", self.address)
    }

    /// Creates an object if there is none of that name, and returns whether it did so. If an answer
    /// of the store is lost on the way, it may be false although this process has created it.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn create(&self, key: &str, bytes: &[u8]) -> Result<bool> {
        let (location, payload) = (self.key(key), PutPayload::from(bytes.to_vec()));
        let create = || {
            let options = PutOptions::from(PutMode::Create);
            self.store.put_opts(&location, payload.clone(), options)
        };
        match patiently(create) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.fault(key, error)),
        }
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        let (location, payload) = (self.key(key), PutPayload::from(bytes));
        let put = || async {
            if payload.content_length() > PART_BYTES {
                let upload = self.store.put_multipart(&location).await?;
                let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
                payload.iter().for_each(|bytes| parts.put(bytes.clone()));
                return parts.finish().await.map(drop);
            }
            let options = PutOptions {
                attributes: self.attributes_of(key),
                ..PutOptions::default()
            };
            let put = self.store.put_opts(&location, payload.clone(), options);
            put.await.map(drop)
        };
        patiently(put).map_err(|error| self.fault(key, error))
    }

    /// The content of an object; `None` if there is none of that name.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let location = self.key(key);
        let get = || async { self.store.get(&location).await?.bytes().await };
        match patiently(get) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) if fault::is_missing_object(&error) => Ok(None),
            Err(error) => Err(self.fault(key, error)),
        }
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn delete(&self, key: &str) -> Result<()> {
        let location = self.key(key);
        match patiently(|| self.store.delete(&location)) {
            Err(error) if fault::is_missing_object(&error) => Ok(()),
            done => done.map_err(|error| self.fault(key, error)),
        }
    }

    /// All objects below a folder of this folder, sorted by name; those behind the object `after`, if
    /// it is given.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn list(&self, below: &str, after: Option<&str>) -> Result<Vec<ListedObject>> {
        let folder = self.key(below);
        let after = after.map(|after| self.key(after));
        let list = || {
            let objects = match &after {
                Some(after) => self.store.list_with_offset(Some(&folder), after),
                None => self.store.list(Some(&folder)),
            };
            objects.try_collect::<Vec<object_store::ObjectMeta>>()
        };
        let found = patiently(list).map_err(|error| self.fault(below, error))?;
        let mut found: Vec<ListedObject> = found
            .into_iter()
            .filter_map(|object| {
                Some(ListedObject {
                    key: self.name_of(&object.location)?,
                    tag: object
                        .e_tag
                        .unwrap_or_else(|| object.last_modified.to_rfc3339()),
                    modified: object.last_modified.timestamp_millis(),
                })
            })
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The names of the objects and of the folders that lie directly in a folder of this folder.
    ///
    /// # Errors
    /// Fails if the store refuses, or does not answer.
    pub(crate) fn names(&self, below: &str) -> Result<Vec<String>> {
        let folder = self.key(below);
        let found = patiently(|| self.store.list_with_delimiter(Some(&folder)))
            .map_err(|error| self.fault(below, error))?;
        let objects = found.objects.iter().map(|object| &object.location);
        let last = |key: &Key| key.filename().map(str::to_owned);
        Ok(objects
            .chain(&found.common_prefixes)
            .filter_map(last)
            .collect())
    }

    /// Does something for each of many names, several at the same time.
    ///
    /// # Errors
    /// Fails with the first failure, after which no more are begun.
    pub(crate) fn for_each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = Mutex::new(Ok(0));
        let take = || {
            let mut next = next.lock().unwrap_or_else(|e| e.into_inner());
            let place = next.as_mut().ok()?;
            *place += 1;
            items.get(*place - 1)
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(items.len()) {
                scope.spawn(|| {
                    while let Some(item) = take() {
                        if let Err(error) = work(item) {
                            *next.lock().unwrap_or_else(|e| e.into_inner()) = Err(error);
                        }
                    }
                });
            }
        });
        next.into_inner()
            .unwrap_or_else(|e| e.into_inner())
            .map(drop)
    }

    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}/{name}", self.prefix))
    }

    /// The name of an object in this folder.
    fn name_of(&self, location: &Key) -> Option<String> {
        let parts = location.prefix_match(&self.prefix)?;
        let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }

    /// The kind of a file that browsers show, where a store takes such a note.
    fn attributes_of(&self, key: &str) -> Attributes {
        const TYPES: [(&str, &str); 4] = [
            (".html", "text/html; charset=utf-8"),
            (".svg", "image/svg+xml"),
            (".png", "image/png"),
            (".csv", "text/csv; charset=utf-8"),
        ];
        let found = TYPES.iter().find(|(ending, _)| key.ends_with(ending));
        let is_local = self.address.starts_with("file:");
        (found.filter(|_| !is_local))
            .map(|(_, kind)| (Attribute::ContentType, *kind))
            .into_iter()
            .collect()
    }

    /// An error of the store in words.
    fn fault(&self, key: &str, error: object_store::Error) -> anyhow::Error {
        explained(error).context(self.address_of(key))
    }
}

/// The store that an address names.
///
/// # Errors
/// Fails if the environment says too little.
fn connect(address: &Address) -> Result<Arc<dyn ObjectStore>> {
    // Another library may have chosen the same already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIME,
    };
    let bucket = address.bucket.as_str();
    let store: object_store::Result<Arc<dyn ObjectStore>> = match address.scheme {
        Scheme::S3 => {
            address::require_aws_credentials()?;
            AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _)
        }
        Scheme::Google => GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .build()
            .map(|store| Arc::new(store) as _),
        Scheme::Azure if std::env::var_os("AZURE_STORAGE_ACCOUNT_NAME").is_none() => {
            bail!("no account: expected AZURE_STORAGE_ACCOUNT_NAME in the environment")
        }
        Scheme::Azure => MicrosoftAzureBuilder::from_env()
            .with_container_name(bucket)
            .with_retry(retry)
            .build()
            .map(|store| Arc::new(store) as _),
        Scheme::Folder => Ok(Arc::new(LocalFileSystem::new())),
    };
    store.map_err(explained)
}

/// Waits for an answer of a store. A request that the network broke off in the middle is sent again.
fn patiently<T, F>(request: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let began = Instant::now();
    let mut answer = wait(request());
    for attempt in 1..ATTEMPTS {
        match &answer {
            Err(error) if fault::is_broken_off(error) && began.elapsed() < RETRY_TIME => {
                std::thread::sleep(FIRST_PAUSE * attempt * attempt);
                answer = wait(request());
            }
            _ => break,
        }
    }
    answer
}

/// Waits for an answer of a store.
fn wait<T>(answer: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
    static RUNTIME: OnceLock<std::io::Result<tokio::runtime::Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    });
    match runtime {
        Ok(runtime) => runtime.block_on(answer),
        Err(error) => Err(object_store::Error::Generic {
            store: "runtime",
            source: error.to_string().into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn folder() -> ObjectFolder {
        ObjectFolder::in_store(Arc::new(InMemory::new()), "runs/a")
    }

    #[test]
    fn one_of_many_creates_an_object() {
        let folder = folder();
        let won = Mutex::new(0);
        let names: Vec<usize> = (0..40).collect();
        folder
            .for_each(&names, |i| {
                *won.lock().expect("a count") += usize::from(folder.create("x", &[*i as u8])?);
                Ok(())
            })
            .expect("created");
        assert_eq!(won.into_inner().expect("a count"), 1);
    }

    #[test]
    fn objects_are_written_read_listed_and_deleted() {
        let folder = folder();
        assert_eq!(folder.get("a/1").expect("an answer"), None);
        for (key, bytes) in [
            ("a/1", "one"),
            ("a/2", "two"),
            ("a/b/3", "three"),
            ("c", ""),
        ] {
            folder.put(key, bytes.into()).expect("put");
        }
        assert_eq!(folder.get("a/b/3").expect("read"), Some(b"three".to_vec()));
        let keys = |below, after| -> Vec<String> {
            let listed = folder.list(below, after).expect("listed");
            listed.into_iter().map(|object| object.key).collect()
        };
        assert_eq!(keys("a", None), ["a/1", "a/2", "a/b/3"]);
        assert_eq!(keys("a", Some("a/1")), ["a/2", "a/b/3"]);
        assert_eq!(keys("nothing", None), [""; 0]);
        let mut names = folder.names("").expect("listed");
        names.sort();
        assert_eq!(names, ["a", "c"]);
        let before = folder.list("", None).expect("listed")[3].tag.clone();
        folder.put("c", "new".into()).expect("put");
        assert_ne!(folder.list("", None).expect("listed")[3].tag, before);
        folder.delete("c").expect("deleted");
        folder
            .delete("c")
            .expect("it is not there, which was wanted");
        assert_eq!(folder.list("", None).expect("listed").len(), 3);
    }

    #[test]
    fn large_objects_are_sent_in_parts_and_come_back_whole() {
        let folder = folder();
        let bytes: Vec<u8> = (0..2 * PART_BYTES + 5).map(|i| (i % 251) as u8).collect();
        folder.put("large", bytes.clone()).expect("put");
        assert!(folder.get("large").expect("read") == Some(bytes));
    }

    #[test]
    fn first_failure_ends_work_for_many() {
        let folder = folder();
        let items: Vec<usize> = (0..1000).collect();
        let begun = Mutex::new(0);
        let failed = folder.for_each(&items, |i| {
            *begun.lock().expect("a count") += 1;
            anyhow::ensure!(*i != 3, "no {i}");
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        });
        assert_eq!(failed.expect_err("3 fails").to_string(), "no 3");
        assert!(begun.into_inner().expect("a count") < 500);
    }
}
