//! BLAKE3 of inputs up to one chunk, at compile time.
//!
//! The `blake3` crate is not `const`. Names that are written in the source fit one chunk (1,024 bytes),
//! so the tree above chunks is left out here. The algorithm follows the BLAKE3 paper (O'Connor, Aumasson,
//! Neves, Wilcox-O'Hearn, 2020), sections 2.1 to 2.3; the tests hold it against the crate.

/// The longest input, in bytes.
pub(super) const INPUT_LEN_MAX: usize = 1_024;

const BLOCK_LEN: usize = 64;
const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const ROOT: u32 = 8;
const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];

/// The digest of the first `len` bytes of `input`.
pub(super) const fn hash_chunk(input: &[u8; INPUT_LEN_MAX], len: usize) -> [u8; 32] {
    assert!(len <= INPUT_LEN_MAX);
    let mut chaining = IV;
    let mut start = 0;
    loop {
        let block_len = if len - start < BLOCK_LEN {
            len - start
        } else {
            BLOCK_LEN
        };
        let is_last = start + block_len == len;
        let mut flags = 0;
        if start == 0 {
            flags |= CHUNK_START;
        }
        if is_last {
            flags |= CHUNK_END | ROOT;
        }
        chaining = compress(
            &chaining,
            &block_words(input, start, block_len),
            block_len as u32,
            flags,
        );
        if is_last {
            return to_bytes(&chaining);
        }
        start += BLOCK_LEN;
    }
}

const fn block_words(input: &[u8; INPUT_LEN_MAX], start: usize, len: usize) -> [u32; 16] {
    let mut words = [0u32; 16];
    let mut i = 0;
    while i < len {
        words[i / 4] |= (input[start + i] as u32) << (8 * (i % 4));
        i += 1;
    }
    words
}

const fn compress(chaining: &[u32; 8], block: &[u32; 16], block_len: u32, flags: u32) -> [u32; 8] {
    let mut v = [0u32; 16];
    let mut i = 0;
    while i < 8 {
        v[i] = chaining[i];
        i += 1;
    }
    // The chunk counter (words 12 and 13) is zero: there is one chunk.
    v[8] = IV[0];
    v[9] = IV[1];
    v[10] = IV[2];
    v[11] = IV[3];
    v[14] = block_len;
    v[15] = flags;
    let mut m = *block;
    let mut round = 0;
    while round < 7 {
        v = mix(v, 0, 4, 8, 12, m[0], m[1]);
        v = mix(v, 1, 5, 9, 13, m[2], m[3]);
        v = mix(v, 2, 6, 10, 14, m[4], m[5]);
        v = mix(v, 3, 7, 11, 15, m[6], m[7]);
        v = mix(v, 0, 5, 10, 15, m[8], m[9]);
        v = mix(v, 1, 6, 11, 12, m[10], m[11]);
        v = mix(v, 2, 7, 8, 13, m[12], m[13]);
        v = mix(v, 3, 4, 9, 14, m[14], m[15]);
        let mut permuted = [0u32; 16];
        let mut i = 0;
        while i < 16 {
            permuted[i] = m[PERMUTATION[i]];
            i += 1;
        }
        m = permuted;
        round += 1;
    }
    let mut out = [0u32; 8];
    let mut i = 0;
    while i < 8 {
        out[i] = v[i] ^ v[i + 8];
        i += 1;
    }
    out
}

/// The quarter-round.
const fn mix(
    mut v: [u32; 16],
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    x: u32,
    y: u32,
) -> [u32; 16] {
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(x);
    v[d] = (v[d] ^ v[a]).rotate_right(16);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(12);
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(y);
    v[d] = (v[d] ^ v[a]).rotate_right(8);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(7);
    v
}

const fn to_bytes(words: &[u32; 8]) -> [u8; 32] {
    let mut out = [0u8; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = (words[i / 4] >> (8 * (i % 4))) as u8;
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn padded(input: &[u8]) -> [u8; INPUT_LEN_MAX] {
        let mut buffer = [0; INPUT_LEN_MAX];
        buffer[..input.len()].copy_from_slice(input);
        buffer
    }

    #[test]
    fn every_length_agrees_with_the_crate() {
        let input: Vec<u8> = (0..INPUT_LEN_MAX).map(|i| (i % 251) as u8).collect();
        for len in 0..=INPUT_LEN_MAX {
            let expected = *blake3::hash(&input[..len]).as_bytes();
            assert_eq!(
                hash_chunk(&padded(&input[..len]), len),
                expected,
                "length {len}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_inputs_agree_with_the_crate(
            input in prop::collection::vec(any::<u8>(), 0..=INPUT_LEN_MAX),
        ) {
            prop_assert_eq!(
                hash_chunk(&padded(&input), input.len()),
                *blake3::hash(&input).as_bytes()
            );
        }
    }
}
