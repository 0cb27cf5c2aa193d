//! The values that are invented for a type, each tried where those before it were refused.

pub(super) const BOOLS: &[bool] = &[false, true];
pub(super) const UNSIGNED: &[u8] = &[1, 0, 2, 10, 100];
pub(super) const SIGNED: &[i8] = &[1, 0, 2, 10, 100, -1];
pub(super) const FLOATS: &[f32] = &[1.0, 0.0, 0.5, 100.0, -1.0];
pub(super) const CHARS: &[char] = &['a', '0', 'A', ' '];

/// Texts of the usual formats.
pub(super) const TEXTS: &[&str] = &[
    "",
    "0",
    "1",
    "a",
    "true",
    "127.0.0.1:1",
    "127.0.0.1",
    "::1",
    "10.0.0.0/8",
    "1.0.0",
    "a.b",
    "a@b.c",
    "http://a.b/",
    "/a",
    "1970-01-01",
    "00:00:00",
    "1970-01-01T00:00:00",
    "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:00.000Z",
    "PT1S",
    "UTC",
    "EUR",
    "en",
    "00000000-0000-0000-0000-000000000000",
    "0x0000000000000000000000000000000000000000",
    "00000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "{}",
];

/// The lengths of byte strings, all of them zeroes.
pub(super) const BYTES_LENS: &[usize] = &[0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 33, 48, 64];

/// The longest of [`BYTES_LENS`].
pub(super) const ZEROES: [u8; 64] = [0; 64];

/// Elements of a sequence, entries of a map: one shows what is inside.
pub(super) const LENS_EXPLORING: &[usize] = &[1, 0, 2, 3, 4];
/// The same, where all is known and the value is to be done with.
pub(super) const LENS_FINISHING: &[usize] = &[0, 1, 2, 3, 4];
