//! Which network a data directory is of.
//!
//! Groups are named by keys that may be the same in two networks, so what was stored in one must not be taken up in
//! another. The network's id is in a file of its own, as text, so that an operator can look at it.

use std::io;

use smalti_core::id::NetworkId;
use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::Disk;

use super::guard::disk_error;

const NAME: &str = "network";
/// What it is called until it is complete.
const UNFINISHED: &str = "network.new";
/// 64 hexadecimal digits and the end of the line.
const LEN: u64 = 65;

const READING: &str = "reading which network the data directory is of";
const WRITING: &str = "noting which network the data directory is of";

/// Whether the directory is noted as one of `network`; `false` where nothing is noted.
///
/// # Errors
/// [`StorageError::Foreign`] where it is of another network; [`StorageError::Damaged`] where the file says nothing that
/// makes sense; otherwise as the disk says.
pub(crate) fn is_of(disk: &dyn Disk, network: &NetworkId) -> Result<bool, StorageError> {
    let failed = |error: io::Error| disk_error(&error, READING);
    let file = match disk.open(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let mut noted = [0; LEN as usize];
    let is_whole = file.len().map_err(failed)? == LEN;
    if is_whole {
        file.read_at(0, &mut noted).map_err(failed)?;
    }
    let id = noted.strip_suffix(b"\n").and_then(|id| {
        let is_hex = is_whole && id.iter().all(u8::is_ascii_hexdigit);
        str::from_utf8(id).ok().filter(|_| is_hex)
    });
    match id {
        Some(id) if id == network.to_string() => Ok(true),
        Some(id) => Err(StorageError::Foreign {
            what: disk.describe(),
            how: format!("it belongs to network {id}, and the node is one of network {network}"),
        }),
        None => Err(StorageError::Damaged {
            what: format!("{NAME} in {}", disk.describe()),
            how: "it holds no id of a network".to_owned(),
        }),
    }
}

/// Notes that the directory is one of `network`.
///
/// # Errors
/// As the disk says. Nothing is noted then.
pub(crate) fn note(disk: &dyn Disk, network: &NetworkId) -> Result<(), StorageError> {
    let failed = |error: io::Error| disk_error(&error, WRITING);
    match disk.remove(UNFINISHED) {
        // An earlier attempt may have left it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = disk.create(UNFINISHED).map_err(failed)?;
    file.write_at(0, format!("{network}\n").as_bytes())
        .map_err(failed)?;
    file.sync().map_err(failed)?;
    disk.rename(UNFINISHED, NAME).map_err(failed)
}
