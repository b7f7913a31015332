//! Random bytes from the platform's generator, which is asked for many at a time: each time costs several crossings.
//!
//! A byte is handed out once, and erased here when it is.

use std::cell::RefCell;

/// Bytes that one question brings.
const POOL_BYTES: usize = 1024;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES }) };
}

struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

/// Random bytes.
///
/// # Errors
/// The generator failed: the caller must refuse, never go on with zeros.
pub fn bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    const { assert!(N <= POOL_BYTES, "more than the pool holds") };
    POOL.with_borrow_mut(|pool| {
        if pool.used.saturating_add(N) > POOL_BYTES {
            // Stays used up where the generator fails.
            getrandom::fill(&mut pool.bytes)?;
            pool.used = 0;
        }
        let mut given = [0; N];
        for (given, kept) in given.iter_mut().zip(pool.bytes.iter_mut().skip(pool.used)) {
            *given = std::mem::take(kept);
        }
        pool.used = pool.used.saturating_add(N);
        Ok(given)
    })
}

/// A byte for something that is only to be spread out; zero where the generator fails.
pub fn byte() -> u8 {
    bytes().map_or(0, |[byte]| byte)
}
