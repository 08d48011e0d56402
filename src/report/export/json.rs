//! Every table and what is known of the run, as one JSON document.

use anyhow::Result;
use serde_json::json;

use super::sentence::{VERSION, bibtex, how_measured};
use super::{ExportSource, ExportedFile};

/// The format number of the document.
const FORMAT: u32 = 1;

/// Numbers are numbers and absent values are null; the keys of a row are the columns of its CSV file.
pub(super) fn json_document(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let facts = source.facts;
    let tables: serde_json::Map<String, serde_json::Value> = source
        .tables
        .to_json(|_| true)?
        .into_iter()
        .filter(|(_, rows)| rows.as_array().is_some_and(|rows| !rows.is_empty()))
        .map(|(name, rows)| (name.to_owned(), rows))
        .collect();
    let models: Vec<serde_json::Value> = (facts.models.iter())
        .map(|model| {
            let files: serde_json::Map<String, serde_json::Value> = (model.files.iter())
                .map(|(name, hash)| (name.clone(), hash.clone().into()))
                .collect();
            json!({
                "name": model.name,
                "dim": model.dim,
                "path": model.path,
                "prediction": model.prediction,
                "prior": model.prior,
                "parameters": model.parameters,
                "bits_per_dim": model.convention,
                "sha256": files,
            })
        })
        .collect();
    let data: Vec<serde_json::Value> = (facts.data.iter())
        .map(|data| {
            json!({
                "model": data.model,
                "file": data.file,
                "sha256": data.sha256,
                "samples": data.samples,
                "preprocessing": data.preprocessing,
            })
        })
        .collect();
    let document = json!({
        "flowgauge": VERSION,
        "format": FORMAT,
        "run": facts.name,
        "seed": facts.seed,
        "date": source.date,
        "models": models,
        "data": data,
        "how_measured": how_measured(source),
        "bibtex": bibtex(&source.date[..source.date.len().min(4)]),
        "claims": source.claims,
        "tables": tables,
    });
    let text = serde_json::to_string_pretty(&document)? + "\n";
    Ok(vec![ExportedFile::text("run.json", text)])
}
