//! The bundle that policy engines load: an OPA bundle as a tar archive, not yet compressed (docs/wire.md §10.2).
//!
//! It is written from its beginning to its end, so none of it needs to stay in memory. A tar archive says how long a file
//! is before the file comes. So `data.json` is given the room that its contents are expected to need, and some more, and
//! what is left of that at its end is filled with blanks, which JSON allows there.

use serde_json::json;

const TAR_BLOCK: usize = 512;
const BEGIN_TOKENS: &str = r#"},"tokens":{"#;
const END: &str = "}}}";

/// An archive that is being written. Every piece that its functions return belongs behind the one before.
#[derive(Debug)]
pub struct Archive {
    /// The length of `data.json`.
    length: usize,
    left: usize,
    /// The next member is the first of its object.
    is_first: bool,
}

/// The members need more than the room that they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Archive {
    /// Begins one whose members, with their commas, may have `room` bytes in all. First come those of `agents`.
    pub fn begin(epoch: &str, latest: u64, room: usize) -> (Self, Vec<u8>) {
        let manifest =
            json!({ "revision": format!("{epoch}-{latest}"), "roots": ["revocations"] }).to_string();
        let head = format!(r#"{{"revocations":{{"epoch":"{epoch}","latest":{latest},"agents":{{"#);
        let length = [head.len(), room, BEGIN_TOKENS.len(), END.len()]
            .iter()
            .sum::<usize>()
            .next_multiple_of(TAR_BLOCK);
        let mut bytes = file_header(".manifest", manifest.len());
        bytes.extend_from_slice(manifest.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(TAR_BLOCK), 0);
        bytes.extend(file_header("data.json", length));
        bytes.extend_from_slice(head.as_bytes());
        let archive = Self {
            length,
            left: length - head.len() - BEGIN_TOKENS.len() - END.len(),
            is_first: true,
        };
        (archive, bytes)
    }

    /// Takes members: `"name":{…}`, with commas between them.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn members(&mut self, members: String) -> Result<Vec<u8>, NoRoom> {
        let mut bytes = members.into_bytes();
        if bytes.is_empty() {
            return Ok(bytes);
        }
        if !std::mem::take(&mut self.is_first) {
            bytes.insert(0, b',');
        }
        self.left = self.left.checked_sub(bytes.len()).ok_or(NoRoom)?;
        Ok(bytes)
    }

    /// From here on the members are those of `tokens`.
    pub fn begin_tokens(&mut self) -> Vec<u8> {
        self.is_first = true;
        BEGIN_TOKENS.as_bytes().to_vec()
    }

    /// The end.
    pub fn end(self) -> Vec<u8> {
        let mut bytes = END.as_bytes().to_vec();
        bytes.resize(bytes.len() + self.left, b' ');
        // `length` is a whole number of blocks, and two empty ones end an archive.
        debug_assert!(self.length.is_multiple_of(TAR_BLOCK));
        bytes.resize(bytes.len() + 2 * TAR_BLOCK, 0);
        bytes
    }
}

/// The header of a plain file (POSIX ustar), which depends on nothing but the file's name and length.
fn file_header(name: &str, length: usize) -> Vec<u8> {
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
    header
}

fn padded(text: &str, width: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(width, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(room: usize) -> Result<Vec<u8>, NoRoom> {
        let (mut archive, mut tar) = Archive::begin("e1", 6, room);
        tar.extend(archive.members(r#""a":{"seq":3}"#.into())?);
        tar.extend(archive.begin_tokens());
        for members in [r#""t":{"seq":4},"u":{"seq":5}"#, "", r#""v":{"seq":6}"#] {
            tar.extend(archive.members(members.into())?);
        }
        tar.extend(archive.end());
        Ok(tar)
    }

    #[test]
    fn a_bundle_is_pinned() {
        let tar = written(54).unwrap();
        assert_eq!(tar.len(), 6 * TAR_BLOCK);
        assert_eq!(&tar[..10], b".manifest\0");
        let text = String::from_utf8(tar[TAR_BLOCK..2 * TAR_BLOCK].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches('\0'),
            r#"{"revision":"e1-6","roots":["revocations"]}"#
        );
        assert_eq!(&tar[2 * TAR_BLOCK..2 * TAR_BLOCK + 10], b"data.json\0");
        assert_eq!(
            &tar[2 * TAR_BLOCK + 124..2 * TAR_BLOCK + 136],
            b"00000001000\0",
            "512 bytes"
        );
        let text = String::from_utf8(tar[3 * TAR_BLOCK..4 * TAR_BLOCK].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches(' '),
            r#"{"revocations":{"epoch":"e1","latest":6,"agents":{"a":{"seq":3}},"tokens":{"t":{"seq":4},"u":{"seq":5},"v":{"seq":6}}}}"#
        );
        assert!(tar[4 * TAR_BLOCK..].iter().all(|byte| *byte == 0));
    }

    /// Room that is used to its last byte, one byte too few, and one that is left over.
    #[test]
    fn there_is_room_for_what_was_said() {
        let members = |bytes: usize| "x".repeat(bytes);
        for room in [0, 1, 511, 512, 513, 100_000] {
            let (mut archive, begin) = Archive::begin("e", 1, room);
            let all = archive.left;
            assert!(all >= room);
            assert_eq!(archive.members(members(all + 1)), Err(NoRoom));
            archive.is_first = true;
            let filled = archive.members(members(all)).unwrap().len();
            let tar = begin.len() + filled + archive.begin_tokens().len() + archive.end().len();
            assert_eq!(tar % TAR_BLOCK, 0, "{room}");
        }
    }
}
