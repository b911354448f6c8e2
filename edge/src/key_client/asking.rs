//! One request for a signature, over as many tries as it may have.
//!
//! ```text
//! first try --answer--> done
//!   |  late: as long as 95 of 100 take         --> hedge: another key server is asked too, the first answer counts
//!   |  failed, or half of the time is over     --> retry: another key server, or another connection to the only one
//! ```
//!
//! The client has been sent nothing, and a key server keeps no state of a signature, so asking twice is harmless. All of it
//! ends with the handshake's deadline, and further tries come out of a budget.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_tls::KeyServerFailure;
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use tokio::time::{Instant, timeout_at};

use super::KeyClient;
use super::answer::{self, Fault};
use super::choice::{Chosen, Purpose, Wanted, choose};
use super::key_state::Place;
use super::stream::Awaited;
use super::telemetry::Hedge;
use super::verdict::{Key, Sent};

/// A request for one signature.
#[derive(Debug)]
pub struct Asking<'c> {
    client: &'c KeyClient,
    key: Key,
    question: v1::SignServerKeyExchangeRequest,
    began: Instant,
    deadline: Instant,
    /// Those that were begun, in that order.
    tries: Vec<Try>,
    /// Number of the link and slot of the peer, of each that was asked, or was to be.
    asked: Vec<(usize, usize)>,
    extra: Extra,
    /// The one that the last answer came from.
    answered: Option<usize>,
}

#[derive(Debug)]
struct Try {
    /// The link's number.
    link: usize,
    sent: Sent,
    is_hedge: bool,
    /// Until it has come to its end.
    awaited: Option<(Awaited, Place)>,
    /// Whether it was said to have failed, though it may still come to a good end.
    is_charged: bool,
}

/// When another try begins beside those under way.
#[derive(Clone, Copy, Debug)]
enum Extra {
    /// Hedges, of which this many were made.
    Hedge { at: Instant, made: u32 },
    /// A retry.
    Retry { at: Instant },
    /// None.
    Never,
}

impl Extra {
    fn at(self) -> Option<Instant> {
        match self {
            Self::Hedge { at, .. } | Self::Retry { at } => Some(at),
            Self::Never => None,
        }
    }
}

enum Event {
    Answered(usize, Result<Outcome, Fault>),
    Late,
    OutOfTime,
}

impl<'c> Asking<'c> {
    pub(super) fn new(client: &'c KeyClient, request: &SignatureRequest<'_>, deadline: Instant) -> Self {
        let (began, id) = (Instant::now(), request.identity.public_key().key_id());
        Self {
            client,
            key: Key { id, state: client.keys.of(id) },
            question: answer::question(request),
            began,
            deadline: deadline.min(began + client.timeout),
            tries: Vec::new(),
            asked: Vec::new(),
            extra: Extra::Never,
            answered: None,
        }
    }

    /// The answer to the request; once it is verified, [`Self::accepted`] or [`Self::wrong_signature`] says what it was.
    ///
    /// # Errors
    /// [`KeyServerFailure`] of the last try.
    pub async fn signed(&mut self) -> Result<SignedParams, KeyServerFailure> {
        loop {
            let signed = self.signed_by_those_up().await;
            // While key servers are restarted, none may be connected for a moment.
            if !matches!(signed, Err(KeyServerFailure::Unreachable)) {
                return signed;
            }
            if !self.client.standing.revives(self.deadline).await {
                return Err(self.client.none_stands().failure());
            }
            self.tries.clear();
            self.asked.clear();
        }
    }

    async fn signed_by_those_up(&mut self) -> Result<SignedParams, KeyServerFailure> {
        if self.tries.is_empty() {
            self.begin().map_err(Fault::failure)?;
        }
        loop {
            match self.next_event().await {
                Event::Answered(index, outcome) => match outcome.and_then(answer::signed_params) {
                    Ok(signed) => {
                        self.answered = Some(index);
                        return Ok(signed);
                    }
                    Err(fault) => self.failed(index, fault)?,
                },
                Event::Late => self.be_late(),
                Event::OutOfTime => return Err(self.run_out_of_time()),
            }
        }
    }

    /// The signature is right. What else is under way is not waited for.
    pub fn accepted(mut self) {
        let Some((index, winner)) = self.answered.and_then(|index| Some((index, self.tries.get(index)?))) else {
            return;
        };
        let (client, winner_began) = (self.client, winner.sent.began);
        let elapsed = KeyClient::measure(&self.key, &winner.sent);
        client.judge_right(&self.key, &winner.sent);
        client.server_of(winner.link).inspect(|server| server.tries.answered(elapsed));
        client.telemetry.key_server_answered(self.began.elapsed());
        if winner.is_hedge {
            client.telemetry.tries.hedged(Hedge::Won);
        }
        for (other, tried) in self.tries.iter_mut().enumerate() {
            if tried.awaited.take().is_none() || other == index {
                continue;
            }
            if tried.is_hedge {
                client.telemetry.tries.hedged(Hedge::Lost);
            }
            if tried.sent.began < winner_began && !tried.is_charged {
                KeyClient::measure(&self.key, &tried.sent);
                client.judge_outrun(&self.key, &tried.sent);
            }
        }
    }

    /// The answer was a wrong signature. On success, [`Self::signed`] waits for that of another.
    ///
    /// # Errors
    /// [`KeyServerFailure::WrongSignature`] when no further try is to be had.
    pub fn wrong_signature(&mut self) -> Result<(), KeyServerFailure> {
        match self.answered.take() {
            Some(index) => self.failed(index, Fault::WrongSignature),
            None => Err(KeyServerFailure::WrongSignature),
        }
    }

    /// The first try.
    fn begin(&mut self) -> Result<(), Fault> {
        self.client.deposit(&self.key);
        let Some(chosen) = self.choose(Purpose::First) else {
            let fault = self.client.none_stands();
            self.client.telemetry.key_server_failed(fault.failure());
            return Err(fault);
        };
        let halfway = self.began + (self.deadline - self.began) / 2;
        self.extra = match self.client.hedging.filter(|_| !self.is_alone()) {
            Some(hedging) => Extra::Hedge { at: self.began + hedging.after(&self.key), made: 0 },
            None => Extra::Retry { at: halfway },
        };
        // Whoever's request tells if a key server is well again is not to wait for the answer, hedges or no hedges.
        if chosen.is_probe {
            self.extra = Extra::Hedge { at: self.began + self.client.probing.after(&self.key), made: 0 };
        }
        match self.send(&chosen, false) {
            Ok(()) => Ok(()),
            Err(fault) if self.is_tried(Purpose::Retry) => {
                tracing::debug!(reason = fault.failure().reason(), "asked elsewhere");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether there is no link but one, so that nobody can be asked a second time.
    fn is_alone(&self) -> bool {
        self.client.links.len() == 1
    }

    fn choose(&self, purpose: Purpose) -> Option<Chosen<'c>> {
        let (key_id, key) = (self.key.id, &self.key.state);
        choose(&self.client.links, &Wanted { key_id, key, purpose, asked: &self.asked, now: Instant::now() })
    }

    /// Asks on this link.
    fn send(&mut self, chosen: &Chosen<'_>, is_hedge: bool) -> Result<(), Fault> {
        let now = Instant::now();
        let link = chosen.link.number;
        let stream = chosen.link.stream().inspect_err(|_| self.asked.push((link, usize::MAX)));
        let stream = stream.inspect_err(|fault| self.client.telemetry.key_server_failed(fault.failure()))?;
        self.asked.push((link, stream.peer.slot));
        let sent = Sent::to(stream.peer.clone(), now);
        let begun = self.key.state.place(link).ok_or(Fault::NoPlace).and_then(|place| {
            let operation = Operation::SignServerKeyExchange(self.question.clone());
            Ok((stream.begin(operation, self.deadline)?, place))
        });
        let fault = begun.as_ref().err().copied();
        self.tries.push(Try { link, sent, is_hedge, awaited: begun.ok(), is_charged: false });
        match fault {
            Some(fault) => {
                self.charge(self.tries.len() - 1, fault);
                Err(fault)
            }
            None => Ok(()),
        }
    }

    /// Begins a further try, if there is somebody to ask and the budgets have one. A link that turns out to be of no use is
    /// followed by another.
    fn is_tried(&mut self, purpose: Purpose) -> bool {
        let Some(mut chosen) = self.choose(purpose) else { return false };
        if !self.client.may_try_again(&self.key) {
            return false;
        }
        loop {
            if self.send(&chosen, purpose == Purpose::Hedge).is_ok() {
                if purpose != Purpose::Hedge {
                    self.client.telemetry.key_server_retries.inc();
                }
                return true;
            }
            match self.choose(purpose) {
                Some(another) => chosen = another,
                None => {
                    self.client.unmade_try(&self.key);
                    return false;
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let wake = self.extra.at().map_or(self.deadline, |at| at.min(self.deadline));
        let tries = &mut self.tries;
        match timeout_at(wake, poll_fn(|cx| first_answer(tries, cx))).await {
            Ok((index, outcome)) => Event::Answered(index, outcome),
            Err(_elapsed) if wake == self.deadline => Event::OutOfTime,
            Err(_elapsed) => Event::Late,
        }
    }

    /// A try has failed. On success another is under way.
    fn failed(&mut self, index: usize, fault: Fault) -> Result<(), KeyServerFailure> {
        self.charge(index, fault);
        let is_tried = !fault.is_final() && self.is_tried(Purpose::Retry);
        if is_tried || self.tries.iter().any(|tried| tried.awaited.is_some()) {
            return Ok(());
        }
        Err(fault.failure())
    }

    /// The tries under way are late.
    fn be_late(&mut self) {
        match self.extra {
            Extra::Hedge { made, at } => {
                let halfway = self.began + (self.deadline - self.began) / 2;
                self.extra = if self.is_tried(Purpose::Hedge) {
                    let pause = (at - self.began).saturating_mul(2_u32.saturating_pow(made + 1));
                    Extra::Hedge { at: Instant::now() + pause, made: made + 1 }
                } else {
                    Extra::Retry { at: halfway }
                };
            }
            Extra::Retry { .. } => {
                self.extra = Extra::Never;
                self.charge_all();
                self.is_tried(Purpose::Retry);
            }
            Extra::Never => {}
        }
    }

    fn run_out_of_time(&mut self) -> KeyServerFailure {
        self.charge_all();
        for tried in &mut self.tries {
            if tried.awaited.take().is_some() && tried.is_hedge {
                self.client.telemetry.tries.hedged(Hedge::Failed);
            }
        }
        KeyServerFailure::NoAnswer
    }

    /// None of the tries under way has had an answer.
    fn charge_all(&mut self) {
        for index in 0..self.tries.len() {
            if self.tries.get(index).is_some_and(|tried| tried.awaited.is_some()) {
                self.charge(index, Fault::NoAnswer);
            }
        }
    }

    fn charge(&mut self, index: usize, fault: Fault) {
        let Some(tried) = self.tries.get_mut(index) else { return };
        let is_over = fault != Fault::NoAnswer;
        if is_over && tried.awaited.take().is_some() && tried.is_hedge {
            self.client.telemetry.tries.hedged(Hedge::Failed);
        }
        if std::mem::replace(&mut tried.is_charged, true) {
            return;
        }
        let failure = fault.failure();
        self.client.telemetry.key_server_failed(failure);
        self.client.server_of(tried.link).inspect(|server| server.tries.failed(failure));
        self.client.judge_wrong(&self.key, &tried.sent, fault);
    }
}

/// The first of the tries under way that is answered.
fn first_answer(tries: &mut [Try], cx: &mut Context<'_>) -> Poll<(usize, Result<Outcome, Fault>)> {
    for (index, tried) in tries.iter_mut().enumerate() {
        if let Some((awaited, _)) = &mut tried.awaited
            && let Poll::Ready(outcome) = Pin::new(awaited).poll(cx)
        {
            return Poll::Ready((index, outcome));
        }
    }
    Poll::Pending
}

/// After what time a request is asked of a second key server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hedging {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
}

/// While too few answers have come to tell what is late.
const UNKNOWN_LATE: Duration = Duration::from_millis(100);

impl Hedging {
    fn after(&self, key: &Key) -> Duration {
        key.state.latency.late_after().unwrap_or(UNKNOWN_LATE).clamp(self.shortest, self.longest)
    }
}
