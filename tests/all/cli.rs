//! The command line under a hostile user: every refusal is a sentence and leaves nothing behind,
//! and what is accepted gives the same digits however it is asked for.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Replacements in a text, and the words that its refusal must hold.
type Refusal<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

/// A finished call of the program.
pub(crate) struct Done {
    command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    fn fail(&self, why: &str) -> ! {
        panic!(
            "{why}\n$ {}\nstatus {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }

    /// Holds the exit status, and that no panic shows through.
    pub(crate) fn is(&self, code: i32) -> &Done {
        if self.code != Some(code) {
            self.fail(&format!("expected status {code}"));
        }
        for word in [
            "panicked",
            "RUST_BACKTRACE",
            "stack backtrace",
            "memory allocation of",
        ] {
            if self.stderr.contains(word) || self.stdout.contains(word) {
                self.fail(&format!("expected no `{word}`"));
            }
        }
        self
    }

    /// Holds words of the message.
    pub(crate) fn says(&self, words: &[&str]) -> &Done {
        if let Some(missing) = words.iter().find(|w| !self.stderr.contains(**w)) {
            self.fail(&format!("expected `{missing}` on standard error"));
        }
        self
    }
}

/// The program as the tests run it: from `folder`, with backtraces on so that a panic cannot hide.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgauge"));
    command
        .args(args)
        .current_dir(folder)
        .env("RUST_BACKTRACE", "1")
        .env_remove("FLOWGAUGE_LOG")
        .stdin(Stdio::null());
    command
}

pub(crate) fn flowgauge(folder: &Path, args: &[&str]) -> Done {
    finish(command(folder, args))
}

pub(crate) fn finish(mut command: Command) -> Done {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done {
        command: format!("{command:?}"),
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Holds that a call is refused: status 2, one message, and the folder as it was.
pub(crate) fn refused(folder: &Path, args: &[&str], words: &[&str]) {
    let before = listing(folder);
    let done = flowgauge(folder, args);
    done.is(2).says(words);
    if !(done.stderr.starts_with("flowgauge: ") || done.stderr.starts_with("error: ")) {
        done.fail("expected a message of ours first");
    }
    if listing(folder) != before {
        done.fail("expected nothing to be left behind");
    }
}

/// Every file and folder below `folder`, with the files' sizes.
pub(crate) fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.metadata().expect("an entry");
        if kind.is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.insert(entry.path(), if kind.is_dir() { 0 } else { kind.len() });
    }
    found
}

pub(crate) fn models(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

pub(crate) fn card(name: &str) -> String {
    format!("{}/card.yaml", models(name))
}

pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, bytes).expect("written");
    name.to_owned()
}

/// The bytes of a .npy file whose header says what it is told to.
pub(crate) fn npy(descr: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    npy_with(
        &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"),
        bytes,
    )
}

fn npy_with(header: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = header.to_owned();
    header += &" ".repeat(63 - (10 + header.len()) % 64);
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(
        u16::try_from(header.len())
            .expect("a short header")
            .to_le_bytes(),
    );
    out.extend(header.as_bytes());
    out.extend(bytes);
    out
}

/// A few numbers of the size of data, exact in f32 and in decimals.
fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + 11) % 23) as f32 / 8.0 - 1.5)
        .collect()
}

pub(crate) fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A .npy of `rows` samples of `width` floats.
pub(crate) fn samples(rows: usize, width: usize) -> Vec<u8> {
    npy(
        "<f4",
        &format!("({rows}, {width})"),
        &le(&numbers(rows * width)),
    )
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A verb with its usual flags, some of them replaced or added.
fn flags(verb: &str, usual: &[(&str, &str)], other: &[(&str, &str)]) -> Vec<String> {
    let mut all: Vec<(&str, &str)> = usual
        .iter()
        .filter(|(k, _)| !other.iter().any(|(o, _)| o == k))
        .copied()
        .collect();
    all.extend(other);
    let mut out = vec![verb.to_owned()];
    out.extend(all.iter().map(|(k, v)| format!("{k}={v}")));
    out
}

/// `likelihood` of `x.npy` under the mixture at next to no cost.
fn likelihood(other: &[(&str, &str)]) -> Vec<String> {
    let model = card("mixture");
    let usual = [
        ("--model", model.as_str()),
        ("--data", "x.npy"),
        ("--divergence", "{hutchinson: {probes: 2}}"),
        ("--solver", "{euler: {steps: 2}}"),
        ("--out", "out.csv"),
    ];
    flags("likelihood", &usual, other)
}

fn sample(other: &[(&str, &str)]) -> Vec<String> {
    let model = card("mixture");
    flags(
        "sample",
        &[
            ("--model", &model),
            ("--sampler", "{heun: {steps: 3}}"),
            ("--out", "out.npy"),
        ],
        other,
    )
}

fn metrics(other: &[(&str, &str)]) -> Vec<String> {
    flags(
        "metrics",
        &[
            ("--generated", "x.npy"),
            ("--reference", "x.npy"),
            ("--out", "out.csv"),
        ],
        other,
    )
}

pub(crate) fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A toy model's card in a folder of its own, with one of the hostile graphs or other bytes.
fn toy(folder: &Path, name: &str, graph: &[u8], edit: (&str, &str)) -> String {
    write(folder, &format!("{name}/model.onnx"), graph);
    let text = format!(
        "name: {name}\nshape: [2]\nnetwork: {{file: model.onnx, inputs: {{x: x, time: t}}, output: y, prediction: velocity, \
         time: {{ignored: true}}}}\n\
         path: {{kind: flow-matching, t_min: 0.01, t_max: 0.9}}\n"
    );
    assert!(text.contains(edit.0), "{}", edit.0);
    write(
        folder,
        &format!("{name}/card.yaml"),
        text.replace(edit.0, edit.1),
    )
}

fn hostile(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/hostile")
        .join(format!("{name}.onnx"));
    std::fs::read(path).expect(name)
}

const VERBS: [&str; 18] = [
    "run",
    "plan",
    "report",
    "verify",
    "gate",
    "likelihood",
    "sample",
    "metrics",
    "differentiate",
    "inspect",
    "doctor",
    "list",
    "schema",
    "init",
    "card",
    "reweight",
    "completions",
    "man",
];

#[test]
fn every_verb_explains_itself_and_refuses_what_it_does_not_know() {
    let folder = folder();
    for verb in VERBS {
        let done = flowgauge(folder.path(), &[verb, "--help"]);
        assert!(done.is(0).stdout.contains(verb), "{verb}");
        refused(folder.path(), &[verb, "--bogus"], &["--bogus"]);
    }
    for verb in [
        "run",
        "plan",
        "report",
        "verify",
        "gate",
        "likelihood",
        "sample",
        "metrics",
        "differentiate",
        "inspect",
    ] {
        refused(folder.path(), &[verb], &["required"]);
    }
    refused(folder.path(), &["nope"], &["nope"]);
    flowgauge(folder.path(), &["--version"]).is(0);
    flowgauge(folder.path(), &["--help"]).is(0);
    flowgauge(folder.path(), &[]).is(2);
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let folder = folder();
    let model = card("mixture");
    for args in [
        &["list"][..],
        &["inspect", &model],
        &["doctor"],
        &["run", "missing.yaml"],
    ] {
        for silent in ["stdout", "stderr"] {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let mut command = command(folder.path(), args);
            if silent == "stdout" {
                command.stdout(writer)
            } else {
                command.stderr(writer)
            };
            finish(command).is(if args[0] == "run" { 2 } else { 0 });
        }
    }
}

#[test]
fn specs_are_refused_by_name() {
    let folder = folder();
    write(folder.path(), "x.npy", samples(3, 8));
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "--divergence",
            "nope",
            &["unknown kind `nope`", "hutchinson"],
        ),
        ("--divergence", "{nope: {}}", &["unknown kind `nope`"]),
        (
            "--divergence",
            "{hutchinson: {probs: 1}}",
            &["probs", "probes"],
        ),
        (
            "--divergence",
            "{hutchinson: {probes: 0}}",
            &["probes is 0"],
        ),
        (
            "--divergence",
            "{hutchinson: {probes: -1}}",
            &["probes: -1", "expected a whole number"],
        ),
        (
            "--divergence",
            "{hutchinson: {probes: 1.5}}",
            &["expected a whole number"],
        ),
        (
            "--divergence",
            "{hutchinson: {distribution: cauchy}}",
            &["cauchy", "rademacher"],
        ),
        (
            "--divergence",
            "{hutchinson: {along: nowhere}}",
            &["nowhere", "fixed"],
        ),
        (
            "--divergence",
            "{hutchinson: {}, exact: {}}",
            &["second name `exact`"],
        ),
        (
            "--divergence",
            "{hutch++: {matvecs: 2}}",
            &["matvecs is 2", "at least 3"],
        ),
        (
            "--divergence",
            "{hutch++: {replicates: 0}}",
            &["replicates is 0"],
        ),
        (
            "--divergence",
            "{learned: {head: nope}}",
            &["head `nope`", "closed-form"],
        ),
        ("--divergence", "[exact]", &["expected a name"]),
        ("--divergence", "{hutchinson: {probes: 1", &["unclosed"]),
        ("--divergence", "", &["--divergence"]),
        ("--divergence", "{}", &["empty entry"]),
        ("--solver", "nope", &["unknown kind `nope`", "dopri5"]),
        ("--solver", "{euler: {steps: 0}}", &["steps is 0"]),
        ("--solver", "{euler: {step: 3}}", &["step", "steps"]),
        ("--solver", "{euler: {grid: nope}}", &["nope", "karras"]),
        (
            "--solver",
            "{euler: {steps: 99999999999}}",
            &["steps is 99999999999"],
        ),
        (
            "--solver",
            "{dopri5: {rtol: 0, atol: 0}}",
            &["rtol is 0 and atol is 0"],
        ),
        ("--solver", "{dopri5: {rtol: -1}}", &["rtol is -1"]),
        ("--solver", "{dopri5: {atol: -1e-6}}", &["atol is"]),
        ("--solver", "{dopri5: {rtol: .nan}}", &["rtol is NaN"]),
        ("--solver", "{dopri5: {rtol: .inf}}", &["rtol is inf"]),
        ("--solver", "{dopri5: {rtol: a}}", &["expected a number"]),
        ("--solver", "{dopri5: {max_steps: 0}}", &["max_steps is 0"]),
        ("--batch", "0", &["--batch", "at least 1"]),
        ("--threads", "0", &["--threads", "at least 1"]),
        ("--threads", "99999", &["--threads", "at most 1024"]),
        ("--seed", "-1", &["--seed"]),
        ("--seed", "x", &["--seed"]),
        (
            "--provider",
            "gpu",
            &["--provider", "cpu, openvino, cuda or tensorrt"],
        ),
    ];
    for (flag, value, words) in cases {
        refused(folder.path(), &strs(&likelihood(&[(flag, value)])), words);
    }
}

#[test]
fn libraries_and_providers_that_are_not_there_are_named() {
    let folder = folder();
    write(folder.path(), "x.npy", samples(3, 8));
    write(folder.path(), "broken.so", "not a library");
    for (library, word) in [
        ("/nowhere/libonnxruntime.so", "no such file"),
        ("broken.so", "cannot be opened"),
        (".", "no such file"),
    ] {
        refused(
            folder.path(),
            &strs(&likelihood(&[("--ort-lib", library)])),
            &["--ort-lib", library, word],
        );
        refused(
            folder.path(),
            &["doctor", "--ort-lib", library],
            &["--ort-lib", word],
        );
        let mut command = command(folder.path(), &strs(&likelihood(&[])));
        finish({
            command.env("ORT_DYLIB_PATH", library);
            command
        })
        .is(2)
        .says(&["ORT_DYLIB_PATH", word]);
    }
    let about = flowgauge(folder.path(), &["doctor"]);
    about.is(0);
    let plain = flowgauge::model::library::find_library(None)
        .expect("ONNX Runtime")
        .path
        .display()
        .to_string();
    if about
        .stdout
        .contains("provider openvino: not in this library")
    {
        let args = likelihood(&[("--provider", "openvino"), ("--ort-lib", &plain)]);
        refused(
            folder.path(),
            &strs(&args),
            &[
                "--provider openvino",
                "built without it",
                "onnxruntime-openvino",
            ],
        );
    }
    for provider in ["cuda", "tensorrt"] {
        // On a machine whose library has it, it is no bad input.
        if about
            .stdout
            .contains(&format!("provider {provider}: not in this library"))
        {
            for args in [
                likelihood(&[("--provider", provider)]),
                sample(&[("--count", "2"), ("--provider", provider)]),
            ] {
                refused(
                    folder.path(),
                    &strs(&args),
                    &["--provider", provider, "built without it", "cpu"],
                );
            }
        }
    }
}

#[test]
fn arrays_at_fault_are_refused_in_words() {
    let folder = folder();
    let at = folder.path();
    let whole = samples(3, 8);
    let bad = |value: f32| {
        let mut values = numbers(24);
        values[10] = value;
        npy("<f4", "(3, 8)", &le(&values))
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "narrow.npy",
            samples(3, 2),
            &["shape [2]", "mixture", "[8]"],
        ),
        (
            "flat.npy",
            npy("<f4", "(8,)", &le(&numbers(8))),
            &["mixture", "[8]"],
        ),
        (
            "scalar.npy",
            npy("<f4", "()", &le(&numbers(1))),
            &["at least one sample"],
        ),
        (
            "none.npy",
            npy("<f4", "(0, 8)", b""),
            &["at least one sample"],
        ),
        ("nan.npy", bad(f32::NAN), &["sample 1", "NaN", "finite"]),
        (
            "inf.npy",
            bad(f32::INFINITY),
            &["sample 1", "inf", "finite"],
        ),
        (
            "int.npy",
            npy("|u1", "(3, 8)", &[7; 24]),
            &["integers", "levels"],
        ),
        (
            "complex.npy",
            npy("<c8", "(3, 4)", &le(&numbers(24))),
            &["`c8`", "float32"],
        ),
        (
            "object.npy",
            npy("|O", "(3,)", b"xxxx"),
            &["`O`", "float32"],
        ),
        (
            "short.npy",
            whole[..whole.len() - 4].to_vec(),
            &["not a valid .npy"],
        ),
        (
            "long.npy",
            [&whole[..], b"more"].concat(),
            &["not a valid .npy", "extra"],
        ),
        ("header.npy", whole[..40].to_vec(), &["truncated"]),
        ("zero.npy", Vec::new(), &["no header"]),
        ("text.npy", b"1 2 3\n".to_vec(), &["no header"]),
        (
            "claims.npy",
            npy("<f4", "(99999999999, 8)", b"1234"),
            &["claims shape (99999999999, 8)"],
        ),
        (
            "overflow.npy",
            npy(
                "<f4",
                "(18446744073709551615, 18446744073709551615)",
                b"1234",
            ),
            &["claims shape"],
        ),
        (
            "far.npy",
            npy_with(
                &format!(
                    "{{'descr': '<f4',{}'fortran_order': False, 'shape': (99999999999, 8), }}",
                    " ".repeat(400)
                ),
                b"12",
            ),
            &["claims shape (99999999999, 8)"],
        ),
        (
            "long_header.npy",
            [&b"\x93NUMPY\x02\x00\xf0\xff\xff\xff"[..], b"{'descr'"].concat(),
            &["header claims 4294967280"],
        ),
        (
            "text.npz",
            b"PK\x03\x04 not a zip".to_vec(),
            &["no .npz archive"],
        ),
        (
            "garbage.safetensors",
            vec![0xff; 40],
            &["no .safetensors file"],
        ),
        ("empty.csv", Vec::new(), &["no rows"]),
        ("header.csv", b"a,b\n".to_vec(), &["no rows"]),
        ("ragged.csv", b"1,2\n3\n".to_vec(), &["line 2"]),
        (
            "hole.csv",
            b"a,b\n,2\n3,4\n".to_vec(),
            &["line 2, column 1"],
        ),
        ("index.csv", b",0,1\n0,2,3\n".to_vec(), &["shape [2]"]),
        (
            "nan.csv",
            b"1,2,3,4,5,6,7,nan\n".to_vec(),
            &["sample 0", "NaN"],
        ),
        (
            "words.csv",
            b"hello\nworld\n".to_vec(),
            &["no column of numbers", "hello"],
        ),
        ("binary.csv", vec![0xfe; 60], &["no table"]),
        (
            "short-ubyte",
            vec![0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 8, 1, 2],
            &["claims shape [3, 8]", "2 bytes follow"],
        ),
        (
            "claims-ubyte",
            [&[0, 0, 8, 3][..], &[255; 12]].concat(),
            &["claims shape"],
        ),
        ("axes-ubyte", vec![0, 0, 8, 255], &["truncated"]),
        (
            "floats-ubyte",
            vec![0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0],
            &["expected unsigned bytes"],
        ),
        ("text-ubyte.gz", b"not gzip".to_vec(), &["gzip"]),
        (
            "pickle.pkl",
            b"x".to_vec(),
            &["unknown kind of array", ".npy"],
        ),
    ];
    for (name, bytes, words) in cases {
        write(at, name, bytes);
        refused(
            at,
            &strs(&likelihood(&[("--data", name)])),
            &[&[name][..], words].concat(),
        );
    }
    if Path::new("/dev/zero").exists() {
        refused(
            at,
            &strs(&likelihood(&[("--data", "/dev/zero")])),
            &["/dev/zero", "neither a file nor a folder"],
        );
    }
    std::fs::create_dir(at.join("folder.npy")).expect("made");
    refused(
        at,
        &strs(&likelihood(&[("--data", "folder.npy")])),
        &["folder.npy", "no image (.png, .jpg"],
    );
    write(at, "pictures/a.png", b"\x89PNG\r\n\x1a\nxxxx");
    refused(
        at,
        &strs(&likelihood(&[("--data", "pictures")])),
        &["a.png", "cannot be decoded"],
    );
    refused(
        at,
        &strs(&likelihood(&[("--data", "missing.npy")])),
        &["missing.npy", "No such file"],
    );
    refused(
        at,
        &strs(&likelihood(&[("--data", "narrow.npy:a")])),
        &["`:a`"],
    );
    let digits = card("digits");
    for (name, value) in [("high.npy", 17), ("low.npy", 255)] {
        let kind = if name == "low.npy" { "|i1" } else { "|u1" };
        write(at, name, npy(kind, "(1, 64)", &[value; 64]));
        refused(
            at,
            &strs(&likelihood(&[("--data", name), ("--model", &digits)])),
            &[name, "levels 0 to 16"],
        );
    }
}

#[test]
fn the_same_numbers_in_any_format_give_the_same_table() {
    let folder = folder();
    let at = folder.path();
    let values = numbers(24);
    let data = le(&values);
    let text: Vec<String> = values
        .chunks(8)
        .map(|r| r.iter().map(f32::to_string).collect::<Vec<_>>().join(","))
        .collect();
    let tensor = br#"{"x":{"dtype":"F32","shape":[3,8],"data_offsets":[0,96]}}"#;
    let columns: Vec<u8> = (0..8)
        .flat_map(|j| (0..3).flat_map(move |i| numbers(24)[i * 8 + j].to_le_bytes()))
        .collect();
    let big: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    write(at, "x.npy", samples(3, 8));
    write(at, "big.npy", npy(">f4", "(3, 8)", &big));
    write(
        at,
        "wide.npy",
        npy(
            "<f8",
            "(3, 8)",
            &values
                .iter()
                .flat_map(|v| f64::from(*v).to_le_bytes())
                .collect::<Vec<_>>(),
        ),
    );
    write(
        at,
        "columns.npy",
        npy_with(
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 8), }",
            &columns,
        ),
    );
    write(
        at,
        "quoted.npy",
        npy_with(
            "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (3, 8), }",
            &data,
        ),
    );
    write(at, "x.csv", text.join("\n"));
    write(
        at,
        "named.csv",
        format!("\u{feff}a,b,c,d,e,f,g,h\r\n{}\r\n", text.join("\r\n")),
    );
    write(
        at,
        "x.safetensors",
        [&(tensor.len() as u64).to_le_bytes()[..], tensor, &data].concat(),
    );
    let mut first: Option<String> = None;
    for name in [
        "x.npy",
        "big.npy",
        "wide.npy",
        "columns.npy",
        "quoted.npy",
        "x.csv",
        "named.csv",
        "x.safetensors",
        "x.safetensors:x",
    ] {
        flowgauge(at, &strs(&likelihood(&[("--data", name)]))).is(0);
        let table = std::fs::read_to_string(at.join("out.csv")).expect("a table");
        assert_eq!(table.lines().count(), 4, "{name}");
        assert_eq!(first.get_or_insert(table.clone()), &table, "{name}");
    }
}

#[test]
fn cards_at_fault_are_refused_by_key() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 2));
    write(at, "outside.onnx", hostile("toy"));
    let long = format!("name: {}", "a".repeat(300));
    let cases: &[(&str, &str, &[&str])] = &[
        ("name: toy", "name: ../x", &["name"]),
        ("name: toy", "name: <script>alert(1)</script>", &["name"]),
        ("name: toy", "name: =1+1", &["name"]),
        ("name: toy", "name: '@sum'", &["name"]),
        ("name: toy", "name: \"two\\nlines\"", &["name"]),
        ("name: toy", &long, &["name"]),
        ("name: toy", "name: [a]", &["expected string"]),
        ("name: toy", "title: toy", &["title", "name"]),
        ("name: toy\n", "", &["missing key `name`"]),
        ("name: toy", "name: toy\nname: toy", &["duplicate", "name"]),
        ("shape: [2]", "shape: []", &["shape"]),
        ("shape: [2]", "shape: [0]", &["shape"]),
        (
            "shape: [2]",
            "shape: [-2]",
            &["shape: [-2]", "whole number"],
        ),
        (
            "shape: [2]",
            "shape: [9999999999, 9999999999, 9999999999]",
            &["shape"],
        ),
        ("shape: [2]", "shape: [3]", &["[2]", "[3]"]),
        (
            "file: model.onnx",
            "file: ../outside.onnx",
            &["network.file", "leaves the card's folder"],
        ),
        (
            "file: model.onnx",
            "file: /etc/hostname",
            &["network.file", "leaves the card's folder"],
        ),
        (
            "file: model.onnx",
            "file: missing.onnx",
            &["network.file", "missing.onnx"],
        ),
        ("file: model.onnx", "file: .", &["network.file"]),
        (
            "file: model.onnx",
            "file: model.onnx, sha256: abcd",
            &["network.file", "SHA-256", "abcd"],
        ),
        ("output: y", "output: z", &["no output `z`", "has y"]),
        ("x: x", "x: z", &["no input `z`", "has x, t"]),
        ("time: t", "time: z", &["no input `z`"]),
        (", time: t", "", &["input `t` has no role"]),
        (
            "prediction: velocity",
            "prediction: speed",
            &["speed", "velocity"],
        ),
        (
            "kind: flow-matching",
            "kind: straight",
            &["straight", "flow-matching"],
        ),
        ("t_min: 0.01", "t_minimum: 0.01", &["t_minimum"]),
        ("t_min: 0.01", "t_min: 0.95", &["t_min"]),
        ("t_min: 0.01", "t_min: .nan", &["t_min"]),
        ("path:", "prior: {std: 0}\npath:", &["prior", "std is 0"]),
        (
            "path:",
            "prior: {std: .inf}\npath:",
            &["prior", "std is inf"],
        ),
        ("path:", "data: {range: [1, -1]}\npath:", &["data", "range"]),
        (
            "path:",
            "data: {range: [-1, 1], levels: 1}\npath:",
            &["levels"],
        ),
        (
            "path:",
            "divergence_heads: {a: {file: model.onnx, inputs: {x: x}, output: y, scale: 0}}\npath:",
            &["divergence_heads.a.scale"],
        ),
        (
            "path:",
            "divergence_heads: {a: {file: ../outside.onnx, inputs: {x: x}, output: y}}\npath:",
            &["divergence_heads.a.file", "leaves"],
        ),
    ];
    for edit in cases {
        let path = toy(at, "toy", &hostile("toy"), (edit.0, edit.1));
        refused(
            at,
            &strs(&likelihood(&[("--model", &path)])),
            &[&["toy"][..], edit.2].concat(),
        );
    }
    write(at, "list.yaml", "- a\n- b\n");
    write(at, "text.yaml", "hello");
    write(at, "empty.yaml", "");
    write(at, "binary.yaml", [0xff, 0xfe, 0x00]);
    for name in [
        "list.yaml",
        "text.yaml",
        "empty.yaml",
        "binary.yaml",
        "missing.yaml",
        ".",
    ] {
        refused(at, &strs(&likelihood(&[("--model", name)])), &[name]);
        refused(at, &["inspect", name], &[name]);
    }
    let path = toy(at, "toy", &hostile("toy"), ("", ""));
    flowgauge(at, &strs(&likelihood(&[("--model", &path)]))).is(0);
    flowgauge(at, &["inspect", &path]).is(0);
}

#[test]
fn graphs_at_fault_are_refused_in_words() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 2));
    let whole = hostile("toy");
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("truncated", whole[..60].to_vec(), &["model.onnx"]),
        ("text", b"hello, I am text\n".to_vec(), &["model.onnx"]),
        ("empty", Vec::new(), &["model.onnx"]),
        (
            "baked",
            hostile("baked"),
            &["`x`", "batch size 4 baked in", "dynamic"],
        ),
        (
            "baked_inside",
            hostile("baked_inside"),
            &["`y`", "batch size 4 baked in"],
        ),
        (
            "extra_input",
            hostile("extra_input"),
            &["input `label` has no role"],
        ),
        (
            "unknown_operator",
            hostile("unknown_operator"),
            &["Frobnicate"],
        ),
        ("scalar_output", hostile("scalar_output"), &["output `y`"]),
        ("huge_claim", hostile("huge_claim"), &["model.onnx"]),
    ];
    for (name, bytes, words) in cases {
        let path = toy(at, name, bytes, ("", ""));
        let words = [&[*name][..], words].concat();
        for divergence in ["exact", "{hutchinson: {probes: 1}}"] {
            refused(
                at,
                &strs(&likelihood(&[
                    ("--model", &path),
                    ("--divergence", divergence),
                ])),
                &words,
            );
        }
        refused(
            at,
            &strs(&sample(&[("--model", &path), ("--count", "2")])),
            &words,
        );
        let inspected = flowgauge(at, &["inspect", &path]);
        assert!(matches!(inspected.code, Some(1 | 2)), "{name}");
        inspected.is(inspected.code.unwrap_or(2));
    }
    // A network that mixes the samples of a call can be run, and `inspect` says what it does.
    let path = toy(at, "leak", &hostile("leak"), ("", ""));
    let done = flowgauge(at, &["inspect", &path]);
    assert!(done.is(1).stdout.contains("FAILED"));
}

#[test]
fn a_network_that_gives_nan_is_a_failure_while_running() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 2));
    let path = toy(at, "nan", &hostile("nan"), ("", ""));
    for solver in ["{euler: {steps: 2}}", "dopri5"] {
        flowgauge(
            at,
            &strs(&likelihood(&[("--model", &path), ("--solver", solver)])),
        )
        .is(1)
        .says(&["3 of 3", "status"]);
        let mut reader = csv::Reader::from_path(at.join("out.csv")).expect("a table");
        let columns = reader.headers().expect("columns").clone();
        let rows: Vec<csv::StringRecord> = reader.records().flatten().collect();
        assert_eq!(rows.len(), 3);
        for row in rows {
            for (name, value) in columns.iter().zip(row.iter()) {
                match name {
                    "status" => assert_eq!(value, "non-finite"),
                    "sample" | "evaluations" | "jvps" => {
                        assert!(value.parse::<u64>().is_ok(), "{name} {value}")
                    }
                    _ => assert_eq!(value, "", "{name}"),
                }
            }
        }
    }
    flowgauge(at, &strs(&sample(&[("--model", &path), ("--count", "2")])))
        .is(1)
        .says(&["2 of 2", "not finite"]);
    flowgauge(at, &["inspect", &path]).is(1);
    let steps = likelihood(&[
        ("--model", &card("mixture")),
        ("--data", "y.npy"),
        ("--solver", "{dopri5: {max_steps: 1}}"),
    ]);
    write(at, "y.npy", samples(2, 8));
    flowgauge(at, &strs(&steps)).is(1);
    assert!(
        std::fs::read_to_string(at.join("out.csv"))
            .expect("a table")
            .contains("max-steps")
    );
}

#[test]
fn files_that_cannot_be_written_are_refused_before_the_work() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 8));
    write(at, "toy.onnx", hostile("toy"));
    std::fs::create_dir(at.join("taken")).expect("made");
    for out in [
        "taken",
        "taken/",
        ".",
        "/",
        "x.npy/out",
        "x.npy/below/out",
        "new/",
    ] {
        // Steps that would take minutes show that nothing is computed first.
        refused(
            at,
            &strs(&likelihood(&[
                ("--out", out),
                ("--solver", "{rk4: {steps: 1000000}}"),
            ])),
            &[out],
        );
        refused(
            at,
            &strs(&sample(&[("--count", "2"), ("--out", out)])),
            &[out],
        );
        refused(at, &strs(&metrics(&[("--out", out)])), &[out]);
        refused(at, &["differentiate", "toy.onnx", "--out", out], &[out]);
    }
    flowgauge(at, &strs(&likelihood(&[("--out", "new/folder/ö ü.csv")]))).is(0);
    assert!(at.join("new/folder/ö ü.csv").is_file());
    assert_eq!(
        std::fs::read_dir(at.join("new/folder"))
            .expect("a folder")
            .count(),
        1,
        "no temporary file stays"
    );
}

#[test]
fn sample_refuses_what_makes_no_samples() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 8));
    write(at, "narrow.npy", samples(3, 2));
    let mut nan = numbers(8);
    nan[3] = f32::NAN;
    write(at, "nan.npy", npy("<f4", "(1, 8)", &le(&nan)));
    let cases: &[Refusal] = &[
        (&[], &["--count"]),
        (&[("--count", "0")], &["--count is 0"]),
        (&[("--count", "-1")], &["--count"]),
        (
            &[("--count", "9999999999999")],
            &["--count is 9999999999999", "at most"],
        ),
        (
            &[("--count", "18446744073709551615")],
            &["--count", "at most"],
        ),
        (
            &[("--count", "2"), ("--noise", "x.npy")],
            &["--count", "--noise"],
        ),
        (&[("--noise", "narrow.npy")], &["narrow.npy", "[8]"]),
        (&[("--noise", "nan.npy")], &["nan.npy", "NaN"]),
        (&[("--noise", "missing.npy")], &["missing.npy"]),
        (
            &[("--count", "2"), ("--sampler", "nope")],
            &["unknown kind `nope`", "heun"],
        ),
        (
            &[("--count", "2"), ("--sampler", "{heun: {step: 3}}")],
            &["step"],
        ),
        (
            &[("--count", "2"), ("--sampler", "{heun: {rho: 0}}")],
            &["rho is 0"],
        ),
        (
            &[("--count", "2"), ("--sampler", "{heun: {schedule: nope}}")],
            &["nope", "karras"],
        ),
        (&[("--count", "2"), ("--steps", "0")], &["steps is 0"]),
        (
            &[("--count", "2"), ("--steps", "99999999999")],
            &["steps is 99999999999"],
        ),
        (
            &[("--count", "2"), ("--model", "missing.yaml")],
            &["missing.yaml"],
        ),
    ];
    for (other, words) in cases {
        refused(at, &strs(&sample(other)), words);
    }
    let drawn = |other: &[(&str, &str)]| {
        flowgauge(at, &strs(&sample(other))).is(0);
        std::fs::read(at.join("out.npy")).expect("an array")
    };
    let first = drawn(&[("--count", "5"), ("--seed", "3")]);
    assert_eq!(first, drawn(&[("--count", "5"), ("--seed", "3")]));
    assert_eq!(
        first,
        drawn(&[
            ("--count", "5"),
            ("--seed", "3"),
            ("--threads", "2"),
            ("--batch", "2")
        ])
    );
    assert_ne!(first, drawn(&[("--count", "5"), ("--seed", "4")]));
    assert_eq!(
        drawn(&[("--noise", "x.npy")]),
        drawn(&[("--noise", "x.npy"), ("--seed", "9")])
    );
}

#[test]
fn metrics_refuses_what_cannot_be_compared() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(9, 8));
    write(at, "narrow.npy", samples(9, 2));
    write(at, "one.npy", samples(1, 8));
    write(at, "toy.onnx", hostile("toy"));
    let extractor = format!("{}/features.onnx", models("digits"));
    let cases: &[Refusal] = &[
        (&[("--reference", "narrow.npy")], &["8 numbers", "2"]),
        (
            &[("--generated", "one.npy")],
            &["1 generated", "at least 2"],
        ),
        (
            &[("--reference", "one.npy")],
            &["1 reference", "at least 2"],
        ),
        (&[("--reference", "missing.npy")], &["missing.npy"]),
        (&[("--metric", "nope")], &["unknown kind `nope`", "frechet"]),
        (
            &[("--metric", "{kernel: {subset: 3}}")],
            &["subset", "subsets"],
        ),
        (&[("--metric", "{kernel: {subsets: 0}}")], &["subsets is 0"]),
        (
            &[("--metric", "{kernel: {subset_size: 99}}")],
            &["subset_size is 99"],
        ),
        (&[("--metric", "")], &["--metric"]),
        (&[("--extractor", "missing.onnx")], &["missing.onnx"]),
        (&[("--extractor", "toy.onnx")], &["toy.onnx", "2 inputs"]),
        (&[("--extractor", "x.npy")], &["x.npy"]),
        (
            &[("--extractor", &extractor)],
            &["features.onnx", "8 numbers"],
        ),
    ];
    for (other, words) in cases {
        refused(at, &strs(&metrics(other)), words);
    }
    flowgauge(at, &strs(&metrics(&[("--metric", "frechet")]))).is(0);
    let table = std::fs::read_to_string(at.join("out.csv")).expect("a table");
    assert!(
        table.starts_with("metric,value,stderr,n_generated,n_reference,note\nfrechet,"),
        "{table}"
    );
}

#[test]
fn differentiate_refuses_by_name() {
    let folder = folder();
    let at = folder.path();
    for name in ["toy", "unknown_operator", "huge_claim"] {
        write(at, &format!("{name}.onnx"), hostile(name));
    }
    write(at, "short.onnx", &hostile("toy")[..60]);
    write(at, "text.onnx", "hello");
    write(at, "empty.onnx", "");
    let cases: &[(&[&str], &[&str])] = &[
        (&["toy.onnx", "--input", "nope"], &["`nope`", "`x`"]),
        (&["toy.onnx", "--output", "nope"], &["`nope`", "`y`"]),
        (&["toy.onnx", "--mode", "hessian"], &["hessian", "jvp"]),
        (&["unknown_operator.onnx"], &["`frob`", "Frobnicate"]),
        (&["huge_claim.onnx"], &["huge_claim.onnx"]),
        (&["short.onnx"], &["short.onnx", "truncated"]),
        (&["text.onnx"], &["text.onnx"]),
        (&["empty.onnx"], &["empty.onnx"]),
        (&["missing.onnx"], &["missing.onnx"]),
        (&["."], &["."]),
    ];
    for (args, words) in cases {
        refused(
            at,
            &[&["differentiate", "--out", "out.onnx"], *args].concat(),
            words,
        );
    }
    for mode in ["jvp", "vjp", "trace", "jacobian"] {
        flowgauge(
            at,
            &[
                "differentiate",
                "toy.onnx",
                "--mode",
                mode,
                "--out",
                "out.onnx",
            ],
        )
        .is(0);
        flowgauge(at, &["inspect", "out.onnx"]).is(0);
    }
}

/// A config at next to no cost, beside its data.
pub(crate) fn config(folder: &Path) -> String {
    let model = card("mixture");
    write(folder, "x.npy", samples(5, 8));
    write(
        folder,
        "config.yaml",
        format!(
            "name: test\nestimators: [exact, {{hutchinson: {{probes: 2}}}}]\nsolvers: [{{euler: {{steps: 2}}}}]\nchunk: 2\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 1}}\n\
             samples:\n  - {{model: {model:?}, samplers: [{{heun: {{steps: 3}}}}], count: 5, reference: x.npy, metrics: [frechet]}}\n"
        ),
    )
}

#[test]
fn changes_of_a_config_are_refused_by_key() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    write(at, "narrow.npy", samples(3, 2));
    let long = format!("name={}", "a".repeat(300));
    let cases: &[(&str, &[&str])] = &[
        ("sead=5", &["sead", "seed"]),
        ("seed=-1", &["seed=-1"]),
        ("seed=x", &["seed=x"]),
        ("seed", &["key.path=value"]),
        ("=5", &["empty key"]),
        ("seed.=1", &["empty key"]),
        ("seed={", &["--set seed={", "YAML"]),
        ("likelihood.0.sampels=3", &["sampels", "samples"]),
        ("likelihood.7.samples=3", &["position 7 of a list of 1"]),
        ("likelihood.-1.samples=3", &["`-1`", "position"]),
        ("likelihood.x.samples=3", &["`x`", "position"]),
        ("likelihood.0.samples=0", &["likelihood.0.samples"]),
        (
            "likelihood.0.samples=99",
            &["config.yaml", "samples: 99", "only 5"],
        ),
        ("likelihood.0.data=narrow.npy", &["narrow.npy", "[8]"]),
        ("likelihood.0.data=missing.npy", &["missing.npy"]),
        ("likelihood.0.model=missing.yaml", &["missing.yaml"]),
        ("likelihood.0.reference=learned", &["reference", "learned"]),
        (
            "likelihood.0.density={x: [0, 1], y: [0, 1]}",
            &["density", "8 dimensions"],
        ),
        ("name=../x", &["name"]),
        ("name=<script>", &["name"]),
        ("name='=1+1'", &["name"]),
        (&long, &["name"]),
        ("chunk=0", &["chunk"]),
        ("estimators=[]", &["estimators"]),
        ("estimators=[exact, exact]", &["`exact` is there twice"]),
        (
            "estimators=[hutchinson, {hutchinson: {probes: 1}}]",
            &["`hutchinson` is there twice"],
        ),
        ("estimators.0=nope", &["unknown kind `nope`"]),
        ("estimators.1.hutchinson.prob=2", &["prob"]),
        ("estimators.1.hutchinson.probes=0", &["probes is 0"]),
        ("estimators.9=exact", &["position 9"]),
        ("solvers=[]", &["solvers"]),
        (
            "solvers=[{euler: {steps: 2}}, {euler: {steps: 2}}]",
            &["twice"],
        ),
        ("solvers.0.euler.steps=0", &["steps is 0"]),
        ("samples.0.count=0", &["count"]),
        ("samples.0.count=99999999999999", &["count", "trials"]),
        ("samples.0.samplers=[]", &["samplers"]),
        ("samples.0.metrics=[]", &["metrics"]),
        ("samples.0.samplers.0.heun.steps=0", &["steps is 0"]),
        ("samples.0.reference=missing.npy", &["missing.npy"]),
        ("samples.0.extractor=missing.onnx", &["missing.onnx"]),
        ("samples.0.floor=narrow.npy", &["narrow.npy"]),
    ];
    for (change, words) in cases {
        refused(at, &["plan", &config, "--set", change], words);
    }
    refused(at, &["run", &config, "--set", "sead=5"], &["sead"]);
    refused(at, &["plan", &config, "--seed", "x"], &["--seed"]);
    let planned = flowgauge(
        at,
        &[
            "plan",
            &config,
            "--set",
            "seed=7",
            "--set",
            "likelihood.0.samples=3",
        ],
    );
    assert!(planned.is(0).stdout.contains("samples 2 to 2"));
    assert_eq!(planned.stderr, "");
    flowgauge(
        at,
        &[
            "plan",
            &config,
            "--seed",
            "7",
            "--quiet",
            "--batch",
            "4",
            "--threads",
            "1",
        ],
    )
    .is(0);
}

#[test]
fn configs_at_fault_are_refused_by_line_or_key() {
    let folder = folder();
    let at = folder.path();
    let text = std::fs::read_to_string(at.join(config(at))).expect("a config");
    let model = card("mixture");
    let spelled = model.replace("/models/", "/models/../models/");
    let twice = |entry: &str| text.replace("samples:\n", &format!("  - {entry}\nsamples:\n"));
    let bomb: String = (0..12)
        .map(|i| {
            format!(
                "k{}: &k{} [{}]\n",
                i + 1,
                i + 1,
                vec![format!("*k{i}"); 9].join(",")
            )
        })
        .collect();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", Vec::new(), &["empty.yaml"]),
        ("text", b"hello".to_vec(), &["text.yaml", "key: value"]),
        ("list", b"- a\n".to_vec(), &["list.yaml"]),
        (
            "unknown",
            format!("{text}bogus: 1\n").into_bytes(),
            &["bogus", "line 9"],
        ),
        (
            "double",
            format!("{text}name: again\n").into_bytes(),
            &["duplicate", "name"],
        ),
        (
            "documents",
            format!("{text}---\nname: b\n").into_bytes(),
            &["documents.yaml", "documents"],
        ),
        ("nothing", b"name: a\n".to_vec(), &["nothing to measure"]),
        (
            "deep",
            format!("name: {}", "[".repeat(50_000)).into_bytes(),
            &["deep.yaml"],
        ),
        (
            "bomb",
            format!("k0: &k0 [a]\n{bomb}name: *k12\n").into_bytes(),
            &["bomb.yaml"],
        ),
        ("binary", vec![0xff, 0xfe, 0xfd], &["UTF-8"]),
        (
            "overlap",
            twice(&format!(
                "{{model: {model:?}, data: x.npy, samples: 3, estimators: [exact, hutch++]}}"
            ))
            .into_bytes(),
            &["likelihood.1", "`exact`", "x.npy", "earlier entry"],
        ),
        (
            "spelled",
            twice(&format!(
                "{{model: {spelled:?}, data: ./x.npy, estimators: [exact]}}"
            ))
            .into_bytes(),
            &["likelihood.1", "`exact`", "earlier entry"],
        ),
    ];
    for (name, bytes, words) in cases {
        let path = write(at, &format!("{name}.yaml"), bytes);
        refused(at, &["plan", &path], words);
        refused(at, &["plan", &path, "--set", "seed=1"], &[]);
        refused(at, &["run", &path], words);
    }
    // The same card under another spelling is the same model; a copy of it is not.
    let other = twice(&format!(
        "{{model: {spelled:?}, data: x.npy, estimators: [hutch++], profile: 0}}"
    ));
    flowgauge(at, &["plan", &write(at, "other.yaml", &other)]).is(0);
    let copy = toy(at, "copy", &hostile("toy"), ("name: copy", "name: mixture"));
    write(at, "two.npy", samples(3, 2));
    let copied = twice(&format!("{{model: {copy}, data: two.npy}}"));
    refused(
        at,
        &["plan", &write(at, "copied.yaml", &copied)],
        &["both named `mixture`"],
    );
    // Long is not wrong.
    let probes: Vec<String> = (3..1500)
        .map(|i| format!("{{hutchinson: {{probes: {i}}}}}"))
        .collect();
    let many = text.replace("[exact, ", &format!("[exact, {}, ", probes.join(", ")));
    flowgauge(at, &["plan", &write(at, "many.yaml", &many)]).is(0);
    let commented = format!("{text}# {}\n", "x".repeat(5_000_000));
    flowgauge(at, &["plan", &write(at, "huge.yaml", &commented)]).is(0);
    let anchored = text
        .replace("profile: 1}", "profile: 1, estimators: &e [exact]}")
        .replace("solvers:", "reference: exact\nsolvers:");
    flowgauge(at, &["plan", &write(at, "anchored.yaml", &anchored)]).is(0);
}

#[test]
fn paths_of_a_config_start_at_its_folder() {
    let folder = folder();
    let at = folder.path();
    config(at);
    std::fs::create_dir(at.join("ünï cödé 日本")).expect("made");
    for name in ["config.yaml", "x.npy"] {
        std::fs::copy(at.join(name), at.join("ünï cödé 日本").join(name)).expect("copied");
    }
    std::fs::remove_file(at.join("x.npy")).expect("removed");
    refused(at, &["plan", "config.yaml"], &["x.npy"]);
    let done = flowgauge(
        at,
        &[
            "run",
            "ünï cödé 日本/config.yaml",
            "--out",
            "das Ergebnis ✓",
            "--quiet",
        ],
    );
    assert_eq!(done.is(0).stderr, "", "--quiet is quiet");
    assert!(at.join("das Ergebnis ✓/index.html").is_file());
    flowgauge(&at.join("das Ergebnis ✓"), &["report", "."]).is(0);
}

#[test]
fn names_of_files_are_inert_in_tables() {
    let folder = folder();
    let at = folder.path();
    let text = std::fs::read_to_string(at.join(config(at))).expect("a config");
    for (name, shown) in [
        ("=cmd().npy", "_cmd().npy"),
        ("@sum.npy", "_sum.npy"),
        ("-1.npy", "_-1.npy"),
        ("+1.npy", "_+1.npy"),
        (
            "<script>alert(1)<script>.npy",
            "_script_alert(1)_script_.npy",
        ),
        ("a\"b,'c.npy", "a_b,_c.npy"),
        ("two\nlines.npy", "two_lines.npy"),
    ] {
        write(at, name, samples(3, 8));
        let quoted = serde_json::to_string(name).expect("a string");
        let path = write(
            at,
            "named.yaml",
            text.replace("data: x.npy", &format!("data: {quoted}")),
        );
        flowgauge(
            at,
            &[
                "run",
                &path,
                "--out",
                "named",
                "--quiet",
                "--set",
                "samples=[]",
            ],
        )
        .is(0);
        for table in ["samples", "summary", "pairs", "profile"] {
            let mut reader =
                csv::Reader::from_path(at.join("named/tables").join(format!("{table}.csv")))
                    .expect(table);
            for row in reader.records() {
                assert_eq!(&row.expect("a row")[1], shown, "{table}");
            }
        }
        let page = std::fs::read_to_string(at.join("named/index.html")).expect("a page");
        assert!(!page.contains("<script>alert(1)"), "{name}");
        std::fs::remove_dir_all(at.join("named")).expect("removed");
    }
}

/// The same command twice, another seed, other batches and threads, on all three models.
#[test]
fn digits_depend_on_the_seed_alone() {
    let folder = folder();
    let at = folder.path();
    for name in ["mixture", "moons", "digits"] {
        let (model, data) = (card(name), format!("{}/heldout.npy", models(name)));
        // The first samples of the held-out data, so that it stays fast.
        let bytes = std::fs::read(&data).expect(name);
        let array = <ndarray::ArrayD<f32> as ndarray_npy::ReadNpyExt>::read_npy(&bytes[..]);
        let array = array
            .map(|a| a.mapv(f64::from))
            .or_else(|_| ndarray_npy::ReadNpyExt::read_npy(&bytes[..]));
        let integer = array.is_err();
        if !integer {
            let few = array
                .expect("floats")
                .slice_axis(ndarray::Axis(0), (0..20).into())
                .mapv(|v| v as f32);
            let mut bytes = Vec::new();
            ndarray_npy::WriteNpyExt::write_npy(&few.as_standard_layout().into_owned(), &mut bytes)
                .expect("written");
            write(at, "few.npy", bytes);
        } else {
            let few: Vec<u8> = bytes[bytes.len() - 20 * 64..].to_vec();
            write(at, "few.npy", npy("|u1", "(20, 64)", &few));
        }
        for solver in ["{heun: {steps: 6}}", "{dopri5: {rtol: 1e-4, atol: 1e-4}}"] {
            let table = |other: &[(&str, &str)]| {
                let usual = [
                    ("--model", model.as_str()),
                    ("--data", "few.npy"),
                    ("--solver", solver),
                ];
                flowgauge(at, &strs(&likelihood(&[&usual[..], other].concat()))).is(0);
                std::fs::read_to_string(at.join("out.csv")).expect("a table")
            };
            let first = table(&[("--batch", "7"), ("--threads", "1")]);
            assert_eq!(
                first,
                table(&[("--batch", "7"), ("--threads", "1")]),
                "{name} {solver}: the same command"
            );
            assert_eq!(
                first,
                table(&[("--batch", "7"), ("--threads", "2")]),
                "{name} {solver}: threads"
            );
            assert_ne!(
                first,
                table(&[("--batch", "7"), ("--seed", "5")]),
                "{name} {solver}: seed"
            );
            for batch in ["1", "64"] {
                let other = table(&[("--batch", batch)]);
                let worst = values(&first)
                    .iter()
                    .zip(values(&other))
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f64::max);
                assert!(
                    worst <= 1e-5,
                    "{name} {solver}: batch {batch} differs by {worst:e} nats"
                );
            }
        }
    }
}

/// The column `log_likelihood` of a table.
fn values(table: &str) -> Vec<f64> {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    reader
        .records()
        .map(|r| r.expect("a row")[1].parse().expect("a number"))
        .collect()
}

#[test]
fn standard_output_that_is_full_is_said() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        return;
    };
    let folder = folder();
    let mut command = command(folder.path(), &["list"]);
    command.stdout(full);
    finish(command).is(2).says(&["standard output"]);
    std::io::stdout().flush().expect("ours is fine");
}
