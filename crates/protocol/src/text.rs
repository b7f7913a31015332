//! What the parsers share: serde for types that are strings on the wire, optional fields that may be absent but not
//! `null`, and texts written by others that are kept for people to read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// How much of somebody's free-text reason is kept: as much as the registry allows in a CRL (docs/wire.md §4).
pub const MAX_REASON_CHARS: usize = 280;

/// `Display`, `Debug`, `Serialize` and `Deserialize` for a type with `parse(&str)` and `as_str()`: its text form is its
/// only form, and deserialising is parsing. The error does not repeat the input, which may be a stranger's.
macro_rules! string_form {
    ($type:ty, $expected:literal) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $crate::text::string_serde!($type, $expected);
    };
}
pub(crate) use string_form;

/// The serde half of `string_form`, for types with a `Display` of their own.
macro_rules! string_serde {
    ($type:ty, $expected:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        <$type>::parse(text).map_err(|_| E::custom(concat!("expected ", $expected)))
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}
pub(crate) use string_serde;

/// A `T` that is an object on the wire. A derived `Deserialize` also takes an array of the fields in their order, which
/// no format of ours has: every object from outside is read through this.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Parses a JSON object. `None` for anything else: what exactly is wrong is not for strangers, and costs a text.
pub fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice::<Object<T>>(json)
        .ok()
        .map(|object| object.0)
}

/// For `#[serde(default, deserialize_with = "present")]`: the field may be absent, but where it is present it must be a
/// `T`. Without this, serde takes `null` for absent.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Whether a text has a control character, line ends included.
pub fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Somebody's reason as it is kept: control characters dropped, trimmed, cut at `MAX_REASON_CHARS`; `None` when blank.
pub fn reason(text: &str) -> Option<String> {
    // The bound on what is looked at keeps a megabyte of spaces from being copied first.
    let kept: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS)
        .collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Compact JSON of a value of ours. It cannot fail: our wire structs have string keys and no fallible fields.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        let long = "x".repeat(1000);
        let table: &[(&str, Option<&str>)] = &[
            ("", None),
            (" \t\r\n ", None),
            ("\u{0}\u{7f}", None),
            ("  webhook\nfailed ", Some("webhookfailed")),
            ("é", Some("é")),
            (&long, Some(&long[..MAX_REASON_CHARS])),
        ];
        for (input, expect) in table {
            assert_eq!(reason(input).as_deref(), *expect, "{input:?}");
        }
    }

    #[test]
    fn an_object_is_no_array_and_has_no_field_twice() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Pair {
            a: u8,
            b: Option<Object<Inner>>,
        }
        #[derive(Deserialize)]
        struct Inner {
            c: u8,
        }
        let parse =
            |text: &str| object::<Pair>(text.as_bytes()).map(|pair| (pair.a, pair.b.map(|inner| inner.0.c)));
        assert_eq!(parse(r#"{"a":1,"b":{"c":2}}"#), Some((1, Some(2))));
        assert_eq!(parse(r#"{"a":1}"#), Some((1, None)));
        for bad in [
            "[1]",
            "[1,[2]]",
            r#"{"a":1,"b":[2]}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"x":1}"#,
            r#"{"a":1}x"#,
            "null",
            "1",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn present_refuses_null() {
        #[derive(Deserialize)]
        struct Field {
            #[serde(default, deserialize_with = "present")]
            a: Option<String>,
        }
        let parse = |text| serde_json::from_str::<Field>(text).ok().map(|field| field.a);
        assert_eq!(parse("{}"), Some(None));
        assert_eq!(parse(r#"{"a":"x"}"#), Some(Some("x".into())));
        assert_eq!(parse(r#"{"a":null}"#), None);
    }
}
