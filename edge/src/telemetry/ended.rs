//! How connections end, in the words of log and metric.

use keystead_tls::Error;
use strum::IntoStaticStr;

/// How a connection ended whose handshake was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both directions came to their end, the client's with close_notify.
    Orderly,
    /// The engine's cause: of the client's doing, or the backend could not be reached.
    Error(Error),
    /// A cause that lies in the connections below TLS.
    Lost(Lost),
}

/// Why a connection was given up, other than by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Lost {
    /// The client's TCP connection broke.
    ClientReset,
    /// The backend's TCP connection broke.
    BackendReset,
    /// No byte moved for as long as is allowed.
    IdleTimeout,
    /// This side was shutting down and its time was over.
    DrainTimeout,
}

impl Ended {
    /// Who ended it.
    pub fn fault(self) -> &'static str {
        match self {
            Self::Orderly => "none",
            Self::Error(error) => error.fault().into(),
            Self::Lost(Lost::ClientReset | Lost::IdleTimeout) => "client",
            Self::Lost(Lost::BackendReset) => "backend",
            Self::Lost(Lost::DrainTimeout) => "own",
        }
    }

    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::Error(error) => error.reason(),
            Self::Lost(lost) => lost.into(),
        }
    }
}
