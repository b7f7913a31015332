//! Times on the wire: ISO-8601 text in both directions, and the looser forms that events and the CRL use.
//!
//! Inside the proxy, a time is Unix milliseconds in a `u64`. A date before 1970, or one that the calendar does not
//! have, is not a time.

use chrono::{DateTime, Datelike as _, NaiveDate, Timelike as _};
use serde_json::Value;

/// 9999-12-31T23:59:59.999Z: ISO-8601 has four digits for a year.
const MAX_MS: u64 = 253_402_300_799_999;

/// Below this a bare number is seconds, from it on milliseconds: as seconds it is the year 5138, as milliseconds 1973.
const FIRST_NUMBER_IN_MS: u64 = 100_000_000_000;

/// Not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ISO-8601 time with a zone")]
pub struct TimeError;

/// `2026-01-02T03:04:05.678Z`. What is past the year 9999 is shown as its last millisecond.
pub fn iso_ms(now_ms: u64) -> String {
    let ms = now_ms.min(MAX_MS);
    // Cannot fail below `MAX_MS`; the epoch is what a wrong bound would show.
    let time = i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or_default();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        ms % 1000
    )
}

/// Unix milliseconds of `YYYY-MM-DDTHH:MM:SS[.fraction]ZONE`: up to nine digits of fraction (cut to milliseconds), and
/// any zone: `Z`, `±HH:MM`, `±HHMM` or `±HH` (docs/wire.md §6).
///
/// # Errors
/// Any other text, a date or an hour that does not exist, a leap second, or a time before 1970 or after 9999.
pub fn parse_iso(text: &str) -> Result<u64, TimeError> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4)?;
    rest.literal(b'-')?;
    let month = rest.number(2)?;
    rest.literal(b'-')?;
    let day = rest.number(2)?;
    rest.literal(b'T')?;
    let hour = rest.number(2)?;
    rest.literal(b':')?;
    let minute = rest.number(2)?;
    rest.literal(b':')?;
    let second = rest.number(2)?;
    let millis = rest.fraction()?;
    let offset_minutes = rest.zone()?;
    if !rest.0.is_empty() {
        return Err(TimeError);
    }
    let local = i32::try_from(year)
        .ok()
        .and_then(|year| NaiveDate::from_ymd_opt(year, month, day))
        .and_then(|date| date.and_hms_milli_opt(hour, minute, second, millis))
        .ok_or(TimeError)?;
    let ms = local.and_utc().timestamp_millis() - i64::from(offset_minutes) * 60_000;
    u64::try_from(ms).ok().filter(|ms| *ms <= MAX_MS).ok_or(TimeError)
}

/// Unix milliseconds of an HTTP `Date` (RFC 9110 §5.6.7), in the one form that is still sent:
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let text = text.trim().strip_suffix(" GMT")?;
    let (_, date) = text.split_once(", ")?;
    let time = chrono::NaiveDateTime::parse_from_str(date, "%d %b %Y %H:%M:%S").ok()?;
    u64::try_from(time.and_utc().timestamp_millis()).ok()
}

/// Unix milliseconds of what events and the CRL call a time: ISO-8601, seconds or milliseconds (docs/wire.md §7), a number
/// also as text. `None` for anything else.
pub fn parse_loose(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            // JavaScript's arithmetic may leave a fraction. The cast saturates, and the bound below refuses that.
            number
                .as_f64()
                .filter(|float| float.is_finite() && *float >= 0.0)
                .map(|float| float as u64)
        })?,
        Value::String(text) => match text.trim() {
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok()?
            }
            iso => return parse_iso(iso).ok(),
        },
        _ => return None,
    };
    let ms = if number < FIRST_NUMBER_IN_MS {
        number * 1000
    } else {
        number
    };
    (ms <= MAX_MS).then_some(ms)
}

/// What is left of the text.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self, digits: usize) -> Result<u32, TimeError> {
        let (number, rest) = self.0.split_at_checked(digits).ok_or(TimeError)?;
        self.0 = rest;
        number.iter().try_fold(0_u32, |sum, byte| match byte {
            b'0'..=b'9' => Ok(sum * 10 + u32::from(byte - b'0')),
            _ => Err(TimeError),
        })
    }

    fn literal(&mut self, expected: u8) -> Result<(), TimeError> {
        match self.0.split_first() {
            Some((first, rest)) if *first == expected => {
                self.0 = rest;
                Ok(())
            }
            _ => Err(TimeError),
        }
    }

    /// Milliseconds of an optional `.` and one to nine digits.
    fn fraction(&mut self) -> Result<u32, TimeError> {
        if self.literal(b'.').is_err() {
            return Ok(0);
        }
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return Err(TimeError);
        }
        let kept = digits.min(3);
        let millis = self.number(kept)? * [1, 100, 10, 1].get(kept).copied().unwrap_or(1);
        self.0 = self.0.get(digits - kept..).unwrap_or_default();
        Ok(millis)
    }

    /// Minutes east of UTC.
    fn zone(&mut self) -> Result<i32, TimeError> {
        let (first, rest) = self.0.split_first().ok_or(TimeError)?;
        self.0 = rest;
        let sign = match first {
            b'Z' => return Ok(0),
            b'+' => 1,
            b'-' => -1,
            _ => return Err(TimeError),
        };
        let hours = self.number(2)?;
        if !self.0.is_empty() && self.0.first() == Some(&b':') {
            self.0 = self.0.get(1..).unwrap_or_default();
            if self.0.is_empty() {
                return Err(TimeError);
            }
        }
        let minutes = if self.0.is_empty() { 0 } else { self.number(2)? };
        if hours > 23 || minutes > 59 {
            return Err(TimeError);
        }
        i32::try_from(hours * 60 + minutes)
            .map(|offset| sign * offset)
            .map_err(|_| TimeError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn http_dates() {
        assert_eq!(
            parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777_000)
        );
        for wrong in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 99 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn iso_format_unchanged() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (MAX_MS, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in table {
            assert_eq!(iso_ms(ms), text);
        }
    }

    #[test]
    fn any_zone_and_nine_digits() {
        let same = 1_767_323_045_678;
        let table: &[(&str, Option<u64>)] = &[
            ("2026-01-02T03:04:05.678Z", Some(same)),
            ("2026-01-02T03:04:05.678999999Z", Some(same)),
            ("2026-01-02T03:04:05.678+00:00", Some(same)),
            ("2026-01-02T08:34:05.678+05:30", Some(same)),
            ("2026-01-01T19:04:05.678-0800", Some(same)),
            ("2026-01-02T05:04:05.678+02", Some(same)),
            ("2026-01-02T03:04:05.6Z", Some(same - 78)),
            ("2026-01-02T03:04:05.67Z", Some(same - 8)),
            ("2026-01-02T03:04:05Z", Some(same - 678)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00+00:01", None),
            ("1969-12-31T23:59:59.999Z", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-01-02T03:04:05.1234567890Z", None),
            ("2026-01-02T03:04:05", None),
            ("2026-01-02T03:04Z", None),
            ("2026-01-02", None),
            ("2026-01-02 03:04:05Z", None),
            ("2026-01-02t03:04:05z", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-02T24:00:00Z", None),
            ("2026-12-31T23:59:60Z", None),
            ("2026-01-02T03:04:05+24:00", None),
            ("2026-01-02T03:04:05+05:60", None),
            ("2026-01-02T03:04:05+05:", None),
            ("2026-01-02T03:04:05+5", None),
            ("2026-01-02T03:04:05+05:30:00", None),
            ("2026-01-02T03:04:05ZZ", None),
            ("+026-01-02T03:04:05Z", None),
            ("2026-01-02T03:04:05Z ", None),
            ("", None),
            ("２０２６-01-02T03:04:05Z", None),
        ];
        for (text, expect) in table {
            assert_eq!(parse_iso(text).ok(), *expect, "{text}");
        }
    }

    #[test]
    fn events_may_use_seconds_or_milliseconds() {
        let table = [
            (json!("2026-01-02T03:04:05.678Z"), Some(1_767_323_045_678)),
            (json!(1_767_323_045_u64), Some(1_767_323_045_000)),
            (json!(1_767_323_045_678_u64), Some(1_767_323_045_678)),
            (json!("1767323045"), Some(1_767_323_045_000)),
            (json!(1_767_323_045.9), Some(1_767_323_045_000)),
            (json!(0), Some(0)),
            (json!(-1), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
            (json!("99999999999999999999999"), None),
            (json!("soon"), None),
            (json!(""), None),
            (json!(null), None),
            (json!([1]), None),
            (json!(true), None),
        ];
        for (value, expect) in table {
            assert_eq!(parse_loose(&value), expect, "{value}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(ms in 0..=MAX_MS) {
            prop_assert_eq!(parse_iso(&iso_ms(ms)), Ok(ms));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_iso(&text);
        }

        #[test]
        fn no_near_miss_panics(text in "[0-9TZ:.+-]{0,40}") {
            let _ = parse_iso(&text);
        }
    }
}
