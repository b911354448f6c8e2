//! The one driver that knows both the socket and the engine's handshake.

use std::io::{self, IoSliceMut};
use std::sync::Arc;

use keystead_tls::crypto::{BadSignature, Provider};
use keystead_tls::handshake::{
    ChooseIdentity, FindSession, Fit, KeepSession, NeedsInput, NeedsLease, NeedsMasterSecret, NeedsSignature,
    ReadyToResume, VerifyClient,
};
use keystead_tls::{ClientCertificateRefusal, Error, Established, Fault, Handshake, LocalFailure, PeerClosed, Step};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::buffer::{Lent, SMALL};
use crate::client_auth::{ClientIdentity, Objection, Verifications};
use crate::directory::Directory;
use crate::key_client::{KeyClient, Lessor, Recovery};
use crate::sessions::record::Head;
use crate::sessions::{Found, Kept, NoSession, Origin, Sessions};
use crate::socket;
use crate::virtual_host::VirtualHost;

/// A connection whose handshake is complete.
#[derive(Debug)]
pub struct Done {
    /// The connection.
    pub established: Box<Established>,
    /// Whom it is with.
    pub host: Arc<VirtualHost>,
    /// Its session, if it has one that anybody can go on from.
    pub kept: Option<Kept>,
}

/// What every handshake needs.
#[derive(Debug)]
pub struct Handshakes {
    /// The cryptography.
    pub provider: &'static dyn Provider,
    /// Whom clients may ask for.
    pub directory: Arc<Directory>,
    /// Who signs.
    pub key_client: KeyClient,
    /// What clients come back to.
    pub sessions: Sessions,
    /// Where clients' certificates are verified.
    pub verifications: Verifications,
}

impl Handshakes {
    /// Drives a handshake to its end, before `deadline`. It begins with `unread`, which came from the client already.
    ///
    /// # Errors
    /// Why it failed, and what is yet to be sent to the client.
    pub async fn drive(&self, client: &TcpStream, unread: Vec<u8>, deadline: Instant) -> Result<Done, Failed> {
        let mut driver = Driver { client, unread, deadline, out: Vec::new(), host: None, lessor: None, kept: None };
        match (self.run(&mut driver).await, driver.host) {
            (Ok(established), Some(host)) => Ok(Done { established, host, kept: driver.kept }),
            (Err(error), _) => Err(Failed { error, alert: driver.out }),
            // No handshake completes without its host having been chosen.
            (Ok(_), None) => Err(Failed { error: LocalFailure::NoIdentity.into(), alert: Vec::new() }),
        }
    }

    async fn run(&self, driver: &mut Driver<'_>) -> Result<Box<Established>, Error> {
        let mut step = Step::NeedsInput(Handshake::new(self.provider));
        loop {
            step = match step {
                Step::NeedsInput(handshake) => driver.feed(handshake).await?,
                Step::ChooseIdentity(handshake) => self.choose(handshake, driver)?,
                Step::FindSession(handshake) => self.find_session(handshake, driver).await?,
                Step::NeedsSignature(handshake) => self.sign(handshake, driver).await?,
                Step::NeedsLease(handshake) => self.lease(handshake, driver).await?,
                Step::VerifyClient(handshake) => self.verify(handshake, driver).await?,
                Step::NeedsMasterSecret(handshake) => self.recover(handshake, driver).await?,
                Step::KeepSession(handshake) => self.keep_session(handshake, driver)?,
                Step::Established(established) => {
                    driver.flush().await?;
                    return Ok(established);
                }
            };
        }
    }

    fn choose(&self, handshake: Handshake<ChooseIdentity>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let Some(host) = self.directory.table().find(handshake.server_name()).cloned() else {
            return Err(handshake.reject_name(&mut driver.out));
        };
        let host = driver.host.insert(host);
        if !host.has_identity() {
            return Err(handshake.abort(LocalFailure::NoIdentity.into(), &mut driver.out));
        }
        handshake.choose(&host.parameters, self.sessions.keeping(), &mut rand::rng(), &mut driver.out)
    }

    /// Goes on from the session that the client offers, or else with a full handshake.
    async fn find_session(&self, handshake: Handshake<FindSession>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let Some(host) = driver.host.clone() else {
            return Err(handshake.abort(LocalFailure::NoIdentity.into(), &mut driver.out));
        };
        let session_id = handshake.session_id();
        let found = match (handshake.ticket(), session_id) {
            (Some(ticket), _) => self.sessions.of_ticket(&host, ticket),
            (None, Some(id)) => self.sessions.of_id(&host, id).await,
            (None, None) => Err(NoSession::ForeignId.into()),
        };
        match found {
            Ok(Found { record, origin }) => match handshake.fit(record.session, &mut driver.out)? {
                Fit::Fits(handshake) => self.go_on(handshake, (record.head, origin), &host, driver).await,
                Fit::Differs(handshake, difference) => {
                    self.sessions.missed(difference.into());
                    handshake.decline(&mut rand::rng(), &mut driver.out)
                }
            },
            Err(miss) => {
                self.sessions.missed(miss);
                handshake.decline(&mut rand::rng(), &mut driver.out)
            }
        }
    }

    /// Whom a certificate let in must still be let in by it at this moment: it may have expired since, or been revoked.
    async fn go_on(
        &self,
        handshake: Handshake<ReadyToResume>,
        (head, origin): (Head, Origin),
        host: &VirtualHost,
        driver: &mut Driver<'_>,
    ) -> Result<Step, Error> {
        let chain = &handshake.session().client_chain;
        if let Some(verifier) = host.client_verifier.clone().filter(|_| !chain.is_empty()) {
            let verdict = self.verifications.verify(verifier, chain.clone(), driver.deadline).await;
            if let Err(objection) = verdict {
                report_objection(&objection, &handshake.session().client_chain);
                let is_own = objection.cause().fault() == Fault::Own;
                let cause = if is_own { NoSession::ClientUnverified } else { NoSession::ClientCertificate };
                self.sessions.missed(cause.into());
                return handshake.decline(&mut rand::rng(), &mut driver.out);
            }
        }
        driver.kept = Some(Kept::again(&head, origin, handshake.session_id()));
        let renewed = match handshake.takes_tickets() {
            true => self.sessions.renew(host, &head, handshake.session(), origin),
            false => None,
        };
        handshake.resume(renewed, &mut rand::rng(), &mut driver.out)
    }

    fn keep_session(&self, handshake: Handshake<KeepSession>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let Some(host) = &driver.host else {
            return Err(handshake.abort(LocalFailure::NoIdentity.into(), &mut driver.out));
        };
        let (kept, ticket) = self.sessions.keep(host, handshake.kept_by(), handshake.session());
        driver.kept = Some(kept);
        handshake.resume(ticket, &mut driver.out)
    }

    async fn sign(&self, handshake: Handshake<NeedsSignature>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let mut asking = self.key_client.ask(&handshake.request(), driver.deadline);
        let verified = loop {
            let again = match asking.signed().await {
                Ok(signed) => match handshake.verify(signed) {
                    Ok(verified) => {
                        asking.accepted();
                        break verified;
                    }
                    Err(BadSignature) => asking.wrong_signature(),
                },
                Err(failure) => Err(failure),
            };
            if let Err(failure) = again {
                return Err(handshake.abort(failure.into(), &mut driver.out));
            }
        };
        handshake.resume(verified, &mut driver.out)
    }

    async fn lease(&self, handshake: Handshake<NeedsLease>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let key_id = handshake.identity().public_key().key_id();
        match self.key_client.lease(key_id, driver.deadline).await {
            Ok((lease, lessor)) => {
                driver.lessor = Some(lessor);
                handshake.resume(lease, &mut driver.out)
            }
            Err(failure) => Err(handshake.abort(failure.into(), &mut driver.out)),
        }
    }

    /// Has the client's certificate verified, as the host it asked for wants it.
    async fn verify(&self, handshake: Handshake<VerifyClient>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        let Some(verifier) = driver.host.as_ref().and_then(|host| host.client_verifier.clone()) else {
            // No host asks for certificates without trusting an authority.
            return Err(handshake.refuse(ClientCertificateRefusal::UnknownCa, &mut driver.out));
        };
        match self.verifications.verify(verifier, handshake.chain().to_vec(), driver.deadline).await {
            Ok(()) => handshake.accept(&mut driver.out),
            Err(objection) => {
                report_objection(&objection, handshake.chain());
                Err(handshake.abort(objection.cause(), &mut driver.out))
            }
        }
    }

    /// Whatever the key server refuses for, the client sees the same at the same point (RFC 5246 §7.4.7.1).
    async fn recover(&self, handshake: Handshake<NeedsMasterSecret>, driver: &mut Driver<'_>) -> Result<Step, Error> {
        // A handshake that comes here has had its lease from somebody.
        let recovered = match &driver.lessor {
            Some(lessor) => self.key_client.recover(&handshake.request(), lessor, driver.deadline).await,
            None => Ok(Recovery::Refused),
        };
        match recovered {
            Ok(Recovery::MasterSecret(master_secret)) => handshake.resume(master_secret, &mut driver.out),
            Ok(Recovery::Refused) => Err(handshake.refuse(&mut driver.out)),
            Err(failure) => Err(handshake.abort(failure.into(), &mut driver.out)),
        }
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// What is yet to be sent to the client, with the alert at its end. Empty where there is none to send.
    pub alert: Vec<u8>,
}

/// One handshake's side of the socket.
struct Driver<'c> {
    client: &'c TcpStream,
    /// What was read before the handshake began.
    unread: Vec<u8>,
    deadline: Instant,
    /// Bytes for the client that are yet to be sent.
    out: Vec<u8>,
    host: Option<Arc<VirtualHost>>,
    /// Whom ServerHello.random came from, in RSA key transport.
    lessor: Option<Lessor>,
    /// The session, once it is known.
    kept: Option<Kept>,
}

impl Driver<'_> {
    /// Sends what there is to send, and feeds what the client sends next.
    async fn feed(&mut self, handshake: Handshake<NeedsInput>) -> Result<Step, Error> {
        self.flush().await?;
        if !self.unread.is_empty() {
            return handshake.feed(&std::mem::take(&mut self.unread), &mut self.out);
        }
        loop {
            let mut lent = Lent::small();
            // What stands behind the Finished fits into one buffer of the relay, with room to spare.
            let bytes = lent.buffer().bytes.get_mut(..SMALL / 2).unwrap_or_default();
            match socket::read(self.client, &mut [IoSliceMut::new(bytes)], SMALL / 2) {
                Ok(Some(0)) | Err(_) => return Err(handshake.end_of_input()),
                Ok(Some(read)) => return handshake.feed(bytes.get(..read).unwrap_or_default(), &mut self.out),
                Ok(None) => drop(lent),
            }
            match timeout_at(self.deadline, self.client.readable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(handshake.end_of_input()),
                Err(_elapsed) => return Err(handshake.time_out(&mut self.out)),
            }
        }
    }

    /// Sends what there is to send.
    async fn flush(&mut self) -> Result<(), Error> {
        let sent = socket::write_all(self.client, &self.out, self.deadline).await;
        self.out.clear();
        sent.map_err(|cause| {
            let timed_out = cause.kind() == io::ErrorKind::TimedOut;
            if timed_out { PeerClosed::TimedOut.into() } else { PeerClosed::Truncated.into() }
        })
    }
}

/// The name is what the certificate claims, to look for it at whoever is said to have it.
fn report_objection(objection: &Objection, chain: &[Vec<u8>]) {
    let claimed = chain.first().and_then(|leaf| ClientIdentity::of(leaf));
    let claimed = claimed.as_ref().map(ClientIdentity::excerpt);
    tracing::info!(%objection, claimed, "client certificate refused");
}
