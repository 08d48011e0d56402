//! Files named `hf://`, from a server on this machine that answers as the Hub does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cli::{Done, command, finish, folder, listing, write};

/// The commit of every revision of the server.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How long the server takes for a file of `lab/slow`: longer than the Hub's library waits for another
/// process.
const SLOW: Duration = Duration::from_secs(8);

/// A server of repositories, which writes down the paths that were asked for.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Serves files by the path of their request. Those of `lab/private` need the token `secret`.
    fn serve(files: BTreeMap<String, Vec<u8>>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let files = Arc::new(files);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log) = (files.clone(), log.clone());
                // A client that hangs up ends its own request alone.
                std::thread::spawn(move || drop(answer(stream, &files, &log)));
            }
        });
        Hub { endpoint, asked }
    }

    /// The number of requests so far.
    fn requests(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    /// Runs the program with the server as the Hub and `home` as the Hub's folder.
    fn run(&self, at: &Path, home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Done {
        let mut call = command(at, args);
        for name in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
        ] {
            call.env_remove(name);
        }
        // The server is on this machine, which a proxy would not find.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            call.env_remove(name).env_remove(name.to_lowercase());
        }
        call.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", home);
        for (name, value) in variables {
            call.env(name, value);
        }
        finish(call)
    }
}

fn answer(
    stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut first_byte_only, mut known) = (false, false);
    for line in lines {
        let line = line?.to_lowercase();
        first_byte_only |= line == "range: bytes=0-0";
        known |= line == "authorization: bearer secret";
        if line.is_empty() {
            break;
        }
    }
    log.lock().expect("no panic").push(path.clone());
    if path.starts_with("/lab/slow/") && !first_byte_only {
        std::thread::sleep(SLOW);
    }
    let mut stream = stream;
    let status = match files.get(&path) {
        _ if path.starts_with("/lab/private/") && !known => "401 Unauthorized",
        None => "404 Not Found",
        Some(bytes) => {
            let part = if first_byte_only { &bytes[..1] } else { bytes };
            let etag: u64 = bytes
                .iter()
                .fold(7, |a, b| a.wrapping_mul(31) + u64::from(*b));
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\netag: \"{etag:x}\"\r\n\
                 content-range: bytes 0-{}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                part.len() - 1,
                bytes.len(),
                part.len()
            )?;
            return stream.write_all(part);
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

fn moons() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moons")
}

/// The repositories of the tests: a model, its data at a tag, a private copy and a config.
fn repositories() -> Hub {
    let mut files = BTreeMap::new();
    for name in ["card.yaml", "velocity.onnx", "stad.onnx", "lsd.onnx"] {
        let bytes = std::fs::read(moons().join(name)).expect("a model of the project");
        files.insert(format!("/lab/moons/resolve/main/{name}"), bytes.clone());
        files.insert(format!("/lab/moons/resolve/{COMMIT}/{name}"), bytes.clone());
        files.insert(format!("/lab/slow/resolve/main/{name}"), bytes.clone());
        files.insert(format!("/lab/private/resolve/main/{name}"), bytes.clone());
        files.insert(format!("/lab/private/resolve/{COMMIT}/{name}"), bytes);
    }
    let data = std::fs::read(moons().join("heldout.npy")).expect("data of the project");
    files.insert(
        "/datasets/lab/points/resolve/v1/sets/heldout.npy".to_owned(),
        data,
    );
    Hub::serve(files)
}

const LIKELIHOOD: [&str; 4] = [
    "likelihood",
    "--divergence=exact",
    "--solver={heun: {steps: 4}}",
    "--quiet",
];

#[test]
fn models_and_data_are_fetched_once_and_give_the_same_table() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("hub home"));
    let local = [
        "--model",
        &moons().join("card.yaml").display().to_string(),
        "--data",
        &moons().join("heldout.npy").display().to_string(),
        "--out=local.csv",
    ]
    .map(str::to_owned);
    let local: Vec<&str> = local.iter().map(String::as_str).collect();
    hub.run(at, &home, &[], &[&LIKELIHOOD[..], &local].concat())
        .is(0);
    assert_eq!(hub.requests(), 0);

    let remote = [
        "--model=hf://lab/moons/card.yaml",
        "--data=hf://datasets/lab/points/sets/heldout.npy@v1",
        "--out=remote.csv",
    ];
    let args = [&LIKELIHOOD[..], &remote].concat();
    let first = hub.run(at, &home, &[], &args);
    first
        .is(0)
        .says(&["fetching card.yaml of lab/moons at main"]);
    let read = |name: &str| std::fs::read(at.join(name)).expect("a table");
    assert_eq!(read("local.csv"), read("remote.csv"));
    // The networks that the card names come from the commit of the card.
    let asked = hub.asked.lock().expect("no panic").clone();
    let network = format!("/lab/moons/resolve/{COMMIT}/velocity.onnx");
    assert!(asked.contains(&network), "{asked:?}");

    let requests = hub.requests();
    for variables in [&[][..], &[("HF_HUB_OFFLINE", "1")]] {
        let again = hub.run(at, &home, variables, &args);
        again.is(0);
        assert!(!again.stderr.contains("fetching"), "{}", again.stderr);
    }
    assert_eq!(hub.requests(), requests);
}

#[test]
fn runs_name_files_of_the_hub_and_are_verified() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("home"));
    write(
        at,
        "run.yaml",
        "name: hub\nestimators: [exact]\nsolvers: [{heun: {steps: 4}}]\nlikelihood:\n\
         - {model: hf://lab/moons/card.yaml@main, data: 'hf://datasets/lab/points@v1/sets/heldout.npy', \
         samples: 16}\n",
    );
    hub.run(at, &home, &[], &["run", "run.yaml", "--out=done"])
        .is(0);
    let plan = std::fs::read_to_string(at.join("done/plan.json")).expect("a plan");
    for hash in ["heldout", "velocity.onnx", "sha256"] {
        assert!(plan.contains(hash), "{plan}");
    }
    // What was cleared from the cache is fetched again, at the commit that the run used.
    let snapshot = home.join("hub/models--lab--moons/snapshots").join(COMMIT);
    std::fs::remove_file(snapshot.join("velocity.onnx")).expect("it was fetched");
    hub.run(at, &home, &[], &["verify", "done"]).is(0);
    assert!(snapshot.join("velocity.onnx").exists());
}

#[test]
fn a_card_names_networks_of_the_hub() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("home"));
    let card = std::fs::read_to_string(moons().join("card.yaml")).expect("a card");
    let card = card.replace("file: ", "file: hf://lab/moons/");
    write(at, "card.yaml", card);
    let inspected = hub.run(at, &home, &[], &["inspect", "card.yaml"]);
    inspected.is(0);
    assert!(
        inspected.stdout.contains("velocity.onnx"),
        "{}",
        inspected.stdout
    );
}

#[test]
fn a_token_opens_private_repositories() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("home"));
    let args = ["inspect", "hf://lab/private/card.yaml"];
    hub.run(at, &home, &[], &args).is(2).says(&[
        "hf://lab/private/card.yaml",
        "private or gated",
        "HF_TOKEN",
    ]);
    hub.run(at, &home, &[("HF_TOKEN", "wrong")], &args).is(2);
    hub.run(at, &home, &[("HF_TOKEN", "secret")], &args).is(0);
    // The token that the Hub's login stores.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    write(&other, "token", "secret\n");
    hub.run(at, &other, &[], &args).is(0);
}

/// Processes that need the same file at once wait for the one that fetches it.
#[test]
fn processes_wait_for_one_another() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("home"));
    let inspect = || hub.run(at, &home, &[], &["inspect", "hf://lab/slow/velocity.onnx"]);
    std::thread::scope(|scope| {
        let both = [scope.spawn(inspect), scope.spawn(inspect)];
        for one in both {
            one.join().expect("no panic").is(0);
        }
    });
}

#[test]
fn what_cannot_be_fetched_is_refused_by_name() {
    let hub = repositories();
    let folder = folder();
    let (at, home) = (folder.path(), folder.path().join("home"));
    let closed = ("HF_ENDPOINT", "http://127.0.0.1:9");
    for (name, variables, words) in [
        (
            "hf://lab/moons/none.onnx",
            &[][..],
            &["no file none.onnx in lab/moons at revision main"][..],
        ),
        ("hf://lab/moons/card.yaml@v9", &[], &["revision v9"]),
        ("hf://lab/moons", &[], &["expected hf://org/repo/file"]),
        (
            "hf://lab/moons/../../x.onnx",
            &[],
            &["expected hf://org/repo/file"],
        ),
        (
            "hf://lab/moons/card.yaml",
            &[("HF_HUB_OFFLINE", "1")],
            &["HF_HUB_OFFLINE is set"],
        ),
        (
            "hf://lab/moons/card.yaml",
            &[closed],
            &["could not be fetched from http://127.0.0.1:9"],
        ),
    ] {
        let before = listing(at)
            .into_iter()
            .filter(|(path, _)| !path.starts_with(&home))
            .count();
        let done = hub.run(at, &home, variables, &["inspect", name]);
        done.is(2).says(words).says(&[name]);
        let after = listing(at)
            .into_iter()
            .filter(|(path, _)| !path.starts_with(&home))
            .count();
        assert_eq!(before, after);
    }
}
