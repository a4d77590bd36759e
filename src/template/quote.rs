//! The helpers that make a value safe in the format it is written into.

use handlebars::{
    Context, Handlebars, Helper, HelperResult, JsonRender, Output, RenderContext,
    RenderErrorReason, ScopedJson,
};
use serde_json::Value;

/// Adds `json`, `toml`, `unit_path`, `unit_arg`, `unit_value` and `concat` to a registry.
pub fn register(registry: &mut Handlebars<'_>) {
    writer(registry, "json", |value| Ok(value.to_string()));
    writer(registry, "toml", toml);
    writer(registry, "unit_path", |value| {
        unit_word(text(value)?, false)
    });
    writer(registry, "unit_arg", |value| unit_word(text(value)?, true));
    writer(registry, "unit_value", |value| unit_value(text(value)?));
    registry.register_helper("concat", Box::new(Concat));
}

fn writer(
    registry: &mut Handlebars<'_>,
    name: &'static str,
    quote: impl Fn(&Value) -> Result<String, String> + Send + Sync + 'static,
) {
    let helper = move |h: &Helper<'_>,
                       _: &Handlebars<'_>,
                       _: &Context,
                       _: &mut RenderContext<'_, '_>,
                       out: &mut dyn Output|
          -> HelperResult {
        // Strict mode looks only at plain expressions; a helper must ask for itself.
        let param = h
            .param(0)
            .filter(|p| !p.is_value_missing())
            .ok_or(RenderErrorReason::ParamNotFoundForIndex(name, 0))?;
        let quoted = quote(param.value()).map_err(RenderErrorReason::Other)?;
        out.write(&quoted)?;
        Ok(())
    };
    registry.register_helper(name, Box::new(helper));
}

/// Joins its arguments, for a quoting helper around it.
struct Concat;

impl handlebars::HelperDef for Concat {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, handlebars::RenderError> {
        let mut joined = String::new();
        for (index, param) in h.params().iter().enumerate() {
            if param.is_value_missing() {
                return Err(RenderErrorReason::ParamNotFoundForIndex("concat", index).into());
            }
            joined.push_str(&param.value().render());
        }
        Ok(ScopedJson::Derived(Value::String(joined)))
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("`{value}` is not a string"))
}

/// A TOML value; a bare word where a dotted key takes one.
fn toml(value: &Value) -> Result<String, String> {
    let value: ::toml::Value = serde_json::from_value(value.clone())
        .map_err(|e| format!("`{value}` has no form in TOML: {e}"))?;
    Ok(value.to_string())
}

/// One word of a command line in a unit (systemd.service(5), "Command lines"; systemd.unit(5),
/// "Specifiers"): `%` doubled, and, in an argument, `$` doubled; in quotes where white space or a
/// quote needs them. The path of the program itself knows no variables, so its `$` stays.
fn unit_word(word: &str, variables: bool) -> Result<String, String> {
    one_line(word)?;
    let mut quoted = String::with_capacity(word.len() + 2);
    for c in word.chars() {
        match c {
            '%' => quoted.push_str("%%"),
            '$' if variables => quoted.push_str("$$"),
            '\\' | '"' => quoted.extend(['\\', c]),
            _ => quoted.push(c),
        }
    }
    let plain = !word.is_empty() && !word.contains([' ', '"', '\'', '\\', ';']);
    Ok(if plain {
        quoted
    } else {
        format!("\"{quoted}\"")
    })
}

/// The whole value of a setting that takes one path: no quotes, white space stands for itself.
fn unit_value(value: &str) -> Result<String, String> {
    one_line(value)?;
    Ok(value.replace('%', "%%"))
}

fn one_line(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("{text:?} holds the control character {c:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_words() {
        let cases = [
            ("/usr/bin/ocid", true, "/usr/bin/ocid"),
            ("", true, "\"\""),
            ("a b", true, "\"a b\""),
            ("50%", true, "50%%"),
            ("$HOME", true, "$$HOME"),
            ("/a$b", false, "/a$b"),
            ("say \"x\\\"", true, "\"say \\\"x\\\\\\\"\""),
            (";", true, "\";\""),
        ];
        for (word, variables, expected) in cases {
            assert_eq!(unit_word(word, variables).unwrap(), expected, "{word}");
        }
        assert!(unit_word("a\nb", true).is_err());
        assert!(unit_word("a\0b", false).is_err());
        assert_eq!(unit_value("/a b/50%").unwrap(), "/a b/50%%");
        assert!(unit_value("a\nb").is_err());
    }

    #[test]
    fn toml_values() {
        assert_eq!(
            toml(&serde_json::json!(["a", "b"])).unwrap(),
            r#"["a", "b"]"#
        );
        assert_eq!(toml(&serde_json::json!(true)).unwrap(), "true");
        assert!(toml(&Value::Null).is_err());
    }
}
