//! What Jacobian products cost, in units of a plain forward of the same batch.
//!
//! `cargo bench --bench differentiate [-- MODEL.onnx ...]` prints a table: for each network the
//! time of a forward, of the tangent graph at k = 1, 8 and 16, and of the reverse graph, as
//! interleaved medians on one thread. Without arguments it runs on the networks of the tests. A second table
//! says what each pass buys: the cost with it, and with it switched off, on networks whose graph it changes.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use flowgauge::graph::{self, Dim, Mode, Pass, Passes};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use flowgauge::num::key::{Purpose, RngKey};
use ndarray::{ArrayD, IxDyn};

const BATCH: usize = 4;
const ROUNDS: usize = 15;
/// Networks on which a pass is shown.
const NETWORKS: usize = 3;

fn main() -> Result<()> {
    let named: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .map(PathBuf::from)
        .collect();
    let files = if named.is_empty() {
        of_the_tests()?
    } else {
        named
    };
    if std::env::args().any(|a| a == "--passes") {
        return passes(&files);
    }
    println!("| network | forward, ms | k = 1 | k = 8 | k = 16 | reverse |");
    println!("|---|---|---|---|---|---|");
    for file in &files {
        if let Err(error) = row(file) {
            println!("| {} | {error:#} |", file.display());
        }
    }
    passes(&files)
}

/// What each pass buys, on the largest networks whose graph it changes: of 16 tangents, or of the trace.
fn passes(files: &[PathBuf]) -> Result<()> {
    println!("\n| pass | network | cost | without it |");
    println!("|---|---|---|---|");
    let mut files = files.to_vec();
    // What no network of the tests has.
    let edges = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/edges");
    files.extend(["long_rows", "tokens"].map(|name| edges.join(format!("{name}.onnx"))));
    files.sort_by_key(|file| std::cmp::Reverse(file.metadata().map_or(0, |m| m.len())));
    for pass in Pass::ALL {
        let mut shown = 0;
        for (mode, k) in [(Mode::Jvp, 16), (Mode::Trace, 1), (Mode::Quadratic, 16)] {
            for file in &files {
                if shown < NETWORKS {
                    shown += usize::from(pass_row(file, pass, mode, k)?);
                }
            }
        }
    }
    Ok(())
}

/// Prints what a pass buys on one network; false where the network's graph is the same without it.
fn pass_row(file: &Path, pass: Pass, mode: Mode, k: usize) -> Result<bool> {
    let model = graph::Model::load(file)?;
    let output = model
        .outputs()
        .first()
        .map(|o| o.name.clone())
        .ok_or_else(|| anyhow!("no output"))?;
    let with = |passes: Passes| graph::differentiate_with(&model, mode, None, None, passes);
    let (Ok(on), Ok(off)) = (with(Passes::all()), with(Passes::all().without(pass))) else {
        return Ok(false);
    };
    if on.to_bytes()? == off.to_bytes()? {
        return Ok(false);
    }
    let wanted = match mode {
        Mode::Jvp => format!("{output}_tangent"),
        Mode::Quadratic => format!("{output}_quadratic"),
        _ => format!("{output}_trace"),
    };
    let mut cases = vec![Case::new(file, &model, 1, output)?];
    cases.push(Case::new(file, &on, k, wanted.clone())?);
    cases.push(Case::new(file, &off, k, wanted)?);
    measure(&mut cases)?;
    let [unit, on, off] = [0, 1, 2].map(|i: usize| cases[i].median());
    println!(
        "| {} | {} | {:.2} | {:.2} |",
        pass.name(),
        stem(file),
        on / unit,
        off / unit
    );
    Ok(true)
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Times all cases in turn; the first round warms up.
fn measure(cases: &mut [Case]) -> Result<()> {
    for round in 0..=ROUNDS {
        for case in &mut *cases {
            case.run()?;
            if round == 0 {
                case.times.clear();
            }
        }
    }
    Ok(())
}

fn of_the_tests() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .flatten()
        .map(|e| e.path())
        .collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    files.sort();
    Ok(files)
}

/// One opened graph with what it is fed.
struct Case {
    session: Session,
    feeds: Vec<(String, ArrayD<f64>)>,
    wanted: String,
    times: Vec<f64>,
}

impl Case {
    fn new(file: &Path, model: &graph::Model, k: usize, wanted: String) -> Result<Case> {
        let name = file.display().to_string();
        let session = Runtime::get(None)?.open(&name, &model.to_bytes()?, Provider::Cpu, 1)?;
        let feeds = model
            .inputs()
            .iter()
            .map(|p| (p.name.clone(), values(p, k)))
            .collect();
        Ok(Case {
            session,
            feeds,
            wanted,
            times: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let feeds = self
            .feeds
            .iter()
            .map(|(n, v)| (n.as_str(), v.view()))
            .collect();
        let began = Instant::now();
        self.session.run(feeds, &[&self.wanted])?;
        self.times.push(began.elapsed().as_secs_f64());
        Ok(())
    }

    fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

/// Normal numbers, small times, or zeros for integers; K and N take their sizes.
fn values(port: &graph::Port, k: usize) -> ArrayD<f64> {
    let size = |d: &Dim| match d {
        Dim::Fixed(n) => *n as usize,
        Dim::Symbol(s) if s == "K" => k,
        _ => BATCH,
    };
    let shape: Vec<usize> = port.dims.iter().map(size).collect();
    let count = shape.iter().product();
    let draws = match port.elem.is_integer() {
        true => ndarray::Array1::zeros(count),
        false => RngKey { seed: 0 }.normal(Purpose::Check, 0, 0, count),
    };
    draws
        .into_shape_with_order(IxDyn(&shape))
        .expect("as many draws as numbers")
}

fn row(file: &Path) -> Result<()> {
    let model = graph::Model::load(file)?;
    let output = model
        .outputs()
        .first()
        .map(|o| o.name.clone())
        .ok_or_else(|| anyhow!("no output"))?;
    let forward = graph::differentiate(&model, Mode::Jvp, None, None).context("jvp")?;
    let reverse = graph::differentiate(&model, Mode::Vjp, None, None).context("vjp")?;
    let input = reverse
        .outputs()
        .iter()
        .map(|o| o.name.clone())
        .find(|n| n.ends_with("_cotangent"));
    let mut cases = vec![Case::new(file, &model, 1, output.clone())?];
    for k in [1, 8, 16] {
        cases.push(Case::new(file, &forward, k, format!("{output}_tangent"))?);
    }
    cases.push(Case::new(
        file,
        &reverse,
        1,
        input.ok_or_else(|| anyhow!("no cotangent"))?,
    )?);
    measure(&mut cases)?;
    let unit = cases[0].median();
    let ratios: Vec<String> = cases[1..]
        .iter()
        .map(|c| format!("{:.1}", c.median() / unit))
        .collect();
    println!(
        "| {} | {:.2} | {} |",
        stem(file),
        unit * 1e3,
        ratios.join(" | ")
    );
    Ok(())
}
