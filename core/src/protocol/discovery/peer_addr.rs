//! Where a peer is: its identity and its socket addresses.

use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::bounded;
use crate::id::{ParseIdError, PeerId};

/// The most socket addresses that a node announces.
pub const ADDRESSES_MAX: usize = 16;

/// A peer and the socket addresses at which it may be reached.
///
/// Written `ID@IP:PORT`, with more addresses after commas: `ID@192.0.2.1:4433,[2001:db8::1]:4433`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerAddr {
    /// Who it is, which the connection proves.
    pub id: PeerId,
    /// Where to try, at most [`ADDRESSES_MAX`].
    #[serde(deserialize_with = "bounded::vec::<_, _, ADDRESSES_MAX>")]
    pub addresses: Vec<SocketAddr>,
}

impl PeerAddr {
    /// The peer `id` at `addresses`.
    pub fn new(id: PeerId, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            id,
            addresses: addresses.into_iter().collect(),
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        for (i, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { '@' } else { ',' })?;
        }
        Ok(())
    }
}

impl FromStr for PeerAddr {
    type Err = ParsePeerAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, addresses) = text.split_once('@').ok_or(ParsePeerAddrError::NoAddress)?;
        let id = id.trim().parse()?;
        let addresses = addresses
            .split(',')
            .map(|address| {
                address
                    .trim()
                    .parse()
                    .map_err(|source| ParsePeerAddrError::Address {
                        text: address.trim().to_owned(),
                        source,
                    })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if addresses.len() > ADDRESSES_MAX {
            return Err(ParsePeerAddrError::TooMany(addresses.len()));
        }
        Ok(Self { id, addresses })
    }
}

/// The text is not a peer address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePeerAddrError {
    /// There is no `@` in it.
    #[error("a peer address is written ID@IP:PORT; this text has no '@'")]
    NoAddress,
    /// What stands before the `@` is no peer id.
    #[error("a peer address is written ID@IP:PORT: {0}")]
    Id(#[from] ParseIdError),
    /// One of the addresses is none.
    #[error(
        "a peer address is written ID@IP:PORT, with further IP:PORT after commas; '{text}' is no \
         IP:PORT (host names are not resolved here)"
    )]
    Address {
        /// The part in question.
        text: String,
        /// Why it is none.
        source: AddrParseError,
    },
    /// There are more addresses than a node may announce.
    #[error("{0} addresses were given; a peer has at most {ADDRESSES_MAX}")]
    TooMany(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for addresses in ["10.0.0.1:80", "10.0.0.1:80,[2001:db8::1]:443"] {
            let text = format!("{}@{addresses}", "ab".repeat(32));
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_text_is_explained() {
        let id = "ab".repeat(32);
        let many = vec!["1.1.1.1:1"; 17].join(",");
        for (text, message) in [
            (id.clone(), "has no '@'"),
            (format!("{}@1.1.1.1:1", &id[1..]), "63 characters"),
            (format!("{id}@"), "'' is no IP:PORT"),
            (format!("{id}@1.1.1.1"), "'1.1.1.1' is no IP:PORT"),
            (format!("{id}@1.1.1.1:1,localhost:2"), "'localhost:2'"),
            (format!("{id}@{many}"), "17 addresses"),
        ] {
            let error = text.parse::<PeerAddr>().unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }
}
