//! Addresses of folders in object stores, and the credentials that the environment must name.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `s3://`: S3, and every store that speaks its language.
    S3,
    /// `gs://`: Google Cloud Storage.
    Google,
    /// `az://`: Azure Blob Storage.
    Azure,
    /// `file://`: a folder of this machine.
    Folder,
}

/// The parts of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub scheme: Scheme,
    /// The bucket, or the container; empty for a folder of this machine.
    pub bucket: String,
    /// The folder in it.
    pub prefix: String,
}

/// What an address should be.
const EXPECTED: &str = "expected s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
                        file:///folder, or a path without `://`";

/// The address that a path is, if it is one: `s3://bucket/prefix` is never meant as a folder.
pub(crate) fn is_address(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && (scheme.chars()).all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(text)
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// Fails if the kind of store is not known, or if a part is missing or malformed.
    pub(super) fn parse(text: &str) -> Result<Address> {
        let Some((scheme, rest)) = text.split_once("://") else {
            bail!("{text}: it is no address; {EXPECTED}");
        };
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Google,
            "az" => Scheme::Azure,
            "file" => Scheme::Folder,
            other => bail!(
                "{}: `{other}://` is not known; {EXPECTED}",
                without_user(text)
            ),
        };
        if let Some(c) = rest
            .chars()
            .find(|c| "?#@\\".contains(*c) || c.is_control())
        {
            bail!(
                "{}: it has the character {c:?}; {EXPECTED}, and credentials in the environment",
                without_user(text)
            );
        }
        let (bucket, prefix) = match rest.split_once('/') {
            Some((bucket, prefix)) => (bucket, prefix.trim_end_matches('/')),
            None => (rest, ""),
        };
        match scheme {
            Scheme::Folder if !bucket.is_empty() => {
                bail!("{text}: a folder begins with `file:///`; {EXPECTED}")
            }
            Scheme::Folder => {}
            _ if bucket.is_empty() => bail!("{text}: it names no bucket; {EXPECTED}"),
            _ if !is_bucket(bucket) => bail!(
                "{text}: `{bucket}` is not the name of a bucket, which has 3 to 63 letters, digits, \
                 `-`, `_` and `.`"
            ),
            _ => {}
        }
        if prefix.is_empty() {
            bail!("{text}: it names no folder in the bucket; {EXPECTED}");
        }
        if let Some(part) = prefix
            .split('/')
            .find(|part| ["", ".", ".."].contains(part))
        {
            bail!("{text}: it has the part `{part}`; {EXPECTED}");
        }
        Ok(Address {
            scheme,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// An address without what stands before an `@`, which may be a password, and without what stands
/// behind a `?`.
fn without_user(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    }
}

/// Whether a text can be the name of a bucket.
fn is_bucket(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (3..=63).contains(&name.len())
        && name.chars().all(is_inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Refuses S3 without credentials at once. A machine of Amazon's cloud gives its credentials at an
/// address of its own, which elsewhere nobody answers.
///
/// # Errors
/// Fails if there are none.
pub(super) fn require_aws_credentials() -> Result<()> {
    const NAMES: [&str; 6] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ];
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if NAMES.into_iter().any(is_set) {
        return Ok(());
    }
    let metadata = SocketAddr::from(([169, 254, 169, 254], 80));
    if TcpStream::connect_timeout(&metadata, Duration::from_secs(1)).is_err() {
        bail!(
            "no credentials: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, \
             or a role of the machine"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_store_a_bucket_and_a_folder() {
        for (text, scheme, bucket, prefix) in [
            ("s3://bucket/a", Scheme::S3, "bucket", "a"),
            (
                "s3://my.bucket-1/a/b c/",
                Scheme::S3,
                "my.bucket-1",
                "a/b c",
            ),
            ("gs://bucket/run", Scheme::Google, "bucket", "run"),
            ("az://container/run", Scheme::Azure, "container", "run"),
            ("file:///tmp/run", Scheme::Folder, "", "tmp/run"),
        ] {
            let parsed = Address::parse(text).expect(text);
            let parts = (parsed.scheme, &parsed.bucket[..], &parsed.prefix[..]);
            assert_eq!(parts, (scheme, bucket, prefix), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused_with_their_fault() {
        for (text, fault) in [
            ("s3://", "names no bucket"),
            ("s3:///run", "names no bucket"),
            ("s3://bucket", "names no folder"),
            ("s3://bucket/", "names no folder"),
            ("s3://ab/run", "not the name of a bucket"),
            ("s3://bucket!/run", "not the name of a bucket"),
            ("s3://-bucket/run", "not the name of a bucket"),
            ("s3://bucket/a//b", "the part ``"),
            ("s3://bucket/../b", "the part `..`"),
            ("s3://bucket/a?x=1", "the character '?'"),
            ("s3://key:secret@bucket/run", "the character '@'"),
            ("s3://bucket/a\u{7}", "the character '\\u{7}'"),
            ("s3a://bucket/run", "`s3a://` is not known"),
            ("https://bucket/run", "`https://` is not known"),
            ("file://tmp/run", "begins with `file:///`"),
            ("file:///", "names no folder"),
        ] {
            let message = Address::parse(text).expect_err(text).to_string();
            assert!(message.contains(fault), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn paths_are_not_addresses() {
        for path in ["out", "/a/b", "./s3:/a", "a b://c", "1://c", "://c"] {
            assert_eq!(is_address(Path::new(path)), None, "{path}");
        }
        for address in ["s3://b/c", "https://b/c", "file:///c"] {
            assert_eq!(is_address(Path::new(address)), Some(address));
        }
    }
}
