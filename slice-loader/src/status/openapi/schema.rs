//! Whether a value fits a schema, as far as schemas here go: a word that is not known
//! fails, so that nothing is passed over. A whole validator would bring forty crates.

use serde_json::Value;

/// Words that say nothing of values, or whose values are not looked at.
const SILENT: &[&str] = &[
    "description",
    "title",
    "default",
    "examples",
    "format",
    "pattern",
];

/// Whether it fits.
///
/// # Errors
/// Where it does not, and why.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let words = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(words) => words,
        other => return Err(format!("{other} is no schema")),
    };
    for (word, says) in words {
        fits(document, (word, says), words, value).map_err(|why| format!("{word}: {why}"))?;
    }
    Ok(())
}

fn fits(
    document: &Value,
    (word, says): (&str, &Value),
    words: &serde_json::Map<String, Value>,
    value: &Value,
) -> Result<(), String> {
    let holds = |holds: bool| {
        holds
            .then_some(())
            .ok_or_else(|| format!("{value} is not {says}"))
    };
    let list = || says.as_array().ok_or_else(|| format!("{says} is no list"));
    match word {
        "$ref" => {
            let pointer = says.as_str().and_then(|text| text.strip_prefix('#'));
            let schema = pointer.and_then(|pointer| document.pointer(pointer));
            check(document, schema.ok_or("refers to nothing")?, value)
        }
        "type" => match says {
            Value::Array(kinds) => holds(kinds.iter().any(|kind| is(kind, value))),
            kind => holds(is(kind, value)),
        },
        "enum" => holds(list()?.contains(value)),
        "const" => holds(says == value),
        "minimum" => holds(value.as_f64() >= says.as_f64() || !value.is_number()),
        "maximum" => holds(value.as_f64() <= says.as_f64() || !value.is_number()),
        "minItems" => holds(value.as_array().map(Vec::len) >= length(says)),
        "maxItems" => holds(value.as_array().map(Vec::len) <= length(says)),
        "anyOf" | "oneOf" => {
            let fit = list()?
                .iter()
                .filter(|schema| check(document, schema, value).is_ok());
            let fit = fit.count();
            holds(fit == 1 || (word == "anyOf" && fit > 1))
        }
        "items" => each(value.as_array().into_iter().flatten(), |item| {
            check(document, says, item)
        }),
        "properties" => each(says.as_object().into_iter().flatten(), |(name, schema)| {
            let Some(field) = value.get(name) else {
                return Ok(());
            };
            check(document, schema, field).map_err(|why| format!("{name}: {why}"))
        }),
        // Stricter than the schema: what is told is described.
        "required" => {
            let names = list()?;
            each(names, |name| {
                let there = name.as_str().is_some_and(|name| value.get(name).is_some());
                there
                    .then_some(())
                    .ok_or_else(|| format!("{name} is missing"))
            })?;
            let known = &words["properties"];
            each(value.as_object().into_iter().flatten(), |(name, _)| {
                let there = known.get(name).is_some();
                there
                    .then_some(())
                    .ok_or_else(|| format!("{name} is not described"))
            })
        }
        "additionalProperties" => {
            let known = words.get("properties");
            let fields = value.as_object().into_iter().flatten();
            let others =
                fields.filter(|(name, _)| known.is_none_or(|known| known.get(name).is_none()));
            each(others, |(_, field)| match says {
                Value::Bool(false) => Err("a field too many".to_owned()),
                schema => check(document, schema, field),
            })
        }
        silent if SILENT.contains(&silent) => Ok(()),
        unknown => Err(format!("{unknown} is not understood")),
    }
}

fn length(says: &Value) -> Option<usize> {
    usize::try_from(says.as_u64()?).ok()
}

fn each<T>(
    items: impl IntoIterator<Item = T>,
    check: impl Fn(T) -> Result<(), String>,
) -> Result<(), String> {
    items.into_iter().try_for_each(check)
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_found() {
        let document = json!({"defs": {"A": {"type": "integer", "minimum": 0}}});
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {"$ref": "#/defs/A"},
                "b": {"anyOf": [{"type": "null"}, {"enum": ["x"]}]},
                "c": {"type": ["array", "null"], "items": {"$ref": "#/defs/A"}, "maxItems": 2},
            },
        });
        for fits in [
            json!({"a": 1}),
            json!({"a": 0, "b": null, "c": null}),
            json!({"a": 0, "b": "x", "c": [1, 2]}),
        ] {
            check(&document, &schema, &fits).unwrap();
        }
        for wrong in [
            json!([]),
            json!({}),
            json!({"a": -1}),
            json!({"a": "1"}),
            json!({"a": 1, "b": "y"}),
            json!({"a": 1, "c": [1, -2]}),
            json!({"a": 1, "c": [1, 2, 3]}),
            json!({"a": 1, "d": 1}),
        ] {
            assert!(check(&document, &schema, &wrong).is_err(), "{wrong}");
        }
        assert!(check(&document, &json!({"unheard": 1}), &json!(1)).is_err());
    }
}
