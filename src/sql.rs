//! A Durable Object's SQLite.
//!
//! The values of a statement are JSON scalars, and so are those of its rows: what is stored as a BLOB is given as
//! `unhex(?)` and read as `hex(...)`.

use serde::de::DeserializeOwned;
use serde_json::Value;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{Error, Result, SqlStorage};

#[wasm_bindgen(module = "/glue/sql.js")]
extern "C" {
    /// See the JavaScript. So for all.
    #[wasm_bindgen(catch)]
    fn run(sql: &JsValue, query: &str, values: &str) -> std::result::Result<(), JsValue>;

    #[wasm_bindgen(catch)]
    fn arrays(sql: &JsValue, query: &str, values: &str) -> std::result::Result<String, JsValue>;

    #[wasm_bindgen(catch)]
    fn objects(sql: &JsValue, query: &str, values: &str) -> std::result::Result<String, JsValue>;
}

/// The database of the object that opened it.
pub struct Sql(SqlStorage);

impl Sql {
    /// The object's.
    pub fn new(storage: SqlStorage) -> Self {
        Self(storage)
    }

    /// Runs a statement, or several without values.
    ///
    /// # Errors
    /// The storage's. So for all.
    pub fn run(&self, query: &str, values: &[Value]) -> Result<()> {
        Ok(run(self.0.as_ref(), query, &text_of(values)?)?)
    }

    /// The rows of a query, each a list of its values.
    pub fn rows(&self, query: &str, values: &[Value]) -> Result<Vec<Vec<Value>>> {
        read(&arrays(self.0.as_ref(), query, &text_of(values)?)?)
    }

    /// The rows of a query, each read by its columns' names.
    pub fn rows_as<T: DeserializeOwned>(&self, query: &str, values: &[Value]) -> Result<Vec<T>> {
        read(&objects(self.0.as_ref(), query, &text_of(values)?)?)
    }

    /// Bytes of the database.
    pub fn size(&self) -> u64 {
        self.0.database_size() as u64
    }
}

/// A time or a count as a value. One beyond what JavaScript can count stands for "never" and is cut to the last it can.
pub fn int(value: u64) -> Value {
    const MAX_SAFE: u64 = (1 << 53) - 1;
    value.min(MAX_SAFE).into()
}

/// Bytes as a value for `unhex(?)`.
pub fn hex(bytes: &[u8]) -> Value {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect::<String>().into()
}

/// The bytes of what `hex(...)` gave; `None` for any other number of them.
pub fn unhex<const N: usize>(value: &Value) -> Option<[u8; N]> {
    let digits = value.as_str()?.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn text_of(values: &[Value]) -> Result<String> {
    serde_json::to_string(values).map_err(|error| Error::RustError(error.to_string()))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::RustError(error.to_string()))
}
