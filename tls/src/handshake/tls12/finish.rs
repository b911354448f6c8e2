//! ChangeCipherSpec and Finished, the client's and then the server's (RFC 5246 §7.4.9).

use subtle::ConstantTimeEq;

use crate::code_point::ContentType;
use crate::connection::Summary;
use crate::crypto::hash::RunningHash;
use crate::crypto::prf::{FinishedLabel, verify_data};
use crate::error::{Error, PeerMisbehaved};
use crate::handshake::joiner::{Message, MessageBoundary};
use crate::handshake::wire::Wire;
use crate::message::finished;
use crate::record::protect::{Protection, ProtectionPair};
use crate::secret::MasterSecret;

/// The keys are agreed on and not yet in use.
pub(crate) struct ExpectChangeCipherSpec {
    pub(crate) protection: ProtectionPair,
    pub(crate) master_secret: MasterSecret,
    pub(crate) transcript: RunningHash,
    pub(crate) summary: Summary,
}

impl ExpectChangeCipherSpec {
    pub(crate) fn take(self, boundary: MessageBoundary, wire: &mut Wire) -> ExpectFinished {
        wire.opener.protect(self.protection.client, boundary);
        ExpectFinished {
            write_protection: self.protection.server,
            master_secret: self.master_secret,
            transcript: self.transcript,
            summary: self.summary,
        }
    }
}

/// The client's records are protected.
pub(crate) struct ExpectFinished {
    write_protection: Protection,
    master_secret: MasterSecret,
    transcript: RunningHash,
    summary: Summary,
}

impl ExpectFinished {
    pub(crate) fn take(mut self, message: &Message, wire: &mut Wire, out: &mut Vec<u8>) -> Result<Complete, Error> {
        let verified = self.verify(message)?;
        self.transcript.update(message.bytes());
        let mut reply = Vec::with_capacity(16);
        finished::write(&self.verify_data(FinishedLabel::Server), &mut reply);
        wire.sealer.change_cipher_spec(self.write_protection, out)?;
        wire.sealer.seal(ContentType::HANDSHAKE, &reply, out)?;
        Ok(Complete { summary: self.summary, _verified: verified })
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
        let hash = self.transcript.hash();
        verify_data(hash, &self.master_secret, label, self.transcript.current().as_ref())
    }
}

/// The proof that the client's Finished is right.
struct FinishedVerified(());

/// A handshake that is complete; only a verified Finished leads here.
pub(crate) struct Complete {
    pub(crate) summary: Summary,
    _verified: FinishedVerified,
}
