//! Bytes between a client, in records, and a backend, in the clear.
//!
//! One task moves both directions. Each has at most one buffer, and holds it only while there is something in it that
//! the other side has not taken: that side's slowness then reaches the sender through TCP's own flow control.
//!
//! Each direction ends by itself. A client's close_notify, or its FIN without one, becomes a FIN to the backend; a
//! backend's FIN becomes close_notify and FIN to the client.

mod to_backend;
mod to_client;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use keystead_tls::Established;
use tokio::net::TcpStream;
use tokio::task::{consume_budget, yield_now};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backend::Connected;
use crate::config::Limits;
use crate::socket::{self, Stream};
use crate::telemetry::{Ended, Lost, Telemetry};
use to_backend::ToBackend;
use to_client::{Moved, ToClient};

/// Bytes that one connection may move while others of its thread wait.
const IN_A_ROW: usize = 1 << 20;

/// Moves bytes until both directions have ended or one of them cannot go on. Then both connections are closed.
pub async fn relay(
    client: TcpStream,
    backend: Connected,
    mut tls: Box<Established>,
    limits: &Limits,
    telemetry: &Telemetry,
) -> Ended {
    let to_backend = ToBackend::new(&tls.take_unread());
    let mut relay = Relay { client, backend, tls, to_backend, to_client: ToClient::default() };
    let ended = relay.run(limits, telemetry).await;
    relay.end(ended).await;
    ended
}

#[derive(Debug)]
struct Relay {
    client: TcpStream,
    backend: Connected,
    tls: Box<Established>,
    to_backend: ToBackend,
    to_client: ToClient,
}

impl Relay {
    async fn run(&mut self, limits: &Limits, telemetry: &Telemetry) -> Ended {
        let mut last_moved = Instant::now();
        let mut timer = pin!(sleep_until(last_moved + limits.idle_timeout));
        let mut in_a_row = 0;
        loop {
            let now = Instant::now();
            let moved = match self.pump(now, telemetry) {
                Ok(moved) => moved,
                Err(ended) => return ended,
            };
            if let Some(ended) = self.ended() {
                return ended;
            }
            if moved > 0 {
                last_moved = now;
                in_a_row += moved;
            } else {
                let ready = self.ready_before(last_moved + self.patience(limits), timer.as_mut()).await;
                if ready.is_err() {
                    return Ended::Lost(Lost::IdleTimeout);
                }
            }
            // Sockets that are always ready must not keep other connections of this thread waiting.
            if in_a_row < IN_A_ROW {
                consume_budget().await;
            } else {
                yield_now().await;
                in_a_row = 0;
            }
        }
    }

    /// One read and one write in each direction. How many bytes moved.
    fn pump(&mut self, now: Instant, telemetry: &Telemetry) -> Result<usize, Ended> {
        let Self { client, backend, tls, to_backend, to_client } = self;
        let upward = to_backend.pump(tls, client, &backend.stream, &mut to_client.alerts)?;
        let Moved { given, taken } = to_client.pump(tls, client, &backend.stream, now)?;
        if upward > 0 {
            telemetry.bytes_to_backend.inc_by(upward as u64);
        }
        if given > 0 {
            telemetry.bytes_to_client.inc_by(given as u64);
        }
        // A client that takes little at a time is not idle while it takes.
        Ok(upward + taken.max(given))
    }

    /// How it ended, once both directions have.
    fn ended(&self) -> Option<Ended> {
        if !self.to_backend.is_done() || !self.to_client.is_done() {
            return None;
        }
        if self.to_backend.was_refused() {
            return Some(Ended::Lost(Lost::BackendReset));
        }
        Some(self.to_backend.truncation().map_or(Ended::Orderly, Ended::Error))
    }

    fn patience(&self, limits: &Limits) -> std::time::Duration {
        if self.to_backend.is_done() || self.to_client.is_done() {
            limits.half_closed_timeout.min(limits.idle_timeout)
        } else {
            limits.idle_timeout
        }
    }

    /// Waits until one of the directions can go on, or `deadline` has passed.
    async fn ready_before(&mut self, deadline: Instant, mut timer: Pin<&mut Sleep>) -> Result<(), IdleTooLong> {
        poll_fn(|cx| {
            if self.poll_ready(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            loop {
                // The timer is left alone while bytes move; it finds out at its end whether that was the end.
                if timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                match timer.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if timer.deadline() >= deadline => return Poll::Ready(Err(IdleTooLong)),
                    Poll::Ready(()) => timer.as_mut().reset(deadline),
                }
            }
        })
        .await
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let upward = match self.to_backend.waits_for() {
            Some(to_backend::WaitsFor::Backend) => self.backend.stream.poll_write_ready(cx).is_ready(),
            Some(to_backend::WaitsFor::Client) => self.client.poll_read_ready(cx).is_ready(),
            None => false,
        };
        let downward = match self.to_client.waits_for() {
            Some(to_client::WaitsFor::Client) => self.client.poll_write_ready(cx).is_ready(),
            Some(to_client::WaitsFor::Backend) => self.backend.stream.poll_read_ready(cx).is_ready(),
            None => false,
        };
        if upward || downward { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends what is yet to be sent, with the alert that tells the client of the end, as far as there is one.
    async fn end(&mut self, ended: Ended) {
        match ended {
            // Nobody is left to tell, or all has been told.
            Ended::Lost(Lost::ClientReset) => return,
            Ended::Orderly if !self.to_backend.was_refused() => return,
            // The alert of a TLS error is among the alerts already. A backend's bytes that broke off, or came no more in
            // time, get none: without close_notify the client knows that they may not be all (RFC 5246 §7.2.1).
            Ended::Orderly | Ended::Error(_) | Ended::Lost(_) => {}
        }
        let (records, alerts) = self.to_client.output();
        let last = [records, alerts].concat();
        socket::farewell(&self.client, &last).await;
    }
}

/// No byte moved for as long as is allowed.
struct IdleTooLong;
