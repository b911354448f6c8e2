//! One client's connection, from accept to end.

use std::net::SocketAddr;
use std::sync::Arc;

use keystead_tls::{Error, Established, Fault, LocalFailure, NamedGroup, PeerClosed};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::admission::{Admission, Admitted, Refused};
use crate::backend::Connected;
use crate::client_auth::ClientIdentity;
use crate::config::Limits;
use crate::handshake::{Done, Failed, Handshakes};
use crate::proxy_protocol::{Arrival, Ends, Header, NoArrival, TrustedProxies};
use crate::relay::relay;
use crate::socket;
use crate::telemetry::{Ended, Telemetry};
use crate::virtual_host::VirtualHost;

/// What every connection needs.
#[derive(Debug)]
pub struct Connections {
    /// The first part of a connection's life.
    pub handshakes: Handshakes,
    /// Who is let in.
    pub admission: Admission,
    /// Bounds in time.
    pub limits: Limits,
    /// Where connections are counted.
    pub telemetry: Arc<Telemetry>,
}

impl Connections {
    /// Serves a client until its connection has ended. `peer` is who connected: the client, or one of `proxies`, which
    /// says on whose behalf.
    pub async fn serve(&self, client: TcpStream, peer: SocketAddr, proxies: &TrustedProxies) {
        tracing::debug!(client = %peer, "connected");
        // In boxes of their own, so that what only handshakes need is not there for the rest of the connection's life.
        let welcomed = Box::pin(self.welcome(&client, peer, proxies)).await;
        let Some((Done { mut established, host, kept }, ends, _admitted)) = welcomed else { return };
        let ended = match Box::pin(self.backend(&mut established, &host, ends)).await {
            Ok(backend) => {
                drop(host);
                established.forget_client_chain();
                relay(client, backend, established, &self.limits, &self.telemetry).await
            }
            Err(ended) => {
                let mut alert = Vec::new();
                established.abort(LocalFailure::BackendUnreachable.into(), &mut alert);
                socket::farewell(&client, &alert).await;
                ended
            }
        };
        if let (Ended::Error(error), Some(kept)) = (ended, kept)
            && error.is_fatal_alert()
        {
            self.handshakes.sessions.end(&kept);
        }
        self.telemetry.connection_ended(ended);
        tracing::debug!(fault = ended.fault(), reason = ended.reason(), "connection ended");
    }

    /// Finds out whose connection it is, and completes its handshake, if it is let in.
    async fn welcome(
        &self,
        client: &TcpStream,
        peer: SocketAddr,
        proxies: &TrustedProxies,
    ) -> Option<(Done, Ends, Admitted)> {
        let began = Instant::now();
        let Arrival { ends, unread } = self.arrival(client, peer, proxies, began).await?;
        // From here on it is settled whose connection this is.
        let mut admitted = match self.admission.admit(ends.source.ip()) {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.refuse(client, refused);
                return None;
            }
        };
        let done = self.handshake(client, unread, began).await;
        admitted.handshake_ended();
        Some((done?, ends, admitted))
    }

    /// Ends a connection that is not let in, with a reset: whoever floods the edge leaves nothing behind in its kernel, and
    /// a client learns at once that it is refused.
    fn refuse(&self, client: &TcpStream, refused: Refused) {
        self.telemetry.connection_refused(refused);
        tracing::debug!(reason = refused.reason(), "connection refused");
        socket::reset_when_dropped(client);
    }

    /// Whose connection it is. `None` where nobody can be believed about it.
    async fn arrival(
        &self,
        client: &TcpStream,
        peer: SocketAddr,
        proxies: &TrustedProxies,
        began: Instant,
    ) -> Option<Arrival> {
        // Fails on no socket that is connected.
        let ends = Ends { source: peer, destination: client.local_addr().ok()? };
        match Arrival::of(client, ends, proxies, began + self.limits.handshake_timeout).await {
            Ok(arrival) => {
                if arrival.ends != ends {
                    tracing::debug!(client = %arrival.ends.source, proxy = %peer, "client behind a proxy");
                }
                Some(arrival)
            }
            Err(NoArrival::NothingSent) => {
                self.telemetry.probes.inc();
                None
            }
            Err(NoArrival::Failed(failure)) => {
                self.telemetry.proxy_header_failed(failure);
                tracing::warn!(fault = "own", reason = failure.reason(), proxy = %peer, "no client known");
                None
            }
        }
    }

    async fn handshake(&self, client: &TcpStream, unread: Vec<u8>, began: Instant) -> Option<Done> {
        match self.handshakes.drive(client, unread, began + self.limits.handshake_timeout).await {
            Ok(done) => {
                let Done { established, host, kept } = &done;
                let summary = established.summary();
                self.telemetry.handshake_done(summary, began.elapsed());
                if let Some(by) = kept.and_then(|kept| kept.by) {
                    self.telemetry.resumed(by);
                }
                tracing::Span::current().record("server_name", summary.server_name.as_deref());
                let group = summary.group.and_then(NamedGroup::name);
                tracing::debug!(host = host.name, suite = %summary.suite, group, resumed = summary.resumed, "handshake");
                if let Some(client) = summary.client_chain.first().and_then(|leaf| ClientIdentity::of(leaf)) {
                    tracing::info!(host = host.name, client = client.excerpt(), "client certificate");
                }
                Some(done)
            }
            Err(Failed { error: Error::PeerClosed(PeerClosed::NothingSent), .. }) => {
                self.telemetry.probes.inc();
                None
            }
            Err(Failed { error, alert }) => {
                self.telemetry.handshake_failed(error);
                report_failure(error);
                socket::farewell(client, &alert).await;
                None
            }
        }
    }

    /// The connection to the host's backend, with the PROXY header sent.
    async fn backend(&self, established: &mut Established, host: &VirtualHost, ends: Ends) -> Result<Connected, Ended> {
        let summary = established.summary();
        let words = host.certificate_words(summary.key_id);
        let Header { bytes, omitted } = host.proxy_protocol.header(ends, summary, &words);
        for part in omitted {
            self.telemetry.identity_omitted(part);
            let part: &'static str = part.into();
            tracing::warn!(host = host.name, part, "client's identity not told to the backend in full");
        }
        let backend = host.backends.connect(ends.source.ip(), &bytes, &self.limits).await;
        backend.ok_or(Ended::Error(LocalFailure::BackendUnreachable.into()))
    }
}

/// One line for a handshake that failed. Clients fail all day: theirs are for whoever looks for one.
fn report_failure(error: Error) {
    let (fault, reason): (&'static str, _) = (error.fault().into(), error.reason());
    match error.fault() {
        Fault::Client => tracing::debug!(fault, reason, %error, "handshake failed"),
        Fault::KeyServer | Fault::Own => tracing::warn!(fault, reason, %error, "handshake failed"),
    }
}
