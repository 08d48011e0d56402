//! `schema` through the program: what is parsed is valid, and what is refused by its form is not.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cli::{flowgauge, refused};

/// A schema as the program prints it.
struct Schema(Value);

impl Schema {
    fn of(kind: &str) -> Schema {
        let text = flowgauge(Path::new("."), &["schema", kind])
            .is(0)
            .stdout
            .clone();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            value["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        Schema(value)
    }

    fn allows(&self, text: &str) -> Result<(), String> {
        // Our reader takes the word `null` as a key like any other.
        let text = text.replace(" null:", " \"null\":");
        self.check(&self.0, &serde_yaml::from_str(&text).expect("YAML"), "$")
            .map(drop)
    }

    /// Draft 2020-12, as far as our schemas use it; an unknown keyword is an error of this test. The names of the
    /// properties that were evaluated.
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<Vec<String>, String> {
        let Value::Object(keywords) = schema else {
            return if *schema == Value::Bool(true) {
                Ok(Vec::new())
            } else {
                Err(format!("{at}: nothing is allowed"))
            };
        };
        let is = |name: &str| match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("type {other}"),
        };
        let number = |limit: &Value| value.as_f64().zip(limit.as_f64());
        let length = |limit: &Value| value.as_array().map(|a| a.len() as u64).zip(limit.as_u64());
        let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let object = value.as_object();
        let mut seen: Vec<String> = Vec::new();
        for (keyword, wanted) in keywords {
            let right = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" | "format" => true,
                // After all others, below.
                "additionalProperties" | "unevaluatedProperties" => true,
                "$ref" => {
                    let place = wanted
                        .as_str()
                        .and_then(|r| r.strip_prefix('#'))
                        .expect("a place in this schema");
                    seen.extend(self.check(self.0.pointer(place).expect(place), value, at)?);
                    true
                }
                "type" => wanted
                    .as_str()
                    .map_or_else(|| list(wanted).iter().filter_map(Value::as_str).any(is), is),
                "const" => value == wanted,
                "enum" => list(wanted).contains(value),
                "minimum" => number(wanted).is_none_or(|(v, least)| v >= least),
                "maximum" => number(wanted).is_none_or(|(v, most)| v <= most),
                "pattern" => value
                    .as_str()
                    .is_none_or(|text| matches(wanted.as_str().expect("a pattern"), text)),
                "minProperties" => {
                    object.is_none_or(|o| o.len() as u64 >= wanted.as_u64().expect("a number"))
                }
                "maxProperties" => {
                    object.is_none_or(|o| o.len() as u64 <= wanted.as_u64().expect("a number"))
                }
                "minItems" => length(wanted).is_none_or(|(n, least)| n >= least),
                "maxItems" => length(wanted).is_none_or(|(n, most)| n <= most),
                "required" => object.is_none_or(|o| {
                    list(wanted)
                        .iter()
                        .all(|k| o.contains_key(k.as_str().expect("a key")))
                }),
                "items" => {
                    for (i, item) in list(value).iter().enumerate() {
                        self.check(wanted, item, &format!("{at}.{i}"))?;
                    }
                    true
                }
                "properties" => {
                    for (key, schema) in wanted.as_object().into_iter().flatten() {
                        if let Some(inner) = object.and_then(|o| o.get(key)) {
                            self.check(schema, inner, &format!("{at}.{key}"))?;
                            seen.push(key.clone());
                        }
                    }
                    true
                }
                "allOf" => {
                    for part in list(wanted) {
                        seen.extend(self.check(&part, value, at)?);
                    }
                    true
                }
                "anyOf" | "oneOf" => {
                    let found: Vec<_> = list(wanted)
                        .iter()
                        .map(|part| self.check(part, value, at))
                        .collect();
                    let mut fine = found.iter().flatten();
                    let first = fine.next();
                    if first.is_none() {
                        let why: Vec<&String> =
                            found.iter().filter_map(|f| f.as_ref().err()).collect();
                        return Err(format!("{at}: no form fits {value}: {why:?}"));
                    }
                    seen.extend(first.into_iter().flatten().cloned());
                    keyword == "anyOf" || fine.next().is_none()
                }
                other => panic!("{at}: keyword {other}"),
            };
            if !right {
                return Err(format!("{at}: {value} is not {keyword} {wanted}"));
            }
        }
        for keyword in ["additionalProperties", "unevaluatedProperties"] {
            let Some(rest) = keywords.get(keyword) else {
                continue;
            };
            for (key, inner) in object
                .into_iter()
                .flatten()
                .filter(|(key, _)| !seen.contains(key))
            {
                self.check(rest, inner, &format!("{at}.{key}"))?;
            }
        }
        Ok(seen)
    }
}

/// Patterns of the forms `^(a|b)\\(.*\\)$` and `\\.a$`, the only ones that our schemas have.
fn matches(pattern: &str, text: &str) -> bool {
    if let Some(ending) = pattern.strip_prefix('\\').and_then(|p| p.strip_suffix('$')) {
        return text.ends_with(ending);
    }
    let names = pattern
        .strip_prefix("^(")
        .and_then(|p| p.strip_suffix(")\\(.*\\)$"))
        .expect(pattern)
        .replace('\\', "");
    text.ends_with(')')
        && names.split('|').any(|n| {
            text.strip_prefix(n)
                .is_some_and(|rest| rest.starts_with('('))
        })
}

fn files(folder: &str, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder)
            .expect("a folder")
            .flatten()
            .map(|e| e.path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_file_of_the_project_is_valid() {
    let card = Schema::of("card");
    let named_card = |p: &Path| p.file_name().is_some_and(|n| n == "card.yaml");
    let cards = [files("models", named_card), files("tests/data", named_card)].concat();
    assert!(cards.len() >= 5, "{cards:?}");
    for path in cards {
        card.allows(&read(&path))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let (config, claims) = (Schema::of("config"), Schema::of("claims"));
    let (claimed, configs): (Vec<_>, Vec<_>) =
        files("configs", |p| p.extension().is_some_and(|e| e == "yaml"))
            .into_iter()
            .partition(|p| p.to_string_lossy().contains("claims"));
    assert!(!claimed.is_empty());
    assert!(configs.len() >= 4, "{configs:?}");
    for (schema, paths) in [(&config, configs), (&claims, claimed)] {
        for path in paths {
            schema
                .allows(&read(&path))
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

/// The program and the schema say the same of each.
#[test]
fn both_forms_of_an_entry_are_known_and_no_other() {
    let config = Schema::of("config");
    let text = |estimator: &str, more: &str| {
        format!(
            "name: a\nestimators: [{estimator}]\nsolvers: [euler]\nlikelihood: [{{model: m, data: x{more}}}]\n"
        )
    };
    for (estimator, more) in [
        ("exact", ""),
        (
            "{hutchinson: {probes: 8, distribution: sphere, along: fresh}}",
            ", budget: true",
        ),
        ("{hutch++: {matvecs: 9}}", ", budget: {samples: 4}"),
        (
            "{flow-map: {map: m, steps: 2, grid: karras}}",
            ", stein: {head: h}",
        ),
        ("{learned: {head: h}}", ", stein: [{head: h, score: model}]"),
        (
            "{debiased: {head: h}}",
            ", dequantization: {importance: {draws: 4}}, lattice: allow",
        ),
        (
            "closed-form",
            ", solvers: [{dopri5: {rtol: 1.0e-6, controller: {coefficients: [0.7, 0.4, 0.0]}}}]",
        ),
        ("exact", ", density: {x: [-1, 1], y: [-1, 1]}"),
    ] {
        config
            .allows(&text(estimator, more))
            .unwrap_or_else(|e| panic!("{estimator} {more}: {e}"));
    }
    for (estimator, more) in [
        ("nope", ""),
        ("{nope: {}}", ""),
        ("{hutchinson: {probs: 1}}", ""),
        ("{hutchinson: {probes: -1}}", ""),
        ("{hutchinson: {distribution: cauchy}}", ""),
        ("{hutchinson: {}, exact: {}}", ""),
        ("{}", ""),
        ("exact", ", budget: some"),
        ("exact", ", budget: {sample: 4}"),
        ("exact", ", stein: {heads: h}"),
        ("exact", ", lattice: perhaps"),
        ("exact", ", solvers: [{dopri5: {rtoll: 1}}]"),
        ("exact", ", sample: 4"),
        ("exact", ", density: {x: [-1, 0, 1], y: [-1, 1]}"),
        ("exact", "}, {model: m"),
    ] {
        assert!(
            config.allows(&text(estimator, more)).is_err(),
            "{estimator} {more}"
        );
    }
    let samplers = |sampler: &str| {
        format!(
            "name: a\nsamples: [{{model: m, samplers: [{sampler}], count: 3, reference: x, metrics: [frechet]}}]\n"
        )
    };
    for sampler in [
        "{heun: {steps: 3, s_churn: 4}}",
        "{dpmpp-2m: {steps: 3, schedule: uniform}}",
        "unipc",
        "{steindiff: {sampler: {euler: {steps: 2}}, mode: literal, gate: [0.5, 2]}}",
    ] {
        config
            .allows(&samplers(sampler))
            .unwrap_or_else(|e| panic!("{sampler}: {e}"));
    }
    for sampler in [
        "{heun: {step: 3}}",
        "{dpmpp-2m: {stepz: 3}}",
        "{steindiff: {sampler: nope}}",
        "{unipc: {order: x}}",
    ] {
        assert!(config.allows(&samplers(sampler)).is_err(), "{sampler}");
    }
}

#[test]
fn wrong_cards_and_claims_are_invalid() {
    let card = Schema::of("card");
    let text = "name: a\nshape: [2]\nnetwork: {file: v.onnx, inputs: {x: x, time: t}, output: v, prediction: velocity, \
                constants: {label: 3, context: c.npy, flag: true, list: [1, 2]}}\npath: {kind: flow-matching, data_at: 1}\n";
    card.allows(text).expect("right");
    for (from, to) in [
        ("name: a\n", ""),
        ("shape: [2]", "shape: 2"),
        ("prediction: velocity", "prediction: speed"),
        ("kind: flow-matching", "kind: nowhere"),
        ("data_at: 1", "data_on: 1"),
        ("file: v.onnx", "files: v.onnx"),
        ("label: 3", "label: {a: 3}"),
        ("path:", "paths:"),
    ] {
        assert!(
            text.contains(from) && card.allows(&text.replacen(from, to, 1)).is_err(),
            "{to}"
        );
    }
    let claims = Schema::of("claims");
    let text = "confidence: 0.9\nclaims:\n  - {table: summary, where: {estimator: exact, n: 4}, column: nats, at-least: 0}\n";
    claims.allows(text).expect("right");
    for (from, to) in [
        ("at-least: 0", "at-least: much"),
        ("table: summary, ", ""),
        ("column:", "columns:"),
        ("n: 4", "n: [4]"),
    ] {
        assert!(
            text.contains(from) && claims.allows(&text.replacen(from, to, 1)).is_err(),
            "{to}"
        );
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    refused(folder.path(), &["schema"], &["required"]);
    refused(
        folder.path(),
        &["schema", "nope"],
        &["nope", "config, card, claims"],
    );
}
