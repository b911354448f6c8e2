//! What the load generator is asked to do.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Which clients come, and when.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where the server listens
    pub address: SocketAddr,
    /// The name that clients ask for, in SNI and `Host`, and that certificates are verified for
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub server_name: String,
    /// The authority that certificates are verified with, in PEM; without it no certificate is verified (signatures of the
    /// handshake are)
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Clients at one time
    #[arg(long, value_name = "N", default_value = "64")]
    pub connections: NonZeroUsize,
    /// Units of work that are due each second (open loop), each on the first client that is free; latency counts from when
    /// one was due. Without it each client begins the next when the last has ended
    #[arg(long, value_name = "N")]
    pub rate: Option<NonZeroU32>,
    /// For how long is counted
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// For how long before that nothing is counted
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warm_up: Duration,
    /// Keep connections: a unit of work is a request. Without it a unit is a connection: TCP, handshake, requests, end
    #[arg(long, group = "asking")]
    pub keep_alive: bool,
    /// Requests on each connection, without --keep-alive; none: the connection ends with its handshake
    #[arg(long, value_name = "N", default_value = "0", conflicts_with = "keep_alive", group = "asking")]
    pub requests: u32,
    /// What requests ask for, by HTTP/1.1; the answer must have a Content-Length
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Bytes that each request brings, by POST; the answer is read when they have all been sent
    #[arg(long, value_name = "BYTES", default_value = "0", requires = "asking")]
    pub upload: u64,
    /// Open the connections, make one request on each, and leave them idle until the time is over
    #[arg(long, conflicts_with_all = ["keep_alive", "rate", "requests"], group = "asking")]
    pub hold: bool,
    /// Whether clients come back with their sessions
    #[arg(long, value_enum, default_value = "none")]
    pub resumption: Resuming,
    /// The version of TLS
    #[arg(long, value_enum, default_value = "1.2")]
    pub tls: Version,
    /// The only suite to offer, as in TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; all that rustls has otherwise
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<String>,
    /// The only group to offer, as in X25519 or secp256r1
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Threads, which share clients and rate
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroUsize,
}

impl Plan {
    /// Clients that make a full handshake, end, and begin again at once.
    pub(crate) fn full_handshakes(address: SocketAddr, ca: PathBuf, length: Duration) -> Self {
        Self {
            address,
            server_name: "localhost".to_owned(),
            ca: Some(ca),
            connections: NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN),
            rate: None,
            duration: length,
            warm_up: length / 4,
            keep_alive: false,
            requests: 0,
            path: "/".to_owned(),
            upload: 0,
            hold: false,
            resumption: Resuming::None,
            tls: Version::Tls12,
            suite: None,
            // All of them: a client without P-256 takes no certificate with it (RFC 8422 §5.1). Servers choose X25519.
            group: None,
            threads: NonZeroUsize::MIN,
        }
    }
}

/// How sessions are resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resuming {
    /// Every handshake is a full one.
    None,
    /// By ticket (RFC 5077, RFC 8446).
    Ticket,
    /// By session id (RFC 5246 §7.4.1.2); TLS 1.2 alone.
    Id,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Version {
    /// RFC 5246.
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    Tls13,
}
