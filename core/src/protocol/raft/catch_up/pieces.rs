//! The range of entries that are lacking, cut into pieces, and put in order again.

use std::collections::VecDeque;

use crate::id::PeerId;
use crate::protocol::raft::{Entry, Index, Term};

/// So many pieces are asked for, or held until those before them have come.
pub(super) const PIECES_MAX: usize = 32;

/// While entries of so many bytes are held, only the first piece is asked for.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Entries of one reply.
#[derive(Debug)]
struct Fragment {
    from: PeerId,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Piece {
    /// The first entry that has not come.
    next: Index,
    /// The last entry of the piece.
    last: Index,
    /// What has come and was not handed over. Ends before `next`.
    fragments: Vec<Fragment>,
}

/// Pieces that follow each other without a gap, the first from one above what was handed over.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Entries of a piece.
    len: u64,
    /// All up to here was handed over.
    have: Index,
    /// The greatest term handed over.
    term: Term,
    pieces: VecDeque<Piece>,
    held_bytes: usize,
}

impl Pieces {
    /// Pieces of `len` entries that follow on `have`.
    pub(super) const fn new(have: Index, len: u64) -> Self {
        Self {
            len,
            have,
            term: Term::ZERO,
            pieces: VecDeque::new(),
            held_bytes: 0,
        }
    }

    pub(super) const fn have(&self) -> Index {
        self.have
    }

    /// Cuts pieces up to `target`, as far as the window reaches.
    pub(super) fn plan(&mut self, target: Index) {
        while self.pieces.len() < PIECES_MAX {
            let planned = self.pieces.back().map_or(self.have, |piece| piece.last);
            if planned >= target {
                return;
            }
            self.pieces.push_back(Piece {
                next: planned.next(),
                last: Index(planned.0.saturating_add(self.len)).min(target),
                fragments: Vec::new(),
            });
        }
    }

    /// First and last of the entries to ask for, lowest first.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (Index, Index)> + '_ {
        let room = if self.held_bytes < HELD_BYTES_MAX {
            PIECES_MAX
        } else {
            1
        };
        self.pieces
            .iter()
            .take(room)
            .filter(|piece| piece.next <= piece.last)
            .map(|piece| (piece.next, piece.last))
    }

    /// Keeps what `from` has sent, unless somebody else was faster. The entries follow each other, and the
    /// caller has checked that they lie within what was asked for.
    pub(super) fn accept(&mut self, from: PeerId, entries: Vec<Entry>) {
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return;
        };
        let (first, last) = (first.index, last.index);
        let piece = self
            .pieces
            .iter_mut()
            .find(|piece| piece.next == first && last <= piece.last);
        if let Some(piece) = piece {
            piece.next = last.next();
            self.held_bytes += entries.iter().map(Entry::size).sum::<usize>();
            piece.fragments.push(Fragment { from, entries });
        }
    }

    /// Hands over what follows without a hole on what was handed over before.
    ///
    /// # Errors
    /// The source of entries whose term is below that of an entry before them: these, and what came after
    /// them in their piece, are asked for again.
    pub(super) fn drain(&mut self, ready: &mut Vec<Entry>) -> Result<(), PeerId> {
        while let Some(piece) = self.pieces.front_mut() {
            let mut fragments = std::mem::take(&mut piece.fragments).into_iter();
            for fragment in fragments.by_ref() {
                self.held_bytes -= bytes(&fragment);
                if fragment
                    .entries
                    .first()
                    .is_some_and(|entry| entry.term < self.term)
                {
                    self.held_bytes -= fragments.map(|fragment| bytes(&fragment)).sum::<usize>();
                    piece.next = self.have.next();
                    return Err(fragment.from);
                }
                if let Some(last) = fragment.entries.last() {
                    self.have = last.index;
                    self.term = last.term;
                }
                ready.extend(fragment.entries);
            }
            if piece.next <= piece.last {
                return Ok(());
            }
            self.pieces.pop_front();
        }
        Ok(())
    }

    /// Takes note that all up to `index` is there by other means.
    pub(super) fn advance(&mut self, index: Index, term: Term) {
        if index <= self.have {
            return;
        }
        self.have = index;
        self.term = self.term.max(term);
        while let Some(piece) = self.pieces.front()
            && piece.last <= index
        {
            self.held_bytes -= piece.fragments.iter().map(bytes).sum::<usize>();
            self.pieces.pop_front();
        }
        if let Some(piece) = self.pieces.front_mut() {
            let held = piece
                .fragments
                .first()
                .and_then(|fragment| fragment.entries.first());
            if held.map_or(piece.next, |entry| entry.index) <= index {
                self.held_bytes -= piece.fragments.iter().map(bytes).sum::<usize>();
                piece.fragments.clear();
                piece.next = index.next();
            }
        }
    }
}

fn bytes(fragment: &Fragment) -> usize {
    fragment.entries.iter().map(Entry::size).sum()
}
