//! How an input file is cut into records.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::function::split_pair;

/// The format of all input files of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Each line is a value; there is no key.
    Lines,
    /// Each file is a value; there is no key.
    Whole,
    /// Each line is key TAB value; without a tab the value is empty.
    Kv,
    /// Each line is a JSON document. With the parameters `key` and `value` these name fields (of nested
    /// objects: `a.b`) whose content becomes key and value; without them the line is the value.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "lines" => Ok(Self::Lines),
            "whole" => Ok(Self::Whole),
            "kv" => Ok(Self::Kv),
            "json" => Ok(Self::Json),
            _ => Err("a format is one of lines, whole, kv, json".to_owned()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "lines",
            Self::Whole => "whole",
            Self::Kv => "kv",
            Self::Json => "json",
        })
    }
}

/// Tells the key and the value of one line.
pub(crate) struct Cutter {
    format: Format,
    key: Option<Vec<String>>,
    value: Option<Vec<String>>,
    key_text: String,
    value_text: String,
}

impl Cutter {
    /// `key` and `value` name fields of JSON documents.
    pub(crate) fn new(format: Format, key: Option<&String>, value: Option<&String>) -> Self {
        let path = |name: Option<&String>| {
            name.map(|name| name.split('.').map(str::to_owned).collect::<Vec<_>>())
        };
        Self {
            format,
            key: path(key),
            value: path(value),
            key_text: String::new(),
            value_text: String::new(),
        }
    }

    /// Key and value of a line, or of a file.
    pub(crate) fn cut<'a>(&'a mut self, line: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
        match self.format {
            Format::Lines | Format::Whole => Ok((&[], line)),
            Format::Kv => Ok(split_pair(line)),
            Format::Json if self.key.is_none() && self.value.is_none() => {
                serde_json::from_slice::<serde::de::IgnoredAny>(line)
                    .map_err(|error| bad_json(&error))?;
                Ok((&[], line))
            }
            Format::Json => {
                let document: serde_json::Value =
                    serde_json::from_slice(line).map_err(|error| bad_json(&error))?;
                if let Some(path) = &self.key {
                    field(&document, path, &mut self.key_text)?;
                }
                let Some(path) = &self.value else {
                    return Ok((self.key_text.as_bytes(), line));
                };
                field(&document, path, &mut self.value_text)?;
                Ok((self.key_text.as_bytes(), self.value_text.as_bytes()))
            }
        }
    }
}

fn bad_json(error: &serde_json::Error) -> Error {
    Error::bad_record(format!("not a JSON document: {error}"))
}

/// The content of a field: a string without its quotes, anything else as JSON writes it.
fn field(document: &serde_json::Value, path: &[String], text: &mut String) -> Result<()> {
    let found = path
        .iter()
        .try_fold(document, |value, name| value.get(name));
    text.clear();
    match found {
        Some(serde_json::Value::String(content)) => text.push_str(content),
        Some(other) => text.push_str(&other.to_string()),
        None => return Err(Error::bad_record(format!("no field {:?}", path.join(".")))),
    }
    if text.contains(['\t', '\n']) && !text.is_empty() {
        // A key with a tab could not be told from key and value in the output.
        *text = text.replace(['\t', '\n'], " ");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_documents() {
        let (key, value) = ("user.name".to_owned(), "bytes".to_owned());
        let mut cutter = Cutter::new(Format::Json, Some(&key), Some(&value));
        let cut = cutter
            .cut(br#"{"user":{"name":"ada\tl"},"bytes":12}"#)
            .expect("both fields");
        assert_eq!(cut, (&b"ada l"[..], &b"12"[..]));
        assert!(matches!(
            cutter.cut(b"{\"bytes\":1}"),
            Err(Error::BadRecord(_))
        ));
        assert!(matches!(cutter.cut(b"{"), Err(Error::BadRecord(_))));
        let mut cutter = Cutter::new(Format::Json, None, None);
        assert_eq!(
            cutter.cut(b"[1]").expect("a document"),
            (&b""[..], &b"[1]"[..])
        );
        assert!(cutter.cut(b"[1").is_err());
    }
}
