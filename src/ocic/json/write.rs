//! serde's view of a message (which names its types and fields, and tells 32 bits from 64) as JSON by
//! protobuf's rules.

use serde::Serialize;
use serde::ser::{self, Error as _};
use serde_json::{Error, Map, Number, Value};

use super::{enumerator, field_name};

/// Makes a [`Value`]; the generated messages are structs of scalars, lists, maps and optional messages.
pub(super) struct Writer;

type Written = Result<Value, Error>;
type Impossible = ser::Impossible<Value, Error>;

fn foreign<T>(what: &str) -> Result<T, Error> {
    Err(Error::custom(format!("{what} stands in no message")))
}

impl ser::Serializer for Writer {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = Impossible;
    type SerializeTupleStruct = Impossible;
    type SerializeTupleVariant = Impossible;
    type SerializeMap = Entries;
    type SerializeStruct = Message;
    type SerializeStructVariant = Impossible;

    fn serialize_bool(self, v: bool) -> Written {
        Ok(Value::Bool(v))
    }

    fn serialize_i8(self, v: i8) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_i16(self, v: i16) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_i32(self, v: i32) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_i64(self, v: i64) -> Written {
        Ok(Value::String(v.to_string()))
    }

    fn serialize_u8(self, v: u8) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_u16(self, v: u16) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_u32(self, v: u32) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_u64(self, v: u64) -> Written {
        Ok(Value::String(v.to_string()))
    }

    fn serialize_f32(self, v: f32) -> Written {
        self.serialize_f64(f64::from(v))
    }

    fn serialize_f64(self, v: f64) -> Written {
        // JSON has no word for these; protobuf's are strings.
        Ok(Number::from_f64(v).map_or_else(
            || match v {
                v if v.is_nan() => Value::from("NaN"),
                v if v > 0.0 => Value::from("Infinity"),
                _ => Value::from("-Infinity"),
            },
            Value::Number,
        ))
    }

    fn serialize_char(self, v: char) -> Written {
        Ok(Value::String(v.to_string()))
    }

    fn serialize_str(self, v: &str) -> Written {
        Ok(Value::from(v))
    }

    fn serialize_bytes(self, v: &[u8]) -> Written {
        Ok(Value::from(String::from_utf8_lossy(v)))
    }

    fn serialize_none(self) -> Written {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        Ok(Value::Object(Map::new()))
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        Ok(Value::from(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Written {
        foreign("a variant with a value")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List, Error> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple(self, _: usize) -> Result<Impossible, Error> {
        foreign("a tuple")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Impossible, Error> {
        foreign("a tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible, Error> {
        foreign("a tuple")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries, Error> {
        Ok(Entries {
            key: String::new(),
            entries: Map::new(),
        })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Message, Error> {
        Ok(Message {
            name,
            fields: Map::new(),
        })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible, Error> {
        foreign("a variant with fields")
    }
}

pub(super) struct List(Vec<Value>);

impl ser::SerializeSeq for List {
    type Ok = Value;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.0.push(value.serialize(Writer)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Value::Array(self.0))
    }
}

/// A map, whose keys are its writer's.
pub(super) struct Entries {
    key: String,
    entries: Map<String, Value>,
}

impl ser::SerializeMap for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key = match key.serialize(Writer)? {
            Value::String(key) => key,
            other => other.to_string(),
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = std::mem::take(&mut self.key);
        self.entries.insert(key, value.serialize(Writer)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Value::Object(self.entries))
    }
}

pub(super) struct Message {
    name: &'static str,
    fields: Map<String, Value>,
}

impl ser::SerializeStruct for Message {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        let written = value.serialize(Writer)?;
        let number = written.as_i64().and_then(|n| i32::try_from(n).ok());
        let called = number.and_then(|n| enumerator(self.name, key, n));
        let written = called.map_or(written, Value::from);
        self.fields.insert(field_name(self.name, key), written);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Value::Object(self.fields))
    }
}
