//! What a store answers instead of doing what it was asked, in words. No answer is printed as it is,
//! since it may repeat keys and signatures.

use std::error::Error;

use anyhow::anyhow;

/// A store that does not answer, or that has a fault of its own: the same command may succeed later.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store cannot be reached, or has a fault of its own ({0}); the same command goes on later"
)]
pub(crate) struct StoreBusy(String);

/// Whether an object is missing, and not the bucket.
pub(super) fn is_missing_object(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        && !["NoSuchBucket", "ContainerNotFound"].contains(&code(error).as_str())
}

/// An error of a store in words.
pub(super) fn explained(error: object_store::Error) -> anyhow::Error {
    use object_store::Error::{
        InvalidPath, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated,
        UnknownConfigurationKey,
    };
    let code = code(&error);
    let told = match code.as_str() {
        "" => String::new(),
        code => format!(" ({code})"),
    };
    match &error {
        _ if is_of_credentials(&error) => anyhow!(
            "no credentials: expected them in the environment, since this machine has none of its own"
        ),
        NotFound { .. } if !is_missing_object(&error) => {
            anyhow!("there is no such bucket{told}; expected one that exists")
        }
        NotFound { .. } => anyhow!("it is not there{told}"),
        Unauthenticated { .. } => {
            anyhow!(
                "the store takes no request without valid credentials{told}; \
                     expected them in the environment"
            )
        }
        PermissionDenied { .. }
            if ["InvalidAccessKeyId", "SignatureDoesNotMatch"].contains(&code.as_str()) =>
        {
            anyhow!("the store does not know the credentials of the environment{told}")
        }
        PermissionDenied { .. } => anyhow!(
            "the store refuses permission{told}; expected credentials that may list, read, write \
             and delete there"
        ),
        NotImplemented { .. } | NotSupported { .. } => no_conditional_puts(),
        InvalidPath { .. } => anyhow!("it is not a name that the store takes"),
        UnknownConfigurationKey { key, .. } => {
            anyhow!("`{key}` of the environment is not known to the store")
        }
        _ => explained_by_status(&error, &told),
    }
}

/// The message for a store in which a process cannot tell whether it was the first.
pub(crate) fn no_conditional_puts() -> anyhow::Error {
    anyhow!(
        "the store does not refuse to create what exists already (conditional put, `If-None-Match`), \
         so that processes cannot share a run there; expected a store that does, or --shard I/N into \
         a folder of each machine"
    )
}

/// An error that is none of the store's kinds.
fn explained_by_status(error: &object_store::Error, told: &str) -> anyhow::Error {
    let cause = innermost(error);
    match status(&error.to_string()) {
        Some(501) => no_conditional_puts(),
        Some(status @ (408 | 429 | 500..)) => {
            anyhow::Error::new(StoreBusy(format!("status {status}{told}")))
        }
        Some(status) if !told.is_empty() => {
            anyhow!("the store refuses the request with status {status}{told}")
        }
        Some(301 | 307) => {
            anyhow!("the bucket is in another region; expected its name in AWS_REGION")
        }
        Some(status) => anyhow!("the store refuses the request with status {status}"),
        None if is_of_network(error) => anyhow::Error::new(StoreBusy(cause)),
        None => anyhow!("{cause}"),
    }
}

/// Whether the credentials of the machine were asked for, at the addresses that clouds have for them.
fn is_of_credentials(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["169.254.169.254", "metadata.google.internal"]
        .iter()
        .any(|host| text.contains(host))
}

/// Whether an error comes from the network and not from a configuration.
fn is_of_network(error: &object_store::Error) -> bool {
    let text = error.to_string();
    text.contains("Error performing ") || text.contains("HTTP error")
}

/// Whether the network broke a request off that may be sent again.
pub(super) fn is_broken_off(error: &object_store::Error) -> bool {
    let text = error.to_string();
    is_of_network(error) && status(&text).is_none() && !is_given_up(&text)
}

/// Whether a request was sent as often as it may be.
fn is_given_up(text: &str) -> bool {
    let retries = || {
        let (before, behind) = text.split_once(" retries, max_retries: ")?;
        let number = |word: &str| word.trim_end_matches(',').parse::<usize>().ok();
        Some((
            number(before.rsplit(' ').next()?)?,
            number(behind.split(' ').next()?)?,
        ))
    };
    retries().is_some_and(|(done, most)| done >= most)
}

/// The code of an answer of S3 or Azure, such as `NoSuchBucket`; empty if there is none.
fn code(error: &object_store::Error) -> String {
    let text = error.to_string();
    let inner = |begin: &str, end: &str| {
        let rest = text.split_once(begin)?.1;
        Some(rest.split_once(end)?.0.to_owned())
    };
    inner("<Code>", "</Code>")
        .filter(|code| code.len() < 60 && code.chars().all(|c| c.is_ascii_alphanumeric()))
        .unwrap_or_default()
}

/// The status of an HTTP answer that a text names.
fn status(text: &str) -> Option<u16> {
    let rest = text.split_once("status code: ")?.1;
    rest.get(..3)?.parse().ok()
}

/// The innermost cause of an error, without an address in it.
fn innermost(error: &object_store::Error) -> String {
    let mut at: &dyn Error = error;
    while let Some(next) = at.source() {
        at = next;
    }
    let text = at.to_string();
    let kept = text.split_whitespace().filter(|word| !word.contains("://"));
    kept.collect::<Vec<&str>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: &str, body: &str) -> Box<dyn Error + Send + Sync> {
        format!(
            "Error performing PUT http://user:secret@host/b?sig=secret in 1ms - Server returned \
             non-2xx status code: {status}: {body}"
        )
        .into()
    }

    fn generic(status: &str, body: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: refused(status, body),
        }
    }

    #[test]
    fn answers_of_stores_are_told_without_their_text() {
        let path = || "secret".to_owned();
        let key = "<AWSAccessKeyId>secret</AWSAccessKeyId>";
        let denied = |code: &str| object_store::Error::PermissionDenied {
            path: path(),
            source: refused("403 Forbidden", &format!("<Code>{code}</Code>{key}")),
        };
        for (error, words) in [
            (
                object_store::Error::NotFound {
                    path: path(),
                    source: refused("404 Not Found", "<Code>NoSuchBucket</Code>"),
                },
                "no such bucket (NoSuchBucket)",
            ),
            (denied("AccessDenied"), "refuses permission (AccessDenied)"),
            (
                denied("InvalidAccessKeyId"),
                "does not know the credentials",
            ),
            (
                object_store::Error::Unauthenticated {
                    path: path(),
                    source: refused("401 Unauthorized", ""),
                },
                "without valid credentials",
            ),
            (generic("501 Not Implemented", ""), "If-None-Match"),
            (
                generic("503 Service Unavailable", "<Code>SlowDown</Code>"),
                "status 503 (SlowDown)",
            ),
            (
                generic("400 Bad Request", "<Code>BadDigest</Code>"),
                "status 400 (BadDigest)",
            ),
            (generic("301 Moved", ""), "AWS_REGION"),
            (
                object_store::Error::Generic {
                    store: "S3",
                    source: "Error performing PUT http://169.254.169.254/latest/api/token in 1s"
                        .into(),
                },
                "no credentials",
            ),
        ] {
            let text = format!("{:#}", explained(error));
            assert!(text.contains(words), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn faults_of_the_store_itself_may_pass() {
        let is_busy = |error| explained(error).downcast_ref::<StoreBusy>().is_some();
        assert!(is_busy(generic("500 Internal Server Error", "")));
        assert!(is_busy(generic("429 Too Many Requests", "")));
        assert!(!is_busy(generic("400 Bad Request", "")));
        let unreachable = object_store::Error::Generic {
            store: "S3",
            source: "Error performing GET http://host/b in 1ms - HTTP error: error sending request"
                .into(),
        };
        assert!(is_broken_off(&unreachable) && is_busy(unreachable));
        let tried = |retries: usize| {
            object_store::Error::Generic {
            store: "S3",
            source: format!(
                "Error performing GET http://host/b in 9s, after {retries} retries, max_retries: 8, \
                 retry_timeout: 60s  - HTTP error: error sending request"
            )
            .into(),
        }
        };
        assert!(!is_broken_off(&tried(8)) && is_busy(tried(8)));
        assert!(is_broken_off(&tried(1)));
        assert!(!is_broken_off(&generic("500 Internal Server Error", "")));
    }
}
