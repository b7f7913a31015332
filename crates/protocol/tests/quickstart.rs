//! The worked examples of docs/quickstart.md are right to the byte.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // for tests: a failure is a finding

use ed25519_dalek::{Signer as _, SigningKey};

use clawdentity_protocol::b64;
use clawdentity_protocol::key::PublicKey;
use clawdentity_protocol::proof::{ProofHeaders, signed_text};

const PAGE: &str = include_str!("../../../docs/quickstart.md");

/// The value beside this term in a table, without its backticks.
fn value(part: &str, term: &str) -> String {
    let start = format!("| {term} |");
    let row = part.lines().find(|line| line.starts_with(&start)).unwrap();
    row[start.len()..]
        .trim_end_matches('|')
        .trim()
        .trim_matches('`')
        .to_owned()
}

#[test]
fn the_worked_examples_are_right_to_the_byte() {
    let section = PAGE
        .split("## A worked example\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let seed = value(section, "private key (the seed of RFC 8032, hexadecimal)");
    let seed: Vec<u8> = (0..32)
        .map(|n| u8::from_str_radix(&seed[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let key = SigningKey::from_bytes(&seed.try_into().unwrap());
    let public = PublicKey::from(&key);
    assert_eq!(value(section, "public key"), public.x());
    let timestamp = value(section, "timestamp");

    let examples: Vec<&str> = section.split("| method |").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let example = format!("| method |{example}");
        let of = |term| value(&example, term);
        let (method, path, nonce, hash, proof) =
            (of("method"), of("path"), of("nonce"), of("hash"), of("proof"));
        let headers = ProofHeaders::parse(Some(&timestamp), Some(&nonce), Some(&hash), Some(&proof)).unwrap();
        headers.verify(&public, &method, &path).unwrap();
        headers.check_body(of("body").as_bytes()).unwrap();
        let text = signed_text(&method, &path, &timestamp, &nonce, &hash);
        assert_eq!(b64::encode(&key.sign(text.as_bytes()).to_bytes()), proof);
        assert!(example.contains(&format!("```text\n{text}\n```")), "{text}");
        assert!(example.contains(&format!("signed, {} bytes", text.len())));
    }
}
