//! What documents hold: their fenced blocks, and YAML.

use anyhow::{Context, Result, bail};
use saphyr::{LoadableYamlNode, ScalarOwned, YamlOwned};
use serde_json::{Map, Value};

/// The documents of a YAML text as JSON.
pub fn yaml(text: &str) -> Result<Vec<Value>> {
    YamlOwned::load_from_str(text)?.iter().map(value).collect()
}

fn value(yaml: &YamlOwned) -> Result<Value> {
    Ok(match yaml {
        YamlOwned::Value(ScalarOwned::Null) => Value::Null,
        YamlOwned::Value(ScalarOwned::Boolean(it)) => (*it).into(),
        YamlOwned::Value(ScalarOwned::Integer(it)) => (*it).into(),
        YamlOwned::Value(ScalarOwned::FloatingPoint(it)) => f64::from(*it).into(),
        YamlOwned::Value(ScalarOwned::String(it)) => it.clone().into(),
        YamlOwned::Sequence(items) => items.iter().map(value).collect::<Result<Vec<_>>>()?.into(),
        YamlOwned::Mapping(entries) => {
            let mut map = Map::new();
            for (key, entry) in entries {
                let key = match value(key)? {
                    Value::String(key) => key,
                    // What YAML makes of `on:`.
                    Value::Bool(true) => "on".to_owned(),
                    other => bail!("{other} is no key"),
                };
                map.insert(key, value(entry)?);
            }
            map.into()
        }
        other => bail!("what is {other:?}?"),
    })
}

/// The fenced blocks of a document in this language.
pub fn blocks(document: &str, language: &str) -> Vec<String> {
    document
        .split(&format!("```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("```").next().map(str::to_owned))
        .collect()
}

/// A text inside a value, by its JSON pointer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("no text at `{pointer}` of {value}"))
}
