//! What a pool knows of its sessions and its token.

use std::time::Instant;

use super::super::fault::TokenFault;
use super::super::module::OpenSession;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) idle: Vec<Pooled>,
    /// Sessions that are lent or being opened.
    pub(super) lent: usize,
    /// Sessions of another generation are not lent again.
    pub(super) generation: u64,
    /// The last generation that there was, also if only for a try.
    last_generation: u64,
    pub(super) standing: Standing,
    /// Whether a session could not be opened since the module was last thought of being initialised anew.
    pub(super) is_stuck: bool,
}

impl State {
    pub(super) fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    pub(super) fn begin_generation(&mut self) {
        self.generation = self.next_generation();
    }

    pub(super) fn close_outdated(&mut self) {
        let generation = self.generation;
        self.idle
            .extract_if(.., |pooled| pooled.age.generation != generation)
            .for_each(|pooled| pooled.session.close());
    }
}

/// Whether it is worth trying.
#[derive(Clone, Debug, Default)]
pub(super) enum Standing {
    /// Nobody has tried yet.
    #[default]
    Untried,
    Good,
    Away {
        fault: TokenFault,
        until: Instant,
    },
    /// For good.
    Refused(TokenFault),
}

impl Standing {
    /// Why not to try.
    pub(super) fn fault(&self) -> Option<TokenFault> {
        match self {
            Self::Refused(fault) => Some(fault.clone()),
            Self::Away { fault, until } if Instant::now() < *until => Some(fault.clone()),
            Self::Away { .. } | Self::Untried | Self::Good => None,
        }
    }
}

/// A session, and what is good in it.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) session: OpenSession,
    /// Handles found in one session are good in all of the same age.
    pub(super) age: Age,
}

/// Which initialisation of the module, and which generation of sessions, a handle belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Age {
    pub(super) epoch: u64,
    pub(super) generation: u64,
}
