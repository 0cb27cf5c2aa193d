//! What goes over the wire: the codec, frames and their limits, and close codes.
//!
//! Values are encoded with postcard, and every frame carries its length in front. Decoding never panics,
//! refuses what follows a value, and allocates no more than the bytes received justify. Types of applications, which may be
//! recursive, are decoded by [`decode_bounded`].

mod bounded;
mod close;
mod codec;
mod frame;
mod hello;

pub(crate) use bounded::Values;
pub use bounded::{DEPTH_MAX, FREE_ELEMENTS, decode_bounded};
pub use close::CloseCode;
pub use codec::{DecodeError, EncodeError, decode, encode, encode_into, encoded_len};
pub use frame::{FRAME_HEADER_LEN, FrameBuffer, FrameError, append_frame, encode_frame};
pub use hello::{
    HELLO_EXPORTER_LABEL, HELLO_LEN_MAX, HELLO_TIMEOUT, Hello, HelloContext, HelloError,
    NetworkSecret, VersionRange, WIRE_VERSIONS,
};
