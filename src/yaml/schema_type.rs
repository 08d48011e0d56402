//! What a JSON schema of this program allows at one place.
//!
//! Three extension keywords say what the standard keywords cannot. `x-kinds` lists the kinds of a
//! family with their aliases. `x-aliases` lists the aliases of a choice. `x-first` names the
//! parameter that a label gives without its name.

use serde_json::Value as Json;

/// What a schema allows at one place.
pub struct SchemaType<'a> {
    /// The form of the value.
    pub form: SchemaForm<'a>,
    /// Whether the value may also be null.
    pub nullable: bool,
}

/// The forms of values.
pub enum SchemaForm<'a> {
    /// Any value.
    Any,
    /// True or false.
    Bool,
    /// A number.
    Number,
    /// A whole number from `least` to `most`, both included.
    Integer { least: i128, most: i128 },
    /// A text.
    Text,
    /// One of several words.
    Choice(Vec<AliasedName<'a>>),
    /// A list of `least` to `most` entries with the schema `item`.
    List {
        item: &'a Json,
        least: usize,
        most: usize,
    },
    /// Entries under any names, whose values have this schema.
    Map(&'a Json),
    /// Entries under given keys.
    Object(ObjectKeys<'a>),
    /// A name, or `{name: {…}}`.
    Family(Vec<FamilyKind<'a>>),
    /// An object whose key `tag` names its kind: `{kind: name, …}`.
    Tagged {
        tag: &'a str,
        kinds: Vec<FamilyKind<'a>>,
    },
    /// A value that fits one of several schemas.
    AnyOf(Vec<&'a Json>),
}

/// A name with its aliases.
#[derive(Debug, Clone, PartialEq)]
pub struct AliasedName<'a> {
    /// The canonical name.
    pub name: &'a str,
    /// The other names.
    pub aliases: Vec<&'a str>,
}

impl AliasedName<'_> {
    /// Whether `written` is the name or an alias. Case is ignored, and `_` and spaces equal `-`.
    pub fn matches(&self, written: &str) -> bool {
        let plain = crate::registry::normalize_name(written);
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .any(|n| crate::registry::normalize_name(n) == plain)
    }
}

/// The keys of an object.
pub struct ObjectKeys<'a> {
    /// The keys with the schemas of their values.
    pub known: Vec<(&'a str, &'a Json)>,
    /// The keys that must be present.
    pub required: Vec<&'a str>,
    /// Whether other keys are faults.
    pub closed: bool,
    /// The key whose value a label gives without its name (`x-first`).
    pub positional: Option<&'a str>,
}

impl<'a> ObjectKeys<'a> {
    /// The schema of the value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Json> {
        self.known
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, schema)| *schema)
    }
}

/// A kind of a family.
pub struct FamilyKind<'a> {
    /// The name of the kind.
    pub name: AliasedName<'a>,
    /// The schema of the parameters; `None` if the kind has no parameters.
    pub parameters: Option<&'a Json>,
    /// Whether the type can be read from the bare name.
    pub bare: bool,
}

impl<'a> SchemaType<'a> {
    /// Interprets a schema that is part of `root`, in which references are resolved.
    pub fn from_schema(root: &'a Json, schema: &'a Json) -> SchemaType<'a> {
        let Some(keywords) = schema.as_object() else {
            return SchemaType {
                form: SchemaForm::Any,
                nullable: true,
            };
        };
        if let Some(kinds) = keywords.get("x-kinds").and_then(Json::as_array) {
            return SchemaType {
                form: SchemaForm::Family(kinds.iter().filter_map(parse_family_kind).collect()),
                nullable: false,
            };
        }
        if let Some(place) = keywords.get("$ref").and_then(Json::as_str) {
            let there = root.pointer(place.trim_start_matches('#'));
            return there.map_or(
                SchemaType {
                    form: SchemaForm::Any,
                    nullable: true,
                },
                |s| SchemaType::from_schema(root, s),
            );
        }
        let alternatives = ["anyOf", "oneOf"]
            .into_iter()
            .find_map(|k| keywords.get(k))
            .and_then(Json::as_array);
        if let Some(alternatives) = alternatives {
            return SchemaType::from_alternatives(root, schema, alternatives);
        }
        if let Some(word) = keywords.get("const").and_then(Json::as_str) {
            return SchemaType {
                form: SchemaForm::Choice(vec![AliasedName {
                    name: word,
                    aliases: Vec::new(),
                }]),
                nullable: false,
            };
        }
        if let Some(words) = keywords.get("enum").and_then(Json::as_array) {
            let nullable = words.iter().any(Json::is_null);
            return SchemaType {
                form: SchemaForm::Choice(names_with_aliases(
                    schema,
                    words.iter().filter_map(Json::as_str),
                )),
                nullable,
            };
        }
        let types: Vec<&str> = match keywords.get("type") {
            Some(Json::String(one)) => vec![one],
            Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
            _ => {
                return SchemaType {
                    form: SchemaForm::Any,
                    nullable: true,
                };
            }
        };
        let nullable = types.contains(&"null");
        let form = match types.iter().find(|t| **t != "null") {
            Some(&"boolean") => SchemaForm::Bool,
            Some(&"number") => SchemaForm::Number,
            Some(&"integer") => integer_form(keywords),
            Some(&"string") => SchemaForm::Text,
            Some(&"array") => list_form(keywords),
            Some(&"object") => object_form(keywords),
            _ => SchemaForm::Any,
        };
        SchemaType { form, nullable }
    }

    /// Interprets the alternatives of `anyOf` or `oneOf`.
    fn from_alternatives(
        root: &'a Json,
        schema: &'a Json,
        alternatives: &'a [Json],
    ) -> SchemaType<'a> {
        let is_null = |s: &&Json| s.get("type").and_then(Json::as_str) == Some("null");
        let nullable = alternatives.iter().any(|s| is_null(&s));
        let rest: Vec<&Json> = alternatives.iter().filter(|s| !is_null(s)).collect();
        if let [one] = rest.as_slice() {
            let shape = SchemaType::from_schema(root, one);
            return SchemaType {
                nullable: nullable || shape.nullable,
                ..shape
            };
        }
        let form = choice_form(schema, &rest)
            .or_else(|| tagged_form(schema, &rest))
            .unwrap_or(SchemaForm::AnyOf(rest));
        SchemaType { form, nullable }
    }

    /// Describes the allowed values in words, such as `a whole number of at least 1`, to follow
    /// `expected`.
    pub fn describe(&self, root: &'a Json) -> String {
        match &self.form {
            SchemaForm::Any => "a value".to_owned(),
            SchemaForm::Bool => "true or false".to_owned(),
            SchemaForm::Number => "a number".to_owned(),
            SchemaForm::Integer { least, most } => match (*least, *most) {
                (i128::MIN, i128::MAX) => "a whole number".to_owned(),
                (_, most) if most >= i128::from(u64::MAX) => {
                    format!("a whole number of at least {least}")
                }
                _ => format!("a whole number from {least} to {most}"),
            },
            SchemaForm::Text => "string".to_owned(),
            SchemaForm::Choice(names) => super::one_of(names.iter().map(|n| n.name)),
            SchemaForm::List { item, least, most } => {
                let item = SchemaType::from_schema(root, item).describe(root);
                match (least, most) {
                    (least, most) if least == most => format!("a list of {least}, each {item}"),
                    (0, _) => format!("a list, each entry {item}"),
                    _ => format!("a list of at least {least}, each {item}"),
                }
            }
            SchemaForm::Map(_) => "`key: value` entries under names of your own".to_owned(),
            SchemaForm::Object(keys) => {
                let known: Vec<&str> = keys.known.iter().map(|(k, _)| *k).collect();
                format!("`key: value` entries: {}", known.join(", "))
            }
            SchemaForm::Family(kinds) => {
                format!(
                    "a name or {{name: {{…}}}}, {}",
                    super::one_of(kinds.iter().map(|k| k.name.name))
                )
            }
            SchemaForm::Tagged { tag, kinds } => {
                format!(
                    "{{{tag}: name, …}}, the name {}",
                    super::one_of(kinds.iter().map(|k| k.name.name))
                )
            }
            SchemaForm::AnyOf(schemas) => {
                let mut all: Vec<SchemaType> = schemas
                    .iter()
                    .map(|s| SchemaType::from_schema(root, s))
                    .collect();
                all.sort_by_key(|shape| matches!(shape.form, SchemaForm::Bool));
                all.iter()
                    .map(|shape| shape.describe(root))
                    .collect::<Vec<_>>()
                    .join(" or ")
            }
        }
    }
}

/// Names with the aliases that `x-aliases` of their schema lists. Words that are aliases are left
/// out.
fn names_with_aliases<'a>(
    schema: &'a Json,
    words: impl Iterator<Item = &'a str>,
) -> Vec<AliasedName<'a>> {
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
        .map(|name| AliasedName {
            name,
            aliases: aliases(name),
        })
        .collect()
}

/// The choice among alternatives that are all words; `None` if one is not.
fn choice_form<'a>(schema: &'a Json, alternatives: &[&'a Json]) -> Option<SchemaForm<'a>> {
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
    Some(SchemaForm::Choice(names_with_aliases(
        schema,
        found.into_iter(),
    )))
}

/// The tagged form of alternatives that all have one key with a fixed word; `None` if they do not.
fn tagged_form<'a>(schema: &'a Json, alternatives: &[&'a Json]) -> Option<SchemaForm<'a>> {
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
    let kinds = names_with_aliases(schema, found.iter().map(|(_, name)| *name))
        .into_iter()
        .zip(alternatives);
    let kinds = kinds.map(|(name, one)| FamilyKind {
        name,
        parameters: Some(one),
        bare: false,
    });
    Some(SchemaForm::Tagged {
        tag: first,
        kinds: kinds.collect(),
    })
}

/// The kind that an entry of `x-kinds` describes.
fn parse_family_kind(entry: &Json) -> Option<FamilyKind<'_>> {
    let aliases = entry
        .get("aliases")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    let name = AliasedName {
        name: entry.get("name")?.as_str()?,
        aliases: aliases.filter_map(Json::as_str).collect(),
    };
    Some(FamilyKind {
        name,
        parameters: entry.get("parameters"),
        bare: entry.get("bare") != Some(&Json::Bool(false)),
    })
}

/// The keywords of a schema.
type Keywords = serde_json::Map<String, Json>;

/// The bounds of an integer, from `minimum`, `maximum` and `format`.
fn integer_form<'a>(keywords: &Keywords) -> SchemaForm<'a> {
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
    SchemaForm::Integer {
        least: limit("minimum").unwrap_or(least),
        most: limit("maximum").unwrap_or(most),
    }
}

/// The item schema and the length of a list.
fn list_form<'a>(keywords: &'a Keywords) -> SchemaForm<'a> {
    let limit = |key: &str| keywords.get(key).and_then(Json::as_u64).map(|n| n as usize);
    let item = keywords.get("items").unwrap_or(&Json::Bool(true));
    SchemaForm::List {
        item,
        least: limit("minItems").unwrap_or(0),
        most: limit("maxItems").unwrap_or(usize::MAX),
    }
}

/// The keys of an object, or a map if the schema lists no keys.
fn object_form<'a>(keywords: &'a Keywords) -> SchemaForm<'a> {
    let others = keywords
        .get("additionalProperties")
        .or(keywords.get("unevaluatedProperties"));
    let Some(properties) = keywords.get("properties").and_then(Json::as_object) else {
        return match others {
            Some(Json::Bool(false)) => SchemaForm::Object(ObjectKeys {
                known: Vec::new(),
                required: Vec::new(),
                closed: true,
                positional: None,
            }),
            Some(others) => SchemaForm::Map(others),
            None => SchemaForm::Map(&Json::Bool(true)),
        };
    };
    let required = keywords
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    SchemaForm::Object(ObjectKeys {
        known: properties
            .iter()
            .map(|(key, schema)| (key.as_str(), schema))
            .collect(),
        required: required.filter_map(Json::as_str).collect(),
        closed: others == Some(&Json::Bool(false)),
        positional: keywords.get("x-first").and_then(Json::as_str),
    })
}
