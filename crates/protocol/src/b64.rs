//! base64url as docs/wire.md §1 defines it: without padding, `+`, `/`, white space or trailing bits.
//!
//! Every byte string therefore has exactly one text. Comparing two hashes or two signatures as text is the same as
//! comparing their bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Not base64url, or not of the length asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum B64Error {
    /// Padding, another alphabet, white space, an impossible length or trailing bits.
    #[error("not unpadded canonical base64url")]
    Encoding,
    /// Well encoded, but of another length than the field has.
    #[error("does not decode to the expected length")]
    Length,
}

/// Encodes without padding.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes the one canonical form.
///
/// # Errors
/// `Encoding` for anything else.
pub fn decode(text: &str) -> Result<Vec<u8>, B64Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| B64Error::Encoding)
}

/// Decodes a field of a fixed length, without allocating for one that is far too long.
///
/// # Errors
/// `Length` where it decodes to other than `N` bytes, else as `decode`.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], B64Error> {
    // 4 characters for 3 bytes, rounded up: what is longer cannot be N bytes.
    if text.len() > N.div_ceil(3) * 4 {
        return Err(B64Error::Length);
    }
    decode(text)?.try_into().map_err(|_| B64Error::Length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_4648_vectors() {
        let table: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg"),
            (b"fooba", "Zm9vYmE"),
            (b"foobar", "Zm9vYmFy"),
            (&[0xfb, 0xff, 0xbf], "-_-_"),
        ];
        for (bytes, text) in table {
            assert_eq!(encode(bytes), *text);
            assert_eq!(decode(text).as_deref(), Ok(*bytes));
        }
    }

    #[test]
    fn one_text_per_value() {
        let table = [
            ("Zg==", "padding"),
            ("Zg=", "half a padding"),
            ("Zh", "trailing bits"),
            ("Zm9", "trailing bits"),
            ("+/+/", "the other alphabet"),
            ("Zm 8", "a space inside"),
            ("Zm8\n", "a line end"),
            (" Zm8", "a space before"),
            ("Z", "an impossible length"),
            ("Zm9vé", "not ASCII"),
            ("Zm9v\0", "a zero"),
        ];
        for (text, why) in table {
            assert_eq!(decode(text), Err(B64Error::Encoding), "{why}");
        }
    }

    #[test]
    fn fixed_lengths() {
        assert_eq!(decode_array::<3>("Zm9v"), Ok(*b"foo"));
        assert_eq!(decode_array::<3>("Zm8"), Err(B64Error::Length));
        assert_eq!(decode_array::<3>("Zm9vYg"), Err(B64Error::Length));
        assert_eq!(decode_array::<2>("Zm9v"), Err(B64Error::Length));
        assert_eq!(decode_array::<32>(&"A".repeat(1 << 20)), Err(B64Error::Length));
    }

    proptest! {
        #[test]
        fn round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&encode(&bytes)), Ok(bytes));
        }

        #[test]
        fn what_decodes_was_canonical(text in "[A-Za-z0-9_=+/ -]{0,12}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
