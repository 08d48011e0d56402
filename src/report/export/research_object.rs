//! A run's directory as a research object: `ro-crate-metadata.json` of RO-Crate 1.1.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::sentence::{VERSION, how_measured};
use super::{ExportSource, ExportedFile};

/// The name of the file, which must lie in the run's directory.
const METADATA: &str = "ro-crate-metadata.json";

/// The metadata: the run as a data set with its files, the models and the data that it used by their
/// hashes, and the program that made it.
pub(super) fn crate_metadata(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    if source.run_files.is_empty() {
        bail!("--export ro-crate: it describes one run directory; name exactly one");
    }
    let facts = source.facts;
    let files: Vec<&(String, u64)> = source
        .run_files
        .iter()
        .filter(|(name, _)| name != METADATA)
        .collect();
    let id = |name: &str| json!({ "@id": name });
    let input = |name: &str, hash: &str| format!("#{hash}-{}", name.replace(['/', '\\'], "-"));
    let mut graph = vec![
        json!({
            "@id": METADATA,
            "@type": "CreativeWork",
            "conformsTo": { "@id": "https://w3id.org/ro/crate/1.1" },
            "about": { "@id": "./" },
        }),
        json!({
            "@id": "./",
            "@type": "Dataset",
            "name": format!("flowgauge run {}", facts.name),
            "description": how_measured(source),
            "datePublished": source.date,
            "license": { "@id": "#licence" },
            "hasPart": files.iter().map(|(name, _)| id(&percent_encoded(name))).collect::<Vec<_>>(),
            "mentions": { "@id": "#measurement" },
        }),
        json!({
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": "as its owner says",
            "description": "The licence of these results is for their owner to say.",
        }),
        json!({
            "@id": "#flowgauge",
            "@type": "SoftwareApplication",
            "name": "flowgauge",
            "softwareVersion": VERSION,
        }),
    ];
    let mut inputs: Vec<Value> = Vec::new();
    for model in &facts.models {
        for (name, hash) in &model.files {
            let at = input(name, hash);
            if !graph.iter().any(|entity| entity["@id"] == at.as_str()) {
                graph.push(json!({
                    "@id": at,
                    "@type": "CreativeWork",
                    "name": format!("{} of the model {}", name, model.name),
                    "sha256": hash,
                }));
            }
            inputs.push(id(&at));
        }
    }
    for data in &facts.data {
        let at = input(&data.file, &data.sha256);
        if !graph.iter().any(|entity| entity["@id"] == at.as_str()) {
            graph.push(json!({
                "@id": at,
                "@type": "CreativeWork",
                "name": format!("{} ({} samples)", data.file, data.samples),
                "sha256": data.sha256,
            }));
        }
        inputs.push(id(&at));
    }
    graph.push(json!({
        "@id": "#measurement",
        "@type": "CreateAction",
        "name": "flowgauge run",
        "instrument": { "@id": "#flowgauge" },
        "object": inputs,
        "result": { "@id": "./" },
        "endTime": source.date,
    }));
    for (name, size) in files {
        graph.push(json!({
            "@id": percent_encoded(name),
            "@type": "File",
            "name": name,
            "contentSize": size.to_string(),
            "encodingFormat": encoding_format(name),
        }));
    }
    let document = json!({
        "@context": ["https://w3id.org/ro/crate/1.1/context", { "sha256": "https://w3id.org/ro/terms/workflow-run#sha256" }],
        "@graph": graph,
    });
    let text = serde_json::to_string_pretty(&document)? + "\n";
    Ok(vec![ExportedFile::text(METADATA, text)])
}

/// The media type of a file of a run.
fn encoding_format(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("jsonl") => "application/jsonl",
        Some("yaml") => "application/yaml",
        Some("html") => "text/html",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("pdf") => "application/pdf",
        _ => "application/octet-stream",
    }
}

/// A relative path as a URI.
fn percent_encoded(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}
