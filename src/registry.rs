//! Kinds that a user names: one closed list per family, written once.
//!
//! A SPEC is the YAML of one entry, `{hutchinson: {probes: 8}}`, or its bare name with all
//! defaults, `exact`. The struct that is listed *is* the YAML, the plan entry and the
//! implementation. Being listed means being tested: the conformance tests iterate `defaults()`.

/// Declares the enum of one family with its names, its YAML form and its dispatch.
#[macro_export]
macro_rules! registry {
    ($(#[$meta:meta])* pub enum $Enum:ident: $Trait:ident { $($name:literal => $Variant:ident($ty:ty)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $Enum { $($Variant($ty)),+ }

        impl $Enum {
            /// The names a user can write, in the order of the docs.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name a user writes.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$Variant(_) => $name),+ }
            }

            /// Every entry with its default parameters.
            pub fn defaults() -> Vec<Self> {
                vec![$(Self::$Variant(<$ty>::default())),+]
            }

            /// The entry called `name`, with parameters yet to be read from `value`.
            pub fn from_entry<'de, A: serde::de::MapAccess<'de>>(name: &str, map: &mut A) -> Result<Self, A::Error> {
                match name {
                    $($name => map.next_value::<$ty>().map(Self::$Variant),)+
                    other => Err($crate::registry::unknown(other, Self::NAMES)),
                }
            }

            /// The entry called `name`, with its default parameters.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$Variant(<$ty>::default())),)+
                    _ => None,
                }
            }
        }

        impl $Enum {
            /// The schema of every entry's parameters.
            pub fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($name, generator.subschema_for::<$ty>())),+]
            }
        }

        impl schemars::JsonSchema for $Enum {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($Enum).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::registry::schema(Self::schemas(generator))
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

/// One of these names, or an entry of one of them with its parameters.
pub fn schema(entries: Vec<(&str, schemars::Schema)>) -> schemars::Schema {
    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    let bare = schemars::json_schema!({ "type": "string", "enum": names });
    let whole = entries.into_iter().map(|(name, parameters)| {
        schemars::json_schema!({
            "type": "object",
            "properties": { name: parameters },
            "required": [name],
            "additionalProperties": false
        })
    });
    schemars::json_schema!({ "anyOf": std::iter::once(bare).chain(whole).collect::<Vec<_>>() })
}

/// The error for a name that is not listed.
pub fn unknown<E: serde::de::Error>(name: &str, names: &[&str]) -> E {
    E::custom(format!("unknown kind `{name}`, expected one of {}", names.join(", ")))
}

/// The first key of an entry, which must be there.
pub fn only_key<'de, A: serde::de::MapAccess<'de>>(map: &mut A, names: &[&str]) -> Result<String, A::Error> {
    use serde::de::Error;
    map.next_key()?.ok_or_else(|| A::Error::custom(format!("an empty entry, expected one of {}", names.join(", "))))
}

/// Refuses an entry with two names.
pub fn no_more_keys<'de, A: serde::de::MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    use serde::de::Error;
    match map.next_key::<String>()? {
        None => Ok(()),
        Some(key) => {
            Err(A::Error::custom(format!("a second name `{key}` in one entry; write each kind as an entry of its own")))
        }
    }
}

/// A short label for tables: the bare name, with those parameters that are not the defaults.
pub fn label<T: serde::Serialize>(name: &str, entry: &T, default: &T) -> String {
    let parameters = |entry: &T| match serde_json::to_value(entry) {
        Ok(serde_json::Value::Object(map)) => map.into_iter().next().map(|(_, v)| v),
        _ => None,
    };
    let (Some(serde_json::Value::Object(ours)), Some(default)) = (parameters(entry), parameters(default)) else {
        return name.to_owned();
    };
    let changed: Vec<String> = ours
        .iter()
        .filter(|(key, value)| default.get(key) != Some(value) && !value.is_null())
        .map(|(key, value)| format!("{key}={}", value.to_string().trim_matches('"')))
        .collect();
    if changed.is_empty() { name.to_owned() } else { format!("{name}({})", changed.join(" ")) }
}
