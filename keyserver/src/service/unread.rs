//! Calls that gRPC refuses before the service hears of them: their method is not known, or their message is too long, or no
//! protobuf. They go on record like other refusals.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keystead_program::channel::{PeerIdentity, PeerInfo};
use tonic::Status;
use tonic::codegen::{BoxFuture, Context, Poll, Service as Calls, http};
use tonic::server::NamedService;

use super::draft::Draft;
use super::{Desk, Service};
use crate::refusal::Refusal;

/// What the record of a message that cannot be read says that it asks for.
pub(super) const NOTHING: &str = "none";

/// Whether it stands for something that the peer has sent. What its connection has done has a source.
pub(super) fn is_the_peers(status: &Status) -> bool {
    status.source().is_none()
}

/// A service of gRPC whose own refusals go on record.
#[derive(Clone, Debug)]
pub struct Recording<C> {
    calls: C,
    service: Service,
}

impl<C> Recording<C> {
    /// `calls` are those to `service`.
    pub fn new(calls: C, service: Service) -> Self {
        Self { calls, service }
    }
}

impl<C: NamedService> NamedService for Recording<C> {
    const NAME: &'static str = C::NAME;
}

impl<C, B, R> Calls<http::Request<B>> for Recording<C>
where
    C: Calls<http::Request<B>, Response = http::Response<R>>,
    C::Future: Send + 'static,
    R: Send,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = BoxFuture<C::Response, C::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let heard = Heard::default();
        let peer = request.extensions().get::<PeerInfo>().map(|info| info.identity.clone());
        request.extensions_mut().insert(heard.clone());
        let (answered, service) = (self.calls.call(request), self.service.clone());
        Box::pin(async move {
            let response = answered.await?;
            if let Some(peer) = peer.filter(|_| !heard.is_set() && is_refusal(&response)) {
                service.unread(peer);
            }
            Ok(response)
        })
    }
}

/// Whether gRPC has refused the call by itself. A service that was not called has no other answer.
fn is_refusal<R>(response: &http::Response<R>) -> bool {
    match response.extensions().get::<Status>() {
        Some(status) => is_the_peers(status),
        // Of a method that is not known.
        None => response.headers().contains_key("grpc-status"),
    }
}

/// Whether the service has heard of a call. It goes with the call's request.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicBool>);

impl Heard {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Service {
    fn unread(&self, peer: PeerIdentity) {
        tracing::debug!(%peer, "a call that cannot be read");
        self.desk.unread(Draft::new(self.audit.clone(), peer, NOTHING));
    }
}

impl Desk {
    /// Counts a message that cannot be read, and puts it on record.
    pub(super) fn unread(&self, draft: Draft) {
        let reason = Refusal::MalformedRequest;
        self.metrics.answered(None, None, Err(reason));
        draft.refused(reason);
    }
}
