//! Server-sent events, as far as the feed uses them: `event`, `id`, `data` and comments, in lines that may be cut at
//! any byte. A line ends in LF, CR LF or CR. An event without the empty line at its end is not an event, as the
//! standard says.
//!
//! Sizes are capped: a line or an event that is longer than any item is an error, and the reader connects anew.

use clawdentity_protocol::revocation::MAX_ITEM_BYTES;

/// The longest line, and the most data of one event.
const MAX_BYTES: usize = MAX_ITEM_BYTES + 64;

/// Over `MAX_BYTES`: not our feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An event that was complete.
    Event {
        /// `event:`, empty where there was none.
        name: Vec<u8>,
        /// The `data:` lines, joined by LF.
        data: Vec<u8>,
    },
    /// A comment: the stream lives.
    Comment,
    /// A comment: the proxy lives, and cannot read its ledger (docs/wire.md §10.2).
    Degraded,
}

/// A stream so far.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
}

impl Parser {
    /// Takes the next bytes and hands out what they complete.
    ///
    /// # Errors
    /// A line or an event that is too long.
    pub fn push(&mut self, bytes: &[u8], mut out: impl FnMut(Signal)) -> Result<(), TooLong> {
        for byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    if let Some(signal) = self.end_line()? {
                        out(signal);
                    }
                }
                _ if self.line.len() >= MAX_BYTES => return Err(TooLong),
                _ => self.line.push(*byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Signal>, TooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            let complete = std::mem::take(&mut self.has_data);
            return Ok(complete.then_some(Signal::Event { name, data }));
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => {
                let degraded = line.get(1..).is_some_and(|text| text.trim_ascii() == b"degraded");
                return Ok(Some(if degraded {
                    Signal::Degraded
                } else {
                    Signal::Comment
                }));
            }
            Some(at) => line.split_at(at),
            None => (line.as_slice(), &b""[..]),
        };
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = value.to_vec(),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
                if self.data.len() > MAX_BYTES {
                    return Err(TooLong);
                }
            }
            // `id` is the item's own number; `retry` is our own settings' matter.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(parts: &[&[u8]]) -> Result<Vec<Signal>, TooLong> {
        let mut parser = Parser::default();
        let mut signals = Vec::new();
        for part in parts {
            parser.push(part, |signal| signals.push(signal))?;
        }
        Ok(signals)
    }

    fn event(name: &str, data: &str) -> Signal {
        Signal::Event {
            name: name.into(),
            data: data.into(),
        }
    }

    #[test]
    fn streams() {
        let table: &[(&str, Vec<Signal>)] = &[
            (
                "event: revocation\nid: 7\ndata: {}\n\n",
                vec![event("revocation", "{}")],
            ),
            (
                "event:revocation\r\ndata:{}\r\n\r\n",
                vec![event("revocation", "{}")],
            ),
            ("event: a\rdata: b\r\r", vec![event("a", "b")]),
            (": hello\n\n:\n", vec![Signal::Comment, Signal::Comment]),
            (": degraded\n\n", vec![Signal::Degraded]),
            ("data: a\ndata: b\n\n", vec![event("", "a\nb")]),
            ("data\n\n", vec![event("", "")]),
            ("data:  a\n\n", vec![event("", " a")]),
            ("event: lost\n\ndata: x\n\n", vec![event("", "x")]),
            ("id: 7\nretry: 10\nnoise: x\n\n", vec![]),
            ("event: revocation\ndata: cut", vec![]),
            ("event: revocation\ndata: cut\n", vec![]),
        ];
        for (text, expect) in table {
            assert_eq!(all(&[text.as_bytes()]).as_ref(), Ok(expect), "{text:?}");
            for cut in 0..=text.len() {
                let (a, b) = text.as_bytes().split_at(cut);
                assert_eq!(all(&[a, b]).as_ref(), Ok(expect), "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn too_long() {
        assert_eq!(all(&["x".repeat(MAX_BYTES + 1).as_bytes()]), Err(TooLong));
        assert_eq!(all(&["data: x\n".repeat(MAX_BYTES).as_bytes()]), Err(TooLong));
        assert!(all(&[":x\n".repeat(MAX_BYTES).as_bytes()]).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), any::<u8>()], 0..200)) {
            let whole = all(&[&bytes]);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(all(&single), whole);
        }
    }
}
