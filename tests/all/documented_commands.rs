//! The commands of README.md, CONTRIBUTING.md and docs/: each is run as it stands there, or, where that takes long or
//! needs files from elsewhere, parsed. A documented verb, option or file that no longer exists fails a test.

use std::path::Path;

use clap::{CommandFactory, Parser};
use flowgauge::cli::Cli;

use super::cli::{flowgauge, folder, le, models, npy, write};
use super::habits::{docs_pages, read, root};

/// Commands that are parsed and not run, each with the reason.
const PARSED_ONLY: &[(&str, &str)] = &[
    (
        "flowgauge run configs/quickstart.yaml",
        "a minute or two; scripts/check runs it and holds it against its claims",
    ),
    (
        "flowgauge report reports/quickstart --export latex --out tables.tex",
        "the run of the quickstart; exports.rs runs every form on a smaller one",
    ),
    (
        "flowgauge report reports/quickstart --figures paper --width column",
        "the run of the quickstart; exports.rs draws the figures of a smaller one",
    ),
    (
        "flowgauge report reports/quickstart --export model-index --out model-index.yaml",
        "the run of the quickstart; exports.rs runs every form on a smaller one",
    ),
    (
        "flowgauge run compare.yaml",
        "a config that the reader writes; scripts/check_outputs.py runs it",
    ),
    (
        "flowgauge likelihood --model hf://org/repo/card.yaml --data hf://datasets/org/points/test.npy@v1 --divergence exact --solver dopri5 --out ll.csv",
        "files on the Hub; hub.rs runs such names against a server of its own",
    ),
    (
        "flowgauge card --from diffusers exported-pipeline",
        "a pipeline that another program exported",
    ),
    (
        "flowgauge run configs/few-step.yaml",
        "2 minutes of 2 cores",
    ),
    (
        "flowgauge run configs/mnist.yaml",
        "a quarter of an hour, and networks and images of other projects",
    ),
    (
        "flowgauge run configs/mnist-bounds.yaml",
        "half an hour, and networks and images of other projects",
    ),
    (
        "flowgauge run configs/posterior.yaml",
        "36,600 draws with their densities",
    ),
    (
        "flowgauge run configs/dw4.yaml",
        "12,000 samples with their densities",
    ),
    (
        "flowgauge run configs/lj13.yaml",
        "1,000 samples of 39 numbers with their densities",
    ),
    (
        "flowgauge sample --model card.yaml --scheduler scheduler_config.json --steps 20 --noise x_T.npy --out x.npy",
        "a network and a scheduler of other projects",
    ),
    (
        "flowgauge likelihood --model card.yaml --data X.npy --condition label=labels.npy --divergence exact --solver dopri5 --out ll.csv",
        "a conditional network of another project",
    ),
    (
        "flowgauge sample --model card.yaml --sampler heun --count 64 --condition label=balanced:10 --out X.npy",
        "a conditional network of another project",
    ),
    (
        "flowgauge sample --model card.yaml --sampler {ode: {solver: dopri5}} --count 10000 --density exact --out X.npy",
        "a model of the user",
    ),
    (
        "flowgauge reweight --samples X.npy --log-density X.csv --model card.yaml --observable radius.onnx --out out.csv",
        "an energy and an observable of the user",
    ),
    (
        "flowgauge run configs/steindiff.yaml",
        "2,048 samples of each of 28 samplers, with and without SteinDiff",
    ),
    (
        "flowgauge run configs/steindiff-protocol.yaml",
        "2,000 samples of each of 24 samplers, with and without SteinDiff, and products at 41 steps",
    ),
    (
        "flowgauge run configs/steindiff-log-snr.yaml",
        "2,048 samples of each of 20 samplers, with and without SteinDiff",
    ),
    (
        "flowgauge run configs/steindiff-mnist.yaml",
        "networks and images of other projects",
    ),
    (
        "flowgauge plan configs/papers/edm-cifar10.yaml",
        "networks and images of other projects; scripts/test_papers.py runs it on stand-ins",
    ),
    (
        "flowgauge run configs/papers/edm-cifar10.yaml --provider cuda --batch 500",
        "networks and images of other projects, and a GPU",
    ),
    (
        "flowgauge gate reports/edm-cifar10 --claims configs/papers/edm-cifar10-claims.yaml",
        "the tables of that run; scripts/test_papers.py checks the claims' rows",
    ),
];

/// First words of commands of other programs, each with the reason why no test runs them.
const OTHER_PROGRAMS: &[(&str, &str)] = &[
    (
        "cargo",
        "builds and tests this program, which is what runs this test",
    ),
    ("git", "shows changes of the repository"),
    (
        "python",
        "scripts/README.md lists the packages that each script needs",
    ),
    (
        "scripts/",
        "checks of the whole repository; some run this test",
    ),
];

/// Options in prose that belong to other programs.
const OTHER_OPTIONS: &[(&str, &str)] = &[
    ("--check", "scripts/operator_table.py and cargo fmt"),
    ("--bench", "scripts/check_zoo.py"),
];

/// A command of a page.
struct Documented {
    page: String,
    line: usize,
    text: String,
}

impl Documented {
    /// Its words, without variables that are set for it.
    fn words(&self) -> Vec<String> {
        let sets = |word: &String| {
            let name = word.split_once('=').map_or("", |(name, _)| name);
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        split_words(&self.text)
            .into_iter()
            .skip_while(sets)
            .collect()
    }

    /// The arguments of a command of this program; none for one of another program.
    fn arguments(&self) -> Option<Vec<String>> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["flowgauge", ..] => Some(words.iter().map(|w| (*w).to_owned()).collect()),
            ["cargo", "run", .., "--example", _] => None,
            ["cargo", "run", ..] => {
                let arguments = words.iter().skip_while(|w| **w != "--").skip(1);
                let program = std::iter::once("flowgauge".to_owned());
                Some(program.chain(arguments.map(|w| (*w).to_owned())).collect())
            }
            _ => None,
        }
    }

    fn place(&self) -> String {
        format!("{}:{}: {}", self.page, self.line, self.text)
    }
}

fn pages() -> Vec<String> {
    let own = ["README.md", "CONTRIBUTING.md", "RELEASE-CHECKLIST.md"].map(str::to_owned);
    own.into_iter().chain(docs_pages()).collect()
}

/// The words of a shell command: quotes hold words together, a comment ends it.
pub(crate) fn split_words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            ('#', None) if word.is_none() => return words,
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of a page's blocks: all lines of `sh`, those after `$ ` of `console`, and of blocks without a language,
/// which may show anything, those that begin with a program that is known here.
fn commands(page: &str) -> Vec<Documented> {
    let text = read(page);
    let mut found: Vec<Documented> = Vec::new();
    let (mut language, mut open) = (None::<String>, false);
    for (number, line) in text.lines().enumerate() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            language = match language {
                Some(_) => None,
                None => Some(fence.to_owned()),
            };
            open = false;
            continue;
        }
        let indented = line.strip_prefix("    ").map(str::trim);
        let begins = |line: &str| {
            line.starts_with("flowgauge ")
                || line.starts_with("cargo ")
                || line.starts_with("python ")
        };
        let command = match language.as_deref() {
            Some("sh") => Some(line.trim()).filter(|l| !l.is_empty() && !l.starts_with('#')),
            Some("console") if !open => line.strip_prefix("$ "),
            Some("console") => Some(line.trim()),
            Some("") => Some(line.trim()).filter(|l| begins(l)),
            None => indented.filter(|l| begins(l)),
            Some(_) => None,
        };
        let Some(command) = command else { continue };
        let (part, continued) = match command.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (command, false),
        };
        match found.last_mut().filter(|_| open) {
            Some(last) => last.text = format!("{} {part}", last.text),
            None => found.push(Documented {
                page: page.to_owned(),
                line: number + 1,
                text: part.to_owned(),
            }),
        }
        open = continued;
    }
    found
}

/// The code between single backticks in a page's prose.
fn inline_code(page: &str) -> Vec<Documented> {
    let text = read(page);
    let (mut found, mut fenced) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let spans = line.split('`').skip(1).step_by(2);
        found.extend(spans.map(|span| Documented {
            page: page.to_owned(),
            line: number + 1,
            text: span.to_owned(),
        }));
    }
    found
}

fn is_parsed_only(command: &Documented) -> bool {
    let words = command.arguments().unwrap_or_default().join(" ");
    PARSED_ONLY.iter().any(|(known, _)| words == *known)
}

#[test]
fn documented_commands_parse() {
    for command in pages().iter().flat_map(|page| commands(page)) {
        let Some(arguments) = command.arguments() else {
            let words = command.words();
            let known =
                |(name, _): &(&str, &str)| words.first().is_some_and(|w| w.starts_with(name));
            assert!(
                OTHER_PROGRAMS.iter().any(known),
                "{}: neither this program nor one of OTHER_PROGRAMS",
                command.place()
            );
            continue;
        };
        if let Err(error) = Cli::try_parse_from(&arguments) {
            panic!("{}\n{error}", command.place());
        }
        for file in arguments.iter().filter(|a| a.starts_with("configs/")) {
            assert!(
                root().join(file).exists(),
                "{}: no such file",
                command.place()
            );
        }
    }
}

#[test]
fn commands_that_are_only_parsed_stand_in_the_docs() {
    let all: Vec<Documented> = pages().iter().flat_map(|page| commands(page)).collect();
    for (command, reason) in PARSED_ONLY {
        let words = |c: &Documented| c.arguments().unwrap_or_default().join(" ");
        assert!(
            all.iter().any(|c| words(c) == *command),
            "no page has `{command}` ({reason}): remove it from PARSED_ONLY"
        );
    }
}

/// Each page's commands are run in order, in a folder that has the files of the README's example: a card, and `test.npy`.
#[test]
fn documented_commands_run() {
    let mut run = 0;
    for page in pages() {
        let folder = folder();
        let at = folder.path();
        place_example(at);
        for command in commands(&page).iter().filter(|c| !is_parsed_only(c)) {
            let Some(arguments) = command.arguments() else {
                continue;
            };
            let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
            println!("{}", command.place());
            flowgauge(at, &arguments).is(0);
            run += 1;
        }
    }
    assert!(run >= 4, "only {run} commands were found");
}

/// The flow of the plane as `card.yaml` with its files, and some of its held-out points as `test.npy`.
fn place_example(at: &Path) {
    for entry in std::fs::read_dir(models("moons")).expect("moons").flatten() {
        std::fs::copy(entry.path(), at.join(entry.file_name())).expect("copied");
    }
    let heldout = flowgauge::data::Dataset::read(&at.join("heldout.npy")).expect("held-out data");
    let points: Vec<f32> = heldout
        .values
        .to_array()
        .iter()
        .take(2 * 48)
        .map(|v| *v as f32)
        .collect();
    write(at, "test.npy", npy("<f4", "(48, 2)", &le(&points)));
}

#[test]
fn verbs_and_options_in_prose_exist() {
    let mut program = Cli::command();
    // Options of all verbs belong to each of them after this.
    program.build();
    for span in pages().iter().flat_map(|page| inline_code(page)) {
        let mut words = span.text.split_whitespace();
        let verb = match words.next() {
            Some("flowgauge") => words.next(),
            Some(word) if word.starts_with("--") => None,
            _ => continue,
        };
        let verbs: Vec<&clap::Command> = match verb {
            Some(names) => names
                .split('|')
                .map(|n| n.trim_end_matches(','))
                .collect::<Vec<_>>(),
            None => Vec::new(),
        }
        .iter()
        .map(|name| {
            program
                .find_subcommand(name)
                .unwrap_or_else(|| panic!("{}: no verb is called `{name}`", span.place()))
        })
        .collect();
        for option in span
            .text
            .split([' ', '[', ']', '=', '|'])
            .filter(|w| w.starts_with("--"))
        {
            let name = option.trim_start_matches("--");
            let has = |verb: &clap::Command| {
                verb.get_opts().any(|o| o.get_long() == Some(name))
                    || verb.get_arguments().any(|o| o.get_long() == Some(name))
                    || ["help", "version"].contains(&name)
            };
            let known = match verbs.is_empty() {
                true => program.get_subcommands().any(has),
                false => verbs.iter().all(|verb| has(verb)),
            };
            assert!(
                known || OTHER_OPTIONS.iter().any(|(other, _)| *other == option),
                "{}: no such option as {option}",
                span.place()
            );
        }
    }
}
