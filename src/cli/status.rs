//! `flowgauge status DIR`: how far a run is, and who is at work.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Exit;
use super::console::{Answer, JsonArgs, print_stdout};
use crate::progress::format_duration;
use crate::status::{ProcessStatus, RunStatus, StatusReader, WorkerThroughput, processes_by_host};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge status reports/quickstart
  flowgauge status reports/quickstart --watch 10
  flowgauge status s3://bucket/runs/first";

/// The arguments of `flowgauge status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// The run directory, or the address of a run in an object store
    dir: PathBuf,
    /// Look again every so many seconds until nothing is outstanding; with --json each look is a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = parse_seconds)]
    watch: Option<f64>,
    #[command(flatten)]
    json: JsonArgs,
}

/// The most lines that the terminal shows of a list.
const MOST_LINES: usize = 20;

impl StatusArgs {
    /// Prints the state of the run, once or until nothing is outstanding.
    ///
    /// # Errors
    /// Fails if the directory is not a run's directory, or if a file cannot be read.
    pub(super) fn execute(self) -> Result<Exit> {
        let mut reader = StatusReader::new(&self.dir)?;
        loop {
            let status = reader.read()?;
            let exit = self.print(&status);
            let Some(seconds) = self.watch.filter(|_| status.outstanding > 0) else {
                return Ok(exit);
            };
            std::thread::sleep(Duration::from_secs_f64(seconds));
        }
    }

    /// Prints one state.
    fn print(&self, status: &RunStatus) -> Exit {
        if self.watch.is_some() && !self.json.json && std::io::stdout().is_terminal() {
            // Clears the terminal, so that one state is seen at a time.
            print_stdout(format_args!("\x1b[2J\x1b[H"));
        }
        if self.watch.is_some() && self.json.json {
            let line = serde_json::to_string(status).unwrap_or_default();
            print_stdout(format_args!("{line}\n"));
            return Exit::Success;
        }
        let mut answer = Answer::new("status", headline(status));
        lines(status).into_iter().for_each(|line| answer.say(line));
        let document = serde_json::to_value(status).unwrap_or_default();
        for (key, value) in document.as_object().into_iter().flatten() {
            answer.set(key, value);
        }
        answer.show(self.json, None, Exit::Success)
    }
}

/// Parses the seconds between two looks.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|s| (0.1..=86_400.0).contains(s))
        .ok_or_else(|| "expected seconds from 0.1 to 86400".to_owned())
}

/// How far the run is, in one line.
fn headline(status: &RunStatus) -> String {
    let percent = 100 * status.finished / status.trials.max(1);
    let left = status.seconds_left.map_or(String::new(), |seconds| {
        format!(", about {} left", format_duration(seconds))
    });
    format!(
        "{}: {} of {} trials finished ({percent} %), {} failed, {} outstanding{left}",
        status.name,
        status.finished,
        status.trials,
        status.failed.len(),
        status.outstanding
    )
}

/// The processes, failures and lost shards of the run as lines for a terminal.
fn lines(status: &RunStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if status.done_twice > 0 {
        lines.push(format!(
            "{} trials were done by two processes; each counts once",
            status.done_twice
        ));
    }
    let hosts = processes_by_host(&status.processes);
    if !hosts.is_empty() {
        let at_work: usize = hosts.values().sum();
        lines.push(format!("\n{at_work} processes on {} hosts", hosts.len()));
    } else if status.outstanding > 0 {
        lines.push("\nnobody is at work".to_owned());
    }
    push_list(&mut lines, &status.processes, process_line);
    if !status.throughput.is_empty() {
        lines.push("\ncommitted by".to_owned());
        push_list(&mut lines, &status.throughput, throughput_line);
    }
    if !status.failed.is_empty() {
        lines.push("\nfailed".to_owned());
        push_list(&mut lines, &status.failed, |failed| {
            format!("{}  {}: {}", failed.trial, failed.work, failed.error)
        });
    }
    if !status.lost_shards.is_empty() {
        lines.push("\nshards without a process".to_owned());
        push_list(&mut lines, &status.lost_shards, |lost| {
            format!(
                "{}  {} outstanding: {}",
                lost.shard, lost.outstanding, lost.command
            )
        });
    }
    lines
}

/// Appends a line for each item, or for the first of many.
fn push_list<T>(lines: &mut Vec<String>, items: &[T], line: impl Fn(&T) -> String) {
    let shown = items.iter().take(MOST_LINES);
    lines.extend(shown.map(|item| format!("  {}", line(item))));
    if items.len() > MOST_LINES {
        lines.push(format!("  and {} more", items.len() - MOST_LINES));
    }
}

/// Where a process is and what it does.
fn process_line(process: &ProcessStatus) -> String {
    let lease = &process.lease;
    let part = match lease.part.as_str() {
        "" | "claims" => String::new(),
        shard => format!("shard {shard}, "),
    };
    let place = format!("{part}{}, process {}", lease.host, lease.pid);
    if process.dead {
        return format!("{place}: dead; last heard of at {}", lease.renewed);
    }
    let since = match lease.trial.as_str() {
        "" => format!("between two trials at {}", lease.renewed),
        trial => format!("{trial} since {} ({})", lease.since, lease.work),
    };
    format!("{place}: {since}, {} done", lease.done)
}

/// What a process has committed.
fn throughput_line(row: &WorkerThroughput) -> String {
    let rate = row
        .per_hour
        .map_or(String::new(), |rate| format!(", {rate:.0} an hour"));
    let failed = match row.failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    format!("{}: {} finished{failed}{rate}", row.worker, row.finished)
}
