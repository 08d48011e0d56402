//! Properties of pure functions over generated inputs: what is outstanding, what a torn journal keeps, how shards divide a
//! plan, and that labels are read back as what they stand for.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use flowgauge::dequantization::Dequantization;
use flowgauge::divergence::DivergenceEstimator;
use flowgauge::journal::{Event, Journal, JournalWriter, append_event, outstanding_trials};
use flowgauge::metric::Metric;
use flowgauge::plan::{Plan, Shard};
use flowgauge::registry::kind_label;
use flowgauge::sample::Sampler;
use flowgauge::solve::Solver;
use flowgauge::yaml::from_yaml_str;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cli::folder;

/// Generated cases of each property; nothing is written beside the sources where one fails.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(count)
    }
}

/// The trials of a plan, at most.
const TRIALS: usize = 8;

fn id(number: usize) -> String {
    // Multiplied by an odd number, so that the order of ids is not that of the plan.
    format!(
        "{:012x}",
        (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4b) & 0xffff_ffff_ffff
    )
}

fn sample_trial(number: usize) -> Value {
    let work =
        json!({ "sample": { "model": 0, "sampler": { "heun": {} }, "first": number, "count": 1 } });
    json!({ "id": id(number), "work": work })
}

/// A plan as `plan.json` has it.
fn plan(trials: &[Value]) -> Plan {
    let plan =
        json!({ "format": 1, "name": "a", "seed": 0, "models": [], "data": [], "trials": trials });
    serde_json::from_value(plan).expect("a plan")
}

fn event(trial: usize, finished: bool) -> Event {
    let (trial, seconds) = (id(trial), 0.5);
    match finished {
        true => Event::Finished {
            trial,
            rows: 1,
            sha256: "0".to_owned(),
            array_sha256: None,
            steps_sha256: None,
            under: None,
            seconds,
        },
        false => Event::Failed {
            trial,
            error: "a sentence\nof two lines".to_owned(),
            seconds,
        },
    }
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).expect("a line") + "\n"
}

fn read(folder: &Path) -> Journal {
    Journal::read(folder).expect("a journal")
}

/// Trials that ended, well or not, in the order of their lines: also twice, as after `--retry`, and also such as the plan
/// does not have.
fn endings() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..TRIALS + 2, any::<bool>()), 0..20)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn outstanding_trials_are_planned_less_recorded(planned in 0..=TRIALS, endings in endings()) {
        let plan = plan(&(0..planned).map(sample_trial).collect::<Vec<_>>());
        let folder = folder();
        let text: String = endings.iter().map(|(trial, well)| line(&event(*trial, *well))).collect();
        std::fs::write(JournalWriter::Alone.journal_file(folder.path()), &text).expect("written");
        let journal = read(folder.path());
        let last = |trial: usize| endings.iter().rev().find(|(t, _)| *t == trial).map(|(_, well)| *well);
        for retry in [false, true] {
            let expected: Vec<String> = (0..planned)
                .filter(|trial| match last(*trial) {
                    None => true,
                    Some(well) => retry && !well,
                })
                .map(id)
                .collect();
            let found: Vec<&str> = outstanding_trials(&plan, &journal, retry).iter().map(|t| t.id.as_str()).collect();
            prop_assert_eq!(found, expected);
        }
        // Going on finishes what is outstanding, and going on again finds nothing to do.
        let rest: Vec<Event> = outstanding_trials(&plan, &journal, true)
            .iter()
            .map(|t| (0..planned).find(|n| id(*n) == t.id).expect("planned"))
            .map(|trial| event(trial, true))
            .collect();
        let more: String = rest.iter().map(line).collect();
        std::fs::write(JournalWriter::Alone.journal_file(folder.path()), text + &more).expect("written");
        let journal = read(folder.path());
        prop_assert!(outstanding_trials(&plan, &journal, true).is_empty());
        prop_assert_eq!(read(folder.path()), journal);
    }

    #[test]
    fn torn_line_loses_no_earlier_one(endings in endings(), torn in (0..TRIALS, any::<bool>()), cut in any::<prop::sample::Index>()) {
        let folder = folder();
        let file = JournalWriter::Alone.journal_file(folder.path());
        let whole: String = endings.iter().map(|(trial, well)| line(&event(*trial, *well))).collect();
        std::fs::write(&file, &whole).expect("written");
        let before = read(folder.path());
        let last = line(&event(torn.0, torn.1));
        // All that a kill can leave of it: from nothing to everything but the end of the line.
        let left = &last.as_bytes()[..cut.index(last.len())];
        std::fs::write(&file, [whole.as_bytes(), left].concat()).expect("written");
        prop_assert_eq!(&read(folder.path()), &before);
        // And the next line is whole again.
        append_event(&file, &event(torn.0, torn.1)).expect("appended");
        prop_assert_eq!(std::fs::read_to_string(&file).expect("read"), whole + &last);
    }

    #[test]
    fn shards_partition_a_plan(
        planned in 1..=TRIALS,
        groups in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 1..4)), 0..5),
        count in 1..10_usize,
    ) {
        let statistic = |(number, (contrast, parts)): (usize, &(bool, Vec<prop::sample::Index>))| {
            let parts: Vec<String> = parts.iter().map(|part| id(part.index(planned))).collect();
            let sampler = json!({ "heun": {} });
            let work = match contrast {
                true => json!({ "contrast": {
                    "model": 0, "sampler": sampler, "baseline": sampler, "parts": parts[..1], "baseline_parts": parts[1..],
                    "reference": 0, "extractor": null, "metrics": [],
                } }),
                false => json!({ "metrics": {
                    "model": 0, "sampler": sampler, "parts": parts, "floor": null, "reference": 0, "extractor": null,
                    "metrics": [],
                } }),
            };
            (json!({ "id": id(100 + number), "work": work }), parts)
        };
        let statistics: Vec<(Value, Vec<String>)> = groups.iter().enumerate().map(statistic).collect();
        let trials: Vec<Value> =
            (0..planned).map(sample_trial).chain(statistics.iter().map(|(trial, _)| trial.clone())).collect();
        let plan = plan(&trials);
        let shares: Vec<BTreeSet<&str>> = (1..=count).map(|index| Shard { index, count }.trial_ids(&plan)).collect();
        let all: BTreeSet<&str> = shares.iter().flatten().copied().collect();
        prop_assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), plan.trials.len(), "no trial twice");
        prop_assert_eq!(all, plan.trials.iter().map(|t| t.id.as_str()).collect::<BTreeSet<_>>(), "every trial");
        for (trial, parts) in &statistics {
            let own = trial["id"].as_str().expect("an id");
            let share = shares.iter().find(|share| share.contains(own)).expect("every trial");
            prop_assert!(parts.iter().all(|part| share.contains(part.as_str())), "samples go with their statistics");
        }
    }

    #[test]
    fn labels_are_read_back(draws in prop::collection::vec((0..4_u32, 1..200_u32), 24)) {
        read_back(&DivergenceEstimator::names(), &draws, DivergenceEstimator::label)?;
        read_back(Solver::NAMES, &draws, Solver::label)?;
        read_back(Sampler::NAMES, &draws, Sampler::label)?;
        read_back(Metric::NAMES, &draws, |kind: &Metric| {
            kind_label(kind.name(), kind, &Metric::from_name(kind.name()).expect("a name"))
        })?;
        read_back(Dequantization::NAMES, &draws, |kind: &Dequantization| {
            kind_label(kind.name(), kind, &Dequantization::from_name(kind.name()).expect("a name"))
        })?;
    }
}

/// Asserts that the label of each kind of a family, with some of its parameters changed, parses to that kind.
fn read_back<Kind>(
    names: &[&str],
    draws: &[(u32, u32)],
    label: impl Fn(&Kind) -> String,
) -> Result<(), TestCaseError>
where
    Kind: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug,
{
    for name in names {
        let default: Kind = from_yaml_str(name).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut entry = serde_json::to_value(&default).expect("a kind");
        change_parameters(&mut entry, draws);
        // Some changes make no kind.
        for kind in serde_json::from_value(entry).into_iter().chain([default]) {
            let text = label(&kind);
            let parsed: Kind =
                from_yaml_str(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(&parsed, &kind, "{}", text);
        }
    }
    Ok(())
}

/// Changes numbers and flags among the parameters of `{name: {…}}`, as the draws say: what to do, and a number.
fn change_parameters(entry: &mut Value, draws: &[(u32, u32)]) {
    let parameters = entry
        .as_object_mut()
        .and_then(|map| map.values_mut().next())
        .and_then(Value::as_object_mut);
    let Some(parameters) = parameters else { return };
    for (value, (action, number)) in parameters.values_mut().zip(draws.iter().cycle()) {
        match value {
            _ if *action == 0 => {}
            Value::Bool(flag) => *flag = !*flag,
            Value::Number(old) if old.is_f64() => {
                let scale = [1.0, 1e-3, 1e-7][*action as usize - 1];
                *value = json!(f64::from(*number) * scale);
            }
            Value::Number(_) => *value = json!(number),
            _ => {}
        }
    }
}
