//! Ed25519 public keys that are safe to base a decision on (docs/wire.md §2).
//!
//! A [`PublicKey`] is the canonical encoding of a point that is not of small order. With a key of small order, one
//! signature can verify for any message; and a second encoding of a point would be a second name for one key.
//! `verify` is `verify_strict`, which refuses what RFC 8032 leaves open: an `R` of small order, and an `S` beyond the
//! group order.

use curve25519_dalek::edwards::CompressedEdwardsY;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};

use super::b64;

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64url of 32 bytes.
    #[error("not 32 bytes of base64url")]
    Encoding,
    /// Not a point of the curve, or not its canonical encoding.
    #[error("not the canonical encoding of a point")]
    NotCanonical,
    /// A point of small order: it verifies anything.
    #[error("is a point of small order")]
    Weak,
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Parses the `x` of a JWK.
    ///
    /// # Errors
    /// As `KeyError` lists them.
    pub fn from_x(x: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&b64::decode_array(x).map_err(|_| KeyError::Encoding)?)
    }

    /// Parses the 32 bytes.
    ///
    /// # Errors
    /// `NotCanonical` or `Weak`.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        // Decompression takes any y modulo p and ignores the sign of x = 0: only what compresses back is canonical.
        let point = CompressedEdwardsY(*bytes)
            .decompress()
            .ok_or(KeyError::NotCanonical)?;
        if point.compress().as_bytes() != bytes {
            return Err(KeyError::NotCanonical);
        }
        if point.is_small_order() {
            return Err(KeyError::Weak);
        }
        VerifyingKey::from_bytes(bytes)
            .map(Self)
            .map_err(|_| KeyError::NotCanonical)
    }

    /// Whether this key made the signature over the message.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0
            .verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    }

    /// The `x` of its JWK.
    pub fn x(&self) -> String {
        b64::encode(self.0.as_bytes())
    }
}

impl From<&SigningKey> for PublicKey {
    fn from(key: &SigningKey) -> Self {
        Self(key.verifying_key())
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.x())
    }
}

#[cfg(test)]
mod tests;
