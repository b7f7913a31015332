//! The bundle that policy engines load: an OPA bundle as a tar archive, not yet compressed (docs/wire.md §10.2).
//!
//! The content of `data.json` comes in pieces of text that the ledger's query has written. They are kept as they are,
//! so a bundle of 100,000 tokens is in memory once.

use serde_json::json;

const TAR_BLOCK: usize = 512;

/// `data.json` so far.
#[derive(Debug, Default)]
pub struct Archive {
    agents: Vec<String>,
    tokens: Vec<String>,
}

impl Archive {
    /// Takes members of the object `agents`: `"did":{…}`, with commas between them.
    pub fn push_agents(&mut self, members: String) {
        self.agents.push(members);
    }

    /// The same of the object `tokens`.
    pub fn push_tokens(&mut self, members: String) {
        self.tokens.push(members);
    }

    /// The archive, in pieces.
    pub fn tar(self, epoch: &str, latest: u64) -> Vec<Vec<u8>> {
        let manifest =
            json!({ "revision": format!("{epoch}-{latest}"), "roots": ["revocations"] }).to_string();
        let mut content = vec![format!(
            r#"{{"revocations":{{"epoch":"{epoch}","latest":{latest},"agents":{{"#
        )];
        append(&mut content, self.agents);
        content.push(r#"},"tokens":{"#.to_owned());
        append(&mut content, self.tokens);
        content.push("}}}".to_owned());

        let mut pieces = Vec::with_capacity(content.len() + 6);
        file(&mut pieces, ".manifest", vec![manifest]);
        file(&mut pieces, "data.json", content);
        pieces.push(vec![0; 2 * TAR_BLOCK]);
        pieces
    }
}

fn append(content: &mut Vec<String>, parts: Vec<String>) {
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    for (n, part) in parts.enumerate() {
        if n > 0 {
            content.push(",".to_owned());
        }
        content.push(part);
    }
}

/// A plain file (POSIX ustar), whose bytes depend on nothing but its name and content.
fn file(pieces: &mut Vec<Vec<u8>>, name: &str, content: Vec<String>) {
    let length: usize = content.iter().map(String::len).sum();
    let mut header = Vec::with_capacity(TAR_BLOCK);
    header.extend_from_slice(&padded(name, 100));
    header.extend_from_slice(b"0000644\0"); // mode
    header.extend_from_slice(b"0000000\0"); // owner
    header.extend_from_slice(b"0000000\0"); // group
    header.extend_from_slice(format!("{length:011o}\0").as_bytes());
    header.extend_from_slice(b"00000000000\0"); // time
    let before = header.clone();
    header.extend_from_slice(b"        "); // the checksum, counted as blanks
    header.push(b'0'); // a plain file
    header.extend_from_slice(&padded("", 100));
    header.extend_from_slice(b"ustar\x0000");
    header.resize(TAR_BLOCK, 0);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let after = header.split_off(before.len() + 8);
    header.truncate(before.len());
    header.extend_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(&after);
    pieces.push(header);
    pieces.extend(content.into_iter().map(String::into_bytes));
    pieces.push(vec![0; length.next_multiple_of(TAR_BLOCK) - length]);
}

fn padded(text: &str, width: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(width, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_pinned() {
        let mut bundle = Archive::default();
        bundle.push_agents(r#""a":{"seq":3}"#.into());
        bundle.push_tokens(r#""t":{"seq":4},"u":{"seq":5}"#.into());
        bundle.push_tokens(String::new());
        bundle.push_tokens(r#""v":{"seq":6}"#.into());
        let tar = bundle.tar("e1", 6).concat();
        assert_eq!(tar.len() % TAR_BLOCK, 0);
        assert_eq!(&tar[..10], b".manifest\0");
        let text = String::from_utf8(tar[TAR_BLOCK..2 * TAR_BLOCK].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches('\0'),
            r#"{"revision":"e1-6","roots":["revocations"]}"#
        );
        assert_eq!(&tar[2 * TAR_BLOCK..2 * TAR_BLOCK + 10], b"data.json\0");
        let text = String::from_utf8(tar[3 * TAR_BLOCK..].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches('\0'),
            r#"{"revocations":{"epoch":"e1","latest":6,"agents":{"a":{"seq":3}},"tokens":{"t":{"seq":4},"u":{"seq":5},"v":{"seq":6}}}}"#
        );
    }
}
