//! ChangeCipherSpec and Finished, the client's and then the server's (RFC 5246 §7.4.9).

use subtle::ConstantTimeEq;

use super::Context;
use super::keeping::SessionToKeep;
use super::key_exchange::Keys;
use super::key_transport::ExpectSealedFinished;
use crate::code_point::ContentType;
use crate::connection::Summary;
use crate::crypto::prf::{FinishedLabel, verify_data};
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::expected::Expected;
use crate::handshake::joiner::{Message, MessageBoundary};
use crate::handshake::transcript::Transcript;
use crate::handshake::wire::Wire;
use crate::message::finished;
use crate::record::protect::{Protection, ProtectionPair};
use crate::secret::MasterSecret;
use crate::session::Session;

/// The keys are agreed on and not yet in use.
pub(crate) struct ExpectChangeCipherSpec {
    pub(crate) context: Context,
    pub(crate) keys: Keys,
}

impl ExpectChangeCipherSpec {
    pub(crate) fn take(self, boundary: MessageBoundary, wire: &mut Wire) -> Expected {
        let Self { context, keys } = self;
        match keys {
            Keys::Derived { protection, master_secret } => {
                let state = ExpectFinished::new(context, protection, master_secret, wire, boundary);
                Expected::Finished(Box::new(state))
            }
            Keys::AtKeyServer(leased) => {
                Expected::SealedFinished(Box::new(ExpectSealedFinished { context, leased, boundary }))
            }
        }
    }
}

/// The client's records are protected.
pub(crate) struct ExpectFinished {
    context: Context,
    write_protection: Protection,
    master_secret: MasterSecret,
}

impl ExpectFinished {
    /// Reads protected records from here on.
    pub(crate) fn new(
        context: Context,
        protection: ProtectionPair,
        master_secret: MasterSecret,
        wire: &mut Wire,
        boundary: MessageBoundary,
    ) -> Self {
        wire.opener.protect(protection.client, boundary);
        Self { context, write_protection: protection.server, master_secret }
    }

    pub(crate) fn take(mut self, message: &Message, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Finished, Error> {
        let verified = verify_client(&self.context.transcript, &self.master_secret, message)?;
        self.context.transcript.update(message.bytes());
        let Self { context, write_protection, master_secret } = self;
        match context.kept_by {
            None => context
                .finish(write_protection, &master_secret, wire, out)
                .map(|summary| Finished::Complete(Complete { summary, verified })),
            Some(kept_by) => {
                let session = context.session(master_secret);
                let kept = SessionToKeep { context, write_protection, verified, session, kept_by };
                Ok(Finished::Keep(Box::new(kept)))
            }
        }
    }
}

/// Where the client's Finished leads.
pub(crate) enum Finished {
    Complete(Complete),
    /// The session can be kept.
    Keep(Box<SessionToKeep>),
}

impl Context {
    /// Sends this side's Finished, which covers everything in the transcript.
    pub(crate) fn finish(
        self,
        write_protection: Protection,
        master_secret: &MasterSecret,
        wire: &mut Wire,
        out: &mut Vec<u8>,
    ) -> Result<Summary, Error> {
        let mut reply = Vec::with_capacity(16);
        finished::write(&verify_data_of(&self.transcript, master_secret, FinishedLabel::Server), &mut reply);
        wire.sealer.change_cipher_spec(write_protection, out)?;
        wire.sealer.seal(ContentType::HANDSHAKE, &reply, out)?;
        Ok(self.summary)
    }

    fn session(&self, master_secret: MasterSecret) -> Session {
        let Summary { server_name, suite, extended_master_secret, key_id, client_chain, .. } = &self.summary;
        Session {
            server_name: server_name.clone(),
            suite: *suite,
            extended_master_secret: *extended_master_secret,
            key_id: *key_id,
            client_chain: client_chain.clone(),
            master_secret,
        }
    }
}

/// The verify_data of a Finished behind everything in the transcript.
pub(crate) fn verify_data_of(
    transcript: &Transcript,
    master_secret: &MasterSecret,
    label: FinishedLabel,
) -> [u8; finished::VERIFY_DATA_LENGTH] {
    verify_data(transcript.hash(), master_secret, label, transcript.digest().as_ref())
}

/// Checks the client's Finished, which covers everything in the transcript.
pub(crate) fn verify_client(
    transcript: &Transcript,
    master_secret: &MasterSecret,
    message: &Message,
) -> Result<FinishedVerified, Error> {
    let received = finished::read(message.body())?;
    let expected = verify_data_of(transcript, master_secret, FinishedLabel::Client);
    match bool::from(received.ct_eq(&expected)) {
        true => Ok(FinishedVerified(())),
        false => Err(PeerMisbehaved::WrongFinished.into()),
    }
}

/// The proof that the client's Finished is right.
pub(crate) struct FinishedVerified(());

/// A handshake that is complete; only a verified Finished leads here.
pub(crate) struct Complete {
    pub(crate) summary: Summary,
    #[expect(dead_code, reason = "a proof, which nobody reads")]
    pub(crate) verified: FinishedVerified,
}
