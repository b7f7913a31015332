//! D1 with a time limit. Every statement of this crate goes through here.
//!
//! A database that does not answer in time counts as one that failed. What it was asked to do may still happen, so
//! callers that write look again before they conclude anything.

use serde::Deserialize;
use wasm_bindgen::JsValue;
use worker::{D1PreparedStatement, D1Result};

use crate::app::App;
use crate::clock;
use crate::core::registry::answer::FailureKind;

/// Why D1 gave no answer. The text is the platform's own and for the log alone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// Not within the time given.
    #[error("no answer in time")]
    TimedOut,
    /// It said no, or the binding is missing.
    #[error("{0}")]
    Failed(String),
}

impl DbError {
    /// What a circuit counts it as.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::TimedOut => FailureKind::Timeout,
            Self::Failed(_) => FailureKind::Connection,
        }
    }
}

impl From<worker::Error> for DbError {
    fn from(error: worker::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One statement and its values.
pub struct Sql<'a> {
    text: &'a str,
    values: Vec<JsValue>,
}

impl<'a> Sql<'a> {
    /// `values` stand for `?1`, `?2`, … in this order.
    pub fn new(text: &'a str, values: impl IntoIterator<Item = JsValue>) -> Self {
        Self {
            text,
            values: values.into_iter().collect(),
        }
    }
}

/// A text value.
pub fn text(value: &str) -> JsValue {
    JsValue::from_str(value)
}

/// A text value, or null.
pub fn optional_text(value: Option<&str>) -> JsValue {
    value.map_or(JsValue::NULL, JsValue::from_str)
}

/// A whole number; all of ours are times and counts far below 2^53.
pub fn number(value: u64) -> JsValue {
    JsValue::from_f64(value as f64)
}

/// A whole number, or null.
pub fn optional_number(value: Option<u64>) -> JsValue {
    value.map_or(JsValue::NULL, number)
}

/// Runs all statements as one transaction.
///
/// # Errors
/// No answer, or a statement failed and none took effect.
pub async fn batch(app: &App, timeout_ms: u64, statements: Vec<Sql<'_>>) -> Result<Vec<D1Result>, DbError> {
    let work = async {
        let db = app.db()?;
        let prepare =
            |sql: Sql<'_>| -> worker::Result<D1PreparedStatement> { db.prepare(sql.text).bind(&sql.values) };
        let statements = statements
            .into_iter()
            .map(prepare)
            .collect::<worker::Result<Vec<_>>>()?;
        db.batch(statements).await
    };
    match clock::within_ms(timeout_ms, work).await {
        Some(answer) => Ok(answer?),
        None => Err(DbError::TimedOut),
    }
}

/// The rows of the n-th statement of a batch.
///
/// # Errors
/// They are not of this shape.
pub fn rows<T: for<'de> Deserialize<'de>>(results: &[D1Result], n: usize) -> Result<Vec<T>, DbError> {
    match results.get(n) {
        Some(result) => Ok(result.results()?),
        None => Err(DbError::Failed("D1 left out a result".into())),
    }
}

/// Runs one statement and returns its rows.
///
/// # Errors
/// See `batch` and `rows`.
pub async fn query<T: for<'de> Deserialize<'de>>(
    app: &App,
    timeout_ms: u64,
    sql: Sql<'_>,
) -> Result<Vec<T>, DbError> {
    rows(&batch(app, timeout_ms, vec![sql]).await?, 0)
}
