//! Deserializes a type from a tree. An error of the type's own checks carries the key and the
//! position.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
};
use serde::de::{IntoDeserializer, Unexpected, VariantAccess, Visitor};

use super::fault::Fault;
use super::node::{MapEntry, Node, ScalarValue, Value, YamlScalar};

/// A scalar read as a given type, by the rules of YAML for that type; `None` if it is not of that
/// type.
pub(super) fn parse_scalar<T: DeserializeOwned>(scalar: &YamlScalar) -> Option<T> {
    serde_yaml::from_str(&scalar.text).ok()
}

impl Node {
    /// The scalar, if the node is one.
    fn scalar(&self) -> Option<&YamlScalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// What the node is, for serde's messages.
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Scalar(scalar) => Unexpected::Str(&scalar.text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }

    /// Parses the scalar as `T` and gives it to the visitor by `visit`.
    ///
    /// # Errors
    /// Fails if the node is not a scalar of this type, or if the visitor refuses the value.
    fn visit_scalar<'de, T: DeserializeOwned, V: Visitor<'de>>(
        &self,
        visitor: V,
        visit: impl FnOnce(V, T) -> Result<V::Value, Fault>,
    ) -> Result<V::Value, Fault> {
        match self.scalar().and_then(parse_scalar) {
            Some(value) => visit(visitor, value).map_err(|f| f.at_position(self.position)),
            None => {
                Err(Fault::invalid_type(self.unexpected(), &visitor).at_position(self.position))
            }
        }
    }
}

macro_rules! deserialize_scalars {
    ($($method:ident: $type:ty => $visit:ident),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.visit_scalar::<$type, V>(visitor, |visitor, value| visitor.$visit(value))
        })+
    };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(YamlScalar { text, value: read }) => match read {
                ScalarValue::Bool(v) => visitor.visit_bool(*v),
                ScalarValue::Unsigned(v) => visitor.visit_u64(*v),
                ScalarValue::Signed(v) => visitor.visit_i64(*v),
                ScalarValue::Float(v) => visitor.visit_f64(*v),
                ScalarValue::Text => visitor.visit_borrowed_str(text),
            },
            Value::List(items) => visitor.visit_seq(NodeSeqAccess { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(NodeMapAccess { entries, next: 0 }),
        }
        .map_err(|f| f.at_position(self.position))
    }

    deserialize_scalars! {
        deserialize_bool: bool => visit_bool,
        deserialize_i8: i8 => visit_i8,
        deserialize_i16: i16 => visit_i16,
        deserialize_i32: i32 => visit_i32,
        deserialize_i64: i64 => visit_i64,
        deserialize_u8: u8 => visit_u8,
        deserialize_u16: u16 => visit_u16,
        deserialize_u32: u32 => visit_u32,
        deserialize_u64: u64 => visit_u64,
        deserialize_f32: f32 => visit_f32,
        deserialize_f64: f64 => visit_f64,
        deserialize_char: char => visit_char,
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.scalar() {
            Some(scalar) => visitor.visit_borrowed_str(&scalar.text),
            None => Err(Fault::invalid_type(self.unexpected(), &visitor)),
        }
        .map_err(|f| f.at_position(self.position))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|f| f.at_position(self.position))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(entries) if entries.is_empty() => visitor.visit_unit(),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|f| f.at_position(self.position))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor
                .visit_map(NodeMapAccess {
                    entries: &[],
                    next: 0,
                })
                .map_err(|f| f.at_position(self.position)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Scalar(scalar) => visitor.visit_enum(NodeEnumAccess {
                name: &scalar.text,
                content: None,
            }),
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(NodeEnumAccess {
                name: &entries[0].key,
                content: Some(&entries[0].node),
            }),
            _ => Err(Fault::invalid_type(
                self.unexpected(),
                &"a name, or one entry `name: …`",
            )),
        }
        .map_err(|f| f.at_position(self.position))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

/// The entries of a list, from the index `next`.
struct NodeSeqAccess<'de> {
    items: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for NodeSeqAccess<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.get(self.next) else {
            return Ok(None);
        };
        let place = self.next.to_string();
        self.next += 1;
        seed.deserialize(item)
            .map(Some)
            .map_err(|f| f.at_position(item.position).under_key(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

/// The entries of a map, from the index `next`.
struct NodeMapAccess<'de> {
    entries: &'de [MapEntry],
    next: usize,
}

impl<'de> MapAccess<'de> for NodeMapAccess<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        let key: StrDeserializer<'de, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|f| f.at_position(entry.position))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let entry = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(&entry.node)
            .map_err(|f| f.at_position(entry.node.position).under_key(&entry.key))
    }
}

/// The name of an enum variant, with the node below it if there is one.
struct NodeEnumAccess<'de> {
    name: &'de str,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for NodeEnumAccess<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'de, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> NodeEnumAccess<'de> {
    /// The node below the name.
    ///
    /// # Errors
    /// Fails if there is only the name.
    fn content(&self) -> Result<&'de Node, Fault> {
        self.content.ok_or_else(|| {
            Fault::new(
                "",
                format!("`{0}` without parameters, expected {{{0}: …}}", self.name),
            )
        })
    }
}

impl<'de> VariantAccess<'de> for NodeEnumAccess<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None
            | Some(Node {
                value: Value::Null, ..
            }) => Ok(()),
            Some(_) => Err(Fault::new(
                "",
                format!("`{0}: …`, expected `{0}` without parameters", self.name),
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let content = self.content()?;
        seed.deserialize(content)
            .map_err(|f| f.at_position(content.position).under_key(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content()?
            .deserialize_any(visitor)
            .map_err(|f| f.under_key(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.content()?
            .deserialize_map(visitor)
            .map_err(|f| f.under_key(self.name))
    }
}
