//! The differences between two plans.

use super::Plan;

/// The keys in which two plans differ, each as `key: ours, there theirs`. The list is empty if both
/// plans describe the same work.
pub fn plan_differences(ours: &Plan, theirs: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    if ours == theirs {
        return found;
    }
    let (a, b) = (serde_json::to_value(ours), serde_json::to_value(theirs));
    if let (Ok(a), Ok(b)) = (a, b) {
        collect_json_differences("", &a, &b, &mut found);
    }
    found
}

/// Appends the differences between two JSON values to `found`. `at` is the dotted key of the
/// values.
fn collect_json_differences(
    at: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
    found: &mut Vec<String>,
) {
    use serde_json::Value;
    let below = |key: &str| {
        if at.is_empty() {
            key.to_owned()
        } else {
            format!("{at}.{key}")
        }
    };
    // These keys follow from the card and its files, whose hashes are compared anyway. Plans of
    // earlier versions lack some of them, and word the sentences differently. That is no
    // difference.
    let is_derived =
        |key: &String, x: &serde_json::Map<String, Value>, y: &serde_json::Map<String, Value>| {
            ["truncation", "times", "kinks", "treatment", "notes"].contains(&key.as_str())
                || (key == "constants" && !(x.contains_key(key) && y.contains_key(key)))
        };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x
                .keys()
                .chain(y.keys().filter(|k| !x.contains_key(*k)))
                .filter(|k| !is_derived(k, x, y))
            {
                collect_json_differences(
                    &below(key),
                    &x.get(key).cloned().unwrap_or_default(),
                    &y.get(key).cloned().unwrap_or_default(),
                    found,
                );
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().for_each(|(i, (x, y))| {
                collect_json_differences(&below(&i.to_string()), x, y, found)
            });
        }
        (Value::Array(x), Value::Array(y)) => {
            found.push(format!("{at}: {} entries, there {}", x.len(), y.len()))
        }
        _ if a != b => found.push(format!("{at}: {a}, there {b}")),
        _ => {}
    }
}
