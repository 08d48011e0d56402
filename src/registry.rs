//! Families of kinds that a user names, such as samplers or metrics. Each family is one closed
//! list.
//!
//! A user writes a kind as a SPEC, in one of three forms: the YAML of an entry,
//! `{hutchinson: {probes: 8}}`; a bare name with all defaults, `exact`; or a label,
//! `hutchinson(probes=8)`. The struct of a kind is its YAML form, its entry in the plan and its
//! implementation at once.
//!
//! The list gives other names of a kind after its own, as in `"frechet" | "fid" => …`. Outputs show
//! the first name. Behind each kind stands what it is, when to use it and where it comes from, which
//! `flowgauge list` shows; a kind without them does not compile. The conformance tests iterate over
//! `defaults()`, so that every listed kind is tested.

/// Declares the enum of one family with its names, its YAML form, its schema and its dispatch to
/// the trait of the family.
#[macro_export]
macro_rules! registry {
    ($(#[$meta:meta])* pub enum $Enum:ident: $Trait:ident {
        $($name:literal $(| $alias:literal)* => $Variant:ident($ty:ty) {
            what: $what:literal,
            when: $when:literal,
            source: $source:literal $(,)?
        }),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $Enum { $($Variant($ty)),+ }

        impl $Enum {
            /// The names of the kinds, in the order of the documentation.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Every name with its aliases.
            pub const ALIASES: &'static [$crate::registry::Names] = &[$(($name, &[$($alias),*])),+];

            /// The name that outputs show.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$Variant(_) => $name),+ }
            }

            /// Every kind with its default parameters.
            pub fn defaults() -> Vec<Self> {
                vec![$(Self::$Variant(<$ty>::default())),+]
            }

            /// Reads the kind called `name`, whose parameters are the next value of `map`.
            ///
            /// # Errors
            /// Fails if the name is unknown or a parameter is wrong.
            pub fn from_entry<'de, A: serde::de::MapAccess<'de>>(name: &str, map: &mut A) -> Result<Self, A::Error> {
                match $crate::registry::canonical(name, Self::ALIASES) {
                    $(Some($name) => map.next_value::<$ty>().map(Self::$Variant),)+
                    _ => Err($crate::registry::unknown(name, Self::NAMES)),
                }
            }

            /// The kind called `name`, with its default parameters; `None` if the name is unknown.
            pub fn from_name(name: &str) -> Option<Self> {
                match $crate::registry::canonical(name, Self::ALIASES) {
                    $(Some($name) => Some(Self::$Variant(<$ty>::default())),)+
                    _ => None,
                }
            }
        }

        impl $Enum {
            /// The name of every kind, with the JSON schema of its parameters.
            pub fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($name, generator.subschema_for::<$ty>())),+]
            }
        }

        impl $crate::registry::Described for $Enum {
            fn descriptions() -> Vec<$crate::registry::KindDescription> {
                vec![$($crate::registry::KindDescription {
                    name: $name,
                    what: $what,
                    when: $when,
                    source: $source,
                }),+]
            }
        }

        impl schemars::JsonSchema for $Enum {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($Enum).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::registry::schema(Self::ALIASES, Self::schemas(generator))
            }
        }

        impl std::ops::Deref for $Enum {
            type Target = dyn $Trait;
            fn deref(&self) -> &Self::Target {
                match self { $(Self::$Variant(entry) => entry),+ }
            }
        }

        impl serde::Serialize for $Enum {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(Some(1))?;
                match self { $(Self::$Variant(entry) => map.serialize_entry($name, entry)?),+ }
                map.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $Enum {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Entry;
                impl<'de> serde::de::Visitor<'de> for Entry {
                    type Value = $Enum;
                    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                        write!(f, "a name or {{name: {{…}}}}, one of {}", $Enum::NAMES.join(", "))
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$Enum, E> {
                        $Enum::from_name(name).ok_or_else(|| $crate::registry::unknown(name, $Enum::NAMES))
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$Enum, A::Error> {
                        let name: String = $crate::registry::only_key(&mut map, $Enum::NAMES)?;
                        let entry = $Enum::from_entry(&name, &mut map)?;
                        $crate::registry::no_more_keys(&mut map)?;
                        Ok(entry)
                    }
                }
                deserializer.deserialize_any(Entry)
            }
        }
    };
}

/// What `flowgauge list` says of a kind besides its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct KindDescription {
    /// The name of the kind.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub what: &'static str,
    /// When to use it, in one sentence.
    pub when: &'static str,
    /// Authors, year, and arXiv number or DOI; several are separated by `; `. Empty if there is
    /// nothing to cite.
    pub source: &'static str,
}

/// A family whose kinds are described.
pub trait Described {
    /// The description of every kind, in the order of the names.
    fn descriptions() -> Vec<KindDescription>;
}

/// Describes the kinds of a family that is not declared by [`registry!`]: one entry for each name.
macro_rules! describe_kinds {
    ($Enum:ty { $($name:literal { what: $what:literal, when: $when:literal, source: $source:literal $(,)? }),+ $(,)? }) => {
        impl $crate::registry::Described for $Enum {
            fn descriptions() -> Vec<$crate::registry::KindDescription> {
                vec![$($crate::registry::KindDescription {
                    name: $name,
                    what: $what,
                    when: $when,
                    source: $source,
                }),+]
            }
        }
    };
}

pub(crate) use describe_kinds;

/// A name and its aliases.
pub type Names = (&'static str, &'static [&'static str]);

/// A name in the form in which names are compared: lower case, with `-` for `_` and spaces.
pub fn normalize_name(name: &str) -> String {
    name.trim().to_lowercase().replace(['_', ' '], "-")
}

/// The canonical name of `written`, which may be a name or an alias; `None` if it is unknown.
pub fn canonical(written: &str, names: &[Names]) -> Option<&'static str> {
    let normalized = normalize_name(written);
    let is = |(name, aliases): &&Names| {
        normalize_name(name) == normalized
            || aliases.iter().any(|a| normalize_name(a) == normalized)
    };
    names.iter().find(is).map(|(name, _)| *name)
}

/// The spellings of a name that a schema lists: the name and its aliases, and each with `_` for
/// `-`. Other spellings are accepted too, but a schema cannot list them all.
fn spellings(name: &str, aliases: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = std::iter::once(&name)
        .chain(aliases)
        .map(|n| (*n).to_owned())
        .collect();
    let underscored: Vec<String> = all.iter().map(|n| n.replace('-', "_")).collect();
    all.extend(underscored);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|n| seen.insert(n.clone()));
    all
}

/// The schema of a family: a bare name, a label, or an entry with parameters. `entries` has the
/// schema of the parameters of each kind.
pub fn schema(names: &[Names], entries: Vec<(&str, schemars::Schema)>) -> schemars::Schema {
    let kind = |(name, parameters): (&str, schemars::Schema)| KindSchema {
        name: name.to_owned(),
        aliases: names
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(&[][..], |(_, aliases)| *aliases),
        parameters: Some(parameters.to_value()),
        bare: true,
    };
    schema_keywords(&entries.into_iter().map(kind).collect::<Vec<_>>()).into()
}

/// What a schema says of one kind.
struct KindSchema {
    name: String,
    aliases: &'static [&'static str],
    /// The schema of the parameters; `None` for a kind without parameters.
    parameters: Option<serde_json::Value>,
    /// Whether the type can be read from the bare name.
    bare: bool,
}

impl KindSchema {
    /// The spellings of the kind's name.
    fn spellings(&self) -> Vec<String> {
        spellings(&self.name, self.aliases)
    }

    /// Whether the kind may be written without its parameters.
    fn takes_bare_name(&self) -> bool {
        let all_optional =
            |p: &serde_json::Value| p.get("required").is_none() && p.get("items").is_none();
        self.bare || self.parameters.as_ref().is_none_or(all_optional)
    }
}

/// The schema keywords of a family. `anyOf` lists the bare names, a pattern for labels, and the
/// entries. `x-kinds` lists the kinds for the program itself.
fn schema_keywords(kinds: &[KindSchema]) -> serde_json::Map<String, serde_json::Value> {
    use serde_json::json;
    let bare: Vec<String> = kinds
        .iter()
        .filter(|k| k.takes_bare_name())
        .flat_map(KindSchema::spellings)
        .collect();
    // A name such as `hutch++` has a character that a pattern would interpret.
    let escaped = |name: String| name.replace('+', "\\+");
    let labelled = kinds
        .iter()
        .filter(|k| k.takes_bare_name() && k.parameters.is_some())
        .flat_map(KindSchema::spellings);
    let labelled: Vec<String> = labelled.map(escaped).collect();
    let mut forms = vec![json!({ "type": "string", "enum": bare })];
    if kinds.iter().any(|k| k.name == "file") {
        forms.push(json!({ "type": "string", "pattern": "\\.npy$" }));
    }
    if !labelled.is_empty() {
        forms.push(
            json!({ "type": "string", "pattern": format!("^({})\\(.*\\)$", labelled.join("|")) }),
        );
    }
    for kind in kinds {
        let Some(parameters) = &kind.parameters else {
            continue;
        };
        let spelled = kind
            .spellings()
            .into_iter()
            .map(|n| (n, parameters.clone()));
        forms.push(json!({
            "type": "object",
            "properties": spelled.collect::<serde_json::Map<_, _>>(),
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false
        }));
    }
    let listed = |k: &KindSchema| {
        let mut entry = json!({ "name": k.name, "aliases": k.aliases, "bare": k.bare });
        if let (Some(entry), Some(parameters)) = (entry.as_object_mut(), &k.parameters) {
            entry.insert("parameters".to_owned(), parameters.clone());
        }
        entry
    };
    let mut keywords = serde_json::Map::new();
    keywords.insert("anyOf".to_owned(), forms.into());
    keywords.insert(
        "x-kinds".to_owned(),
        kinds.iter().map(listed).collect::<Vec<_>>().into(),
    );
    keywords
}

/// A schema transformation that adds aliases to the words or kinds of an enum:
/// `#[schemars(transform = Aliases(&[…]))]`. The field lists the names that have aliases.
pub struct Aliases(pub &'static [Names]);

impl Aliases {
    /// The aliases of a name.
    fn aliases_of(&self, name: &str) -> &'static [&'static str] {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(&[], |(_, aliases)| *aliases)
    }

    /// The kinds of an enum whose alternatives are words or `{name: …}`; `None` if no alternative
    /// is `{name: …}`, or if one has another form.
    fn kinds(&self, alternatives: &[serde_json::Value]) -> Option<Vec<KindSchema>> {
        let kind = |name: &str, parameters: Option<&serde_json::Value>| KindSchema {
            name: name.to_owned(),
            aliases: self.aliases_of(name),
            parameters: parameters.cloned(),
            bare: parameters.is_none(),
        };
        let mut found = Vec::new();
        for one in alternatives {
            let several = || {
                one.get("enum")
                    .and_then(|e| e.as_array())
                    .map(Vec::as_slice)
            };
            if let Some(words) = one.get("const").map(std::slice::from_ref).or_else(several) {
                found.extend(
                    words
                        .iter()
                        .filter_map(|w| w.as_str())
                        .map(|w| kind(w, None)),
                );
                continue;
            }
            let properties = one.get("properties")?.as_object()?;
            let required = one.get("required")?.as_array()?;
            let (name, parameters) = properties
                .iter()
                .next()
                .filter(|_| properties.len() == 1 && required.len() == 1)?;
            // A key whose value is a fixed word is a tag, not the name of a kind.
            if parameters.get("const").is_some() {
                return None;
            }
            found.push(kind(name, Some(parameters)));
        }
        found
            .iter()
            .any(|k| k.parameters.is_some())
            .then_some(found)
    }
}

impl schemars::transform::Transform for Aliases {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        let Some(keywords) = schema.as_object_mut() else {
            return;
        };
        let alternatives = keywords.get("oneOf").and_then(|o| o.as_array()).cloned();
        if let Some(kinds) = alternatives.and_then(|a| self.kinds(&a)) {
            keywords.remove("oneOf");
            keywords.extend(schema_keywords(&kinds));
            return;
        }
        let mut found = serde_json::Map::new();
        let mut widened = |words: Vec<String>| -> Vec<String> {
            let spelled = |w: String| {
                spellings(&w, self.aliases_of(&w))
                    .into_iter()
                    .map(move |s| (s, w.clone()))
            };
            let all: Vec<(String, String)> = words.into_iter().flat_map(spelled).collect();
            found.extend(
                all.iter()
                    .filter(|(s, w)| s != w)
                    .map(|(s, w)| (s.clone(), w.clone().into())),
            );
            all.into_iter().map(|(s, _)| s).collect()
        };
        add_spellings(keywords, &mut widened);
        for one in keywords
            .get_mut("oneOf")
            .and_then(|o| o.as_array_mut())
            .into_iter()
            .flatten()
        {
            let Some(one) = one.as_object_mut() else {
                continue;
            };
            add_spellings(one, &mut widened);
            let properties = one
                .get_mut("properties")
                .and_then(|p| p.as_object_mut())
                .into_iter()
                .flatten();
            for property in properties
                .filter_map(|(_, p)| p.as_object_mut())
                .filter(|p| p.contains_key("const"))
            {
                add_spellings(property, &mut widened);
            }
        }
        keywords.insert("x-aliases".to_owned(), found.into());
    }
}

/// Replaces the fixed word or words of a schema by all their spellings.
fn add_spellings(
    keywords: &mut serde_json::Map<String, serde_json::Value>,
    widened: &mut impl FnMut(Vec<String>) -> Vec<String>,
) {
    let words: Vec<String> = match (keywords.remove("const"), keywords.remove("enum")) {
        (Some(word), _) => word.as_str().map(str::to_owned).into_iter().collect(),
        (_, Some(words)) => words
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|w| w.as_str())
            .map(str::to_owned)
            .collect(),
        _ => return,
    };
    keywords.insert("enum".to_owned(), widened(words).into());
}

/// Checks that a number lies within its bounds.
///
/// # Errors
/// Fails if the number is out of bounds. The message names the key and the bound, such as
/// `steps is 0, expected at least 1`.
pub fn check_bounds(key: &str, value: usize, least: usize, most: usize) -> Result<(), String> {
    match value {
        _ if value < least => Err(format!("{key} is {value}, expected at least {least}")),
        _ if value > most => Err(format!("{key} is {value}, expected at most {most}")),
        _ => Ok(()),
    }
}

/// A message with the name of its kind in front, unless the message begins with the name already.
pub fn prefix_with_name(name: &str, message: impl std::fmt::Display) -> String {
    let message = message.to_string();
    match message
        .strip_prefix(name)
        .is_some_and(|rest| rest.starts_with(": "))
    {
        true => message,
        false => format!("{name}: {message}"),
    }
}

/// The error for a name that is not listed.
pub fn unknown<E: serde::de::Error>(name: &str, names: &[&str]) -> E {
    E::custom(format!(
        "unknown kind `{name}`, expected one of {}",
        names.join(", ")
    ))
}

/// The first key of an entry: the name of the kind.
///
/// # Errors
/// Fails if the entry is empty.
pub fn only_key<'de, A: serde::de::MapAccess<'de>>(
    map: &mut A,
    names: &[&str],
) -> Result<String, A::Error> {
    use serde::de::Error;
    map.next_key()?.ok_or_else(|| {
        A::Error::custom(format!(
            "an empty entry, expected one of {}",
            names.join(", ")
        ))
    })
}

/// Checks that an entry has no further key.
///
/// # Errors
/// Fails if there is a second name.
pub fn no_more_keys<'de, A: serde::de::MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    use serde::de::Error;
    match map.next_key::<String>()? {
        None => Ok(()),
        Some(key) => Err(A::Error::custom(format!(
            "a second name `{key}` in one entry; write each kind as an entry of its own"
        ))),
    }
}

/// The label of a kind in tables: its name, and in parentheses those parameters that differ from
/// their defaults, such as `heun(steps=40)`.
pub fn kind_label<T: serde::Serialize>(name: &str, entry: &T, default: &T) -> String {
    let parameters = |entry: &T| match serde_json::to_value(entry) {
        Ok(serde_json::Value::Object(map)) => map.into_iter().next().map(|(_, v)| v),
        _ => None,
    };
    let (Some(serde_json::Value::Object(ours)), Some(default)) =
        (parameters(entry), parameters(default))
    else {
        return name.to_owned();
    };
    let changed: Vec<String> = ours
        .iter()
        .filter(|(key, value)| default.get(key) != Some(value) && !value.is_null())
        .map(|(key, value)| format!("{key}={}", label_value(value)))
        .collect();
    if changed.is_empty() {
        name.to_owned()
    } else {
        format!("{name}({})", changed.join(" "))
    }
}

/// A value in a label: text without quotes, unless it has characters that a label uses itself.
fn label_value(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(text) if !text.contains(['=', '(', ')', '[', ']', '{', '}', '"']) => text.to_owned(),
        _ => value.to_string(),
    }
}
