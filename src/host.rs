//! The machine that the program runs on: its processor and its folder for caches.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

/// Formats bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Returns the folder of flowgauge's cache: `FLOWGAUGE_CACHE`, or a folder in the user's cache.
///
/// # Errors
/// Fails if the environment names neither a cache folder nor a home folder.
pub(crate) fn user_cache_folder() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(folder) = set("FLOWGAUGE_CACHE") {
        return Ok(folder);
    }
    if let Some(folder) = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")) {
        return Ok(folder.join("flowgauge"));
    }
    let home = set("HOME").ok_or_else(|| {
        anyhow!("there is no cache folder; set FLOWGAUGE_CACHE, XDG_CACHE_HOME or HOME")
    })?;
    Ok(if cfg!(target_os = "macos") {
        home.join("Library/Caches/flowgauge")
    } else {
        home.join(".cache/flowgauge")
    })
}

/// Returns the day in UTC, as `2026-11-30`.
pub(crate) fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    day_of(since.map_or(0, |since| since.as_secs()))
}

/// Returns the time in UTC, as `2026-11-30T12:00:00Z`.
pub(crate) fn now_utc() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", day_of(seconds))
}

/// Returns the name of the host, or `unknown-host` if the system does not tell it.
pub(crate) fn host_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let set = |name: &str| std::env::var(name).ok();
    let name = told
        .or_else(|| set("HOSTNAME"))
        .or_else(|| set("COMPUTERNAME"));
    let name = name.map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown-host".to_owned())
}

/// Returns what identifies the running system and the process numbers that are valid in it: two
/// processes with the same text can see each other. Empty if the system does not tell it.
pub(crate) fn machine_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let numbers = std::fs::read_link("/proc/self/ns/pid");
    match (boot, numbers) {
        (Ok(boot), Ok(numbers)) => format!("{} {}", boot.trim(), numbers.display()),
        _ => String::new(),
    }
}

/// Returns the day of a number of seconds since the beginning of 1970, in the Gregorian calendar.
fn day_of(seconds: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut day, mut year) = (seconds / 86_400, 1970);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

/// Returns the processor's name, or `unknown` if the system does not report it.
pub(crate) fn processor_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| {
        l.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, v)| v.trim().to_owned())
    });
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// The path with its folder made absolute, without links and dots. The last name stays as it is:
/// the file need not exist, and the name may be a member of an archive. `None` if there is no such
/// folder.
pub(crate) fn with_resolved_folder(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    Some(folder.canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day_of(seconds), day);
        }
    }

    #[test]
    fn folders_are_resolved_and_names_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        std::fs::create_dir(root.join("a")).expect("a folder");
        let resolved = with_resolved_folder(&root.join("a/../x.npz:y"));
        assert_eq!(resolved, Some(root.join("x.npz:y")));
        assert_eq!(with_resolved_folder(&root.join("none/x")), None);
        let here = std::env::current_dir().and_then(|d| d.canonicalize());
        let here = here.expect("a current folder");
        assert_eq!(with_resolved_folder(Path::new("x")), Some(here.join("x")));
    }
}
