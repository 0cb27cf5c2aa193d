//! Output that nobody may be left to read.

use std::io::{self, Write};

/// Writes to another writer for as long as its reader stays.
///
/// Once whoever reads has gone, as `head` does, what is written is dropped: the seeds still run, so
/// that the exit code tells of all of them.
pub(super) struct WhileRead<'a, W> {
    inner: &'a mut W,
    gone: bool,
}

impl<'a, W: Write> WhileRead<'a, W> {
    pub(super) const fn new(inner: &'a mut W) -> Self {
        Self { inner, gone: false }
    }

    /// Does something with the writer; gives `otherwise` where the reader has gone.
    fn unless_gone<T>(
        &mut self,
        otherwise: T,
        work: impl FnOnce(&mut W) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.gone {
            return Ok(otherwise);
        }
        match work(self.inner) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(otherwise)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for WhileRead<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_gone(bytes.len(), |inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_gone((), Write::flush)
    }
}
