//! What a JSON schema of ours allows at one place.
//!
//! Two keywords of our own say what the standard ones cannot: `x-kinds` lists the kinds of a family with their
//! aliases, and `x-aliases` the other names of a choice. `x-first` names the parameter that a label gives without
//! its name.

use serde_json::Value as Json;

/// What may stand at one place.
pub struct Shape<'a> {
    pub form: Form<'a>,
    /// Whether nothing may stand there too.
    pub nullable: bool,
}

/// The forms of our types.
pub enum Form<'a> {
    Anything,
    Flag,
    Number,
    Whole {
        least: i128,
        most: i128,
    },
    Text,
    Word(Vec<Name<'a>>),
    List {
        item: &'a Json,
        least: usize,
        most: usize,
    },
    /// Entries under any names.
    Entries(&'a Json),
    Keys(Keys<'a>),
    /// A name, or `{name: {…}}`.
    Kinds(Vec<Kind<'a>>),
    /// `{kind: name, …}`.
    Tagged {
        tag: &'a str,
        kinds: Vec<Kind<'a>>,
    },
    Either(Vec<&'a Json>),
}

/// A name with its other names.
#[derive(Debug, Clone, PartialEq)]
pub struct Name<'a> {
    pub name: &'a str,
    pub aliases: Vec<&'a str>,
}

impl Name<'_> {
    /// Whether a user means it: case, `_` and spaces make no difference.
    pub fn is(&self, written: &str) -> bool {
        let plain = crate::registry::plain(written);
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .any(|n| crate::registry::plain(n) == plain)
    }
}

/// The keys of a type.
pub struct Keys<'a> {
    pub known: Vec<(&'a str, &'a Json)>,
    pub required: Vec<&'a str>,
    /// Whether there are no others.
    pub closed: bool,
    /// The key whose value a label gives without its name.
    pub first: Option<&'a str>,
}

impl<'a> Keys<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Json> {
        self.known
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, schema)| *schema)
    }
}

/// A kind with the schema of its parameters.
pub struct Kind<'a> {
    pub name: Name<'a>,
    /// None where it has none and stands alone.
    pub parameters: Option<&'a Json>,
    /// Whether the type takes the bare name.
    pub bare: bool,
}

impl<'a> Shape<'a> {
    /// Reads a schema that is part of `root`.
    pub fn of(root: &'a Json, schema: &'a Json) -> Shape<'a> {
        let Some(keywords) = schema.as_object() else {
            return Shape {
                form: Form::Anything,
                nullable: true,
            };
        };
        if let Some(kinds) = keywords.get("x-kinds").and_then(Json::as_array) {
            return Shape {
                form: Form::Kinds(kinds.iter().filter_map(listed_kind).collect()),
                nullable: false,
            };
        }
        if let Some(place) = keywords.get("$ref").and_then(Json::as_str) {
            let there = root.pointer(place.trim_start_matches('#'));
            return there.map_or(
                Shape {
                    form: Form::Anything,
                    nullable: true,
                },
                |s| Shape::of(root, s),
            );
        }
        let alternatives = ["anyOf", "oneOf"]
            .into_iter()
            .find_map(|k| keywords.get(k))
            .and_then(Json::as_array);
        if let Some(alternatives) = alternatives {
            return Shape::either(root, schema, alternatives);
        }
        if let Some(word) = keywords.get("const").and_then(Json::as_str) {
            return Shape {
                form: Form::Word(vec![Name {
                    name: word,
                    aliases: Vec::new(),
                }]),
                nullable: false,
            };
        }
        if let Some(words) = keywords.get("enum").and_then(Json::as_array) {
            let nullable = words.iter().any(Json::is_null);
            return Shape {
                form: Form::Word(names(schema, words.iter().filter_map(Json::as_str))),
                nullable,
            };
        }
        let types: Vec<&str> = match keywords.get("type") {
            Some(Json::String(one)) => vec![one],
            Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
            _ => {
                return Shape {
                    form: Form::Anything,
                    nullable: true,
                };
            }
        };
        let nullable = types.contains(&"null");
        let form = match types.iter().find(|t| **t != "null") {
            Some(&"boolean") => Form::Flag,
            Some(&"number") => Form::Number,
            Some(&"integer") => whole(keywords),
            Some(&"string") => Form::Text,
            Some(&"array") => list(keywords),
            Some(&"object") => object(keywords),
            _ => Form::Anything,
        };
        Shape { form, nullable }
    }

    fn either(root: &'a Json, schema: &'a Json, alternatives: &'a [Json]) -> Shape<'a> {
        let is_null = |s: &&Json| s.get("type").and_then(Json::as_str) == Some("null");
        let nullable = alternatives.iter().any(|s| is_null(&s));
        let rest: Vec<&Json> = alternatives.iter().filter(|s| !is_null(s)).collect();
        if let [one] = rest.as_slice() {
            let shape = Shape::of(root, one);
            return Shape {
                nullable: nullable || shape.nullable,
                ..shape
            };
        }
        let form = words(schema, &rest)
            .or_else(|| tagged(schema, &rest))
            .unwrap_or(Form::Either(rest));
        Shape { form, nullable }
    }

    /// What would be right, in words: `a whole number of at least 1`.
    pub fn words(&self, root: &'a Json) -> String {
        match &self.form {
            Form::Anything => "a value".to_owned(),
            Form::Flag => "true or false".to_owned(),
            Form::Number => "a number".to_owned(),
            Form::Whole { least, most } => match (*least, *most) {
                (i128::MIN, i128::MAX) => "a whole number".to_owned(),
                (_, most) if most >= i128::from(u64::MAX) => {
                    format!("a whole number of at least {least}")
                }
                _ => format!("a whole number from {least} to {most}"),
            },
            Form::Text => "string".to_owned(),
            Form::Word(names) => super::listed(names.iter().map(|n| n.name)),
            Form::List { item, least, most } => {
                let item = Shape::of(root, item).words(root);
                match (least, most) {
                    (least, most) if least == most => format!("a list of {least}, each {item}"),
                    (0, _) => format!("a list, each entry {item}"),
                    _ => format!("a list of at least {least}, each {item}"),
                }
            }
            Form::Entries(_) => "`key: value` entries under names of your own".to_owned(),
            Form::Keys(keys) => {
                let known: Vec<&str> = keys.known.iter().map(|(k, _)| *k).collect();
                format!("`key: value` entries: {}", known.join(", "))
            }
            Form::Kinds(kinds) => {
                format!(
                    "a name or {{name: {{…}}}}, {}",
                    super::listed(kinds.iter().map(|k| k.name.name))
                )
            }
            Form::Tagged { tag, kinds } => {
                format!(
                    "{{{tag}: name, …}}, the name {}",
                    super::listed(kinds.iter().map(|k| k.name.name))
                )
            }
            Form::Either(schemas) => {
                let mut all: Vec<Shape> = schemas.iter().map(|s| Shape::of(root, s)).collect();
                all.sort_by_key(|shape| matches!(shape.form, Form::Flag));
                all.iter()
                    .map(|shape| shape.words(root))
                    .collect::<Vec<_>>()
                    .join(" or ")
            }
        }
    }
}

/// Names with those aliases that their schema lists.
fn names<'a>(schema: &'a Json, words: impl Iterator<Item = &'a str>) -> Vec<Name<'a>> {
    let listed: Vec<(&str, &str)> = (schema
        .get("x-aliases")
        .and_then(Json::as_object)
        .into_iter()
        .flatten())
    .filter_map(|(alias, name)| Some((alias.as_str(), name.as_str()?)))
    .collect();
    let aliases = |name: &str| {
        listed
            .iter()
            .filter(|(_, n)| *n == name)
            .map(|(a, _)| *a)
            .collect()
    };
    words
        .filter(|w| !listed.iter().any(|(a, _)| a == w))
        .map(|name| Name {
            name,
            aliases: aliases(name),
        })
        .collect()
}

/// Alternatives that are all words.
fn words<'a>(schema: &'a Json, alternatives: &[&'a Json]) -> Option<Form<'a>> {
    let mut found: Vec<&str> = Vec::new();
    for one in alternatives {
        match (
            one.get("const").and_then(Json::as_str),
            one.get("enum").and_then(Json::as_array),
        ) {
            (Some(word), _) => found.push(word),
            (None, Some(words)) => found.extend(words.iter().filter_map(Json::as_str)),
            _ => return None,
        }
    }
    Some(Form::Word(names(schema, found.into_iter())))
}

/// Alternatives that are all told apart by one key with a fixed word.
fn tagged<'a>(schema: &'a Json, alternatives: &[&'a Json]) -> Option<Form<'a>> {
    let word = |property: &'a Json| {
        let first = property
            .get("enum")
            .and_then(Json::as_array)
            .and_then(|e| e.first());
        property.get("const").or(first).and_then(Json::as_str)
    };
    let tag = |one: &'a Json| {
        let properties = one.get("properties")?.as_object()?;
        properties
            .iter()
            .find_map(|(key, p)| Some((key.as_str(), word(p)?)))
    };
    let found: Option<Vec<(&str, &str)>> = alternatives.iter().map(|one| tag(one)).collect();
    let found = found?;
    let first = found.first()?.0;
    if found.iter().any(|(key, _)| *key != first) {
        return None;
    }
    let kinds = names(schema, found.iter().map(|(_, name)| *name))
        .into_iter()
        .zip(alternatives);
    let kinds = kinds.map(|(name, one)| Kind {
        name,
        parameters: Some(one),
        bare: false,
    });
    Some(Form::Tagged {
        tag: first,
        kinds: kinds.collect(),
    })
}

/// One entry of `x-kinds`.
fn listed_kind(entry: &Json) -> Option<Kind<'_>> {
    let aliases = entry
        .get("aliases")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    let name = Name {
        name: entry.get("name")?.as_str()?,
        aliases: aliases.filter_map(Json::as_str).collect(),
    };
    Some(Kind {
        name,
        parameters: entry.get("parameters"),
        bare: entry.get("bare") != Some(&Json::Bool(false)),
    })
}

type Keywords = serde_json::Map<String, Json>;

fn whole<'a>(keywords: &Keywords) -> Form<'a> {
    let limit = |key: &str| {
        keywords
            .get(key)
            .and_then(Json::as_number)
            .and_then(|n| n.as_i128())
    };
    let format = keywords
        .get("format")
        .and_then(Json::as_str)
        .unwrap_or_default();
    let (least, most) = match format {
        "uint8" => (0, i128::from(u8::MAX)),
        "uint16" => (0, i128::from(u16::MAX)),
        "uint32" => (0, i128::from(u32::MAX)),
        "uint" | "uint64" => (0, i128::from(u64::MAX)),
        _ => (i128::MIN, i128::MAX),
    };
    Form::Whole {
        least: limit("minimum").unwrap_or(least),
        most: limit("maximum").unwrap_or(most),
    }
}

fn list<'a>(keywords: &'a Keywords) -> Form<'a> {
    let limit = |key: &str| keywords.get(key).and_then(Json::as_u64).map(|n| n as usize);
    let item = keywords.get("items").unwrap_or(&Json::Bool(true));
    Form::List {
        item,
        least: limit("minItems").unwrap_or(0),
        most: limit("maxItems").unwrap_or(usize::MAX),
    }
}

fn object<'a>(keywords: &'a Keywords) -> Form<'a> {
    let others = keywords
        .get("additionalProperties")
        .or(keywords.get("unevaluatedProperties"));
    let Some(properties) = keywords.get("properties").and_then(Json::as_object) else {
        return match others {
            Some(Json::Bool(false)) => Form::Keys(Keys {
                known: Vec::new(),
                required: Vec::new(),
                closed: true,
                first: None,
            }),
            Some(others) => Form::Entries(others),
            None => Form::Entries(&Json::Bool(true)),
        };
    };
    let required = keywords
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    Form::Keys(Keys {
        known: properties
            .iter()
            .map(|(key, schema)| (key.as_str(), schema))
            .collect(),
        required: required.filter_map(Json::as_str).collect(),
        closed: others == Some(&Json::Bool(false)),
        first: keywords.get("x-first").and_then(Json::as_str),
    })
}
