//! What the Fréchet distance of two sets of features costs: time and the most memory.
//!
//! `cargo bench --bench frechet [-- N D]` writes two files of N × D features of float32 (50,000 × 2,048 unless said
//! otherwise) under `target/`, computes their distance as `flowgauge metrics` does, rows staying in the files,
//! and prints the command that does the same with numpy and scipy.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use flowgauge::data::Dataset;
use flowgauge::metric::feature_set::FeatureSet;
use flowgauge::metric::{Metric, measure};
use flowgauge::num::key::{Purpose, RngKey};

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let (n, d) = (
        sizes.first().copied().unwrap_or(50_000),
        sizes.get(1).copied().unwrap_or(2048),
    );
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder)?;
    let files = [0, 1].map(|side| features(folder, side, n, d));
    let [a, b] = files;
    let (a, b) = (a?, b?);
    let before = most_memory();

    let began = Instant::now();
    let (x, y) = (Dataset::read(&a)?.values, Dataset::read(&b)?.values);
    let metric = Metric::from_name("frechet").context("listed")?;
    let sides = [FeatureSet::new(&x), FeatureSet::new(&y)].map(|s| s.map_err(|e| anyhow!(e)));
    let [x, y] = sides;
    let (x, y) = (x?, y?);
    let read = began.elapsed().as_secs_f64();
    let got = measure(&metric, &x, &y, RngKey { seed: 0 }).map_err(|e| anyhow!(e))?;
    let seconds = began.elapsed().as_secs_f64();

    println!(
        "{n} x {d} features of float32, two sets, {} threads",
        rayon::current_num_threads()
    );
    println!("frechet {} ± {}", got.value, got.stderr.unwrap_or(f64::NAN));
    println!(
        "{seconds:.1} s, of which {read:.1} s for the first reading; at most {} MB of memory ({before} before)",
        most_memory()
    );
    println!(
        "the same with numpy and scipy: python scripts/frechet_numpy.py {} {}",
        a.display(),
        b.display()
    );
    Ok(())
}

/// Features with a spectrum over several orders, as those of networks have, written row by row.
fn features(folder: &Path, side: u64, n: usize, d: usize) -> Result<PathBuf> {
    let path = folder.join(format!("frechet-{side}-{n}x{d}.npy"));
    if path.is_file() {
        return Ok(path);
    }
    let part = folder.join(format!("frechet-{side}.part"));
    let mut file = BufWriter::new(File::create(&part)?);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
    header.push_str(&" ".repeat(63 - (header.len() + 10) % 64));
    header.push('\n');
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for i in 0..n {
        let draws = RngKey { seed: side }.normal(Purpose::Check, i as u64, 0, d);
        let shared = draws[0];
        for (j, z) in draws.iter().enumerate() {
            let scale = (-3.0 * j as f64 / d as f64).exp();
            let value = scale * (z + 0.5 * shared + 0.1 * side as f64).max(-0.5);
            file.write_all(&(value as f32).to_le_bytes())?;
        }
    }
    file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
    std::fs::rename(part, &path)?;
    Ok(path)
}

/// The most resident memory so far in megabytes, where the system tells it.
fn most_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|l| {
        l.strip_prefix("VmHWM:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kilobytes.map_or("unknown".to_owned(), |k| (k / 1000).to_string())
}
