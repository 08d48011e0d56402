//! The verdicts of claims as JUnit XML, which continuous integration reads.

use std::fmt::Write;

use anyhow::Result;

use super::{ExportSource, ExportedFile, check_has_claims};
use crate::report::text::sanitize_line;

/// A case for each claim. An inconclusive claim is a failure of the type `inconclusive`: it does not hold
/// yet.
pub(super) fn junit_document(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    check_has_claims(source, "junit")?;
    let failed = source
        .claims
        .iter()
        .filter(|claim| claim.verdict != "pass")
        .count();
    let counts = format!(
        "tests=\"{}\" failures=\"{failed}\" errors=\"0\"",
        source.claims.len()
    );
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite \
         name=\"{}\" {counts}>\n",
        xml_text(&source.facts.name)
    );
    for claim in source.claims {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| v.to_string());
        let measured = format!(
            "measured {} in [{}, {}], claimed [{}, {}], by the {}{}",
            number(claim.measured),
            number(claim.low),
            number(claim.high),
            number(claim.claimed_low),
            number(claim.claimed_high),
            claim.decided_by,
            match claim.note.is_empty() {
                true => String::new(),
                false => format!("; {}", claim.note),
            }
        );
        let _ = write!(
            out,
            "    <testcase classname=\"{}.{}\" name=\"{}\"",
            xml_text(&claim.table),
            xml_text(&claim.column),
            xml_text(&claim.claim)
        );
        let _ = match claim.verdict {
            "pass" => writeln!(
                out,
                "><system-out>{}</system-out></testcase>",
                xml_text(&measured)
            ),
            verdict => writeln!(
                out,
                "><failure type=\"{verdict}\" message=\"{}\"/></testcase>",
                xml_text(&measured)
            ),
        };
    }
    out += "  </testsuite>\n</testsuites>\n";
    Ok(vec![ExportedFile::text("claims.xml", out)])
}

/// A text for an attribute or an element. Characters that XML forbids become visible ones.
fn xml_text(text: &str) -> String {
    let mut out = String::new();
    for c in sanitize_line(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            c => out.push(c),
        }
    }
    out
}
