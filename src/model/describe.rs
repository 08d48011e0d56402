//! Descriptions of the inputs that a card gives to its networks besides the state, for plans, pages
//! and `flowgauge inspect`.

use anyhow::{Context, Result};

use super::card::{Card, NetworkInputs};
use super::constants::Constant;
use super::files::FileContent;
use super::loaded::Model;
use super::time::{TimeInput, tensor_format_of};

/// The largest number of list values that a description shows.
const MAX_LISTED_VALUES: usize = 12;

impl Model {
    /// Describes every constant, such as `network.constants.label` and `3`. For a constant in a
    /// file the description has the file's name, shape and hash.
    ///
    /// # Errors
    /// Fails if the file of a constant is not a `.npy` array.
    pub fn describe_constants(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (key, constants) in self.card.constants() {
            for (name, constant) in constants {
                let key = format!("{key}.constants.{name}");
                let words = self.describe_constant(&key, constant);
                let words = words.with_context(|| format!("{}: {key}", self.path.display()))?;
                found.push((key, words));
            }
        }
        Ok(found)
    }

    /// Describes one constant; `key` is the card's key of it.
    fn describe_constant(&self, key: &str, constant: &Constant) -> Result<String> {
        Ok(match constant {
            Constant::Flag(flag) => flag.to_string(),
            Constant::Number(number) => number.to_string(),
            Constant::List(list) => describe_list(list),
            Constant::File(name) => {
                let file = self.files.iter().find(|file| file.key == key);
                let shape = match file.map(|file| &file.content) {
                    Some(FileContent::ConstantArray(bytes)) => {
                        format!(", shape {:?}", constant.values(bytes)?.shape())
                    }
                    _ => String::new(),
                };
                let hash = file.map_or("", |file| &file.sha256);
                format!("{}{shape}, SHA-256 {hash}", name.display())
            }
        })
    }

    /// Describes the conditions, the guidance and the coder of the card, by the card's keys.
    pub fn describe_setting(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (key, conditions) in self.card.conditions() {
            for (name, condition) in conditions {
                let null = match &condition.null {
                    Some(Constant::File(file)) => format!("null {}", file.display()),
                    Some(Constant::Number(number)) => format!("null {number}"),
                    Some(Constant::Flag(flag)) => format!("null {flag}"),
                    Some(Constant::List(list)) => format!("null {}", describe_list(list)),
                    None => "no null value, so that it cannot be left out".to_owned(),
                };
                found.push((
                    format!("{key}.conditions.{name}"),
                    format!(
                        "one value per sample at input `{}`, {null}",
                        condition.input
                    ),
                ));
            }
        }
        if let Some(guidance) = &self.card.guidance {
            let weak = match &guidance.with {
                Some(with) => format!("with {}", with.display()),
                None => "with the null values of the conditions".to_owned(),
            };
            found.push((
                "guidance".to_owned(),
                format!("{} {weak}", guidance.guidance().label()),
            ));
        }
        if let Some(latent) = &self.card.latent {
            found.push((
                "latent".to_owned(),
                format!(
                    "state = {} (latent - {}), decoded samples of shape {:?}",
                    latent.scale, latent.shift, latent.shape
                ),
            ));
        }
        found
    }

    /// Describes the values of every time input, with the card's key of the input. An example is
    /// `network.inputs.time` and `index (int64), from 0 to 999; …`.
    ///
    /// # Errors
    /// Fails if a file is not an ONNX model, or if an input cannot take its values.
    pub fn describe_times(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (network, roles, time) in self.card.time_inputs() {
            let graph = self.graph_at(&format!("{network}.file"))?;
            for (role, name) in roles {
                let key = format!("{network}.inputs.{role}");
                let Some(port) = graph.inputs().into_iter().find(|port| port.name == name) else {
                    continue;
                };
                if let Some(format) = tensor_format_of(port.elem) {
                    let check = if role == "time" {
                        TimeInput::check
                    } else {
                        TimeInput::check_flow_map
                    };
                    check(&time, name, format, &self.curve, &network)
                        .with_context(|| graph.file().to_owned())?;
                }
                let words = match role {
                    "step" | "duration" => {
                        format!("differences between two values of `from` ({})", port.elem)
                    }
                    _ => time.description(&port, &self.curve),
                };
                found.push((key, words));
            }
        }
        Ok(found)
    }
}

/// The roles of inputs, with the graph's names.
type RoleNames<'a> = Vec<(&'static str, &'a str)>;

impl Card {
    /// Returns the time inputs of every network with the network's key: the roles of its inputs,
    /// their names in the graph, and the values that they get.
    fn time_inputs(&self) -> Vec<(String, RoleNames<'_>, TimeInput)> {
        fn time_role(inputs: &NetworkInputs) -> Option<RoleNames<'_>> {
            inputs.time.as_deref().map(|name| vec![("time", name)])
        }
        let mut found = Vec::new();
        found.extend(
            time_role(&self.network.inputs)
                .map(|roles| ("network".to_owned(), roles, self.time_input())),
        );
        for (name, head) in &self.divergence_heads {
            let key = format!("divergence_heads.{name}");
            found.extend(
                time_role(&head.inputs).map(|roles| (key, roles, self.head_time_input(head.time))),
            );
        }
        for (name, map) in &self.flow_maps {
            found.push((
                format!("flow_maps.{name}"),
                map.inputs.time_roles(),
                self.flow_map_time_input(map.time),
            ));
        }
        let closed = self.closed_form.iter();
        found.extend(closed.filter_map(|c| {
            Some((
                "closed_form".to_owned(),
                time_role(&c.inputs)?,
                self.head_time_input(c.time),
            ))
        }));
        found
    }
}

/// Describes the values of a list: all of them, or the first ones with the sum of all.
///
/// Plans on disk hold this text, and a run goes on only if it is the same: do not reword it.
fn describe_list(list: &[f64]) -> String {
    if list.len() <= MAX_LISTED_VALUES {
        return format!("{list:?}");
    }
    let first: Vec<String> = list
        .iter()
        .take(MAX_LISTED_VALUES)
        .map(f64::to_string)
        .collect();
    format!(
        "[{}, …], {} numbers with the sum {}",
        first.join(", "),
        list.len(),
        list.iter().sum::<f64>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_described_as_plans_on_disk_have_them() {
        assert_eq!(describe_list(&[1.0, 2.5]), "[1.0, 2.5]");
        assert_eq!(
            describe_list(&[0.5; 14]),
            "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, …], \
             14 numbers with the sum 7"
        );
    }
}
