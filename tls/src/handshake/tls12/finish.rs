//! ChangeCipherSpec and Finished, the client's and then the server's (RFC 5246 §7.4.9).

use subtle::ConstantTimeEq;

use super::Context;
use super::key_exchange::Keys;
use super::key_transport::ExpectSealedFinished;
use crate::code_point::ContentType;
use crate::connection::Summary;
use crate::crypto::prf::{FinishedLabel, verify_data};
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::expected::Expected;
use crate::handshake::joiner::{Message, MessageBoundary};
use crate::handshake::wire::Wire;
use crate::message::finished;
use crate::record::protect::{Protection, ProtectionPair};
use crate::secret::MasterSecret;

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

    pub(crate) fn take(mut self, message: &Message, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Complete, Error> {
        let verified = self.verify(message)?;
        self.context.transcript.update(message.bytes());
        let mut reply = Vec::with_capacity(16);
        finished::write(&self.verify_data(FinishedLabel::Server), &mut reply);
        wire.sealer.change_cipher_spec(self.write_protection, out)?;
        wire.sealer.seal(ContentType::HANDSHAKE, &reply, out)?;
        Ok(Complete { summary: self.context.summary, _verified: verified })
    }

    fn verify(&self, message: &Message) -> Result<FinishedVerified, Error> {
        let received = finished::read(message.body())?;
        let expected = self.verify_data(FinishedLabel::Client);
        match bool::from(received.ct_eq(&expected)) {
            true => Ok(FinishedVerified(())),
            false => Err(PeerMisbehaved::WrongFinished.into()),
        }
    }

    fn verify_data(&self, label: FinishedLabel) -> [u8; finished::VERIFY_DATA_LENGTH] {
        let transcript = &self.context.transcript;
        verify_data(transcript.hash(), &self.master_secret, label, transcript.digest().as_ref())
    }
}

/// The proof that the client's Finished is right.
struct FinishedVerified(());

/// A handshake that is complete; only a verified Finished leads here.
pub(crate) struct Complete {
    pub(crate) summary: Summary,
    _verified: FinishedVerified,
}
